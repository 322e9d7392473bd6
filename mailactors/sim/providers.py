"""A provider of the world: fulfils the port, behaves as its plan says, and writes down the truth.

Chance belongs to (seed, message, provider, attempt): every policy that is tried on the same seed
meets the same weather, whatever it did before.
"""

from __future__ import annotations

import math
import statistics
from collections import deque
from typing import Final, Protocol, TypeVar

import trio

from mailactors.model.outcome import (
    Accepted,
    Deferred,
    Outcome,
    Phase,
    Reason,
    Refusal,
    Scope,
    Uncertain,
)
from mailactors.providers.port import Capabilities, Mail, Sighting
from mailactors.sim.faults import Ambiguous, Errors, Flap, Refuse, Slow, Stall, Throttle, Timed
from mailactors.sim.scenario import ProviderPlan, VendorQuota
from mailactors.sim.truth import Truth
from mailactors.sim.world import World

CONNECT_S: Final = 0.001
"""How long a refused connection takes."""
REFUSAL_S: Final = 0.02
"""How long a vendor takes to say "too fast"."""
ANSWER_WITHIN_S: Final = 60.0
"""How long the adapter waits for an answer before it calls the attempt uncertain."""
THROTTLED: Final = 429
_NORMAL: Final = statistics.NormalDist()
_LENGTHS_S: Final = {"per_s": 1.0, "per_minute": 60.0, "per_hour": 3600.0, "per_day": 86400.0}

F = TypeVar("F", bound=Timed)


class Watch(Protocol):
    """What a provider tells the judges."""

    def began(self, provider: str) -> None:
        """An attempt reached the provider: it is about to connect."""
        ...

    def unused(self, provider: str, began_s: float) -> None:
        """An attempt that began then gave its session back: nothing was sent."""
        ...

    def sending(self, provider: str, number: int) -> None:
        """The first byte of a message is about to go out."""
        ...

    def arrived(self, provider: str, number: int) -> None:
        """A message truly went out."""
        ...

    def throttled(self, provider: str, retry_after_s: float) -> None:
        """The provider has just said when to come back."""
        ...


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


