"""Planned actions of the vendors, carried out by one task that outlives the gateway's processes."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable
from typing import TypeAlias

import trio

from mailactors.runtime.ports import Clock

Action: TypeAlias = Callable[[float], None]
"""Receives the time for which it was planned; after a pause of the process the clock is later."""


class Agenda:
    """Calls functions at their times, in the order of the times, then of the requests."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._heap: list[tuple[float, int, Action]] = []
        self._count = 0
        self._scope = trio.CancelScope()

    def at(self, at_s: float, action: Action) -> None:
        """Plan a call; what is already due comes next."""
        self._count += 1
        heapq.heappush(self._heap, (at_s, self._count, action))
        if at_s < self._scope.deadline:
            self._scope.deadline = at_s

    async def run(self) -> None:
        """Carry out each action when it is due; never return."""
        while True:
            first_s = self._heap[0][0] if self._heap else math.inf
            self._scope = trio.CancelScope(deadline=first_s)
            with self._scope:
                await trio.sleep_forever()
            self._act_until(self._clock.now_s())

    def finish(self) -> None:
        """Carry out everything that is left at once, since the run is over."""
        self._act_until(math.inf)

    def _act_until(self, now_s: float) -> None:
        while self._heap and self._heap[0][0] <= now_s:
            at_s, _, action = heapq.heappop(self._heap)
            action(at_s)
