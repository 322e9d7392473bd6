"""Deadlines of many waits, all kept by one task: a cancel scope each would cost more than the wait.

Most waits end long before their deadline, in about the order in which they began. So each timeout
has a queue of its own, in the order of its deadlines, and finished waits are dropped at its front.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final, Protocol

import msgspec
import trio

from mailactors.runtime.ports import SystemClock
from mailactors.runtime.timer import Timer


class Awaited(Protocol):
    """What a task waits for."""

    is_done: bool


class _Wait(msgspec.Struct):
    deadline_s: float
    thing: Awaited
    give_up: Callable[[], None]


class Deadlines:
    """Ends waits whose deadline passes."""

    def __init__(self) -> None:
        self._clock = SystemClock()
        self._queues: dict[float, deque[_Wait]] = {}
        """By timeout; the deadlines in each are in order."""
        self._timer = Timer(self._end, self._clock)

    async def run(self) -> None:
        """Watch the deadlines until cancelled."""
        await self._timer.run()

    def limit(self, thing: Awaited, within_s: float, give_up: Callable[[], None]) -> None:
        """Call `give_up` if the thing is not done within `within_s` seconds."""
        queue = self._queues.setdefault(within_s, deque())
        while queue and queue[0].thing.is_done:
            queue.popleft()
        deadline_s = self._clock.now_s() + within_s
        queue.append(_Wait(deadline_s, thing, give_up))
        self._timer.advance(deadline_s)

    def _end(self) -> None:
        now_s = self._clock.now_s()
        for queue in list(self._queues.values()):
            while queue and (queue[0].thing.is_done or queue[0].deadline_s <= now_s):
                wait = queue.popleft()
                if not wait.thing.is_done:
                    wait.give_up()
        fronts = [queue[0].deadline_s for queue in self._queues.values() if queue]
        self._timer.set(min(fronts, default=float("inf")))


_DEADLINES: Final = trio.lowlevel.RunVar[Deadlines]("deadlines")


def deadlines() -> Deadlines:
    """Return the deadlines of this run of Trio, and start their task on the first call."""
    try:
        return _DEADLINES.get()
    except LookupError:
        found = Deadlines()
        _DEADLINES.set(found)
        trio.lowlevel.spawn_system_task(found.run, name="deadlines")
        return found
