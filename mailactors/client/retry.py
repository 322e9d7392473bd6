"""How long and how often one call is retried."""

from __future__ import annotations

import random
from collections.abc import Callable

import msgspec

from mailactors.client.values import UnavailableError


class Backoff(msgspec.Struct, frozen=True):
    """How long to wait between tries: exponential, with equal jitter.

    >>> Backoff(base_s=0.5, cap_s=10.0, draw=lambda: 1.0).pause_s(3)
    4.0
    >>> Backoff(base_s=0.5, cap_s=10.0, draw=lambda: 0.0).pause_s(10_000)
    5.0
    """

    base_s: float = 0.2
    cap_s: float = 10.0
    draw: Callable[[], float] = random.Random().random  # noqa: S311  # jitter is no secret

    def pause_s(self, attempt: int, retry_after_s: float = 0.0) -> float:
        """Return seconds to wait after an attempt (0 is the first), at least what was asked for."""
        bound_s = min(self.cap_s, self.base_s * 2.0 ** min(attempt, 30))
        if retry_after_s:
            return retry_after_s + self.draw() * self.base_s
        return bound_s / 2 + self.draw() * bound_s / 2


class Patience:
    """Counts one call's tries against its deadline."""

    def __init__(self, retry_for_s: float, backoff: Backoff, now_s: float) -> None:
        self._retry_for_s = retry_for_s
        self._backoff = backoff
        self.renew(now_s)

    def renew(self, now_s: float) -> None:
        """Start over after a success."""
        self._attempt = 0
        self._until_s = now_s + self._retry_for_s

    def pause_s(self, failure: UnavailableError, now_s: float) -> float:
        """Return how long to wait before the next try, or raise the failure if none is left."""
        left_s = self._until_s - now_s
        if left_s <= failure.retry_after_s or not failure.may_pass:
            raise failure
        pause_s = self._backoff.pause_s(self._attempt, failure.retry_after_s)
        self._attempt += 1
        return min(pause_s, left_s)
