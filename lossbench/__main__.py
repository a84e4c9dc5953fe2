"""`python -m lossbench`."""

from lossbench.cli import main

main()
