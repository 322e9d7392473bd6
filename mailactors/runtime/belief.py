"""A wall clock that is held against the monotonic one: a jump is believed once it has lasted.

A clock that an operator or a bad time server sets a day ahead would end every deadline, and forget
every key, at once. So dates go on by the monotonic clock from when the wall clock was last
believed; a step is taken over only when the wall clock has kept to it for `BELIEVED_AFTER_S`. What
it gains or loses little by little is taken over at once.

At its start a process holds the clock against the newest time on disk. A clock behind it was set
back while nobody looked, or the one before was ahead: dates go on from the newest time, and the
clock is believed after `BELIEVED_AFTER_S`, as if the process had not been away. A clock ahead of
the newest time is believed: nothing tells whether the process was away for less.
"""

from __future__ import annotations

from typing import Final

import msgspec

from mailactors.runtime.ports import Clock, Journal

BELIEVED_AFTER_S: Final = 600.0
"""How long the wall clock must keep to a step before it is believed."""
JUMP_MIN_S: Final = 1.0
"""The two clocks must disagree by this much, from one look to the next, for a jump."""


class Belief(msgspec.Struct, frozen=True):
    """How far wall time is ahead of monotonic time, as believed, and as a jump has it."""

    offset_s: float
    jumped_s: float | None = None
    """The offset since the jump that is not believed yet, or None."""
    since_s: float = 0.0
    """Monotonic; since when the clock keeps to the jump."""


def first_belief(newest_at: float, wall: float, now_s: float) -> Belief:
    """Return what to believe before the first look, where the newest time on disk is `newest_at`.

    The look itself is `decide_belief`'s, like every other: it sees a jump where the two disagree.

    >>> first_belief(newest_at=900.0, wall=1000.0, now_s=1.0)
    Belief(offset_s=999.0, jumped_s=None, since_s=0.0)
    >>> behind = first_belief(newest_at=4600.0, wall=1000.0, now_s=1.0)
    >>> behind.offset_s, decide_belief(behind, 999.0, 1.0).jumped_s
    (4599.0, 999.0)
    """
    return Belief((newest_at if wall < newest_at - JUMP_MIN_S else wall) - now_s)


def decide_belief(belief: Belief, offset_s: float, now_s: float) -> Belief:
    """Return what to believe after a look at both clocks.

    >>> before = Belief(0.0)
    >>> decide_belief(before, 0.5, 1.0)
    Belief(offset_s=0.5, jumped_s=None, since_s=0.0)
    >>> jumped = decide_belief(before, 86400.0, 1.0)
    >>> jumped.offset_s, decide_belief(jumped, 86400.0, 602.0).offset_s
    (0.0, 86400.0)
    >>> decide_belief(jumped, 0.0, 5.0)
    Belief(offset_s=0.0, jumped_s=None, since_s=0.0)
    """
    if abs(offset_s - belief.offset_s) < JUMP_MIN_S:
        return Belief(offset_s)
    if belief.jumped_s is None or abs(offset_s - belief.jumped_s) >= JUMP_MIN_S:
        return Belief(belief.offset_s, offset_s, now_s)
    if now_s - belief.since_s >= BELIEVED_AFTER_S:
        return Belief(offset_s)
    return Belief(belief.offset_s, offset_s, belief.since_s)


class BelievedClock:
    """A clock port over another one.

    Args:
        newest_at: the newest time on disk (UTC) before this process, or 0 for none.
    """

    def __init__(self, clock: Clock, journal: Journal, newest_at: float = 0.0) -> None:
        self.now_s = clock.now_s
        self.jumped_at_s = float("-inf")
        """Monotonic; when a jump was last seen that was not believed."""
        self.jump_s = 0.0
        """How far the clock was ahead then, negative if it was behind."""
        self.newest_at = newest_at
        self.ahead_s = 0.0
        """How far the clock was ahead of `newest_at` at the first look, negative if behind."""
        self._wall_time = clock.wall_time
        self._journal = journal
        self._belief: Belief | None = None  # before the first look, which needs a running loop

    def wall_time(self) -> float:
        """Return the time that is believed, UTC."""
        wall, now_s = self._wall_time(), self.now_s()
        before = self._belief
        if before is None:
            before, self.ahead_s = first_belief(self.newest_at, wall, now_s), wall - self.newest_at
        self._belief = after = decide_belief(before, wall - now_s, now_s)
        if after.jumped_s is not None:
            self.jumped_at_s, self.jump_s = now_s, after.jumped_s - after.offset_s
            if before.jumped_s is None:
                step_s = round(self.jump_s, 3)
                self._journal.note("clock.jumped", level="error", step_s=step_s)
            return now_s + after.offset_s
        if before.jumped_s is not None:
            step_s = round(after.offset_s - before.offset_s, 3)
            self._journal.note("clock.believed", level="warning", step_s=step_s)
        return wall
