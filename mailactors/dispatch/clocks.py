"""What is known of the wall clock: the times that it was set. Plain values and functions."""

from __future__ import annotations

import math
from typing import Final

import msgspec

from mailactors.runtime.belief import JUMP_MIN_S

STEPS_MAX: Final = 50
"""Steps of the wall clock in one direction that are remembered one by one."""


class ClockStep(msgspec.Struct, frozen=True):
    """A step of the wall clock. Times on disk up to `until` (UTC) are by the clock before it."""

    until: float
    step_s: float


class ClockSteps(msgspec.Struct, frozen=True):
    """When and how far the wall clock was set: times on disk from before may be that wrong."""

    forward: tuple[ClockStep, ...] = ()
    backward: tuple[ClockStep, ...] = ()
    """Their `step_s` is positive as well."""

    def forward_s(self, at: float) -> float:
        """Return how far the clock was set forward since it showed `at`."""
        return sum(each.step_s for each in self.forward if at <= each.until)

    def backward_s(self, at: float) -> float:
        """Return how far the clock was set backward since it showed `at`, perhaps."""
        return sum(each.step_s for each in self.backward if at <= each.until)

    def stepped(self, step_s: float, now: float) -> ClockSteps:
        """Return the steps with one more, noticed when the clock shows `now`."""
        step = ClockStep(now - step_s, abs(step_s))
        if step_s > 0:
            return ClockSteps(_joined((*self.forward, step)), self.backward)
        return ClockSteps(self.forward, _joined((*self.backward, step)))


def steps_before(newest_at: float, ahead_s: float) -> ClockSteps:
    """Return what a process must suppose was done to the clock while it was away.

    Nobody has watched the clock between `newest_at`, the newest time on disk, and the start, when
    it showed `ahead_s` more. The process may have been away for less than that: then the clock was
    set forward. Where it shows less, it was set back, by an unknown length of time.

    >>> steps_before(1000.0, 5.0).forward_s(990.0), steps_before(1000.0, 5.0).backward_s(990.0)
    (5.0, 0)
    >>> steps_before(1000.0, -3600.0).backward_s(990.0)
    inf
    """
    if ahead_s < -JUMP_MIN_S:
        return ClockSteps(backward=(ClockStep(newest_at, math.inf),))
    return ClockSteps(forward=(ClockStep(newest_at, max(0.0, ahead_s)),))


def _joined(steps: tuple[ClockStep, ...]) -> tuple[ClockStep, ...]:
    # Of too many the oldest two become one, as late and as large as both.
    if len(steps) <= STEPS_MAX:
        return steps
    first, second, *rest = steps
    joined = ClockStep(max(first.until, second.until), first.step_s + second.step_s)
    return (joined, *rest)
