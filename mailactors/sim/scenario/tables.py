"""The tables of a scenario file: traffic, providers, expectations. Every key has a docstring."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import Annotated, Literal, Self

import email_validator
import pydantic
from pydantic import Field

from mailactors.intake.admission import normal_address
from mailactors.sim.scenario.faults import (
    Auth,
    Count,
    Duration,
    Fault,
    Frozen,
    Seconds,
    Share,
    Sigma,
    Span,
)


def overlaps(key: str, spans: Iterable[Span], words: str = "those") -> Iterator[str]:
    """Yield a line for each two of these that overlap in time."""
    for first, second in pairwise(sorted(spans, key=lambda span: span.at_s)):
        if first.end_s > second.at_s:
            yield f"{key}: {words} at {first.at_s:g} and {second.at_s:g} s overlap"


class Burst(Span):
    """A time with another rate."""

    rate_per_s: Seconds
    """Messages a second meanwhile."""


class Diurnal(Frozen):
    """A daily cycle: the rate swings between `low_per_s` and the traffic's `rate_per_s`."""

    low_per_s: Seconds
    """Messages a second at the lowest, which is the start of each period."""
    period_s: Duration = 86400.0
    """How long a day is, in seconds; the highest is in the middle of it."""


class Size(Frozen):
    """Log-normal declared sizes; the bodies are tiny."""

    median: Duration
    """The median, in bytes."""
    sigma: Sigma = 0.6
    """The deviation of its logarithm."""


PoisonKind = Literal["crash_actor", "hang_worker", "refused_everywhere"]


class Poison(Frozen):
    """Poisonous messages, spread evenly over the traffic."""

    count: Count
    """How many."""
    kind: PoisonKind
    """`crash_actor`: they crash the actor that handles them. `hang_worker`: no provider answers
    them, so that each attempt keeps its slot until the adapter gives up, and they never go out.
    `refused_everywhere`: every provider refuses them as messages."""


class Traffic(Frozen):
    """What clients submit."""

    rate_per_s: Duration
    """Messages a second, a Poisson process; with `diurnal` the highest."""
    diurnal: Diurnal | None = None
    """The day, if there is one."""
    bursts: tuple[Burst, ...] = ()
    """Stretches with another rate; they may not overlap."""
    streams: dict[str, Duration] = Field(default={})
    """Weights by stream; without it, the configuration's first stream."""
    recipient_domains: dict[str, Duration] = Field(default={"example.com": 1.0}, min_length=1)
    """Weights by recipient domain."""
    duplicate_submissions: Share = 0.0
    """The share of submissions that the client makes again, within 10 s, with the same key."""
    size_bytes: Size | None = None
    """Declared sizes of messages."""
    poison: Poison | None = None
    """Poisonous messages."""

    @pydantic.model_validator(mode="after")
    def _is_possible(self) -> Self:
        problems = list(overlaps("bursts", self.bursts))
        if self.diurnal is not None and self.diurnal.low_per_s > self.rate_per_s:
            problems.append("diurnal.low_per_s: is higher than rate_per_s, which is the highest")
        problems += self._undeliverable()
        if problems:
            raise ValueError("\n".join(problems))
        return self

    def _undeliverable(self) -> Iterator[str]:
        for domain in self.recipient_domains:
            try:
                normal_address(f"user1@{domain}")
            except email_validator.EmailNotValidError as error:
                yield f"recipient_domains: no mail can go to {domain!r}: {error}"


class Latency(Frozen):
    """Log-normal: the median, and the deviation of its logarithm."""

    median: Duration = 0.15
    """The median, in seconds."""
    sigma: Sigma = 0.4
    """The deviation of its logarithm."""


class VendorQuota(Frozen):
    """Quotas that the vendor enforces with a 429, unknown to the gateway. Absent: no limit."""

    per_s: Count | None = None
    """Messages in any second."""
    per_minute: Count | None = None
    """Messages in any minute."""
    per_hour: Count | None = None
    """Messages in any hour."""
    per_day: Count | None = None
    """Messages in any day."""


