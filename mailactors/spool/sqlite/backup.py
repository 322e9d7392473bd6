"""A consistent copy of an SQLite spool, while it is in use by this process or another.

The copy is one snapshot: what was committed when it began. Readers and the writer never wait for
each other; only the log cannot be truncated until the copy is done.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from typing import Final

import apsw

from mailactors.spool.port import SpoolError, SpoolSchemaError
from mailactors.spool.sqlite.migrations import find_missing, load_migrations

PAGES_A_STEP: Final = 250
"""Pages between two reports of progress (1 MB)."""

BUSY_MS: Final = 5_000
"""How long to wait for a process that is opening the file."""

Progress = Callable[[int, int], None]
"""Gets the pages done and the pages in all."""


def backup_spool(source: str, path: str, progress: Progress | None = None) -> None:
    """Copy a spool's file, which another process may have open, to a new one.

    Raises: SpoolError if the source is no spool, or the copy exists or cannot be written.
    """
    try:
        db = apsw.Connection(source, flags=apsw.SQLITE_OPEN_READWRITE)
        with contextlib.closing(db):
            db.set_busy_timeout(BUSY_MS)
            find_missing(db, load_migrations())
            copy_database(db, path, progress)
    except apsw.NotADBError as error:
        raise SpoolSchemaError(f"{source} is not a database") from error
    except apsw.Error as error:
        raise SpoolError(f"{source} cannot be copied to {path}: {error}") from error


def copy_database(db: apsw.Connection, path: str, progress: Progress | None = None) -> None:
    """Copy what a connection sees now. The copy gets its name when it is complete and durable.

    Raises: SpoolError if the file exists; apsw.Error if it cannot be read or written.
    """
    if os.path.lexists(path):
        raise SpoolError(f"{path} exists: a backup never takes another file's place")
    part = f"{path}.part"
    try:
        os.close(os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    except OSError as error:
        raise SpoolError(f"{part} cannot be made: {error.strerror}") from error
    try:
        with contextlib.closing(apsw.Connection(part)) as copy:
            _copy_pages(db, copy, progress)
        _publish(part, path)
    except OSError as error:
        raise SpoolError(f"{path} cannot be written: {error.strerror}") from error
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(part)


def _copy_pages(db: apsw.Connection, copy: apsw.Connection, progress: Progress | None) -> None:
    # The open transaction keeps the snapshot: a commit would restart the copy.
    is_outermost = not db.in_transaction
    if is_outermost:
        db.execute("BEGIN")
    try:
        db.execute("SELECT count(*) FROM sqlite_schema").fetchall()
        with copy.backup("main", db, "main") as backup:
            while not backup.done:
                backup.step(PAGES_A_STEP)
                if progress is not None:
                    progress(backup.page_count - backup.remaining, backup.page_count)
    finally:
        if is_outermost:
            db.execute("ROLLBACK")


def _publish(part: str, path: str) -> None:
    # A link, unlike a rename, fails if the file exists by now.
    try:
        os.link(part, path)
    except FileExistsError as error:
        raise SpoolError(f"{path} exists: a backup never takes another file's place") from error
    except OSError:
        os.rename(part, path)  # a file system without links
    folder = os.open(os.path.dirname(os.path.abspath(path)), os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
