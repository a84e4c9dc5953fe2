"""Tracking: a journal first, MLflow after it.

MLflow mirrors the outs; it is never the truth. Training appends to a local journal
(:func:`~lossbench.tracking.journal.JournalObserver`), a shipper in another process shows long runs live, and
:func:`~lossbench.tracking.track.track` (``python -m stages.track``) completes the record from outs and
journal: nothing lost, nothing doubled, whatever happened to the server in between.

Public names, each imported from its module, so that training never pays for MLflow:

- ``journal.JournalObserver.open(home, described)``: context manager that yields the ``Observer`` for ``fit``.
- ``journal.read_timings(home, arm)``: seconds per replicate, measured on this machine.
- ``track.track(params, root)``: bring MLflow up to date with the outs.
- ``live.ship_live(params, root)``: the live shipper's loop.
- ``server.connect(root)``: the store, initialised once, under a lock; ``store.store_of(root)``: its address.
- ``addresses.addresses(params, root, base)``: the pages of the MLflow UI that answer the question.
"""
