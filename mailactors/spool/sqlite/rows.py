"""A connection as the rules use it, SQLite's hooks, and questions over one connection."""

from __future__ import annotations

import contextlib
import itertools
from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from typing import Any, Final

import apsw
import msgspec

from mailactors.spool.sqlite.errors import STORAGE_ERRORS, translate
from mailactors.spool.store.questions import Answers
from mailactors.spool.store.rows import Row

PAGES_A_STEP: Final = 500
"""Pages that one purge gives back; each may have to be moved (2 MB)."""
PAGES_KEPT: Final = 1_000
"""Free pages that are kept for new messages (4 MB)."""
_INCREMENTAL: Final = 2


class SqliteDialect:
    """SQLite's hooks. One writer at a time holds the file's lock, from BEGIN to COMMIT."""

    among = "IN (SELECT value FROM json_each(?))"
    skip_locked = ""

    def __init__(self, db: apsw.Connection) -> None:
        self._db = db

    def listed(self, values: Sequence[int]) -> str:
        """Return the values as JSON."""
        return msgspec.json.encode(values).decode()

    def along(self, index: str) -> str:
        """Return a hint: there are no statistics that would say how small a partial index is."""
        return f" INDEXED BY {index}"

    def next_epoch(self) -> int:
        """Return a lease's epoch, higher than all before."""
        return int(self._db.execute("UPDATE spool SET epoch = epoch + 1 RETURNING epoch").get)

    def message_seqs(self) -> Iterator[int]:
        """Yield the seqs of new messages; AUTOINCREMENT remembers the highest ever."""
        return itertools.count(self._latest("messages") + 1)

    def latest_event_seq(self) -> int:
        """Return the highest seq of an event that was ever visible, or 0."""
        return self._latest("events")

    def _latest(self, table: str) -> int:
        row = self._db.execute("SELECT seq FROM sqlite_sequence WHERE name = ?", (table,)).get
        return int(row or 0)

    def give_space_back(self) -> bool:
        """Cut some free pages off the file; say whether there are more than `PAGES_KEPT`."""
        db = self._db
        free = db.pragma("freelist_count")
        if db.pragma("auto_vacuum") != _INCREMENTAL or free <= PAGES_KEPT:
            return False
        count = min(PAGES_A_STEP, free - PAGES_KEPT)
        # Each row of the pragma is a page moved: all of them must be read.
        db.execute(f"PRAGMA incremental_vacuum({count})").fetchall()
        return bool(db.pragma("freelist_count") > PAGES_KEPT)


class SqliteRows:
    """A connection as `Rows`, which has the words for each method.

    Statements share one cursor: each is complete when its method returns, and a new cursor would
    cost as much as a small statement.
    """

    def __init__(self, db: apsw.Connection) -> None:
        self.dialect = SqliteDialect(db)
        self.moved: Counter[tuple[str, str]] = Counter()
        self._db = db
        self._cursor = db.cursor()
        self._execute = self._cursor.execute
        self._changes = db.changes
        self._total_changes = db.total_changes

    def query(self, sql: str, values: Sequence[Any] = ()) -> list[Row]:
        return self._execute(sql, values).fetchall()

    def each(self, sql: str, values: Sequence[Any] = ()) -> Generator[Row, None, None]:
        with contextlib.closing(self._db.execute(sql, values)) as cursor:
            yield from cursor

    def value(self, sql: str, values: Sequence[Any] = ()) -> Any:
        return self._execute(sql, values).get

    def run(self, sql: str, values: Sequence[Any] = ()) -> int:
        self._execute(sql, values)
        return self._changes()

    def run_each(self, sql: str, values: Sequence[Sequence[Any]]) -> int:
        before = self._total_changes()
        self._cursor.executemany(sql, values)
        return self._total_changes() - before


class SqliteQuestions(Answers):
    """The answers of an SQLite spool; another thread needs a connection of its own."""

    def __init__(self, db: apsw.Connection) -> None:
        self._db = db
        self._rows = SqliteRows(db)
        self._turn: contextlib.AbstractContextManager[object] = contextlib.nullcontext()
        """Held by each question and group of one connection that several threads use."""

    @contextlib.contextmanager
    def _snapshot(self) -> Iterator[SqliteRows]:
        try:
            with self._turn:
                self._db.execute("BEGIN")
                try:
                    yield self._rows
                finally:
                    if self._db.in_transaction:
                        self._db.execute("ROLLBACK")
        except STORAGE_ERRORS as error:
            raise translate(error, "the spool", "the spool cannot be read") from error
