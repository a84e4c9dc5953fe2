"""Scheduled retraining: change detection, gate, promotion, rollback, repair."""
