"""How a message's wait ends before its deadline, so that it is tried once more. Plain functions."""

from __future__ import annotations

from typing import Final

RETRY_AFTER_MAX_S: Final = 3600.0
"""A recipient's side that asks for longer is asked again after this, as a provider is."""
LAST_TRY_S: Final = 60.0
"""No wait ends later than this before the deadline; where less is left, than half of that."""
TRIES_OVER_S: Final = 10.0
"""With so little left no wait is made shorter: what was tried now had its last try."""


def asked_wait_s(retry_after_s: float | None, jitter: float) -> float:
    """Return how long to wait for what a recipient's side asked.

    >>> [asked_wait_s(s, 1.0) for s in (None, 300.0, 999_999 * 3600.0)]
    [0.0, 300.0, 3600.0]
    """
    return min(retry_after_s or 0.0, RETRY_AFTER_MAX_S) * jitter


def wait_within_s(wait_s: float, left_s: float) -> float:
    """Return how long to wait, `left_s` before the deadline, if a rule asks for `wait_s`.

    >>> [wait_within_s(3600.0, left_s) for left_s in (7200.0, 600.0, 60.0, 9.0)]
    [3600.0, 540.0, 30.0, 3600.0]
    """
    if left_s < TRIES_OVER_S:
        return wait_s
    return min(wait_s, left_s - min(LAST_TRY_S, left_s / 2))
