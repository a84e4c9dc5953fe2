"""Scheduled retraining: change detection, gate, promotion, rollback, records."""
