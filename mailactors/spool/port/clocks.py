"""Commands that put right what a wall clock wrote which was ahead of the present one."""

from __future__ import annotations

from mailactors.spool.port.command import Command, Result


class CorrectDue(Command, frozen=True):
    """Shorten the waits of a stream's deliveries that were written in the future. → Corrected

    A delivery that waits, and whose row is newer than now, is due after the wait that it was given
    then. What is scheduled for its time stays. Looks at up to `limit` deliveries, in the order of
    their due times, after the place `after`.
    """

    stream: str
    limit: int
    after: tuple[float, int, int] | None = None


class CorrectDoubts(Command, frozen=True):
    """Make doubts due now that were written in the future, or due after `wait_max_s`. → Corrected

    Their times are no later than now afterwards, and as far apart from each other as they were.

    Every doubt's `began_at`, from which on a vendor remembers its key, is put back by `back_s` in
    all: how far the clock was set back, infinite if that is unknown. Doing so twice only ends the
    repeats earlier.
    """

    wait_max_s: float
    back_s: float = 0.0


class Corrected(Result, frozen=True):
    """How many rows were wrong. `after`: where the next command goes on, or None at the end."""

    count: int
    after: tuple[float, int, int] | None = None
    stream: str = ""
    """The stream, if something of it may be due, or empty."""
