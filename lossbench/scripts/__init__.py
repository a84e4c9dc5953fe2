"""The user's own training script: any program that takes its loss, seed and rate on its command line.

It writes what it measured into a folder of its own; Lossbench runs it, tunes it, keeps what it wrote and
judges. Nothing here imports torch.
"""
