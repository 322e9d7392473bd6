"""How an attempt ended: a closed union, matched exhaustively with `assert_never`.

`Deferred` and `Rejected` say that the provider certainly did not accept the message; `Uncertain`
says that it may have. No code turns one into the other: everything else depends on it.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import TypeAlias, assert_never

import msgspec


class Scope(enum.Enum):
    """What a refusal is about: whether another recipient or provider would be refused too."""

    RECIPIENT = "recipient"
    """This mailbox: every other provider would refuse it too."""
    DOMAIN = "domain"
    """This recipient domain, as seen from this provider: never a reason to open a breaker."""
    MESSAGE = "message"
    """This message: another provider may accept it."""
    PROVIDER = "provider"
    """The provider itself: another provider may accept the message."""


class Reason(msgspec.Struct, frozen=True, omit_defaults=True):
    """Why: text for a person, codes for a table. The text is hostile input, cut and cleaned.

    `code` is the raw SMTP or HTTP status; `enhanced` is the RFC 3463 code, such as "5.1.1".
    """

    text: str
    code: int | None = None
    enhanced: str | None = None


class Deferred(msgspec.Struct, frozen=True, omit_defaults=True, tag="deferred"):
    """Certainly not accepted; may work later.

    `throttled` marks a refusal of the rate (429, SES's 454): the limiter slows down, and it counts
    neither against the provider nor against the message. `retry_after_s` is the provider's lower
    bound.
    `at_once`: nothing stands against another attempt here and now, with these recipients alone.
    """

    scope: Scope
    reason: Reason
    retry_after_s: float | None = None
    throttled: bool = False
    refused: dict[str, Refusal] = {}
    at_once: bool = False


class Rejected(msgspec.Struct, frozen=True, omit_defaults=True, tag="rejected"):
    """Certainly not accepted; will not work here, however often it is tried.

    `is_sure` is False where a recipient was refused without proof that it is the recipient's fault:
    each other provider is asked once before that is final.
    """

    scope: Scope
    reason: Reason
    refused: dict[str, Refusal] = {}
    is_sure: bool = True


Refusal: TypeAlias = Deferred | Rejected


class Accepted(msgspec.Struct, frozen=True, omit_defaults=True, tag="accepted"):
    """The provider took responsibility for every recipient that is not in `refused`."""

    provider_message_id: str
    refused: dict[str, Refusal] = {}


class Phase(enum.Enum):
    """How far an attempt had come when the connection was lost."""

    CONNECT = "connect"
    GREETING = "greeting"
    HELLO = "hello"
    TLS = "tls"
    AUTH = "auth"
    ENVELOPE = "envelope"
    BODY = "body"
    FINAL = "final"
    """The whole body was sent and no answer came: the only phase of SMTP that is uncertain."""
    UNKNOWN = "unknown"
    """The process or an actor died between intent and outcome."""


class Uncertain(msgspec.Struct, frozen=True, omit_defaults=True, tag="uncertain"):
    """The provider may have accepted, for every recipient that is not in `refused`."""

    phase: Phase
    reason: Reason
    refused: dict[str, Refusal] = {}


class Why(enum.Enum):
    """Why a lane sent nothing."""

    LIMITER = "limiter"
    BREAKER = "breaker"
    PAUSED = "paused"
    EXPIRED = "expired"
    """The message's deadline passed during the attempt, and it was certainly not accepted."""
    WITHDRAWN = "withdrawn"
    """The intent's conditions failed: expired, cancelled or suppressed since it was claimed."""
    UNABLE = "unable"
    """The lane cannot carry this: a partial envelope, raw MIME, an address in Unicode."""
    STOPPING = "stopping"
    CRASHED = "crashed"
    RESOURCES = "resources"
    """This process lacks a descriptor, memory, a thread or a port; the provider was not asked."""
    SPOOL = "spool"
    """The intent could not be made durable, so nothing was sent."""


class NotAttempted(msgspec.Struct, frozen=True, omit_defaults=True, tag="not_attempted"):
    """Certainly not accepted, and it counts as no attempt; ask again at `until_s` (monotonic).

    `text` says more than `why`, where there is more to say.
    """

    why: Why
    until_s: float = 0.0
    text: str = ""


Outcome: TypeAlias = Accepted | Deferred | Rejected | Uncertain | NotAttempted


def split_by_recipient(outcome: Outcome, recipients: Sequence[str]) -> dict[str, Outcome]:
    """Return each recipient's own outcome, in the order of `recipients`.

    >>> reason = Reason("no such user", 550)
    >>> mixed = Accepted("42", {"b@x.example": Rejected(Scope.RECIPIENT, reason)})
    >>> apart = split_by_recipient(mixed, ["a@x.example", "b@x.example"])
    >>> [type(outcome).__name__ for outcome in apart.values()]
    ['Accepted', 'Rejected']
    """
    match outcome:
        case NotAttempted():
            return dict.fromkeys(recipients, outcome)
        case Accepted() | Deferred() | Rejected() | Uncertain():
            return {r: outcome.refused.get(r, outcome) for r in recipients}
        case _:
            assert_never(outcome)


class Verdict(enum.Enum):
    """What an attempt says about the provider's health; the breaker counts it."""

    SUCCESS = "success"
    FAILURE = "failure"
    IGNORED = "ignored"


def decide_verdict(outcome: Outcome) -> Verdict:
    """Return what an outcome says about the provider's health.

    A bounce is a healthy provider's answer. A 429 is the limiter's to handle, and an attempt that
    was not made says nothing: both are ignored. A connection lost after the body is a failure.
    """
    match outcome:
        case Accepted():
            return Verdict.SUCCESS
        case Deferred(throttled=True) | NotAttempted():
            return Verdict.IGNORED
        case Deferred(scope=scope) | Rejected(scope=scope):
            return Verdict.FAILURE if scope is Scope.PROVIDER else Verdict.SUCCESS
        case Uncertain():
            return Verdict.FAILURE
        case _:
            assert_never(outcome)
