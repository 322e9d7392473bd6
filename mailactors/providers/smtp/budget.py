"""How long an attempt may take before the final dot.

Until then giving up is safe: the relay cannot have accepted. After it nothing here applies, for to
give up would make the message uncertain. A relay that is slower than its settings allow costs its
lane a failure; one that a message's deadline interrupts does not.

Source: Postfix's smtp_per_request_deadline and smtp_min_data_rate, for the two limits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import trio

from mailactors.runtime.ports import Clock, SystemClock

WINDOW_S: Final = 60.0
"""The pace of a body is looked at over this time, so that a short stall costs nothing."""
_CLOCK: Final = SystemClock()
"""That of a scope's deadline, whatever clock an attempt is held against."""
WINDOW_MIN_S: Final = 10.0
"""A deadline that is close makes the window shorter, but not than this."""


def budget_s(attempt_timeout_s: float, octets: int, octets_per_s_min: float) -> float:
    """Return how long an attempt may take: a fixed time, and what the message's size needs.

    >>> budget_s(300.0, 8_192_000, 8192.0)
    1300.0
    """
    return attempt_timeout_s + octets / octets_per_s_min


def window_octets(octets_per_s_min: float) -> int:
    """Return how much of a body must be read within a window.

    >>> window_octets(8192.0)
    491520
    """
    return max(1, math.ceil(octets_per_s_min * WINDOW_S))


def decide_window_s(octets: int, octets_left: int, left_s: float) -> float:
    """Return within which time the relay must read the next `octets` of the `octets_left`.

    A pace at which the message would miss its deadline is not waited for: another lane may be
    faster, and has more time the sooner it gets the message.

    >>> decide_window_s(491_520, 8_000_000, math.inf)
    60.0
    >>> round(decide_window_s(491_520, 8_000_000, left_s=400.0), 1)
    24.6
    """
    if octets_left <= 0 or math.isinf(left_s):
        return WINDOW_S
    return min(WINDOW_S, max(WINDOW_MIN_S, left_s * octets / octets_left))


@dataclass(frozen=True)
class Patience:
    """When an attempt is given up. Times are monotonic, and hold until the final dot."""

    clock: Clock
    budget_s: float
    budget_end_s: float
    deadline_s: float
    """The message's own."""
    window_octets: int

    @property
    def left_s(self) -> float:
        """How long the attempt may still take."""
        return max(0.0, min(self.budget_end_s, self.deadline_s) - self.clock.now_s())

    @property
    def ends_at_deadline(self) -> bool:
        """Whether the message's deadline comes before the end of the budget."""
        return self.deadline_s <= self.budget_end_s

    def window_s(self, octets: int, octets_left: int) -> float:
        """Return within which time the next `octets` of the body must be read."""
        return decide_window_s(octets, octets_left, self.deadline_s - self.clock.now_s())


class Limit:
    """The one cancel scope of an attempt, moved from wait to wait; each of its own cost more.

    It ends when the answer that is waited for does not come in time or, before the final dot,
    when the patience does.
    """

    def __init__(self, patience: Patience) -> None:
        self.scope = trio.CancelScope()
        self.awaiting = ("", 0.0)
        """What is waited for, and for how long."""
        self.is_given_up = False
        """Whether the patience would end before that wait."""
        self._patience: Patience | None = patience

    def wait(self, what: str, timeout_s: float) -> None:
        """Begin a wait."""
        left_s = math.inf if self._patience is None else self._patience.left_s
        self.awaiting, self.is_given_up = (what, timeout_s), left_s <= timeout_s
        self.scope.deadline = _CLOCK.now_s() + min(left_s, timeout_s)

    def relax(self) -> None:
        """Begin waits that have limits of their own: only the patience ends them."""
        self.wait("", math.inf)

    @property
    def is_over(self) -> bool:
        """Whether it has ended, so that the next wait is cancelled."""
        return self.scope.cancel_called

    def pass_dot(self) -> None:
        """From the next wait on the patience ends nothing."""
        self._patience = None
