"""What truly happened: the world's own book, which the gateway never sees."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field


@dataclass
class Peak:
    """The most events in any second."""

    highest: int = 0
    recent: deque[float] = field(default_factory=deque)

    def add(self, at_s: float) -> None:
        """Count one event; times do not go back."""
        self.recent.append(at_s)
        while self.recent[0] <= at_s - 1.0:
            self.recent.popleft()
        self.highest = max(self.highest, len(self.recent))


@dataclass
class Truth:
    """Messages by their number in the traffic, which every policy shares."""

    providers: tuple[str, ...]
    submitted_s: dict[int, float] = field(default_factory=dict)
    accepted: dict[int, str] = field(default_factory=dict)
    """The id that the client was given with its receipt."""
    refused: int = 0
    """Times that a client was told to come again."""
    given_up: int = 0
    """Messages that their client gave up, never accepted."""
    arrivals: dict[int, list[float]] = field(default_factory=dict)
    """When a message went out at a provider, any of them; more than once is a duplicate."""
    attempts: int = 0
    peaks: dict[str, Peak] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.peaks = {name: Peak() for name in self.providers}

    @property
    def delivered(self) -> int:
        """Accepted messages that truly went out."""
        return sum(1 for number in self.accepted if number in self.arrivals)

    @property
    def duplicates(self) -> int:
        """Times that a message went out which had gone out already."""
        return sum(len(times) - 1 for times in self.arrivals.values())

    def latencies_s(self) -> list[float]:
        """Return each delivered message's time from submission to acceptance, sorted."""
        return sorted(times[0] - self.submitted_s[n] for n, times in self.arrivals.items())

    def recovery_s(self, since_s: float, bearable: float) -> float | None:
        """Return how long after `since_s` the backlog was first no more than `bearable` messages.

        The backlog is what was submitted and has not arrived. None: it never was.
        """
        submitted = sorted(self.submitted_s[n] for n in self.accepted)
        arrived = sorted(times[0] for times in self.arrivals.values())
        done = sum(1 for at_s in arrived if at_s <= since_s)
        come = sum(1 for at_s in submitted if at_s <= since_s)
        if come - done <= bearable:
            return 0.0
        for at_s in arrived[done:]:
            done += 1
            while come < len(submitted) and submitted[come] <= at_s:
                come += 1
            if come - done <= bearable:
                return at_s - since_s
        return None


def quantile(ordered: list[float], share: float) -> float | None:
    """Return the smallest value that is not below a share of all; None of nothing.

    >>> quantile([1.0, 2.0, 3.0, 4.0], 0.5)
    2.0
    """
    if not ordered:
        return None
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]
