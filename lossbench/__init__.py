"""Lossbench answers: which loss should I train with, on my data."""
