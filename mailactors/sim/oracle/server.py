"""A provider as the oracle sees it: all of its weather at once, and what it could serve when."""

from __future__ import annotations

import bisect
import math
from typing import Final

from mailactors.sim.scenario.faults import Capacity, Flap, Lie, Timed
from mailactors.sim.scenario.tables import ProviderPlan
from mailactors.sim.vendor.draws import Chance, latency_of, log_normal
from mailactors.sim.vendor.timeline import Weather
from mailactors.sim.world.world import KeyedEntropy

TICK_S: Final = 1e-6
"""The least by which a search goes on."""
_LENGTHS_S: Final = {"per_s": 1.0, "per_minute": 60.0, "per_hour": 3600.0, "per_day": 86400.0}


class Sky:
    """One provider: when it can be reached, and how well and fast it then serves."""

    def __init__(
        self, name: str, plan: ProviderPlan, faults: tuple[Timed, ...], entropy: KeyedEntropy
    ) -> None:
        self.name = name
        self.plan = plan
        self.chance = Chance(entropy, name)
        self.false_lies = tuple(fault for fault in faults if is_false(fault))
        """Those after which nothing arrives."""
        self._cuts = sorted({-math.inf, *(at_s for f in faults for at_s in (f.at_s, f.end_s))})
        self._weathers = [Weather([f for f in faults if f.is_on(cut)]) for cut in self._cuts]
        self.is_always_fair = not faults
        slow = [each.latency_s for weather in self._weathers for each in weather.slow[:1]]
        fastest_s = log_normal(plan.latency_s.median, plan.latency_s.sigma, 0.0)
        self.latency_min_s = min([fastest_s, *slow])
        """It never takes a message over faster than that."""

    def at(self, at_s: float) -> tuple[Weather, float]:
        """Return the weather at a time, and when it changes."""
        place = bisect.bisect_right(self._cuts, at_s)
        change_s = self._cuts[place] if place < len(self._cuts) else math.inf
        return self._weathers[place - 1], change_s

    def open_from(self, at_s: float) -> float:
        """Return when there is a way to the provider, and it knows us; not before `at_s`."""
        while at_s < math.inf:
            weather, change_s = self.at(at_s)
            if weather.is_reachable and not weather.auths:
                return at_s
            if weather.refuses or weather.dns or weather.tls or weather.auths:
                at_s = change_s
                continue
            up_s = max(up_from(flap, at_s) for flap in weather.flaps)
            if up_s <= at_s:
                return at_s
            at_s = min(up_s, change_s)
        return at_s

    def latency_s(self, weather: Weather, number: int, attempt: int) -> float:
        """Return how long an attempt takes until the message is taken over, or refused."""
        if weather.slow:
            return weather.slow[0].latency_s
        return latency_of(self.plan.latency_s, self.chance.attempt(number, attempt))

    def typical_s(self, weather: Weather) -> float:
        """Return how long an attempt takes as a rule."""
        return weather.slow[0].latency_s if weather.slow else self.plan.latency_s.median


def odds(weather: Weather, domain: str) -> float:
    """Return how likely it is that a message is taken over, for one who cannot see the dice."""
    found = 1.0
    for rate in (*(each.rate for each in weather.rejects), *(each.rate for each in weather.errors)):
        found *= 1.0 - rate
    for deferral in weather.domains:
        found *= 1.0 - deferral.rate if deferral.domain.lower() == domain else 1.0
    for loss in weather.ambiguous:
        found *= 1.0 - loss.rate * (1.0 - loss.accepted)
    for garbage in weather.garbage:
        found *= 1.0 - garbage.rate / 2
    return found


