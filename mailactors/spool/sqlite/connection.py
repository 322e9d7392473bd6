"""Connections to a spool's file, and the lock that gives it one owner."""

from __future__ import annotations

import errno
import fcntl
import os
from typing import Final

import apsw

from mailactors.spool.port import BUSY_WAIT_S, SpoolError, SpoolInUseError
from mailactors.spool.sqlite.errors import UNWRITABLE

MEMORY: Final = ":memory:"
TEMPORARY: Final = ""
"""Ends with its connection too, but what exceeds the cache is in a file without a name."""
NAMELESS: Final = (MEMORY, TEMPORARY)
CACHE_KIB: Final = 8_000
TEMPORARY_CACHE_KIB: Final = 2_000
"""Without a name SQLite keeps changed pages until they are a quarter of the cache, and walks over
all of them at each commit."""
PAGE_BYTES: Final = 4_096
STATEMENTS_MAX: Final = 200
WAL_BYTES_MAX: Final = 64 * 1024 * 1024
"""What the log may keep on disk after a burst."""

_OF_OTHERS: Final = 0o077
_PRIVATE: Final = os.O_RDWR | os.O_CREAT
_SUFFIXES: Final = ("", "-wal", "-shm", "-journal", ".lock")
_SYNCHRONOUS_FULL: Final = 2


def connect(path: str) -> apsw.Connection:
    """Open a connection. It waits `BUSY_WAIT_S` for another process, such as a backup."""
    db = apsw.Connection(path, statementcachesize=STATEMENTS_MAX)
    db.set_busy_timeout(int(1_000 * BUSY_WAIT_S))
    # Otherwise each new value that concerns a partial index would prepare its statement again.
    db.config(apsw.SQLITE_DBCONFIG_ENABLE_QPSG, 1)
    db.pragma("cache_size", -(TEMPORARY_CACHE_KIB if path == TEMPORARY else CACHE_KIB))
    return db


def configure(db: apsw.Connection, journal_mode: str) -> None:
    """Make a connection durable.

    Raises: SpoolError if the file system does not allow it.
    """
    db.pragma("page_size", PAGE_BYTES)
    db.pragma("auto_vacuum", "INCREMENTAL")  # of a new file: an old one does not change
    db.pragma("foreign_keys", False)  # nothing deletes a parent; the checks would cost each insert
    db.pragma("journal_size_limit", WAL_BYTES_MAX)
    db.pragma("synchronous", "FULL")
    journal = db.pragma("journal_mode", journal_mode)
    if journal != journal_mode:
        raise SpoolError(f"the journal is {journal}, not {journal_mode}: is it a network disk?")
    if db.pragma("synchronous") != _SYNCHRONOUS_FULL:
        raise SpoolError("synchronous=FULL was refused; without it nothing is durable")


def take_locks(path: str) -> list[int]:
    """Lock a spool's file for this process, making it if there is none; return the handles.

    One lock is on the file itself, which may have several names; it does not meet SQLite's own,
    which are of another kind. The other is beside it, on its name: a file that takes its place
    would share its log. Both end with the process.

    Raises: SpoolInUseError; SpoolError if a lock cannot be opened.
    """
    locks: list[int] = []
    try:
        for name, flags in ((f"{path}.lock", _PRIVATE), (path, os.O_RDONLY)):
            locks.append(_lock(path, name, flags))
    except SpoolError:
        release(locks)
        raise
    return locks


def release(locks: list[int]) -> None:
    """Give up locks. The file's own goes last: closing it ends SQLite's locks as well."""
    while locks:
        os.close(locks.pop(0))


def _lock(path: str, name: str, flags: int) -> int:
    try:
        if not os.path.exists(path) and name == path:
            flags = _PRIVATE  # SQLite would let other users read our mail
        lock = os.open(name, flags | os.O_CLOEXEC, 0o600)
    except OSError as error:
        hint = f"; {UNWRITABLE}" if error.errno in {errno.EACCES, errno.EROFS} else ""
        raise SpoolError(f"{name} cannot be opened: {error.strerror}{hint}") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(lock)
        raise SpoolInUseError(
            f"{path} is in use by another process, which holds {name}:"
            " stop that one, or give this one a spool of its own"
        ) from error
    return lock


def make_private(path: str) -> None:
    """Let nobody but its owner read a spool's file, or any beside it: they hold mail.

    Raises: SpoolError if that is not allowed.
    """
    for suffix in _SUFFIXES:
        name = path + suffix
        try:
            if os.stat(name).st_mode & _OF_OTHERS:
                os.chmod(name, 0o600)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise SpoolError(
                f"{name} may be read by other users, and that cannot be changed:"
                f" {error.strerror}; have its owner do so: chmod 600 {name}"
            ) from error
