"""What all commands and results have in common, and why a store refuses or fails."""

from __future__ import annotations

from typing import Final

import msgspec

from mailactors.errors import MailactorsError


class Command(msgspec.Struct, frozen=True):
    """A change of the spool; the docstring of each names its result, after an arrow."""


class Result(msgspec.Struct, frozen=True):
    """The result of a command."""


BUSY_WAIT_S: Final = 0.1
"""How long a store waits for another process before it raises `SpoolBusyError`."""


class SpoolError(MailactorsError):
    """The spool cannot execute a command or answer a question."""


class SpoolFullError(SpoolError):
    """The disk is full. Nothing was written; a later try may succeed."""


class SpoolBrokenError(SpoolError):
    """The disk failed (EIO, a failed fsync, corruption). The handle must not be used again."""


class SpoolBusyError(SpoolError):
    """Another process holds the store for longer than `BUSY_WAIT_S`. Nothing was written."""


class SpoolInUseError(SpoolError):
    """Another process has this spool open."""


class SpoolSchemaError(SpoolError):
    """The file is not a spool, belongs to a newer program, or has a changed migration."""
