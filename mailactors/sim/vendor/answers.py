"""What a vendor does with a message in some weather, and how an adapter understands its answer.

`decide_answer` is plain: weather and dice in, answer out, so that an all-knowing scheduler can ask
it as well. Quotas, capacity, keys and credentials are the vendor's own state (`sim/vendor.py`).
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
from mailactors.providers.smtp.protocol import Verb
from mailactors.providers.smtp.replies import SmtpReply
from mailactors.sim.scenario.faults import Lie
from mailactors.sim.vendor.draws import Chance, Die, RareDie
from mailactors.sim.vendor.timeline import Weather

UNAUTHORIZED: Final = 401
CONFLICT: Final = 409
THROTTLED: Final = 429
UNAVAILABLE: Final = 503


class Said(enum.Enum):
    """What is heard of a vendor in the end."""

    YES = "yes"
    NO = "no"
    LOST = "lost"
    """The connection drops after the body."""
    GARBAGE = "garbage"
    NOTHING = "nothing"
    """It keeps silent for ever."""


class Answer(msgspec.Struct, frozen=True):
    """What a vendor does with a message."""

    said: Said
    is_taken: bool
    """Whether it takes the message over, whatever it says."""
    code: int = 250
    text: str = ""
    enhanced: str | None = None
    verb: Verb = Verb.FINAL
    """To which command it would say so in SMTP."""
    retry_after_s: float | None = None
    lie: Lie | None = None


YES: Final = Answer(Said.YES, is_taken=True)
BAD_KEY: Final = Answer(
    Said.NO, False, UNAUTHORIZED, "authentication credentials invalid", "5.7.8", Verb.MAIL
)
OTHER_PAYLOAD: Final = Answer(Said.NO, False, 422, "this key was used with another payload (409)")
CONCURRENT: Final = Answer(Said.NO, False, CONFLICT, "a request with this key is in progress")
NO_SUCH_USER: Final = Answer(Said.NO, False, 550, "no such user here", "5.1.1", Verb.RCPT)
BAD_CONTENT: Final = Answer(Said.NO, False, 554, "message content rejected", "5.6.0")
HANGS: Final = Answer(Said.NOTHING, is_taken=False)
_HUNG_UP: Final = ("4.4.2", "the recipient domain takes nothing now")
_NOT_NOW: Final = ("4.2.1", "the mailbox is not to be had")
_REJECTS_MESSAGE: Final = frozenset({400, 413, 422})
_REJECTS_PROVIDER: Final = frozenset({401, 402, 403})
SMTP_CODES: Final = frozenset(
    {421, 450, 451, 452, 454, 455, 530, 535, 541, 550, 551, 552, 553, 554, 555, 556, 571}
)
"""Read as replies of SMTP, which no HTTP status means anything else by here."""


def decide_recipient(
    weather: Weather, chance: Chance, number: int, attempt: int, domain: str
) -> tuple[Answer, bool] | None:
    """Return what a vendor has against a mailbox, and whether wrongly; None: nothing."""
    for reject in weather.rejects:
        if reject.scope == "recipient":
            lasting = chance.rare(number, 0)
            if lasting[RareDie.REJECT] < reject.rate:
                return NO_SUCH_USER, lasting[RareDie.FALSE] < reject.false_share
    for fault in weather.domains:
        is_meant = domain == fault.domain.lower()
        if is_meant and chance.rare(number, attempt)[RareDie.DOMAIN] < fault.rate:
            enhanced, text = _HUNG_UP if fault.code == 421 else _NOT_NOW
            return Answer(Said.NO, False, fault.code, text, enhanced, Verb.RCPT), False
    return None


def decide_answer(
    weather: Weather, chance: Chance, dice: Sequence[float], number: int, poison: str | None
) -> tuple[Answer, bool]:
    """Return what a vendor does with a message, and whether it refuses it wrongly.

    `dice` are those of the attempt, `chance.attempt(number, attempt)`.
    """
    if poison == "refused_everywhere":
        return BAD_CONTENT, False
    if poison == "hang_worker":
        return HANGS, False
    if weather.is_calm:
        return YES, False
    for reject in weather.rejects:
        if reject.scope == "message":
            lasting = chance.rare(number, 0)
            if lasting[RareDie.REJECT] < reject.rate:
                return BAD_CONTENT, lasting[RareDie.FALSE] < reject.false_share
    for errors in weather.errors:
        if dice[Die.ERRORS] < errors.rate:
            return Answer(Said.NO, False, errors.code, "simulated error", errors.enhanced), False
    for stall in weather.stalls:
        if dice[Die.STALL] < stall.rate:
            return Answer(Said.NOTHING, is_taken=True), False
    for loss in weather.ambiguous:
        if dice[Die.AMBIGUOUS] < loss.rate:
            return Answer(Said.LOST, dice[Die.ACCEPTED] < loss.accepted), False
    for garbage in weather.garbage:
        if dice[Die.GARBAGE] < garbage.rate:
            return Answer(Said.GARBAGE, dice[Die.ACCEPTED] < 0.5), False
    for lie in weather.lies:
        if dice[Die.LIE] < lie.rate:
            return Answer(Said.YES, is_taken=True, lie=lie), False
    return YES, False


def outcome_of(answer: Answer, id_: str, recipients: tuple[str, ...]) -> Outcome:
    """Return what an adapter makes of an answer, by the tables that the real ones go by."""
    match answer.said:
        case Said.YES:
            return Accepted(id_)
        case Said.LOST:
            return Uncertain(Phase.FINAL, Reason("connection lost after the body"))
        case Said.GARBAGE:
            return Uncertain(Phase.FINAL, Reason("garbage: the answer cannot be parsed"))
        case Said.NOTHING:
            return Uncertain(Phase.FINAL, Reason("no answer in time"))
        case Said.NO:
            return _refusal_of(answer, recipients)


def _refusal_of(answer: Answer, recipients: tuple[str, ...]) -> Outcome:
    code, reason = answer.code, Reason(answer.text, answer.code, answer.enhanced)
    if code == THROTTLED:
        return Deferred(Scope.PROVIDER, reason, answer.retry_after_s, throttled=True)
    if code == UNAVAILABLE:
        return Deferred(Scope.PROVIDER, reason, answer.retry_after_s)
    if code in _REJECTS_PROVIDER:
        return Rejected(Scope.PROVIDER, reason)
    if code in _REJECTS_MESSAGE:
        return Rejected(Scope.MESSAGE, reason)
    if code not in SMTP_CODES:
        return Uncertain(Phase.FINAL, reason)  # 408, 500, 502, 504, and whatever is in no table
    refusal = classify(answer.verb, reply_of(answer))
    if answer.verb is Verb.RCPT:
        refused = dict.fromkeys(recipients, refusal)
        return msgspec.structs.replace(refusal, refused=refused)
    return refusal


def reply_of(answer: Answer) -> SmtpReply:
    """Return an answer as a server says it."""
    return SmtpReply(answer.code, (f"{answer.enhanced or ''} {answer.text}".strip().encode(),))
