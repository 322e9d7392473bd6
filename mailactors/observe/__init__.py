"""Logs, metrics, the ledger as text, and the watchdog's alarms."""
