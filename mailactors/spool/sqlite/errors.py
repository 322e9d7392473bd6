"""SQLite's errors in the words of the port, with what an operator can do."""

from __future__ import annotations

from typing import Final

import apsw

from mailactors.spool.port import SpoolBrokenError, SpoolBusyError, SpoolError, SpoolFullError

DISK_ERRORS: Final = (
    apsw.IOError,
    apsw.CorruptError,
    apsw.NotADBError,
    apsw.CantOpenError,
    apsw.ReadOnlyError,
    apsw.PermissionsError,
    apsw.ProtocolError,
)
"""Errors that leave the state of the file in doubt: nothing is retried on the same handle."""
STORAGE_ERRORS: Final = (apsw.FullError, apsw.BusyError, *DISK_ERRORS)
"""All that a caller should handle; anything else is a bug."""

UNWRITABLE: Final = "let this user write there, or name another spool, and start again"
_DAMAGED: Final = (
    "it is damaged: keep it and its -wal as they are, and start with a backup, or with what"
    " `sqlite3 FILE .recover` finds in a copy"
)
_ADVICE: Final[dict[type[apsw.Error], str]] = {
    apsw.CorruptError: _DAMAGED,
    apsw.NotADBError: _DAMAGED,
    apsw.CantOpenError: UNWRITABLE,
    apsw.ReadOnlyError: UNWRITABLE,
    apsw.PermissionsError: UNWRITABLE,
    apsw.IOError: "check the disk and start again: what was acknowledged is in the file",
}


def advice(error: apsw.Error) -> str:
    """Return what an operator can do about an error."""
    return _ADVICE.get(type(error), "start again; if it stays so, keep the file for a look at it")


def translate(error: apsw.Error, path: str, doing: str) -> SpoolError:
    """Return one of `STORAGE_ERRORS` as an error of the port; `doing` says what went wrong."""
    if isinstance(error, apsw.FullError):
        return SpoolFullError(f"no room for {path}: {error}")
    if isinstance(error, apsw.BusyError):
        return SpoolBusyError(str(error))
    return SpoolBrokenError(f"{doing}: {error}; {advice(error)}")
