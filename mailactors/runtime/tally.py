"""Counters and histograms that outlive the actors that update them; metrics read them."""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from typing import Final

LATENCY_BOUNDS_S: Final = (
    *(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1),
    *(0.25, 0.5, 1.0, 2.5, 10.0),
)
"""From a tenth of the promised decision latency (1 ms) to the length of an outage."""


class Tally:
    """Counts each combination of labels."""

    def __init__(self) -> None:
        self.counts: dict[tuple[str, ...], int] = {}

    def add(self, *labels: str, count: int = 1) -> None:
        """Add to the count of one combination of labels."""
        self.counts[labels] = self.counts.get(labels, 0) + count


class Histogram:
    """Counts values between fixed bounds, and sums them."""

    def __init__(self, bounds: Sequence[float] = LATENCY_BOUNDS_S) -> None:
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(self.bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Count a value in its bucket; a bound belongs to the bucket below it."""
        self.counts[bisect.bisect_left(self.bounds, value)] += 1
        self.total += value

    def cumulative(self) -> list[tuple[str, float]]:
        """Return (upper bound, values up to it), ending with ("+Inf", all).

        >>> histogram = Histogram((1.0, 2.0))
        >>> for value in (0.5, 2.0, 9.0):
        ...     histogram.observe(value)
        >>> histogram.cumulative()
        [('1.0', 1.0), ('2.0', 2.0), ('+Inf', 3.0)]
        """
        buckets, running = [], 0
        for bound, count in zip((*map(str, self.bounds), "+Inf"), self.counts, strict=True):
            running += count
            buckets.append((bound, float(running)))
        return buckets
