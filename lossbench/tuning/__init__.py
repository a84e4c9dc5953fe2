"""The search every arm gets alike: same points, same tuning seeds, on validation data."""
