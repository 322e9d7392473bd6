"""The faults of a provider: each kind that a scenario may name."""

from __future__ import annotations

import math
from typing import Annotated, Any, Final, Literal, Self, get_args

import pydantic
from pydantic import Field

MOST: Final = 1e9
"""The largest number in a file: thirty years in seconds."""
Seconds = Annotated[float, Field(ge=0, le=MOST, strict=True)]
Duration = Annotated[float, Field(gt=0, le=MOST, strict=True)]
Share = Annotated[float, Field(ge=0, le=1, strict=True)]
Sigma = Annotated[float, Field(ge=0, le=3, strict=True)]
Count = Annotated[int, Field(gt=0, le=MOST, strict=True)]
RefusalCode = Annotated[int, Field(ge=400, le=599, strict=True)]

KIND: Final = Field(description="The kind of fault.")


class Frozen(pydantic.BaseModel):
    """A table of a scenario: strict and immutable."""

    model_config = pydantic.ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, hide_input_in_errors=True
    )


class Span(Frozen):
    """A stretch of time."""

    at_s: Seconds
    """When it begins, in seconds from the start of the run."""
    for_s: Duration
    """How long it lasts, in seconds."""

    @property
    def end_s(self) -> float:
        """When it ends; this instant does not belong to it."""
        return self.at_s + self.for_s

    def is_on(self, now_s: float) -> bool:
        """Whether it is active."""
        return self.at_s <= now_s < self.end_s


class ProviderFault(Span):
    """A fault of a provider."""

    providers: tuple[str, ...] = ()
    """The providers that have it; only in `[[faults]]` at the top of the file."""


class Refuse(ProviderFault):
    """The provider refuses the connection."""

    kind: Annotated[Literal["refuse"], KIND]


class Errors(ProviderFault):
    """It answers a share of messages with an error."""

    kind: Annotated[Literal["errors"], KIND]
    rate: Share
    """The share of messages."""
    code: RefusalCode = 503
    """What it answers: an HTTP status, or on an SMTP wire a reply code."""
    enhanced: Annotated[str, Field(pattern=r"^[45]\.\d{1,3}\.\d{1,3}$")] | None = None
    """The enhanced code (RFC 3463) that it gives with it, such as "4.3.2"."""


class Slow(ProviderFault):
    """It answers late, correctly."""

    kind: Annotated[Literal["slow"], KIND]
    latency_s: Duration
    """How long each answer takes, in seconds."""


class SlowDomain(ProviderFault):
    """It answers late, correctly, what goes to one recipient domain."""

    kind: Literal["slow_domain"]
    """The kind of fault."""
    domain: Annotated[str, Field(min_length=1)]
    """The recipient domain."""
    latency_s: Duration
    """How long each answer takes, in seconds."""


class Stall(ProviderFault):
    """It accepts a share of messages and delivers them, but never answers."""

    kind: Annotated[Literal["stall"], KIND]
    rate: Share
    """The share of messages."""


class Ambiguous(ProviderFault):
    """It drops the connection after a share of bodies; of those a share did go out."""

    kind: Annotated[Literal["ambiguous"], KIND]
    rate: Share
    """The share of messages."""
    accepted: Share
    """The share of those that went out nevertheless."""


class Throttle(ProviderFault):
    """It lowers its quota, and answers 429 with Retry-After above it."""

    kind: Annotated[Literal["throttle"], KIND]
    per_s: Count
    """Messages that it takes in any second."""
    retry_after_s: Duration = 1.0
    """The least that its Retry-After asks for, in seconds."""


class Capacity(ProviderFault):
    """It serves so many messages a second, one after the other; the others wait in its queue."""

    kind: Annotated[Literal["capacity"], KIND]
    per_s: Duration
    """Messages that it serves in a second."""
    keeps_abandoned: bool = False
    """Whether it also serves messages whose sender has hung up: they go out, and delay others."""


class Flap(ProviderFault):
    """It is down for the first `duty` of each period, and up for the rest."""

    kind: Annotated[Literal["flap"], KIND]
    period_s: Duration
    """How long it takes to be down and up once, in seconds."""
    duty: Share
    """The share of each period in which connections are refused."""

    def is_down(self, now_s: float) -> bool:
        """Whether connections are refused now."""
        return self.is_on(now_s) and (now_s - self.at_s) % self.period_s < self.duty * self.period_s


