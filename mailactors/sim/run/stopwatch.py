"""How long decisions take in real time, which virtual time does not show.

The clients of the vendors report each failure; the dispatcher's histogram is replaced, to see
each decision. No measured time reaches an actor or the journal.
"""

from __future__ import annotations

from array import array
from collections import defaultdict, deque
from typing import Final

from mailactors.dispatch.state import DispatcherState
from mailactors.runtime.ports import Clock, SystemClock
from mailactors.runtime.tally import Histogram
from mailactors.sim.report.report import DecisionTimes
from mailactors.sim.world.truth import quantile
from mailactors.wiring import Gateway

MICROS: Final = 1e6


class Stopwatch:
    """Real time from a failure's end to the next decision, over a whole run."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._real = SystemClock()
        self._ends: defaultdict[str, deque[tuple[float, float]]] = defaultdict(deque)
        """(virtual, real) time of failures without a decision yet, by provider."""
        self._taken_s = array("d")

    def observe(self, gateway: Gateway) -> None:
        """Observe the decisions of a gateway that is built but does not run yet."""
        gateway.dispatcher.decided_s = _Decisions(gateway.dispatcher, self)

    def failed(self, provider: str) -> None:
        """Start the time: an attempt has just failed."""
        self._ends[provider].append((self._clock.now_s(), self._real.wall_time()))

    def decided(self, provider: str, ended_s: float) -> None:
        """Stop the time: the decision on a failure that ended at `ended_s` is made.

        A provider's failures reach the dispatcher in order; those that never do, because an actor
        died, are dropped.
        """
        ends = self._ends[provider]
        while ends and ends[0][0] < ended_s:
            ends.popleft()
        if ends and ends[0][0] == ended_s:
            self._taken_s.append(self._real.wall_time() - ends.popleft()[1])

    def times(self) -> DecisionTimes | None:
        """Return the quantiles, in microseconds; None without a failure."""
        ordered = sorted(self._taken_s)
        if not ordered:
            return None
        shares = (quantile(ordered, share) or 0.0 for share in (0.5, 0.99, 0.999))
        return DecisionTimes(*(round(taken_s * MICROS, 1) for taken_s in shares))


class _Decisions(Histogram):
    """Replaces the dispatcher's histogram, to see the failure under its cursor."""

    def __init__(self, dispatcher: DispatcherState, stopwatch: Stopwatch) -> None:
        super().__init__()
        self._dispatcher = dispatcher
        self._stopwatch = stopwatch

    def observe(self, value: float) -> None:
        """Count a decision on the outcome under the dispatcher's cursor."""
        super().observe(value)
        for done in self._dispatcher.mailbox.under_cursor:
            self._stopwatch.decided(done.attempt.lane, done.ended_s)
