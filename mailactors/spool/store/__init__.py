"""The rules of a spool, in plain SQL on the `Rows` of any engine."""
