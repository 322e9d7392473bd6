"""What a relay's refusal means: the tables, and the decision from a transaction to an outcome.

Looked up in this order: words that servers agree on, the enhanced code within the verb, the plain
code within the verb; then the default of the verb. Pure; a new server's habit is a new row.

Source: RFC 5321 §4.2.2-3, §4.5.3.1.10; RFC 3463; RFC 4954 §6; RFC 7504; RFC 6647 (greylisting);
the replies of Postfix, Exim, Amazon SES and Gmail's relay as published (read 2025-11).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

import msgspec

from mailactors.model.outcome import (
    Accepted,
    Deferred,
    Outcome,
    Phase,
    Reason,
    Refusal,
    Rejected,
    Scope,
    Uncertain,
)
from mailactors.providers.smtp.protocol import Transaction, Verb
from mailactors.providers.smtp.replies import SmtpReply

GREYLIST_RETRY_S: Final = 300.0
"""What greylisting servers commonly ask for (RFC 6647 §5, item 1; Postgrey's default)."""

RETRY_HINT_S_MAX: Final = 86400.0


@dataclass(frozen=True)
class Ruling:
    """What one row says."""

    is_final: bool
    scope: Scope
    throttled: bool = False
    retry_after_s: float | None = None


_LATER_RECIPIENT: Final = Ruling(False, Scope.RECIPIENT)
_LATER_DOMAIN: Final = Ruling(False, Scope.DOMAIN)
_LATER_MESSAGE: Final = Ruling(False, Scope.MESSAGE)
_LATER_PROVIDER: Final = Ruling(False, Scope.PROVIDER)
_GREYLISTED: Final = Ruling(False, Scope.RECIPIENT, retry_after_s=GREYLIST_RETRY_S)
_THROTTLED: Final = Ruling(False, Scope.PROVIDER, throttled=True)
_NEVER_RECIPIENT: Final = Ruling(True, Scope.RECIPIENT)
_NEVER_MESSAGE: Final = Ruling(True, Scope.MESSAGE)
_NEVER_PROVIDER: Final = Ruling(True, Scope.PROVIDER)

_BY_CODE: Final[dict[Verb, dict[Ruling, tuple[int, ...]]]] = {
    # A load balancer's bad node greets with 554 as a blocked address does: the breaker's affair.
    Verb.GREETING: {_LATER_PROVIDER: (421, 450, 451, 454, 500, 520, 521, 550, 554)},
    Verb.EHLO: {_LATER_PROVIDER: (421, 450, 451, 454, 500, 501, 502, 503, 504, 521, 550, 554)},
    Verb.STARTTLS: {_LATER_PROVIDER: (421, 451, 454, 500, 501, 502, 503, 554)},
    Verb.AUTH: {
        _LATER_PROVIDER: (421, 451, 454, 503),
        _NEVER_PROVIDER: (432, 500, 501, 502, 504, 525, 530, 534, 535, 538, 550, 554),
    },
    Verb.MAIL: {
        _LATER_PROVIDER: (421, 450, 451, 452, 454, 455, 500, 502, 503, 504),
        _NEVER_MESSAGE: (501, 552, 553, 555),
        _NEVER_PROVIDER: (530, 535, 550, 551, 554),
    },
    Verb.RCPT: {
        # The relay hangs up over one recipient: about the others, and the relay, it says nothing.
        _LATER_DOMAIN: (421,),
        # 552 was once "too many recipients", and is to be read as 452 (RFC 5321 §4.5.3.1.10).
        _LATER_RECIPIENT: (450, 451, 452, 552),
        _LATER_PROVIDER: (454, 455, 500, 502, 503, 504),
        _NEVER_RECIPIENT: (501, 510, 511, 521, 550, 551, 553, 556),
        # Policy without a reason: never cause to suppress a mailbox.
        _NEVER_MESSAGE: (554, 555),
        _NEVER_PROVIDER: (530, 535),
    },
    Verb.DATA: {
        _LATER_PROVIDER: (421, 450, 451, 452, 454, 500, 501, 502, 503, 504),
        _NEVER_MESSAGE: (550, 552, 554),
        _NEVER_PROVIDER: (530, 535),
    },
    Verb.FINAL: {
        _LATER_PROVIDER: (421, 450, 451, 452, 454),
        _NEVER_MESSAGE: (500, 501, 503, 541, 550, 551, 552, 553, 554, 555, 571),
        _NEVER_PROVIDER: (530, 535),
    },
}

_BY_ENHANCED: Final[dict[tuple[Verb, str], Ruling]] = {
    # The size, wherever it is noticed.
    (Verb.RCPT, "5.3.4"): _NEVER_MESSAGE,
    (Verb.RCPT, "5.2.3"): _NEVER_MESSAGE,
    # Said at RCPT, but about the sender or the system (Postfix delays its refusals until RCPT).
    (Verb.RCPT, "4.1.7"): _LATER_MESSAGE,
    (Verb.RCPT, "4.1.8"): _LATER_MESSAGE,
    (Verb.RCPT, "5.1.7"): _NEVER_MESSAGE,
    (Verb.RCPT, "5.1.8"): _NEVER_MESSAGE,
    (Verb.RCPT, "4.3"): _LATER_PROVIDER,
    (Verb.RCPT, "5.3"): _LATER_PROVIDER,
    (Verb.RCPT, "5.5"): _LATER_PROVIDER,
    (Verb.RCPT, "5.7"): _NEVER_MESSAGE,
    (Verb.RCPT, "4.4"): _LATER_DOMAIN,
    (Verb.RCPT, "5.4"): _NEVER_RECIPIENT,
    # Postgrey's and milter-greylist's words.
    (Verb.RCPT, "4.2.0"): _GREYLISTED,
    (Verb.RCPT, "4.7.1"): _GREYLISTED,
    (Verb.MAIL, "5.1.7"): _NEVER_MESSAGE,
    (Verb.MAIL, "5.1.8"): _NEVER_MESSAGE,
    (Verb.MAIL, "5.3.4"): _NEVER_MESSAGE,
    (Verb.MAIL, "5.6.7"): _NEVER_MESSAGE,
    (Verb.MAIL, "5.7"): _NEVER_PROVIDER,
    # Content and policy: a filter that cannot decide yet.
    (Verb.FINAL, "4.6"): _LATER_MESSAGE,
    (Verb.FINAL, "4.7"): _LATER_MESSAGE,
}

_MAIL_VERBS: Final = (Verb.MAIL, Verb.RCPT, Verb.DATA, Verb.FINAL)

_BY_WORDS: Final[tuple[tuple[tuple[Verb, ...], str, re.Pattern[str], Ruling], ...]] = (
    (_MAIL_VERBS, "4", re.compile(r"gr[ae]y-?list", re.I), _GREYLISTED),
    (
        tuple(Verb),
        "4",
        re.compile(r"throttl|sending rate|rate limit|too many (concurrent )?connections", re.I),
        _THROTTLED,
    ),
    (
        (Verb.RCPT, Verb.FINAL),
        "5",
        re.compile(r"relay(ing)? (access )?(denied|not (permitted|allowed)|prohibited)"
                   r"|unable to relay|sender (address )?(rejected|denied|not (verified|owned))"
                   r"|address is not verified|authentication (is )?required", re.I),
        _NEVER_PROVIDER,
    ),
    ((Verb.RCPT,), "5", re.compile(r"(message|size).{0,30}(too (big|large)|exceed)", re.I),
     _NEVER_MESSAGE),
)  # fmt: skip

_RULINGS: Final = {
    (verb, code): ruling
    for verb, rows in _BY_CODE.items()
    for ruling, codes in rows.items()
    for code in codes
}

_HINT: Final = re.compile(
    r"\b(?:again|retry|wait|after)\b\D{0,30}?(\d{1,6})\s*"
    r"(s|m|h)(?:ecs?|econds?|ins?|inutes?|rs?|ours?)?\b",
    re.I,
)
_UNIT_S: Final = {"s": 1.0, "m": 60.0, "h": 3600.0}
_QUEUE_ID: Final = re.compile(
    r"(?:queued as|\bid[=:]|message[- ]id[=:])\s*<?([\w.@+/=-]+)|^ok:?\s+([\w-]{12,})\b", re.I
)


def parse_retry_hint(text: str) -> float | None:
    """Return how long the server asks us to wait, in seconds, or None.

    >>> parse_retry_hint("Greylisted, please try again in 5 minutes")
    300.0
    >>> parse_retry_hint("mailbox busy") is None
    True
    """
    found = _HINT.search(text)
    return min(float(found[1]) * _UNIT_S[found[2].lower()], RETRY_HINT_S_MAX) if found else None


def parse_queue_id(text: str) -> str:
    """Return the name that the server gave the message, or its whole text for want of one.

    >>> parse_queue_id("Ok: queued as 4XyZ12")
    '4XyZ12'
    """
    found = _QUEUE_ID.search(text)
    return (found[1] or found[2]).rstrip(".") if found else text


def find_ruling(verb: Verb, reply: SmtpReply, *, is_only_recipient: bool = False) -> Ruling | None:
    """Return the row for a refusal, or None when no row has it."""
    enhanced = reply.enhanced or ""
    by_words = (
        ruling
        for verbs, first, words, ruling in _BY_WORDS
        if verb in verbs and str(reply.code)[0] == first and words.search(reply.text)
    )
    if found := next(by_words, None):
        return found
    if is_only_recipient and verb is Verb.FINAL and enhanced.startswith("5.1."):
        # Some servers look at the mailbox only now; with one recipient it is clear whose it is.
        return find_ruling(Verb.RCPT, reply)
    subject = enhanced.rpartition(".")[0]
    for key in (enhanced, subject):
        # A 454 4.7.1 is no greylisting, nor is a 421: the row is for mailboxes that are busy.
        if (found := _BY_ENHANCED.get((verb, key))) and reply.code not in (421, 454):
            return found
    return _RULINGS.get((verb, reply.code))


def classify(verb: Verb, reply: SmtpReply, *, is_only_recipient: bool = False) -> Refusal:
    """Return what a refusal (4yz, 5yz) or a senseless reply before the final dot means."""
    if verb in (Verb.HELO, Verb.EHLO):
        verb = Verb.EHLO
    ruling = find_ruling(verb, reply, is_only_recipient=is_only_recipient)
    if ruling is None:
        reason = reply.to_reason(f"unmapped reply to {verb.value}: ")
        is_final = verb is Verb.FINAL and reply.code // 100 == 5
        ruling = _NEVER_MESSAGE if is_final else _LATER_PROVIDER
    else:
        reason = reply.to_reason()
    if ruling.is_final:
        return Rejected(ruling.scope, reason)
    waits_s = (parse_retry_hint(reply.text), ruling.retry_after_s)
    return Deferred(
        ruling.scope,
        reason,
        retry_after_s=max((s for s in waits_s if s is not None), default=None),
        throttled=ruling.throttled,
    )


_WIDTH: Final = (Scope.RECIPIENT, Scope.DOMAIN, Scope.MESSAGE, Scope.PROVIDER)


def decide_outcome(transaction: Transaction, lost: tuple[Phase, Reason] | None = None) -> Outcome:
    """Say what became of a message from all that was heard of it.

    Args:
        transaction: the server's replies so far.
        lost: how far it had come and why, if the connection ended, stalled or spoke nonsense.

    Returns:
        One outcome; `refused` has every recipient that was refused by name, whatever else happened.
    """
    refused = {
        recipient: classify(Verb.RCPT, reply)
        for recipient, reply in transaction.answers.items()
        if not reply.is_positive
    }
    if transaction.final is not None:
        return _decide_final(transaction, transaction.final, refused)
    if lost is not None:
        phase, reason = lost
        if phase is Phase.FINAL:
            return Uncertain(phase, reason, refused)
        return Deferred(Scope.PROVIDER, reason, refused=refused)
    assert transaction.mail is not None, "neither an answer nor a loss"
    if not transaction.mail.is_positive:
        return classify(Verb.MAIL, transaction.mail)
    hung_up = [r for r, reply in transaction.answers.items() if reply.code == 421]
    if hung_up or not transaction.accepted:
        return _widest([refused[r] for r in hung_up] or list(refused.values()), refused)
    assert transaction.data is not None, "some accepted, but no DATA"
    return msgspec.structs.replace(classify(Verb.DATA, transaction.data), refused=refused)


def _decide_final(
    transaction: Transaction, reply: SmtpReply, refused: dict[str, Refusal]
) -> Outcome:
    if reply.is_positive:
        return Accepted(parse_queue_id(reply.text), refused)
    if not reply.is_refusal:
        return Uncertain(Phase.FINAL, reply.to_reason("neither yes nor no: "), refused)
    is_only = len(transaction.accepted) == 1
    refusal = classify(Verb.FINAL, reply, is_only_recipient=is_only)
    return msgspec.structs.replace(refusal, refused=refused)


def _widest(refusals: list[Refusal], refused: dict[str, Refusal]) -> Refusal:
    """Return the refusal that speaks for all: what may still work, and the widest in scope."""
    loudest = max(refusals, key=lambda r: (isinstance(r, Deferred), _WIDTH.index(r.scope)))
    return msgspec.structs.replace(loudest, refused=refused)
