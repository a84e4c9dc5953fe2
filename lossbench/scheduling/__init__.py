"""Putting retraining on a schedule: cron and systemd, from the templates in ``deploy/``."""
