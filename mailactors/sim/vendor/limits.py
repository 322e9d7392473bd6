"""How much a vendor takes: quotas that it enforces, and the line before it."""

from __future__ import annotations

import math
from collections import deque
from typing import Final

from mailactors.sim.scenario.tables import VendorQuota

_LENGTHS_S: Final = {"per_s": 1.0, "per_minute": 60.0, "per_hour": 3600.0, "per_day": 86400.0}


class SlidingQuota:
    """Counts what a vendor served, to the last second of each window."""

    def __init__(self, length_s: float, count_max: int) -> None:
        self._length_s = length_s
        self._count_max = count_max
        self._served: deque[float] = deque()

    def opens_at_s(self, now_s: float) -> float:
        """Return when one more is served; not before now."""
        while self._served and self._served[0] <= now_s - self._length_s:
            self._served.popleft()
        if len(self._served) < self._count_max:
            return now_s
        return self._served[-self._count_max] + self._length_s

    def serve(self, now_s: float) -> None:
        """Count one."""
        self._served.append(now_s)


def quotas_of(quota: VendorQuota) -> list[SlidingQuota]:
    """Return the windows that a quota has."""
    counts = ((length_s, getattr(quota, name)) for name, length_s in _LENGTHS_S.items())
    return [SlidingQuota(length_s, count) for length_s, count in counts if count is not None]


class Line:
    """The line before a vendor of little capacity: one turn after the other."""

    def __init__(self, per_s: float) -> None:
        self._turn_s = 1.0 / per_s
        self._free_at_s = -math.inf

    def stand(self, now_s: float, patience_s: float, keeps_abandoned: bool) -> float | None:
        """Return when it is one's turn, and take it; None: whoever waits is gone by then."""
        turn_s = max(now_s, self._free_at_s)
        if turn_s - now_s >= patience_s and not keeps_abandoned:
            return None
        self._free_at_s = turn_s + self._turn_s
        return turn_s
