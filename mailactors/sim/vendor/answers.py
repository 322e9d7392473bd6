"""How a vendor answers a message, and how an adapter classifies the answer.

`decide_answer` is a plain function of active faults and draws, so that the oracle can call it as
well. Quotas, capacity, keys and credentials are the vendor's state (`sim/vendor/vendor.py`).
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import Final

import msgspec

from mailactors.model.outcome import (
    Accepted,
    Deferred,
    Outcome,
    Phase,
    Reason,
    Rejected,
    Scope,
    Uncertain,
)
from mailactors.providers.smtp.classify import classify
from mailactors.providers.smtp.replies import SmtpReply
from mailactors.providers.smtp.verbs import Verb
from mailactors.sim.scenario.faults import Lie
from mailactors.sim.vendor.draws import Draw, ProviderDraws, RareDraw
from mailactors.sim.vendor.timeline import ActiveFaults

THROTTLED: Final = 429


class AnswerKind(enum.Enum):
    """What the client receives in the end."""

    ACCEPTS = "accepts"
    REFUSES = "refuses"
    LOST = "lost"
    """The connection drops after the body."""
    GARBAGE = "garbage"
    SILENT = "silent"
    """No answer ever comes."""


class Answer(msgspec.Struct, frozen=True):
    """What a vendor does with a message."""

    kind: AnswerKind
    is_taken: bool
    """Whether the vendor accepts the message, whatever it answers."""
    code: int = 250
    text: str = ""
    enhanced: str | None = None
    verb: Verb = Verb.FINAL
    """The SMTP command to which this is the answer."""
    retry_after_s: float | None = None
    lie: Lie | None = None


def refusal(
    code: int,
    text: str,
    enhanced: str | None = None,
    verb: Verb = Verb.FINAL,
    retry_after_s: float | None = None,
) -> Answer:
    """Return an answer that refuses the message."""
    return Answer(AnswerKind.REFUSES, False, code, text, enhanced, verb, retry_after_s)


ACCEPTANCE: Final = Answer(AnswerKind.ACCEPTS, is_taken=True)
BAD_KEY: Final = refusal(401, "authentication credentials invalid", "5.7.8", Verb.MAIL)
OTHER_PAYLOAD: Final = refusal(422, "this key was used with another payload (409)")
CONCURRENT: Final = refusal(409, "a request with this key is in progress")
NO_SUCH_USER: Final = refusal(550, "no such user here", "5.1.1", Verb.RCPT)
BAD_CONTENT: Final = refusal(554, "message content rejected", "5.6.0")
HANGS: Final = Answer(AnswerKind.SILENT, is_taken=False)
_DOMAIN_DEFERS: Final = ("4.4.2", "the recipient domain takes nothing now")
_TOO_FAST: Final = ("4.7.1", "rate limit exceeded for this recipient")
_MAILBOX_DEFERS: Final = ("4.2.1", "the mailbox is not to be had")
_REJECTS_MESSAGE: Final = frozenset({400, 413, 422})
_REJECTS_PROVIDER: Final = frozenset({401, 402, 403})
SMTP_CODES: Final = frozenset(
    {421, 450, 451, 452, 454, 455, 530, 535, 541, 550, 551, 552, 553, 554, 555, 556, 571}
)
"""Codes that are SMTP replies; none of them is an HTTP status that a scenario uses."""


_UNCERTAIN: Final = {
    AnswerKind.LOST: "connection lost after the body",
    AnswerKind.GARBAGE: "garbage: the answer cannot be parsed",
    AnswerKind.SILENT: "no answer in time",
}


def decide_recipient(
    active: ActiveFaults, draws: ProviderDraws, number: int, attempt: int, domain: str
) -> tuple[Answer, bool] | None:
    """Return a vendor's refusal of a mailbox, and whether it is wrong; None: it is accepted."""
    if (is_false := _rejection(active, draws, number, "recipient")) is not None:
        return NO_SUCH_USER, is_false
    for fault in active.domains:
        is_meant = domain == fault.domain.lower()
        if is_meant and draws.rare(number, attempt)[RareDraw.DOMAIN] < fault.rate:
            enhanced, text = _DOMAIN_DEFERS if fault.code == 421 else _MAILBOX_DEFERS
            if fault.is_rate_limit:
                enhanced, text = _TOO_FAST
            return refusal(fault.code, text, enhanced, Verb.RCPT), False
    return None


