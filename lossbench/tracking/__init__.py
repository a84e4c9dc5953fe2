"""Tracking: a journal first, MLflow after it.

MLflow mirrors the outs; it is never the truth. In the order in which a value travels:

- ``journal``: training appends to it (``JournalObserver``); imports no MLflow.
- ``outs``, ``replay``: reading an arm's outs, and when each of its epochs ended.
- ``provenance``, ``record``: what makes two recordings the same; what an arm should look like in MLflow.
- ``store``, ``server``, ``artifacts``: the store's address; the store, initialised once, under a lock; where
  files of runs are kept.
- ``experiment``, ``claims``: the runs of one MLflow experiment, and who is writing them.
- ``ship``, ``summary``, ``track``: each arm once, whole, whoever else records (``track.track``).
- ``live``: shows long runs while they train, from another process.
- ``ui``: MLflow's UI, and the pages in it that answer the question.
"""
