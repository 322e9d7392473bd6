"""A provider's faults over time, cut into stretches in which the same faults are active."""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable, Sequence
from typing import Final, TypeVar

from mailactors.sim.scenario.faults import (
    Ambiguous,
    Auth,
    Capacity,
    DeferDomain,
    Dns,
    Errors,
    Flap,
    Garbage,
    Lie,
    ProviderFault,
    Refuse,
    Reject,
    Slow,
    SlowDomain,
    Stall,
    Throttle,
    Tls,
)

F = TypeVar("F", bound=ProviderFault)
ON_CONNECT: Final = (Refuse, Flap, Dns, Tls)
"""Kinds of fault that act before a message is sent."""


class ActiveFaults:
    """The faults of one stretch of time, by kind, in the order of the file."""

    def __init__(self, faults: Sequence[ProviderFault], begin_s: float, end_s: float) -> None:
        def pick(kind: type[F]) -> tuple[F, ...]:
            return tuple(fault for fault in faults if isinstance(fault, kind))

        self.begin_s, self.end_s = begin_s, end_s
        """The stretch; its end belongs to the next one."""
        self.refuses, self.flaps = pick(Refuse), pick(Flap)
        self.dns, self.tls, self.auths = pick(Dns), pick(Tls), pick(Auth)
        self.slow, self.stalls = pick(Slow), pick(Stall)
        self.slow_domains = pick(SlowDomain)
        self.errors, self.ambiguous, self.garbage = pick(Errors), pick(Ambiguous), pick(Garbage)
        self.throttles, self.capacities = pick(Throttle), pick(Capacity)
        self.lies, self.rejects, self.domains = pick(Lie), pick(Reject), pick(DeferDomain)
        self.is_reachable = not (self.refuses or self.flaps or self.dns or self.tls)
        """Whether every connection succeeds."""
        self.spares_messages = all(isinstance(fault, ON_CONNECT) for fault in faults)
        """Whether every message that reaches the provider is accepted as usual."""


class FaultTimeline:
    """The whole timeline of one provider."""

    def __init__(
        self, faults: Sequence[ProviderFault], end_of: Callable[[ProviderFault], float]
    ) -> None:
        """Cut the timeline. `end_of` returns when a fault ends, in seconds."""
        spans = [(fault.at_s, end_of(fault), fault) for fault in faults]
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


def planned_end(fault: ProviderFault) -> float:
    """Return when a fault ends if everything goes as planned."""
    return fault.end_s


def actual_end(fault: ProviderFault) -> float:
    """Return when time alone ends a fault: never, where only a reload does."""
    return math.inf if isinstance(fault, Auth) and fault.until == "reload" else fault.end_s
