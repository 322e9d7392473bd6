"""How long decisions take in real time, where virtual time says nothing.

Sits around the ways to the vendors, where a failure is seen first, and at the dispatcher's desk,
where the decision is noted; nothing that it measures reaches an actor or the journal.
"""

from __future__ import annotations

from array import array
from collections import defaultdict, deque
from typing import Final

from mailactors.config import ProviderSettings
from mailactors.dispatch.desk import DispatchDesk
from mailactors.model.outcome import Accepted, Outcome, Refusal
from mailactors.providers.port import Capabilities, LookUpResult, Mail, Provider, Session
from mailactors.runtime.ports import Clock, Ports, SystemClock
from mailactors.runtime.tally import Histogram
from mailactors.sim.report.report import DecisionTimes
from mailactors.sim.world.truth import quantile
from mailactors.wiring import Gateway, ProviderFactory

MICROS: Final = 1e6


class Stopwatch:
    """Real time from a failure's end to the decision on what follows, over a whole run."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._real = SystemClock()
        self._ends: defaultdict[str, deque[tuple[float, float]]] = defaultdict(deque)
        """(virtual, real) time of failures that nothing was decided on yet, by provider."""
        self._taken_s = array("d")

    def wrap(self, factory: ProviderFactory) -> ProviderFactory:
        """Return a factory of the same ways, with someone who looks at the clock."""

        def make(name: str, settings: ProviderSettings, ports: Ports) -> Provider:
            return TimedProvider(name, factory(name, settings, ports), self)

        return make

    def observe(self, gateway: Gateway) -> None:
        """Watch the decisions of a gateway that is built but not yet running."""
        gateway.desk.decided_s = _Decisions(gateway.desk, self)

    def failed(self, provider: str) -> None:
        """Take the time: an attempt has just ended in a failure."""
        self._ends[provider].append((self._clock.now_s(), self._real.wall_time()))

    def decided(self, provider: str, ended_s: float) -> None:
        """Take the time again: what follows a failure that ended then is decided.

        Failures of a provider come to the dispatcher in their order; those of which it never hears,
        for an actor died on them, are passed over.
        """
        ends = self._ends[provider]
        while ends and ends[0][0] < ended_s:
            ends.popleft()
        if ends and ends[0][0] == ended_s:
            self._taken_s.append(self._real.wall_time() - ends.popleft()[1])

    def times(self) -> DecisionTimes | None:
        """Return the quantiles, in microseconds; None of nothing."""
        ordered = sorted(self._taken_s)
        if not ordered:
            return None
        shares = (quantile(ordered, share) or 0.0 for share in (0.5, 0.99, 0.999))
        return DecisionTimes(*(round(taken_s * MICROS, 1) for taken_s in shares))


class _Decisions(Histogram):
    """Stands in for the desk's histogram, and sees which failure is being decided on."""

    def __init__(self, desk: DispatchDesk, stopwatch: Stopwatch) -> None:
        super().__init__()
        self._desk = desk
        self._stopwatch = stopwatch

    def observe(self, value: float) -> None:
        """Count a decision on the outcome under the dispatcher's cursor."""
        super().observe(value)
        for done in self._desk.outcomes.under_cursor:
            self._stopwatch.decided(done.attempt.lane, done.ended_s)


class TimedProvider:
    """A way to a vendor that says when an attempt has failed."""

    def __init__(self, name: str, inner: Provider, stopwatch: Stopwatch) -> None:
        self._name = name
        self._inner = inner
        self._stopwatch = stopwatch

    @property
    def capabilities(self) -> Capabilities:
        """The way's own."""
        return self._inner.capabilities

    async def connect(self) -> Session | Refusal:
        """Connect; a refusal is a failure."""
        session = await self._inner.connect()
        if isinstance(session, Refusal):
            self._stopwatch.failed(self._name)
            return session
        return TimedSession(self._name, session, self._stopwatch)

    async def look_up(self, marker: str) -> LookUpResult:
        """Ask the vendor."""
        return await self._inner.look_up(marker)

    async def aclose(self) -> None:
        """Close the way."""
        await self._inner.aclose()


class TimedSession:
    """A session that says when its attempt has failed."""

    __slots__ = ("_name", "_session", "_stopwatch")

    def __init__(self, name: str, session: Session, stopwatch: Stopwatch) -> None:
        self._name = name
        self._session = session
        self._stopwatch = stopwatch

    async def send(self, mail: Mail) -> Outcome:
        """Send; whatever is no acceptance is a failure."""
        outcome = await self._session.send(mail)
        if not isinstance(outcome, Accepted):
            self._stopwatch.failed(self._name)
        return outcome

    async def aclose(self) -> None:
        """Give the session back unused."""
        await self._session.aclose()
