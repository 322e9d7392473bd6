"""A provider's faults over time, cut into stretches in which the same faults are active."""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Final, TypeVar

from mailactors.sim.scenario import faults
from mailactors.sim.scenario.faults import ProviderFault

F = TypeVar("F", bound=ProviderFault)
ON_CONNECT: Final = (faults.Refuse, faults.Flap, faults.Dns, faults.Tls, faults.Short)
"""Kinds of fault that act before a message is sent."""


class ActiveFaults:
    """The faults of one stretch of time, by kind, in the order of the file."""

    def __init__(self, active: Sequence[ProviderFault], begin_s: float, end_s: float) -> None:
        def pick(kind: type[F]) -> tuple[F, ...]:
            return tuple(fault for fault in active if isinstance(fault, kind))

        self.begin_s, self.end_s = begin_s, end_s
        """The stretch; its end belongs to the next one."""
        self.refuses, self.flaps = pick(faults.Refuse), pick(faults.Flap)
        self.dns, self.tls, self.auths = pick(faults.Dns), pick(faults.Tls), pick(faults.Auth)
        self.slow, self.stalls = pick(faults.Slow), pick(faults.Stall)
        self.slow_domains = pick(faults.SlowDomain)
        self.errors, self.ambiguous = pick(faults.Errors), pick(faults.Ambiguous)
        self.garbage, self.lies = pick(faults.Garbage), pick(faults.Lie)
        self.throttles, self.capacities = pick(faults.Throttle), pick(faults.Capacity)
        self.rejects, self.domains = pick(faults.Reject), pick(faults.DeferDomain)
        self.trickles, self.shorts = pick(faults.Trickle), pick(faults.Short)
        self.is_reachable = not (self.refuses or self.flaps or self.dns or self.tls or self.shorts)
        """Whether every connection succeeds."""
        self.spares_messages = all(isinstance(fault, ON_CONNECT) for fault in active)
        """Whether every message that reaches the provider is accepted as usual."""


class FaultTimeline:
    """The whole timeline of one provider."""

    def __init__(
        self,
        planned: Sequence[ProviderFault],
        end_of: Callable[[ProviderFault], float] = attrgetter("end_s"),
    ) -> None:
        """Cut the timeline. `end_of` returns when a fault ends; by default, as it is planned."""
        spans = [(fault.at_s, end_of(fault), fault) for fault in planned]
        cuts = sorted({-math.inf, *(at_s for begin, end, _ in spans for at_s in (begin, end))})
        self.stretches = [
            ActiveFaults([f for begin, end, f in spans if begin <= at_s < end], at_s, end_s)
            for at_s, end_s in zip(cuts, [*cuts[1:], math.inf], strict=True)
        ]
        self._cuts = cuts
        self._last = self.stretches[0]

    def at(self, at_s: float) -> ActiveFaults:
        """Return the faults that are active at a time."""
        last = self._last  # most calls are for the stretch of the call before
        if not last.begin_s <= at_s < last.end_s:
            last = self._last = self.stretches[bisect.bisect_right(self._cuts, at_s) - 1]
        return last


def end_by_time(fault: ProviderFault) -> float:
    """Return when time alone ends a fault: never, where only a reload does."""
    return math.inf if isinstance(fault, faults.Auth) and fault.until == "reload" else fault.end_s
