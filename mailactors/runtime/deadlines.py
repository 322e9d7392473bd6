"""Deadlines of waits, all kept by one task: a cancel scope for each costs more than the wait.

Most waits end long before their deadline, in about the order in which they began; so each length
of time has a queue of its own, and what is over at its front is forgotten.
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
    """Something that is waited for."""

    is_done: bool


class _Wait(msgspec.Struct):
    until_s: float
    thing: Awaited
    give_up: Callable[[], None]


class Deadlines:
    """Ends waits that take too long."""

    def __init__(self) -> None:
        self._clock = SystemClock()
        self._queues: dict[float, deque[_Wait]] = {}
        """By length of time: in each, who came first is over first."""
        self._alarm = Timer(self._end, self._clock)

    async def run(self) -> None:
        """Keep the time."""
        await self._alarm.run()

    def limit(self, thing: Awaited, within_s: float, give_up: Callable[[], None]) -> None:
        """Call `give_up` when the thing is not done in time."""
        queue = self._queues.setdefault(within_s, deque())
        while queue and queue[0].thing.is_done:
            queue.popleft()
        until_s = self._clock.now_s() + within_s
        queue.append(_Wait(until_s, thing, give_up))
        self._alarm.advance(until_s)

    def _end(self) -> None:
        now_s = self._clock.now_s()
        for queue in list(self._queues.values()):
            while queue and (queue[0].thing.is_done or queue[0].until_s <= now_s):
                wait = queue.popleft()
                if not wait.thing.is_done:
                    wait.give_up()
        fronts = [queue[0].until_s for queue in self._queues.values() if queue]
        self._alarm.set(min(fronts, default=float("inf")))


_DEADLINES: Final = trio.lowlevel.RunVar[Deadlines]("deadlines")


def deadlines() -> Deadlines:
    """Return the one of this run of Trio."""
    try:
        return _DEADLINES.get()
    except LookupError:
        found = Deadlines()
        _DEADLINES.set(found)
        trio.lowlevel.spawn_system_task(found.run, name="deadlines")
        return found
