"""Incidents of the gateway: faults of disk and clock, pauses, crashes and operations."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Annotated, Final, Literal, Self, get_args

import pydantic
from pydantic import Field

from mailactors.runtime.ports import Entropy
from mailactors.sim.scenario.faults import KIND, MOST, Duration, Frozen, Seconds, Span, kinds_of

ACTORS: Final = (
    "spool",
    "keeper",
    "reporter",
    "settler",
    "watchdog",
    "timekeeper",
    "dispatcher",
    "registry",
)
"""The supervisor's children that exist once."""
LANE_ACTORS: Final = ("limiter", "breaker", "provider")
"""Those that exist once for each provider, such as `breaker:primary`."""
POINTS: Final = (
    *("spool.commit", "spool.committed", "registry.submit", "dispatcher.outcome"),
    *("limiter.attempt", "limiter.done", "breaker.attempt", "breaker.done"),
    *("provider.attempt", "provider.intended", "provider.sent"),
    *("settler.doubt", "settler.looked", "settler.outcome"),
)
"""The fault points of the production code."""
BETWEEN_COMMITS: Final = "between-commits"
JITTER: Final = (1 / 30.5, 60 / 30.5)
"""Of repeated crashes: `every_s` = 30.5 is one after each U(1, 60) seconds."""


class SpoolFault(Span):
    """A fault of the disk under the spool."""

    kind: Annotated[Literal["spool"], KIND]
    what: Literal["enospc", "eio", "busy", "slow"]
    """The disk is full; it fails; another process holds the file's lock; it is slow."""
    commit_s: Duration = 1.0
    """With `slow`: how long each commit takes, in seconds."""


class ClockFault(Frozen):
    """A fault of the wall clock: it steps or drifts; the monotonic clock does not."""

    kind: Annotated[Literal["clock"], KIND]
    at_s: Seconds
    """When it happens or begins, in seconds from the start of the run."""
    for_s: Duration | None = None
    """With `drift_per_s`: how long it drifts, in seconds; without it, to the end."""
    step_s: Annotated[float, Field(ge=-MOST, le=MOST, strict=True)] | None = None
    """The clock is set forward by so many seconds, or back if it is negative."""
    drift_per_s: Annotated[float, Field(gt=-1, le=MOST, strict=True)] | None = None
    """Seconds that it gains in each second, or loses if it is negative."""

    @pydantic.model_validator(mode="after")
    def _is_one(self) -> Self:
        if (self.step_s is None) == (self.drift_per_s is None):
            raise ValueError("says either step_s or drift_per_s")
        if self.step_s is not None and self.for_s is not None:
            raise ValueError("for_s: does not go with step_s, which happens at once")
        return self

    @property
    def end_s(self) -> float:
        """When it is over; a drift without `for_s` is no fault that ends."""
        return self.at_s + (self.for_s or 0.0)


class ProcessPause(Span):
    """The process is suspended, as with its machine, and resumes."""

    kind: Annotated[Literal["pause"], KIND]
    node: Literal["single"] = "single"
    """Which node: there is one."""


GatewayFault = SpoolFault | ClockFault | ProcessPause
GATEWAY_KINDS: Final = kinds_of(get_args(GatewayFault))


class Crash(Frozen):
    """`[[crashes]]`: an actor or the process dies."""

    at_s: Seconds
    """When, in seconds from the start of the run."""
    what: str
    """"actor:NAME", "process", "process:between-commits", or "process:POINT" with a fault point of
    the production code."""
    every_s: Duration | None = None
    """It dies again and again, after this time on average: the gap is even between a thirtieth of
    it and twice as much."""
    until_s: Seconds | None = None
    """With `every_s`: when that ends, in seconds from the start; without it, with the traffic."""

    @pydantic.model_validator(mode="after")
    def _is_known(self) -> Self:
        subject, _, name = self.what.partition(":")
        if self.until_s is not None and self.every_s is None:
            raise ValueError("until_s: is for a crash that is repeated; every_s is missing")
        if self.until_s is not None and self.until_s <= self.at_s:
            raise ValueError("until_s: is not later than at_s")
        if subject == "process" and (self.what == subject or name in (BETWEEN_COMMITS, *POINTS)):
            return self
        kind, _, lane = name.partition(":")
        if subject == "actor" and (name in ACTORS or (kind in LANE_ACTORS and lane)):
            return self
        raise ValueError(f"what: {describe_unknown(self.what)}")

    @property
    def actor(self) -> str | None:
        """The supervisor's child that dies; None: the process does."""
        subject, _, name = self.what.partition(":")
        return name if subject == "actor" else None

    @property
    def lane(self) -> str | None:
        """The provider whose actor dies, if it is one's."""
        return (self.actor or "").partition(":")[2] or None

    @property
    def point(self) -> str | None:
        """The fault point at which the process dies, if one is named."""
        name = self.what.partition(":")[2]
        return name if self.actor is None and name in POINTS else None

    @property
    def is_between_commits(self) -> bool:
        """Whether the process dies right after the next commit, before any reply is sent."""
        return self.what == f"process:{BETWEEN_COMMITS}"


