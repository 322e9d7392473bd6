"""Sliding windows in a bounded number of buckets; they never count too little."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Final

BUCKETS: Final = 60
"""A window is this many buckets and one more: at most 1/60 of a quota stays unused."""
ROUNDING_S: Final = 1e-6


@dataclass
class Window:
    """Permits given in a sliding window, by bucket; the count covers up to one bucket more."""

    length_s: float
    count_max: int
    buckets: deque[list[int]] = field(default_factory=deque)
    """[bucket number, permits given], oldest first."""
    total: int = 0

    @property
    def bucket_s(self) -> float:
        """The length of a bucket."""
        return self.length_s / BUCKETS

    def forget(self, now_s: float) -> None:
        """Drop buckets that lie wholly outside the window."""
        oldest = int(now_s // self.bucket_s) - BUCKETS
        while self.buckets and self.buckets[0][0] < oldest:
            self.total -= self.buckets.popleft()[1]

    def add(self, at_s: float, count: int) -> None:
        """Count permits given at `at_s`, which is not before the latest counted time."""
        number = int(at_s // self.bucket_s)
        if not self.buckets or self.buckets[-1][0] != number:
            self.buckets.append([number, 0])
        self.buckets[-1][1] += count
        self.total += count

    def take_back(self, at_s: float) -> None:
        """Remove a permit given at `at_s`; do nothing if that time has left the window."""
        number = int(at_s // self.bucket_s)
        for bucket in reversed(self.buckets):
            if bucket[0] == number and bucket[1] > 0:
                bucket[1] -= 1
                self.total -= 1
                return

    def opens_at_s(self, now_s: float, count: int = 1) -> float:
        """Return when `count` permits are available: now, or when enough buckets have left.

        `count` is at most `count_max`: more would never be available.
        """
        self.forget(now_s)
        left, at_s = self.total, now_s
        if left + count <= self.count_max:
            return now_s
        for number, given in self.buckets:
            if left + count <= self.count_max:
                break
            left -= given
            at_s = (number + BUCKETS + 1) * self.bucket_s
        return max(at_s, now_s + ROUNDING_S)  # rounding must not make a full window look open
