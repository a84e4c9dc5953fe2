"""A comparison from Python: arrays, tensors, a torch Dataset or a data frame in, verdicts out; no DVC.

Whatever is handed over is written as ``fetch`` writes data, and as a ``params.yaml``: all else is the
pipeline's.
"""
