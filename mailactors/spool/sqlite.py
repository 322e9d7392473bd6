"""The spool in one SQLite file, or in memory for the simulator.

Owns the connection, its lock and its transactions; what each command does is in
`sqlite_accept`, `sqlite_flow`, `sqlite_settlement`, `sqlite_upkeep`, `sqlite_suppressions` and
`sqlite_retention`, what may be asked in `sqlite_questions`. Durable means WAL with
`synchronous=FULL`: at a hundred commands a commit it costs what less would cost.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import itertools
import os
from collections.abc import Callable, Sequence
from typing import Any, Final, Self

import apsw

from mailactors.spool import sqlite_doubts as doubts
from mailactors.spool import sqlite_flow as flow
from mailactors.spool import sqlite_settlement as settlement
from mailactors.spool import sqlite_suppressions as suppressions
from mailactors.spool import sqlite_upkeep as upkeep
from mailactors.spool.backup import backup_spool, copy_database
from mailactors.spool.migrations import apply_migration, find_missing, load_migrations
from mailactors.spool.port import (
    Accept,
    AcceptMany,
    Cancel,
    Claim,
    Command,
    CountCrash,
    Expire,
    FindDueDoubts,
    Intend,
    IntendAgain,
    Postpone,
    Purge,
    Purged,
    Questions,
    RecordDeliveryEvent,
    RecordOutcome,
    Recover,
    Release,
    Result,
    Retry,
    SettleByHand,
    SettleDoubt,
    SpoolBrokenError,
    SpoolError,
    SpoolFullError,
    SpoolInUseError,
    SpoolSchemaError,
    Suppress,
    Unsuppress,
)
from mailactors.spool.sqlite_accept import accept_all, accept_many, retry
from mailactors.spool.sqlite_questions import (
    DISK_ERRORS,
    UNWRITABLE,
    SqliteQuestions,
    advice,
)
from mailactors.spool.sqlite_retention import purge

MEMORY: Final = ":memory:"
TEMPORARY: Final = ""
"""Goes with its connection too, but what the cache has no room for is in a file without a name."""
NAMELESS: Final = (MEMORY, TEMPORARY)
CACHE_KIB: Final = 8_000
TEMPORARY_CACHE_KIB: Final = 2_000
"""Of what has no name SQLite keeps changed pages until they are a quarter of the cache, and walks
over all of them at each commit."""
PAGE_BYTES: Final = 4_096
STATEMENTS_MAX: Final = 200
BUSY_MS: Final = 100
"""Readers never wait in WAL; this is for a backup that holds the file for a moment."""
CHECKPOINT_PAGES: Final = 1_000
WAL_BYTES_MAX: Final = 64 * 1024 * 1024
"""What the log may keep on disk after a burst."""

_SYNCHRONOUS_FULL: Final = 2

_APPLY: Final[dict[type[Any], Callable[[apsw.Connection, Any, float], Result]]] = {
    AcceptMany: accept_many,
    Claim: flow.claim,
    Intend: flow.intend,
    RecordOutcome: flow.settle,
    Release: flow.release,
    Expire: upkeep.expire,
    FindDueDoubts: doubts.overdue,
    Postpone: settlement.put_off,
    IntendAgain: settlement.intend_again,
    SettleDoubt: settlement.resolve,
    SettleByHand: settlement.settle_by_hand,
    RecordDeliveryEvent: settlement.testify,
    CountCrash: upkeep.blame,
    Cancel: upkeep.cancel,
    Recover: upkeep.recover,
    Retry: retry,
    Suppress: suppressions.suppress,
    Unsuppress: suppressions.unsuppress,
    Purge: purge,
}
"""Every command but `Accept`, of which neighbours are applied together."""


class SqliteStore(SqliteQuestions):
    """A spool's storage, for one caller at a time from any thread. Make it with `open`."""

    def __init__(self, path: str, db: apsw.Connection, lock: int | None) -> None:
        super().__init__(db)
        self._path = path
        self._lock = lock
        self._readers: list[apsw.Connection] = []
        self._broken = ""
        self._wal_pages = 0
        self._is_purging = False
        # The hook takes the place of SQLite's own checkpoints, which hide a failed fsync.
        db.set_wal_hook(self._on_commit)

    @classmethod
    def open(cls, path: str, *, journal_mode: str = "wal") -> Self:
        """Open a spool, making it if there is none, and bring its schema up to date.

        Args:
            path: a file, or one of `NAMELESS`.
            journal_mode: without which the spool is refused: "wal" for a file, "memory" for what
                has no name.

        Raises: SpoolInUseError, SpoolSchemaError, and SpoolError if it cannot be opened at all.
        """
        lock = None
        if path not in NAMELESS:
            path = os.path.realpath(path)  # one lock, whatever name the file goes by
            lock = _take_lock(path)
        try:
            db = _connect(path)
            try:
                missing = find_missing(db, load_migrations())  # before anything is written
                _configure(db, journal_mode)
                for migration in missing:
                    apply_migration(db, migration)
            except BaseException:
                db.close()
                raise
        except apsw.NotADBError as error:
            _give_up_lock(lock)
            raise SpoolSchemaError(f"{path} is not a database; {advice(error)}") from error
        except apsw.Error as error:
            _give_up_lock(lock)
            raise SpoolError(f"{path} cannot be opened: {error}; {advice(error)}") from error
        except BaseException:
            _give_up_lock(lock)
            raise
        return cls(path, db, lock)

    def apply(self, commands: Sequence[Command], now: float) -> list[Result]:
        """Execute commands in order in one durable transaction; results in the same order.

        All or nothing: an exception means that none of them happened.

        Raises: SpoolFullError, SpoolBrokenError; anything else is a bug.
        """
        if self._broken:
            raise SpoolBrokenError(self._broken)
        db = self._db
        try:
            db.execute("BEGIN IMMEDIATE")
            results = _execute(db, commands, now)
            db.execute("COMMIT")
        except apsw.FullError as error:
            self._roll_back()
            raise SpoolFullError(f"no room for {self._path}: {error}") from error
        except DISK_ERRORS as error:
            self._broken = f"{self._path} failed: {error}; {advice(error)}"
            self._roll_back()
            raise SpoolBrokenError(self._broken) from error
        except BaseException:
            self._roll_back()
            raise
        if self._is_end_of_purge(results):
            self._checkpoint(apsw.SQLITE_CHECKPOINT_TRUNCATE)
        elif self._wal_pages >= CHECKPOINT_PAGES:
            self._checkpoint()
        return results

    def reader(self) -> Questions:
        """Return a second view for questions, usable from any thread; without a file, `self`."""
        if self._path in NAMELESS:
            return self
        db = _connect(self._path)
        db.pragma("query_only", True)
        self._readers.append(db)
        return SqliteQuestions(db)

    def backup(self, path: str, progress: Callable[[int, int], None] | None = None) -> None:
        """Copy all that is committed when it begins to a new file; the writer goes on meanwhile.

        Raises: SpoolError if the file exists, or cannot be written; then there is none.
        """
        if self._path not in NAMELESS:
            backup_spool(self._path, path, progress)
            return
        try:
            copy_database(self._db, path, progress)
        except apsw.Error as error:
            raise SpoolError(f"the spool cannot be copied to {path}: {error}") from error

    def close(self) -> None:
        """Close the file and give up its lock."""
        for db in (*self._readers, self._db):
            if self._broken:  # a checkpoint on closing would sync once more
                db.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
            db.close()
        _give_up_lock(self._lock)
        self._lock = None

    def _is_end_of_purge(self, results: Sequence[Result]) -> bool:
        # Then the pages that were given back are cut off the file, and its log is emptied.
        was_purging = self._is_purging
        for result in results:
            if isinstance(result, Purged):
                was_purging |= result.has_more or result.messages + result.bodies > 0
                self._is_purging = result.has_more
        return was_purging and not self._is_purging

    def _on_commit(self, _db: apsw.Connection, _name: str, pages: int) -> int:
        self._wal_pages = pages
        return apsw.SQLITE_OK

    def _checkpoint(self, mode: int = apsw.SQLITE_CHECKPOINT_PASSIVE) -> None:
        # The commit before it stands. But an fsync that failed may not be tried again: the
        # second one succeeds over pages that the system has dropped.
        self._wal_pages = 0
        try:
            self._db.wal_checkpoint(mode=mode)
        except (apsw.FullError, apsw.BusyError):
            pass  # the log grows until there is room, or the reader has gone
        except apsw.Error as error:
            self._broken = f"{self._path} failed at a checkpoint: {error}; {advice(error)}"

    def _roll_back(self) -> None:
        # SQLite has often done it already; and on a broken disk there is nothing to be done.
        if self._db.in_transaction:
            with contextlib.suppress(apsw.Error):
                self._db.execute("ROLLBACK")