def decide_answer(
    active: ActiveFaults,
    draws: ProviderDraws,
    drawn: Sequence[float],
    number: int,
    poison: str | None,
) -> tuple[Answer, bool]:
    """Return a vendor's answer to a message, and whether it refuses it wrongly.

    `drawn` are the attempt's draws, `draws.attempt(number, attempt)`.
    """
    if poison == "refused_everywhere":
        return BAD_CONTENT, False
    if poison == "hang_worker":
        return HANGS, False
    if active.spares_messages:
        return ACCEPTANCE, False
    if (is_false := _rejection(active, draws, number, "message")) is not None:
        return BAD_CONTENT, is_false
    for errors in active.errors:
        if drawn[Draw.ERRORS] < errors.rate:
            return refusal(errors.code, "simulated error", errors.enhanced), False
    for stall in active.stalls:
        if drawn[Draw.STALL] < stall.rate:
            return Answer(AnswerKind.SILENT, is_taken=True), False
    for loss in active.ambiguous:
        if drawn[Draw.AMBIGUOUS] < loss.rate:
            return Answer(AnswerKind.LOST, drawn[Draw.ACCEPTED] < loss.accepted), False
    for garbage in active.garbage:
        if drawn[Draw.GARBAGE] < garbage.rate:
            return Answer(AnswerKind.GARBAGE, drawn[Draw.ACCEPTED] < 0.5), False
    for lie in active.lies:
        if drawn[Draw.LIE] < lie.rate:
            return Answer(AnswerKind.ACCEPTS, is_taken=True, lie=lie), False
    return ACCEPTANCE, False


def _rejection(active: ActiveFaults, draws: ProviderDraws, number: int, scope: str) -> bool | None:
    """Whether a vendor's permanent refusal of a message is wrong; None: it does not refuse."""
    for reject in active.rejects:
        lasting = draws.rare(number, 0)
        if reject.scope == scope and lasting[RareDraw.REJECT] < reject.rate:
            return lasting[RareDraw.FALSE] < reject.false_share
    return None


def outcome_of(answer: Answer, id_: str, recipients: tuple[str, ...]) -> Outcome:
    """Return the outcome of an answer, by the same tables as the real adapters."""
    if answer.kind is AnswerKind.ACCEPTS:
        return Accepted(id_)
    if answer.kind is AnswerKind.REFUSES:
        return _refusal_of(answer, recipients)
    return Uncertain(Phase.FINAL, Reason(_UNCERTAIN[answer.kind]))


def _refusal_of(answer: Answer, recipients: tuple[str, ...]) -> Outcome:
    code, reason = answer.code, Reason(answer.text, answer.code, answer.enhanced)
    if code == THROTTLED:
        return Deferred(Scope.PROVIDER, reason, answer.retry_after_s, throttled=True)
    if code == 503:
        return Deferred(Scope.PROVIDER, reason, answer.retry_after_s)
    if code in _REJECTS_PROVIDER:
        return Rejected(Scope.PROVIDER, reason)
    if code in _REJECTS_MESSAGE:
        return Rejected(Scope.MESSAGE, reason)
    if code not in SMTP_CODES:
        return Uncertain(Phase.FINAL, reason)  # 408, 500, 502, 504, and unlisted codes
    refusal = classify(answer.verb, reply_of(answer))
    if answer.verb is Verb.RCPT:
        refused = dict.fromkeys(recipients, refusal)
        return msgspec.structs.replace(refusal, refused=refused)
    return refusal


def reply_of(answer: Answer) -> SmtpReply:
    """Return an answer as an SMTP reply."""
    return SmtpReply(answer.code, (f"{answer.enhanced or ''} {answer.text}".strip().encode(),))
