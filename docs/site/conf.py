"""Settings of Sphinx for `make site`; docs/make_site.py lays out what it reads."""

from importlib.metadata import version as installed

project = "Lossbench"
author = "The Lossbench authors"
copyright = "2026 The Lossbench authors"  # the name is Sphinx's
version = release = installed("lossbench")

extensions = ["myst_parser"]
myst_heading_anchors = 4
suppress_warnings = ["misc.highlighting_failure"]  # blocks hold …, and names of the reader's own

html_theme = "furo"
html_title = "Lossbench"
html_copy_source = False
html_show_sourcelink = False
