"""A timer that calls back once, and costs nothing to postpone.

A cancel scope around each wait would cost more than the wait itself, and most deadlines are never
reached. The timer has a task of its own. It sleeps until the earliest time that it was set to, and
checks only then whether that time was postponed.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import trio

from mailactors.runtime.ports import Clock


class Timer:
    """Calls `on_due`, which must not block, once at the time that it was last set to."""

    def __init__(self, on_due: Callable[[], None], clock: Clock) -> None:
        self._on_due = on_due
        self._clock = clock
        self._at_s = math.inf
        self._sleep = trio.CancelScope()

    def set(self, at_s: float) -> None:
        """Call back at this time (monotonic) and at no other; `inf` for never."""
        self._at_s = at_s
        if at_s < self._sleep.deadline:
            self._sleep.deadline = at_s

    def advance(self, at_s: float) -> None:
        """Call back at this time, unless an earlier one is set."""
        if at_s < self._at_s:
            self.set(at_s)

    async def run(self) -> None:
        """Call back when it is time, until cancelled; the actor starts this beside its loop."""
        while True:
            with trio.CancelScope(deadline=self._at_s) as self._sleep:
                await trio.sleep_forever()
            if self._clock.now_s() >= self._at_s:
                self._at_s = math.inf
                self._on_due()
