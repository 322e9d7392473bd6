"""The door that every way in shares: admission, then the idempotency registry, then the spool."""
