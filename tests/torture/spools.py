"""A spool file as its dead owner left it: looked at without a lock, a checkpoint or a change."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apsw

from mailactors.spool.port import Ledger, MessageStatus
from mailactors.spool.sqlite.rows import SqliteQuestions


class DeadSpool(SqliteQuestions):
    """Everything that may be asked of a spool, and its rows."""

    def rows(self, sql: str, *bindings: Any) -> list[tuple[Any, ...]]:
        """Return all rows of a query."""
        return self._db.execute(sql, bindings).fetchall()

    def count(self, table: str) -> int:
        """Return the number of a table's rows."""
        return int(self.rows(f"SELECT count(*) FROM {table}")[0][0])

    @property
    def messages_by_name(self) -> dict[str, MessageStatus]:
        """Every message by the client's name; two of one name are an error."""
        every = self.statuses(10_000_000, None)
        named = {each.client_id: each for each in every}
        assert len(named) == len(every), "two messages of one name"
        return named

    @property
    def open_intents(self) -> int:
        """Attempts that began and have no outcome."""
        sql = "SELECT count(*) FROM attempts WHERE started_at IS NOT NULL AND finished_at IS NULL"
        return int(self.rows(sql)[0][0])

    def balanced_ledger(self) -> Ledger:
        """Return the ledger, which balances, like each message's count of open deliveries."""
        audit = self.audit()
        ledger = audit.counted
        assert ledger.is_balanced, ledger
        assert audit.differences == {}
        wrong = self.rows(
            "SELECT id FROM messages WHERE open_count <> (SELECT count(*) FROM deliveries"
            " WHERE deliveries.seq = messages.seq AND state IN"
            " ('ready', 'deferred', 'leased', 'sending', 'uncertain', 'held'))"
        )
        assert wrong == [], f"the open deliveries of {wrong} are miscounted"
        return ledger

    def check_integrity(self) -> None:
        """Assert that SQLite finds no fault, and that no row belongs to no message."""
        found = self.rows("PRAGMA integrity_check")
        assert found == [("ok",)], found
        for table, column in (
            ("deliveries", "seq"),
            ("contents", "seq"),
            ("keys", "seq"),
            ("events", "message_seq"),
        ):
            strays = self.rows(
                f"SELECT {column} FROM {table} WHERE {column} NOT IN (SELECT seq FROM messages)"
            )
            assert strays == [], f"{table} without a message"
        empty = self.rows("SELECT seq FROM messages WHERE seq NOT IN (SELECT seq FROM deliveries)")
        assert empty == [], "a message without deliveries"


@contextlib.contextmanager
def dead_spool(path: Path) -> Iterator[DeadSpool]:
    """Look at a spool that nobody serves; its log stays for its next owner to recover."""
    db = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    db.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
    try:
        yield DeadSpool(db)
    finally:
        db.close()
