"""mailactors: one durable endpoint in front of many email providers."""

__version__ = "0.1.0"