class Auth(ProviderFault):
    """It refuses the gateway's credentials or account: 401, or on an SMTP wire 535 or `reply`."""

    kind: Annotated[Literal["auth"], KIND]
    for_s: Annotated[float, Field(gt=0, default_factory=lambda: math.inf)]
    """How long it lasts, in seconds; only with until = "end"."""
    until: Literal["end", "reload"] = "end"
    """`end`: it heals by itself after `for_s`. `reload`: with the first reload that follows."""
    reply: Annotated[str, Field(pattern=r"^5\d\d [245]\.\d{1,3}\.\d{1,3} \S.*$")] | None = None
    """What it answers on an SMTP wire, such as "550 5.7.0 this account is suspended"."""
    verb: Literal["mail", "rcpt", "data"] = "mail"
    """The command that it answers so. Relays refuse an account at any of them."""

    @pydantic.model_validator(mode="before")
    @classmethod
    def _ends_one_way(cls, given: Any) -> Any:
        if isinstance(given, dict):
            has_length, until = "for_s" in given, given.get("until", "end")
            if until == "end" and not has_length:
                raise ValueError('for_s: is missing; without it there must be until = "reload"')
            if until == "reload" and has_length:
                raise ValueError('for_s: does not go with until = "reload", which ends the fault')
        return given

    @pydantic.model_validator(mode="after")
    def _lasts(self) -> Self:
        if self.until == "end" and math.isinf(self.for_s):
            raise ValueError("for_s: must be finite")
        return self


class Dns(ProviderFault):
    """Its name does not resolve."""

    kind: Annotated[Literal["dns"], KIND]
    answer: Literal["nxdomain", "servfail", "slow"]
    """The resolver's answer: no such name; a failure; none within the client's timeout."""


class Tls(ProviderFault):
    """The handshake fails."""

    kind: Annotated[Literal["tls"], KIND]
    why: Literal["expired", "name"]
    """The certificate has expired, or is for another name."""


class Later(Frozen):
    """What happens after a lie: a bounce, or a late delivery."""

    bounce_after_s: Duration | None = None
    """It never goes out and bounces after so many seconds, which a vendor with `delivery_events`
    reports."""
    delay_s: Duration | None = None
    """It goes out so many seconds after it was accepted."""

    @pydantic.model_validator(mode="after")
    def _is_one(self) -> Self:
        if (self.bounce_after_s is None) == (self.delay_s is None):
            raise ValueError("says either bounce_after_s or delay_s")
        return self


def _word_or_table(value: object) -> str:
    return "@table" if isinstance(value, dict | Later) else "@word"


Then = Annotated[
    Annotated[Literal["drop"], pydantic.Tag("@word")] | Annotated[Later, pydantic.Tag("@table")],
    pydantic.Discriminator(_word_or_table),
]


class Lie(ProviderFault):
    """It answers 2xx and does not deliver, bounces later, or delivers much later."""

    kind: Annotated[Literal["lie"], KIND]
    rate: Share = 1.0
    """The share of messages."""
    then: Then
    """"drop", { bounce_after_s = … } or { delay_s = … }."""


class Reject(ProviderFault):
    """It refuses a share of messages permanently."""

    kind: Annotated[Literal["reject"], KIND]
    rate: Share
    """The share of messages."""
    scope: Literal["recipient", "message"]
    """Whether it refuses the mailbox or the message."""
    false_share: Share = 0.0
    """The share of those refusals that are wrong: the mailbox exists, the message is harmless."""


class DeferDomain(ProviderFault):
    """It defers what goes to one recipient domain."""

    kind: Annotated[Literal["defer_domain"], KIND]
    domain: Annotated[str, Field(min_length=1)]
    """The recipient domain."""
    rate: Share = 1.0
    """The share of the messages to that domain."""
    code: Literal[421, 450, 451, 452] = 421
    """What it answers: 421 speaks for the domain, the others for the mailbox alone."""
    is_rate_limit: bool = False
    """Whether it says that mail to the domain is too fast, although it takes all other mail."""


class Garbage(ProviderFault):
    """It answers a share of messages with garbage, in some cases 64 KiB of it."""

    kind: Annotated[Literal["garbage"], KIND]
    rate: Share
    """The share of messages."""


class Trickle(ProviderFault):
    """It reads what is sent to it slowly; only on an SMTP wire."""

    kind: Annotated[Literal["trickle"], KIND]
    octets_per_s: Duration
    """How much it reads in a second, of each connection."""


class Short(ProviderFault):
    """The gateway's own process has no descriptor for a new connection to it."""

    kind: Annotated[Literal["short"], KIND]


Fault = Annotated[
    Refuse
    | Errors
    | Slow
    | SlowDomain
    | Stall
    | Ambiguous
    | Throttle
    | Capacity
    | Flap
    | Auth
    | Dns
    | Tls
    | Lie
    | Reject
    | DeferDomain
    | Garbage
    | Trickle
    | Short,
    Field(discriminator="kind"),
]


def kinds_of(members: tuple[Any, ...]) -> list[str]:
    """Return the `kind` of each of these classes of faults."""
    return [get_args(each.model_fields["kind"].annotation)[0] for each in members]


KINDS: Final = kinds_of(get_args(get_args(Fault)[0]))
