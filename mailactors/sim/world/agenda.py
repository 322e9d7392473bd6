"""What is to happen later, in one task: the vendors' affairs that outlive whoever caused them."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable
from typing import TypeAlias

import trio

from mailactors.runtime.ports import Clock

Act: TypeAlias = Callable[[float], None]
"""Is told the time for which it was planned, which a pause may have left behind."""


class Agenda:
    """Calls functions at their times, in the order of the times, then of the requests."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._heap: list[tuple[float, int, Act]] = []
        self._count = 0
        self._scope = trio.CancelScope()

    def at(self, at_s: float, act: Act) -> None:
        """Plan a call; what is due already comes next."""
        self._count += 1
        heapq.heappush(self._heap, (at_s, self._count, act))
        if at_s < self._scope.deadline:
            self._scope.deadline = at_s

    async def run(self) -> None:
        """Carry out what is planned, for ever."""
        while True:
            first_s = self._heap[0][0] if self._heap else math.inf
            self._scope = trio.CancelScope(deadline=first_s)
            with self._scope:
                await trio.sleep_forever()
            self._act_until(self._clock.now_s())

    def finish(self) -> None:
        """Carry out all that is left, now: the run is over, the world goes on without it."""
        self._act_until(math.inf)

    def _act_until(self, now_s: float) -> None:
        while self._heap and self._heap[0][0] <= now_s:
            at_s, _, act = heapq.heappop(self._heap)
            act(at_s)