def _execute(db: apsw.Connection, commands: Sequence[Command], now: float) -> list[Result]:
    results: list[Result] = []
    for kind, run in itertools.groupby(commands, type):
        if kind is Accept:
            accepts = [command for command in run if isinstance(command, Accept)]
            results += accept_all(db, accepts, now)
        else:
            results += [_APPLY[kind](db, command, now) for command in run]
    return results


def _connect(path: str) -> apsw.Connection:
    db = apsw.Connection(path, statementcachesize=STATEMENTS_MAX)
    db.set_busy_timeout(BUSY_MS)
    # Otherwise each new binding that a partial index might be about prepares its statement anew.
    db.config(apsw.SQLITE_DBCONFIG_ENABLE_QPSG, 1)
    db.pragma("cache_size", -(TEMPORARY_CACHE_KIB if path == TEMPORARY else CACHE_KIB))
    return db


def _configure(db: apsw.Connection, journal_mode: str) -> None:
    db.pragma("page_size", PAGE_BYTES)
    db.pragma("auto_vacuum", "INCREMENTAL")  # of a new file: an old one stays as it was made
    db.pragma("foreign_keys", False)  # nothing deletes a parent; the checks would cost each insert
    db.pragma("journal_size_limit", WAL_BYTES_MAX)
    db.pragma("synchronous", "FULL")
    journal = db.pragma("journal_mode", journal_mode)
    if journal != journal_mode:
        raise SpoolError(f"the journal is {journal}, not {journal_mode}: is it a network disk?")
    if db.pragma("synchronous") != _SYNCHRONOUS_FULL:
        raise SpoolError("synchronous=FULL was refused; without it nothing is durable")


def _take_lock(path: str) -> int:
    # Beside the file, not on it: SQLite has locks of its own there. It goes with the process.
    try:
        lock = _open_private(f"{path}.lock")
    except OSError as error:
        hint = f"; {UNWRITABLE}" if error.errno in {errno.EACCES, errno.EROFS} else ""
        raise SpoolError(f"{path}.lock cannot be opened: {error.strerror}{hint}") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(lock)
        raise SpoolInUseError(
            f"{path} is in use by another process, which holds {path}.lock:"
            " stop that one, or give this one a spool of its own"
        ) from error
    if not os.path.exists(path):
        os.close(_open_private(path))  # SQLite would let others read our mail
    return lock


def _open_private(path: str) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _give_up_lock(lock: int | None) -> None:
    if lock is not None:
        os.close(lock)
