"""A provider as the oracle sees it: its faults in advance, and how much it can serve when."""

from __future__ import annotations

import bisect
import math
from typing import Final

from mailactors.sim.scenario.faults import Capacity, Flap, Lie, ProviderFault
from mailactors.sim.scenario.tables import ProviderPlan
from mailactors.sim.vendor.draws import ProviderDraws, latency_of
from mailactors.sim.vendor.limits import windows_of
from mailactors.sim.vendor.timeline import ActiveFaults, FaultTimeline
from mailactors.sim.world.entropy import KeyedEntropy, log_normal

TICK_S: Final = 1e-6
"""The smallest step of a search in time."""


class KnownProvider:
    """One provider: when it can be reached, and how well and fast it serves then."""

    def __init__(
        self,
        name: str,
        plan: ProviderPlan,
        faults: tuple[ProviderFault, ...],
        entropy: KeyedEntropy,
        *,
        is_rough: bool = False,
    ) -> None:
        """`is_rough`: the gateway that uses it is disturbed, so that its attempts break off."""
        self.is_rough = is_rough
        self.name = name
        self.plan = plan
        self.draws = ProviderDraws(entropy, name)
        self.losing_lies = tuple(fault for fault in faults if loses_message(fault))
        """Lies after which nothing arrives."""
        self._timeline = FaultTimeline(faults)
        self.at = self._timeline.at
        """Returns the faults that are active at a time."""
        self.has_no_faults = not faults
        slow = [each.latency_s for active in self._timeline.stretches for each in active.slow[:1]]
        fastest_s = log_normal(plan.latency_s.median, plan.latency_s.sigma, 0.0)
        self.latency_min_s = min([fastest_s, *slow])
        """The shortest time in which it ever accepts a message."""

    def open_from(self, at_s: float) -> float:
        """Return when it can first be reached and accepts credentials; not before `at_s`."""
        while at_s < math.inf:
            active = self.at(at_s)
            open_s = self.open_within(active, at_s)
            if open_s < math.inf:
                return open_s
            at_s = active.end_s
        return at_s

    def open_within(self, active: ActiveFaults, at_s: float) -> float:
        """Return the same within one stretch; inf if not before its end.

        Over SMTP a pooled connection outlives faults of name resolution and of the handshake,
        and needs no new descriptor.
        """
        if at_s >= active.end_s or active.refuses or active.auths:
            return math.inf
        if (active.dns or active.tls or active.shorts) and self.plan.wire != "smtp":
            return math.inf
        while any(flap.is_down(at_s) for flap in active.flaps):
            at_s = max(up_from(flap, at_s) for flap in active.flaps)
        return at_s if at_s < active.end_s else math.inf

    def latency_s(self, active: ActiveFaults, number: int, attempt: int) -> float:
        """Return how long an attempt takes until the provider accepts or refuses the message."""
        if active.slow:
            return active.slow[0].latency_s
        return latency_of(self.plan.latency_s, self.draws.attempt(number, attempt))

    def median_latency_s(self, active: ActiveFaults) -> float:
        """Return the median time of an attempt."""
        return active.slow[0].latency_s if active.slow else self.plan.latency_s.median


def odds(active: ActiveFaults, domain: str) -> float:
    """Return the probability that a message is accepted, without knowledge of the draws."""
    found = 1.0
    for rate in (*(each.rate for each in active.rejects), *(each.rate for each in active.errors)):
        found *= 1.0 - rate
    for deferral in active.domains:
        found *= 1.0 - deferral.rate if deferral.domain.lower() == domain else 1.0
    for loss in active.ambiguous:
        found *= 1.0 - loss.rate * (1.0 - loss.accepted)
    for garbage in active.garbage:
        found *= 1.0 - garbage.rate / 2
    return found


def up_from(flap: Flap, at_s: float) -> float:
    """Return when a flapping provider is up; not before `at_s`.

    >>> flap = Flap(kind="flap", at_s=10, for_s=60, period_s=20, duty=0.5)
    >>> up_from(flap, 12), up_from(flap, 25), up_from(flap, 35)
    (20.0, 25, 40.0)
    """
    if not flap.is_down(at_s):
        return at_s
    period = math.floor((at_s - flap.at_s) / flap.period_s)
    up_s = flap.at_s + (period + flap.duty) * flap.period_s
    return min(max(up_s, at_s + TICK_S), flap.end_s)


def loses_message(fault: ProviderFault) -> bool:
    """Whether a fault is a lie after which nothing arrives."""
    return isinstance(fault, Lie) and (isinstance(fault.then, str) or fault.then.delay_s is None)


class Server:
    """A provider that receives every message as early as it accepts it; nothing ever fails."""

    def __init__(self, provider: KnownProvider) -> None:
        self._provider = provider
        self._windows = windows_of(provider.plan.quota)
        self._starts: list[float] = []
        self._throttled: dict[int, list[float]] = {}
        self._free_at_s: dict[int, float] = {}
        self._planned: tuple[float, float, Capacity | None] = (0.0, 0.0, None)
        self.window_max_s = max((length_s for length_s, _ in self._windows), default=0.0)
        """How long a message uses up quota: the longest window."""

    def next_s(self, at_s: float, before_s: float = math.inf) -> float:
        """Return when one more may begin, not before `at_s`; inf from `before_s` on."""
        begin_s = self._begin_s(at_s, before_s)
        self._planned = (begin_s, begin_s, None)
        if begin_s < math.inf and not self._provider.has_no_faults:
            self._planned = self._turn(begin_s)
        return self._planned[1]

    def serve(self) -> None:
        """Begin the message for which `next_s` was last called."""
        begin_s, turn_s, capacity = self._planned
        bisect.insort(self._starts, begin_s)
        if self._provider.has_no_faults:
            return
        for throttle in self._provider.at(begin_s).throttles:
            self._throttled.setdefault(id(throttle), []).append(begin_s)
        if capacity is not None:
            self._free_at_s[id(capacity)] = turn_s + 1.0 / capacity.per_s

    def _begin_s(self, at_s: float, before_s: float) -> float:
        """Return when faults and quotas admit one more."""
        starts = self._starts
        while at_s < before_s:
            wait_s = at_s
            for length_s, count in self._windows:
                if len(starts) >= count and starts[-count] + length_s > wait_s:
                    wait_s = starts[-count] + length_s
            if not self._provider.has_no_faults:
                wait_s = self._admit_s(wait_s)
            if wait_s <= at_s:
                return at_s
            at_s = wait_s
        return math.inf

    def _admit_s(self, at_s: float) -> float:
        at_s = self._provider.open_from(at_s)
        wait_s = at_s
        for throttle in self._provider.at(at_s).throttles:
            begun = self._throttled.setdefault(id(throttle), [])
            if len(begun) >= throttle.per_s:
                wait_s = max(wait_s, min(begun[-throttle.per_s] + 1.0, throttle.end_s))
        return wait_s

    def _turn(self, begin_s: float) -> tuple[float, float, Capacity | None]:
        """Return when a message is admitted, when it is its turn, and in which queue.

        Each stretch of low capacity has a queue of its own, which serves its messages even after
        the stretch ends: a message may join this queue or wait for the next stretch.
        """
        capacities = self._provider.at(begin_s).capacities
        if not capacities:
            return begin_s, begin_s, None
        queue = capacities[0]
        turn_s = max(begin_s, self._free_at_s.get(id(queue), begin_s))
        here = (begin_s, turn_s, queue)
        later_s = self._begin_s(queue.end_s, turn_s)
        return (
            min(here, self._turn(later_s), key=lambda each: each[1]) if later_s < turn_s else here
        )