def up_from(flap: Flap, at_s: float) -> float:
    """Return when a provider that is down and up in turn is up; not before `at_s`.

    >>> flap = Flap(kind="flap", at_s=10, for_s=60, period_s=20, duty=0.5)
    >>> up_from(flap, 12), up_from(flap, 25), up_from(flap, 35)
    (20.0, 25, 40.0)
    """
    if not flap.is_down(at_s):
        return at_s
    round_ = math.floor((at_s - flap.at_s) / flap.period_s)
    up_s = flap.at_s + (round_ + flap.duty) * flap.period_s
    return min(max(up_s, at_s + TICK_S), flap.end_s)


def is_false(fault: Timed) -> bool:
    """Whether this is a lie after which nothing arrives."""
    return isinstance(fault, Lie) and (isinstance(fault.then, str) or fault.then.delay_s is None)


class Server:
    """A provider to which everything is sent as early as it takes it; nothing ever fails."""

    def __init__(self, sky: Sky) -> None:
        self._sky = sky
        quota = ((length_s, getattr(sky.plan.quota, name)) for name, length_s in _LENGTHS_S.items())
        self._windows = [(length_s, count) for length_s, count in quota if count is not None]
        self._starts: list[float] = []
        self._throttled: dict[int, list[float]] = {}
        self._free_at_s: dict[int, float] = {}
        self._planned: tuple[float, float, Capacity | None] = (0.0, 0.0, None)
        self.reserve_s = max((length_s for length_s, _ in self._windows), default=0.0)
        """How long a message stands in the way of others: the longest of its windows."""

    def next_s(self, at_s: float, before_s: float = math.inf) -> float:
        """Return when one more may begin, not before `at_s`; from `before_s` on nobody cares."""
        begin_s = self._begin_s(at_s, before_s)
        self._planned = (begin_s, begin_s, None)
        if begin_s < math.inf and not self._sky.is_always_fair:
            self._planned = self._turn(begin_s)
        return self._planned[1]

    def serve(self) -> None:
        """Begin with the one that was asked for last."""
        begin_s, turn_s, capacity = self._planned
        bisect.insort(self._starts, begin_s)
        if self._sky.is_always_fair:
            return
        for throttle in self._sky.at(begin_s)[0].throttles:
            self._throttled.setdefault(id(throttle), []).append(begin_s)
        if capacity is not None:
            self._free_at_s[id(capacity)] = turn_s + 1.0 / capacity.per_s

    def _begin_s(self, at_s: float, before_s: float) -> float:
        """Return when one more is let in, by the weather and the quotas."""
        starts = self._starts
        while at_s < before_s:
            wait_s = at_s
            for length_s, count in self._windows:
                if len(starts) >= count and starts[-count] + length_s > wait_s:
                    wait_s = starts[-count] + length_s
            if not self._sky.is_always_fair:
                wait_s = self._let_in_s(wait_s)
            if wait_s <= at_s:
                return at_s
            at_s = wait_s
        return math.inf

    def _let_in_s(self, at_s: float) -> float:
        at_s = self._sky.open_from(at_s)
        wait_s = at_s
        for throttle in self._sky.at(at_s)[0].throttles:
            begun = self._throttled.setdefault(id(throttle), [])
            if len(begun) >= throttle.per_s:
                wait_s = max(wait_s, min(begun[-throttle.per_s] + 1.0, throttle.end_s))
        return wait_s

    def _turn(self, begin_s: float) -> tuple[float, float, Capacity | None]:
        """Return when to be let in, when it is one's turn then, and in which line.

        Each stretch of little capacity has a line of its own, which goes on after its end for who
        stands in it: one may stand in this one, or wait for the next.
        """
        capacities = self._sky.at(begin_s)[0].capacities
        if not capacities:
            return begin_s, begin_s, None
        line = capacities[0]
        turn_s = max(begin_s, self._free_at_s.get(id(line), begin_s))
        here = (begin_s, turn_s, line)
        later_s = self._begin_s(line.end_s, turn_s)
        return (
            min(here, self._turn(later_s), key=lambda each: each[1]) if later_s < turn_s else here
        )
