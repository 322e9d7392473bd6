"""The calls of the last seconds by result: a breaker's failure rate is computed from them."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field


@dataclass
class Calls:
    """Counts by second, with their sums, which every call reads and changes."""

    successes: int = 0
    failures: int = 0
    _seconds: deque[list[int]] = field(default_factory=deque)
    """[second, successes, failures], oldest first."""

    def add(self, *, is_success: bool, now_s: float, window_s: float) -> None:
        """Count a call that has just ended, and forget those before the window."""
        second = int(now_s)
        if not self._seconds or self._seconds[-1][0] != second:
            self._seconds.append([second, 0, 0])
        while self._seconds[0][0] <= now_s - window_s - 1:
            _, successes, failures = self._seconds.popleft()
            self.successes -= successes
            self.failures -= failures
        self._seconds[-1][1 if is_success else 2] += 1
        self.successes += is_success
        self.failures += not is_success

    def clear(self) -> None:
        """Forget all of them."""
        self._seconds.clear()
        self.successes = self.failures = 0
