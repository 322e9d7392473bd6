"""The SQLite engine: connection, lock, checkpoints, pages, errors, backup, migrations."""

from __future__ import annotations

from mailactors.spool.sqlite.connection import MEMORY, TEMPORARY
from mailactors.spool.sqlite.store import SqliteStore

__all__ = ["MEMORY", "TEMPORARY", "SqliteStore"]
