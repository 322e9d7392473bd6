"""What an engine is to everybody else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from mailactors.spool.port.command import Command, Result
from mailactors.spool.port.questions import Questions


class Store(Questions, Protocol):
    """A spool's storage: synchronous, used by one caller at a time."""

    def apply(self, commands: Sequence[Command], now: float) -> list[Result]:
        """Execute commands in order in one durable transaction; results in the same order.

        All or nothing: an exception means that none of them happened.

        Raises: SpoolFullError, SpoolBusyError, SpoolBrokenError; anything else is a bug.
        """
        ...

    def reader(self) -> Questions:
        """Return a second view for questions, usable from another thread; may be `self`."""
        ...

    def backup(self, path: str, progress: Callable[[int, int], None] | None = None) -> None:
        """Copy all that is committed when it begins to a new file; the writer goes on meanwhile.

        May run on another thread than `apply`. `progress` gets the pages done and in all.

        Raises: SpoolError if the file exists, or cannot be written; then there is none.
        """
        ...

    def close(self) -> None:
        """Close the file and give up its lock."""
        ...