class DeliveryEvents(Frozen):
    """The vendor reports deliveries and bounces, after a log-normal delay."""

    delay_median_s: Duration
    """The median of the delay, in seconds."""
    delay_sigma: Sigma = 0.5
    """The deviation of its logarithm."""


class ProviderPlan(Frozen):
    """`[providers.X]`: how a provider behaves, and its faults."""

    wire: Literal["port", "smtp"] = "port"
    """`port`: the simulator answers in place of an adapter. `smtp`: the gateway's own SMTP client
    talks to a simulated server, octet for octet, over streams in memory."""
    latency_s: Latency = Latency()
    """How long it takes to answer."""
    quota: VendorQuota = VendorQuota()
    """Sliding windows that it enforces."""
    idempotency_window_s: Seconds = 0.0
    """How long it recognises the key of a message that it accepted; 0: it has no keys."""
    search_lag_s: Seconds | None = None
    """How long after acceptance a look-up finds a message; absent: it has no look-ups."""
    work_max_s: Duration | None = None
    """How long after its client hung up it may still accept a message, if it can be asked. Absent:
    two minutes, or as long as its slowest fault."""
    delivery_events: DeliveryEvents | None = None
    """It reports deliveries and bounces; absent: it does not."""
    faults: tuple[Fault, ...] = ()
    """Its faults."""

    @pydantic.model_validator(mode="after")
    def _fits_the_wire(self) -> Self:
        if self.wire == "smtp":
            fresh = type(self).model_fields
            for key in ("idempotency_window_s", "search_lag_s"):
                if getattr(self, key) != fresh[key].default:
                    raise ValueError(f'{key}: there is none over SMTP; it needs wire = "port"')
        elif any(fault.kind == "trickle" for fault in self.faults):
            raise ValueError('faults: "trickle" needs wire = "smtp"')
        elif any(isinstance(fault, Auth) and fault.reply for fault in self.faults):
            raise ValueError('faults: "reply" of "auth" needs wire = "smtp"')
        return self


class Within(Frozen):
    """Submission to acceptance by a provider."""

    p50_s: Duration | None = None
    """The median may be no longer."""
    p99_s: Duration | None = None
    """99 of 100 may take no longer."""
    p999_s: Duration | None = None
    """999 of 1,000 may take no longer."""


class OracleGap(Frozen):
    """The most that a figure may be, as a factor of the all-knowing scheduler's."""

    p50_max: Duration | None = None
    """Of the median latency."""
    p99_max: Duration | None = None
    """Of the 99th percentile."""
    attempts_max: Duration | None = None
    """Of the attempts a message."""

    @pydantic.model_validator(mode="after")
    def _asks_something(self) -> Self:
        if not self.model_fields_set:
            raise ValueError("asks nothing; it has p50_max, p99_max, attempts_max")
        return self


class Expect(Frozen):
    """What must hold at the end; an absent key is not checked."""

    delivered_min: Share | None = None
    """The least share of accepted messages that arrive, of those that the oracle delivers."""
    within: Within = Within()
    """From submission to acceptance by a provider."""
    p99_s_by_domain: dict[str, Seconds] = Field(default={})
    """The p99 of the messages to a recipient domain."""
    duplicates_max: Annotated[int, Field(ge=0, strict=True)] | None = None
    """The most duplicates, declared risks included."""
    undeclared_duplicates_max: Annotated[int, Field(ge=0, strict=True)] | None = 0
    """The most duplicates without a declared risk."""
    unfinished_max: Annotated[int, Field(ge=0, strict=True)] = 0
    """The most deliveries that may be neither final nor held when the run ends, at its horizon."""
    attempts_per_message_max: Duration | None = None
    """Attempts at any provider over accepted messages."""
    peak_attempts_per_s: dict[str, Duration] = Field(default={})
    """By provider: the most attempts in any second."""
    recovery_s_max: Seconds | None = None
    """How long the backlog may last after a fault's end."""
    oracle_gap: OracleGap | None = None
    """How far from the oracle the run may be."""