def describe_unknown(what: str) -> str:
    """Return why the `what` of a crash is not known."""
    subject, _, name = what.partition(":")
    if subject == "actor":
        known = ", ".join((*ACTORS, *(f"{kind}:PROVIDER" for kind in LANE_ACTORS)))
        return f"there is no actor {name!r}; there are {known}"
    if subject == "process":
        known = ", ".join((BETWEEN_COMMITS, *POINTS))
        return f"there is no point {name!r}; there are {known}"
    return f'{what!r} is none of "process", "process:POINT", "actor:NAME"'


def crash_times(crash: Crash, index: int, entropy: Entropy, end_s: float) -> Iterator[float]:
    """Yield when a crash happens, in order; `index` is its place in the file.

    `end_s` ends the repetition where the file does not: the end of the traffic.
    """
    at_s, count = crash.at_s, 0
    yield at_s
    if crash.every_s is None:
        return
    low, high = JITTER
    until_s = end_s if crash.until_s is None else crash.until_s
    while True:
        count += 1
        draw = entropy.draw("crash", index, count)
        at_s += crash.every_s * (low + (high - low) * draw)
        if at_s >= until_s:
            return
        yield at_s


_CANCEL: Final = re.compile(r"cancel:(\d+(?:\.\d+)?)%")
_LANE_OPERATION: Final = re.compile(r"(pause|resume|reset|flush):(.+)")


class Operation(Frozen):
    """`[[operations]]`: an action of an operator."""

    at_s: Seconds
    """When, in seconds from the start of the run."""
    what: str
    """"reload", "pause:PROVIDER", "resume:PROVIDER", "reset:PROVIDER", "flush" or "flush:PROVIDER",
    or "cancel:N%": so many of the messages that are not final are cancelled."""

    @pydantic.model_validator(mode="after")
    def _is_known(self) -> Self:
        share = self.cancel_share
        is_whole = self.what in {"reload", "flush"}
        if not is_whole and share is None and self.provider is None:
            known = (
                '"reload", "pause:PROVIDER", "resume:PROVIDER", "reset:PROVIDER", "flush",'
                ' "flush:PROVIDER", "cancel:N%"'
            )
            raise ValueError(f"what: {self.what!r} is none of {known}")
        if share is not None and not 0 < share <= 1:
            raise ValueError("what: cancels more than nothing and at most 100%")
        return self

    @property
    def verb(self) -> str:
        """One of reload, pause, resume, reset, flush, cancel."""
        return self.what.partition(":")[0]

    @property
    def provider(self) -> str | None:
        """The provider that is paused, resumed, reset or flushed."""
        found = _LANE_OPERATION.fullmatch(self.what)
        return found[2] if found else None

    @property
    def cancel_share(self) -> float | None:
        """The share of messages that is cancelled."""
        found = _CANCEL.fullmatch(self.what)
        return float(found[1]) / 100 if found else None


def offset_s(faults: tuple[ClockFault, ...], now_s: float) -> float:
    """Return by how many seconds the wall clock is ahead at a monotonic time.

    >>> offset_s((ClockFault(kind="clock", at_s=10, drift_per_s=-0.5, for_s=4),), 12.0)
    -1.0
    """
    return math.fsum(
        each.step_s
        if each.step_s is not None
        else (each.drift_per_s or 0.0) * min(now_s - each.at_s, each.for_s or math.inf)
        for each in faults
        if now_s >= each.at_s
    )
