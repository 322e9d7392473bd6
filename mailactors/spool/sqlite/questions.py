"""Questions over one connection; another thread needs a connection of its own."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import apsw

from mailactors.spool.sqlite.errors import STORAGE_ERRORS, translate
from mailactors.spool.sqlite.rows import SqliteRows
from mailactors.spool.store.questions import Answers


class SqliteQuestions(Answers):
    """The answers of an SQLite spool."""

    def __init__(self, db: apsw.Connection) -> None:
        self._db = db
        self._rows = SqliteRows(db)

    @contextlib.contextmanager
    def _snapshot(self) -> Iterator[SqliteRows]:
        try:
            self._db.execute("BEGIN")
            try:
                yield self._rows
            finally:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
        except STORAGE_ERRORS as error:
            raise translate(error, "the spool", "the spool cannot be read") from error
