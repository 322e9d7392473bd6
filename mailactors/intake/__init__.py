"""Intake of every submission: admission, then the idempotency registry, then the spool."""