class WorldProvider:
    """One vendor."""

    def __init__(
        self, name: str, plan: ProviderPlan, faults: tuple[Timed, ...], world: World, truth: Truth
    ) -> None:
        self.name = name
        self.watch: Watch | None = None
        self._plan = plan
        self._faults = faults
        self._world = world
        self._truth = truth
        self._quotas = quotas_of(plan.quota)
        self._throttles = {
            id(fault): SlidingQuota(1.0, fault.per_s)
            for fault in faults
            if isinstance(fault, Throttle)
        }
        self._seen: dict[int, int] = {}

    @property
    def capabilities(self) -> Capabilities:
        """Carries partial envelopes; does not recognise repetitions."""
        return Capabilities(own_envelope=True)

    async def connect(self) -> WorldSession | Refusal:
        """Return a session, unless connections are refused now."""
        now_s = self._world.clock.now_s()
        self._truth.attempts += 1
        self._truth.peaks[self.name].add(now_s)
        if self.watch is not None:
            self.watch.began(self.name)
        if self._find(Refuse) or any(f.is_down(now_s) for f in self._all(Flap)):
            await trio.sleep(CONNECT_S)
            return Deferred(Scope.PROVIDER, Reason("connection refused"))
        await trio.lowlevel.checkpoint()
        return WorldSession(self, now_s)

    async def look_up(self, marker: str) -> Sighting:
        """Nobody can be asked here: `capabilities` says so."""
        raise NotImplementedError(marker)

    async def aclose(self) -> None:
        """Nothing to close."""
        await trio.lowlevel.checkpoint()

    def give_back(self, began_s: float) -> None:
        """Take note that a session was not used: it was no attempt."""
        self._truth.attempts -= 1
        if self.watch is not None:
            self.watch.unused(self.name, began_s)

    async def answer(self, mail: Mail) -> Outcome:
        """Take a message, let the time pass that the weather asks for, and answer."""
        number = number_of(mail)
        if self.watch is not None:
            self.watch.sending(self.name, number)
        refusal = self._over_quota()
        if refusal is not None:
            await trio.sleep(REFUSAL_S)
            if self.watch is not None:
                self.watch.throttled(self.name, refusal.retry_after_s or 0.0)
            return refusal
        self._seen[number] = self._seen.get(number, 0) + 1
        latency_s = self._latency_s(number)
        if (slow := self._find(Slow)) is not None:
            latency_s = slow.latency_s
        stall = self._chosen(Stall, number)
        if stall is not None or latency_s >= ANSWER_WITHIN_S:
            self._arrive(mail)
            await trio.sleep(ANSWER_WITHIN_S)
            return Uncertain(Phase.FINAL, Reason("no answer in time"))
        fault = self._chosen(Ambiguous, number) or self._chosen(Errors, number)
        await trio.sleep(latency_s)
        if isinstance(fault, Ambiguous):
            if self._draw("accepted", number) < fault.accepted:
                self._arrive(mail)
            return Uncertain(Phase.FINAL, Reason("connection lost after the body"))
        if isinstance(fault, Errors):
            is_throttled = fault.code == THROTTLED
            reason = Reason("simulated error", fault.code)
            return Deferred(Scope.PROVIDER, reason, throttled=is_throttled)
        self._arrive(mail)
        return Accepted(f"{self.name}-{number}-{self._seen[number]}")

    def _arrive(self, mail: Mail) -> None:
        number, now_s = number_of(mail), self._world.clock.now_s()
        self._truth.arrivals.setdefault(number, []).append(now_s)
        self._world.journal.note("world.arrived", provider=self.name, number=number)
        if self.watch is not None:
            self.watch.arrived(self.name, number)

    def _over_quota(self) -> Deferred | None:
        """Return a 429 with the whole seconds to wait, or count the message as served."""
        now_s = self._world.clock.now_s()
        throttles = self._all(Throttle)
        quotas = [*self._quotas, *(self._throttles[id(each)] for each in throttles)]
        opens_at_s = max((quota.opens_at_s(now_s) for quota in quotas), default=now_s)
        if opens_at_s > now_s:
            wait_s = float(math.ceil(opens_at_s - now_s))
            wait_s = max([wait_s, *(each.retry_after_s for each in throttles)])
            reason = Reason("too many requests", THROTTLED)
            return Deferred(Scope.PROVIDER, reason, wait_s, throttled=True)
        for quota in quotas:
            quota.serve(now_s)
        return None

    def _chosen(self, kind: type[F], number: int) -> F | None:
        """Return a fault of a kind that is on and, by its rate, meets this message."""
        for fault in self._all(kind):
            rate: float = getattr(fault, "rate", 1.0)
            if self._draw(kind.__name__, number) < rate:
                return fault
        return None

    def _find(self, kind: type[F]) -> F | None:
        return next(iter(self._all(kind)), None)

    def _all(self, kind: type[F]) -> list[F]:
        now_s = self._world.clock.now_s()
        return [f for f in self._faults if isinstance(f, kind) and f.is_on(now_s)]

    def _draw(self, what: str, number: int) -> float:
        return self._world.entropy.draw(what, number, self.name, self._seen[number])

    def _latency_s(self, number: int) -> float:
        """Return a log-normal latency, cut at four sigma."""
        draw = min(max(self._draw("latency", number), 3e-5), 1 - 3e-5)
        latency = self._plan.latency_s
        return latency.median * math.exp(latency.sigma * _NORMAL.inv_cdf(draw))


class WorldSession:
    """A session with a provider of the world."""

    def __init__(self, provider: WorldProvider, began_s: float) -> None:
        self._provider = provider
        self._began_s = began_s

    async def send(self, mail: Mail) -> Outcome:
        """Let the provider answer."""
        return await self._provider.answer(mail)

    async def aclose(self) -> None:
        """Give the session back unused."""
        self._provider.give_back(self._began_s)
        await trio.lowlevel.checkpoint()


def number_of(mail: Mail) -> int:
    """Return a message's number in the traffic: its subject, which no policy changes."""
    return int(mail.content.subject)
