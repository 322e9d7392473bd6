"""An alarm: wakes an actor at a time that it may put off for nothing.

A deadline around each wait would cost more than the wait itself, and most deadlines are never
reached. The alarm has a task of its own, which sleeps until the earliest time that it was ever set
to and only then looks whether that time was put off.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import trio

from mailactors.runtime.ports import Clock


class Timer:
    """Rings once at the time that it was last set to."""

    def __init__(self, ring: Callable[[], None], clock: Clock) -> None:
        self._ring = ring
        self._clock = clock
        self._at_s = math.inf
        self._sleep = trio.CancelScope()

    def set(self, at_s: float) -> None:
        """Ring at this time (monotonic) and at no other; `inf` for never."""
        self._at_s = at_s
        if at_s < self._sleep.deadline:
            self._sleep.deadline = at_s

    def advance(self, at_s: float) -> None:
        """Ring at this time, if it is not to ring before."""
        if at_s < self._at_s:
            self.set(at_s)

    async def run(self) -> None:
        """Ring when it is time; the actor starts this beside its loop."""
        while True:
            with trio.CancelScope(deadline=self._at_s) as self._sleep:
                await trio.sleep_forever()
            if self._clock.now_s() >= self._at_s:
                self._at_s = math.inf
                self._ring()
