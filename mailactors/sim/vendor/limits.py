"""A vendor's limits: the quotas that it enforces, and its queue when capacity is low."""

from __future__ import annotations

import math
from collections import deque
from typing import Final

from mailactors.sim.scenario.tables import VendorQuota

_LENGTHS_S: Final = {"per_s": 1.0, "per_minute": 60.0, "per_hour": 3600.0, "per_day": 86400.0}


class SlidingQuota:
    """A quota over a sliding window: it counts exactly what the vendor served in it."""

    def __init__(self, length_s: float, count_max: int) -> None:
        self._length_s = length_s
        self._count_max = count_max
        self._served: deque[float] = deque()

    def opens_at_s(self, now_s: float) -> float:
        """Return when the vendor serves one more; not before now."""
        while self._served and self._served[0] <= now_s - self._length_s:
            self._served.popleft()
        if len(self._served) < self._count_max:
            return now_s
        return self._served[-self._count_max] + self._length_s

    def serve(self, now_s: float) -> None:
        self._served.append(now_s)


def windows_of(quota: VendorQuota) -> list[tuple[float, int]]:
    """Return the (length in seconds, most messages) of each window that a quota has."""
    counts = ((length_s, getattr(quota, name)) for name, length_s in _LENGTHS_S.items())
    return [(length_s, count) for length_s, count in counts if count is not None]


class ServiceQueue:
    """The queue of a vendor with little capacity, which serves one message after the other."""

    def __init__(self, per_s: float) -> None:
        self._turn_s = 1.0 / per_s
        self._free_at_s = -math.inf

    def reserve(self, now_s: float, patience_s: float, keeps_abandoned: bool) -> float | None:
        """Reserve a slot and return when it starts; None if it starts after `patience_s`."""
        turn_s = max(now_s, self._free_at_s)
        if turn_s - now_s >= patience_s and not keeps_abandoned:
            return None
        self._free_at_s = turn_s + self._turn_s
        return turn_s
