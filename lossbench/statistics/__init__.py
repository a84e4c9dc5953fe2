"""When we may say that one loss beats another: tests, corrections, equivalence, power, looks."""
