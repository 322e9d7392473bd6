"""What is wrong with a provider now: its timeline, cut where something begins or ends."""

from __future__ import annotations

import math
from collections.abc import Sequence
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
    Refuse,
    Reject,
    Slow,
    Stall,
    Throttle,
    Timed,
    Tls,
)

F = TypeVar("F", bound=Timed)
ON_CONNECT: Final = (Refuse, Flap, Dns, Tls)
"""Kinds of fault that a message never gets far enough to meet."""


class Weather:
    """The faults of one stretch of time, by kind, in the order of the file."""

    def __init__(self, faults: Sequence[Timed]) -> None:
        def pick(kind: type[F]) -> tuple[F, ...]:
            return tuple(fault for fault in faults if isinstance(fault, kind))

        self.refuses, self.flaps = pick(Refuse), pick(Flap)
        self.dns, self.tls, self.auths = pick(Dns), pick(Tls), pick(Auth)
        self.slow, self.stalls = pick(Slow), pick(Stall)
        self.errors, self.ambiguous, self.garbage = pick(Errors), pick(Ambiguous), pick(Garbage)
        self.throttles, self.capacities = pick(Throttle), pick(Capacity)
        self.lies, self.rejects, self.domains = pick(Lie), pick(Reject), pick(DeferDomain)
        self.is_reachable = not (self.refuses or self.flaps or self.dns or self.tls)
        """Whether each connection comes about."""
        self.is_calm = all(isinstance(fault, ON_CONNECT) for fault in faults)
        """Whether nothing befalls a message once there is a connection."""


class Forecast:
    """A provider's whole timeline; times asked for never go back."""

    def __init__(self, faults: Sequence[Timed]) -> None:
        ends = [(fault.at_s, end_of(fault)) for fault in faults]
        cuts = sorted({-math.inf, *(at_s for pair in ends for at_s in pair)})
        self._stretches = [
            (
                until_s,
                Weather([f for f, (begin, end) in zip(faults, ends, strict=True)
                         if begin <= at_s < end]),
            )
            for at_s, until_s in zip(cuts, [*cuts[1:], math.inf], strict=True)
        ]  # fmt: skip
        self._index = 0

    def at(self, now_s: float) -> Weather:
        """Return what is on; the end of a fault does not belong to it."""
        until_s, weather = self._stretches[self._index]
        while now_s >= until_s:
            self._index += 1
            until_s, weather = self._stretches[self._index]
        return weather


def end_of(fault: Timed) -> float:
    """Return when a fault is over as far as time decides: not where a reload does."""
    return math.inf if isinstance(fault, Auth) and fault.until == "reload" else fault.end_s
