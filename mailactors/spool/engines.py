"""Which engine a spool is on: the only place that knows."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from mailactors.spool.port import Questions, SpoolError, Store
from mailactors.spool.sqlite import SqliteStore, backup, reading

T = TypeVar("T")


def open_store(spool: str) -> Store:
    """Open the spool that `service.spool` names, making it if there is none.

    `spool` is a file's path; ":memory:" or "" for one that ends with the process.

    Raises: SpoolInUseError, SpoolSchemaError, and SpoolError if it cannot be opened at all.
    """
    return SqliteStore.open(_path(spool))


def read_spool(spool: str, question: Callable[[Questions], T]) -> T:
    """Ask one question of a spool that may be in use; nothing is written.

    Raises: SpoolSchemaError, SpoolBrokenError, and SpoolError if it cannot be read.
    """
    return reading.read_spool(_path(spool), question)


def backup_spool(spool: str, path: str, progress: Callable[[int, int], None] | None = None) -> None:
    """Copy a spool that may be in use to a new file.

    Raises: SpoolError if it is no spool, or the copy exists or cannot be written.
    """
    backup.backup_spool(_path(spool), path, progress)


def _path(spool: str) -> str:
    scheme, separator, _ = spool.partition("://")
    if separator:  # the rest may have a password
        raise SpoolError(
            f"service.spool begins with {scheme}://, and there is no such engine:"
            " set it to the path of a file"
        )
    return spool
