"""From evaluations to verdicts, tables and a page that answers the question by itself."""
