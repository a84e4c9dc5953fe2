"""The verbs of the `lossbench` command, a module each: ``arguments(parser)`` and ``main(chosen)``."""
