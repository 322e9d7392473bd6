"""The spool in one SQLite file, or in memory for the simulator.

Owns the connection and its transactions; `spool.store` has the rules. Durable means WAL with
`synchronous=FULL`: at a hundred commands a commit it costs no more than a weaker setting.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Sequence
from typing import Final, Self

import apsw

from mailactors.spool import port
from mailactors.spool.sqlite.backup import backup_spool, copy_database
from mailactors.spool.sqlite.connection import (
    NAMELESS,
    configure,
    connect,
    make_private,
    release,
    take_locks,
)
from mailactors.spool.sqlite.errors import STORAGE_ERRORS, advice, translate
from mailactors.spool.sqlite.migrations import apply_migration, find_missing, load_migrations
from mailactors.spool.sqlite.rows import SqliteQuestions
from mailactors.spool.store import commands as rules

CHECKPOINT_PAGES: Final = 1_000
"""Pages of the log after which its content is copied into the file."""
WAL_PAGES_MAX: Final = 16 * CHECKPOINT_PAGES
"""Pages of the log after which a commit waits for readers, `BUSY_WAIT_S` at most, to begin it anew:
readers that take turns without a gap would let it grow for ever."""


class SqliteStore(SqliteQuestions):
    """`port.Store`, for one caller at a time from any thread. Make it with `open`."""

    def __init__(self, path: str, db: apsw.Connection, locks: list[int] | None) -> None:
        super().__init__(db)
        self._path = path
        if path in NAMELESS:  # its readers are this store
            self._turn = threading.Lock()
        self._locks = locks or []
        self._readers: list[apsw.Connection] = []
        self._broken = ""
        self._wal_pages = 0
        self._is_purging = False
        # The hook replaces SQLite's own checkpoints, which hide a failed fsync.
        db.set_wal_hook(self._on_commit)

    @classmethod
    def open(cls, path: str, *, journal_mode: str | None = None) -> Self:
        """Open a spool, making it if there is none, and bring its schema up to date.

        Args:
            path: a file, or one of `NAMELESS`.
            journal_mode: refuse a spool without it; by default "wal" for a file, "memory" for
                what has no name.

        Raises: SpoolInUseError, SpoolSchemaError, and SpoolError if it cannot be opened at all.
        """
        locks: list[int] = []
        with contextlib.ExitStack() as opened:
            if path not in NAMELESS:
                path = os.path.realpath(path)  # one lock, whatever name the file has
                locks = take_locks(path)
                opened.callback(release, locks)
            try:
                db = connect(path)
                opened.callback(db.close)
                missing = find_missing(db, load_migrations())  # refuses before anything is written
                if path not in NAMELESS:
                    make_private(path)
                configure(db, journal_mode or ("memory" if path in NAMELESS else "wal"))
                for migration in missing:
                    apply_migration(db, migration)
            except apsw.NotADBError as error:
                raise port.SpoolSchemaError(f"{path} is not a database; {advice(error)}") from error
            except apsw.Error as error:
                message = f"{path} cannot be opened: {error}; {advice(error)}"
                raise port.SpoolError(message) from error
            opened.pop_all()
        return cls(path, db, locks)

    def apply(self, commands: Sequence[port.Command], now: float) -> list[port.Result]:
        if self._broken:
            raise port.SpoolBrokenError(self._broken)
        with self._turn:
            return self._apply(commands, now)

    def _apply(self, commands: Sequence[port.Command], now: float) -> list[port.Result]:
        db = self._db
        try:
            db.execute("BEGIN IMMEDIATE")
            results = rules.execute(self._rows, commands, now)
            db.execute("COMMIT")
        except STORAGE_ERRORS as error:
            failure = translate(error, self._path, f"{self._path} failed")
            if isinstance(failure, port.SpoolBrokenError):
                self._broken = str(failure)
            self._roll_back()
            raise failure from error
        except BaseException:
            self._roll_back()
            raise
        if self._is_end_of_purge(results):
            self._checkpoint(apsw.SQLITE_CHECKPOINT_TRUNCATE)
        elif self._wal_pages >= WAL_PAGES_MAX:
            self._checkpoint(apsw.SQLITE_CHECKPOINT_RESTART)
        elif self._wal_pages >= CHECKPOINT_PAGES:
            self._checkpoint()
        return results

    def reader(self) -> port.Questions:
        """Return a second view for questions, usable from any thread; without a file, `self`."""
        if self._path in NAMELESS:
            return self
        db = connect(self._path)
        db.pragma("query_only", True)
        self._readers.append(db)
        return SqliteQuestions(db)

    def backup(self, path: str, progress: Callable[[int, int], None] | None = None) -> None:
        if self._path not in NAMELESS:
            backup_spool(self._path, path, progress)
            return
        try:
            copy_database(self._db, path, progress)
        except apsw.Error as error:
            raise port.SpoolError(f"the spool cannot be copied to {path}: {error}") from error

    def close(self) -> None:
        """Close the file and release its lock."""
        for db in (*self._readers, self._db):
            if self._broken:  # a checkpoint on closing would sync once more
                db.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
            db.close()
        release(self._locks)

    def _is_end_of_purge(self, results: Sequence[port.Result]) -> bool:
        # Then free pages are cut off the file, and its log is emptied.
        was_purging = self._is_purging
        for result in results:
            if isinstance(result, port.Purged):
                was_purging |= result.has_more or result.messages + result.bodies > 0
                self._is_purging = result.has_more
        return was_purging and not self._is_purging

    def _on_commit(self, _db: apsw.Connection, _name: str, pages: int) -> int:
        self._wal_pages = pages
        return apsw.SQLITE_OK

    def _checkpoint(self, mode: int = apsw.SQLITE_CHECKPOINT_PASSIVE) -> None:
        # The commit before it is durable. But a failed fsync must not be tried again: the second
        # one succeeds over pages that the system has dropped.
        self._wal_pages = 0
        try:
            self._db.wal_checkpoint(mode=mode)
        except (apsw.FullError, apsw.BusyError):
            pass  # the log grows until there is room, or the reader is gone
        except apsw.Error as error:
            self._broken = f"{self._path} failed at a checkpoint: {error}; {advice(error)}"

    def _roll_back(self) -> None:
        # SQLite has often done it already; on a broken disk nothing can be done.
        if self._db.in_transaction:
            with contextlib.suppress(apsw.Error):
                self._db.execute("ROLLBACK")
