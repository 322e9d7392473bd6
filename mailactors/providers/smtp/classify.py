"""From a transaction to an outcome: what a relay's replies, taken together, mean for a message.

A single refusal is looked up in the table (`rulings.py`); what else is known then narrows it: other
recipients of the same transaction that were taken, and others that get through on this lane.
Pure. What is not sure is tried elsewhere before anything is final.

Source: RFC 5321 §3.3, §4.2.5, §4.5.3.1.10; RFC 2920 §3.1.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from functools import partial
from typing import Final, TypeAlias

import msgspec

from mailactors.model.message import domain_of
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
from mailactors.providers.smtp.replies import SmtpReply
from mailactors.providers.smtp.rulings import (
    LATER_DOMAIN,
    LATER_MESSAGE,
    LATER_PROVIDER,
    LATER_RECIPIENT,
    MAIL_VERBS,
    NEVER_MESSAGE,
    NEVER_RECIPIENT,
    NO_SUCH_USER,
    UNSURE_RECIPIENT,
    Ruling,
    find_ruling,
)
from mailactors.providers.smtp.transaction import Transaction
from mailactors.providers.smtp.verbs import Verb

RETRY_HINT_S_MAX: Final = 86400.0

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


def classify(
    verb: Verb,
    reply: SmtpReply,
    *,
    others_accepted: bool = False,
    others_get_through: bool = False,
    is_sender_known: bool = False,
) -> Refusal:
    """Return what a refusal (4yz, 5yz) or a senseless reply before the final dot means.

    Args:
        verb: what was refused.
        reply: how.
        others_accepted: the same transaction has recipients that were taken.
        others_get_through: the lane took other messages lately, so that neither the account nor
            the relay can be what is refused for good.
        is_sender_known: the lane took messages of this very sender, who may lose that for a while.
    """
    if verb is Verb.HELO:
        verb = Verb.EHLO
    found = find_ruling(verb, reply)
    ruling = found or _unmapped(verb, reply)
    if verb in MAIL_VERBS:
        others_get_through = others_accepted or others_get_through
        ruling = _narrow(verb, ruling, others_accepted, others_get_through, is_sender_known)
    reason = reply.to_reason("" if found else f"unmapped reply to {verb.value}: ")
    if ruling.is_final:
        return Rejected(ruling.scope, reason, is_sure=ruling.is_sure)
    hint_s, usual_s = parse_retry_hint(reply.text), ruling.retry_after_s
    if hint_s is not None and usual_s is not None and not ruling.throttled:
        hint_s = max(hint_s, usual_s)  # a greylist's own "in 60 seconds" starts its clock again
    return Deferred(
        ruling.scope,
        reason,
        retry_after_s=usual_s if hint_s is None else hint_s,
        throttled=ruling.throttled,
        at_once=ruling.at_once,
    )


def _unmapped(verb: Verb, reply: SmtpReply) -> Ruling:
    is_final = verb is Verb.FINAL and reply.code // 100 == 5
    return NEVER_MESSAGE if is_final else LATER_PROVIDER


def _narrow(
    verb: Verb,
    ruling: Ruling,
    others_accepted: bool,
    others_get_through: bool,
    is_sender_known: bool,
) -> Ruling:
    """Take a refusal of everybody for one of this message or recipient, where others disprove it.

    Nothing final follows for what was taken for the account's: it may be the sender's or not. What
    names the sender is final as soon as others get through, but for a sender who did so before.
    """
    if ruling.throttled and verb is Verb.RCPT and others_accepted:
        return LATER_RECIPIENT
    if not others_get_through:
        return ruling
    if ruling.is_senders:
        return LATER_MESSAGE if is_sender_known else NEVER_MESSAGE
    if ruling.is_final and ruling.scope is Scope.PROVIDER:
        return LATER_MESSAGE
    return ruling


_ABOUT_A_MAILBOX: Final = (LATER_RECIPIENT, NEVER_RECIPIENT, UNSURE_RECIPIENT)
_MAILBOX_CODES: Final = ("1.1", "1.2", "1.3", "1.4", "1.6", "1.10", "2.1", "2.2")
"""Without the class. 5.1.0 and 5.2.0 are also said of senders, of spam and of the account."""
_Read: TypeAlias = Callable[..., Refusal]
"""`classify`, with what is known of the lane."""
_WIDTH: Final = (Scope.RECIPIENT, Scope.DOMAIN, Scope.MESSAGE, Scope.PROVIDER)


def decide_outcome(
    transaction: Transaction,
    lost: tuple[Phase, Reason] | None = None,
    *,
    others_get_through: bool = False,
    is_sender_known: bool = False,
) -> Outcome:
    """Say what became of a message from all that was heard of it.

    Args:
        transaction: the server's replies so far.
        lost: how far it had come and why, if the connection ended, stalled or spoke nonsense.
        others_get_through, is_sender_known: as in `classify`.

    Returns:
        One outcome; `refused` has every recipient that was refused by name, whatever else happened.
    """
    read = partial(classify, others_get_through=others_get_through, is_sender_known=is_sender_known)
    refused = _refused_recipients(transaction, read)
    if transaction.final is not None:
        return _decide_final(transaction, transaction.final, refused, read)
    if lost is not None:
        phase, reason = lost
        if phase is Phase.FINAL:
            return Uncertain(phase, reason, refused)
        return Deferred(Scope.PROVIDER, reason, refused=refused)
    if transaction.mail is not None and not transaction.mail.is_positive:
        return read(Verb.MAIL, transaction.mail)
    if transaction.closing is not None:
        return Deferred(Scope.PROVIDER, transaction.closing.to_reason(), refused=refused)
    assert transaction.mail is not None, "neither an answer nor a loss"
    hung_up = [r for r, reply in transaction.answers.items() if reply.code == 421]
    if hung_up or not transaction.accepted:
        return _widest([refused[r] for r in hung_up] or list(refused.values()), refused)
    assert transaction.data is not None, "some accepted, but no DATA"
    refusal = read(Verb.DATA, transaction.data)
    return msgspec.structs.replace(refusal, refused=refused)


def _refused_recipients(transaction: Transaction, read: _Read) -> dict[str, Refusal]:
    others_accepted = bool(transaction.accepted)
    refused: dict[str, Refusal] = {}
    for recipient, reply in transaction.answers.items():
        if reply.is_positive:
            continue
        refusal = read(Verb.RCPT, reply, others_accepted=others_accepted)
        if reply.code == 421:
            refusal = _about_hang_up(refusal, reply, recipient, transaction.is_read_together)
        elif isinstance(refusal, Deferred) and refusal.at_once and not others_accepted:
            # Not even one recipient fits: a further transaction would end as this one did.
            refusal = msgspec.structs.replace(refusal, scope=Scope.MESSAGE, at_once=False)
        refused[recipient] = refusal
    return refused


def _about_hang_up(
    refusal: Refusal, reply: SmtpReply, recipient: str, is_read_together: bool
) -> Refusal:
    """Say whose affair a 421 at RCPT is: the domain's that it names, or else the server's own.

    One without an enhanced code that came together with the answer before it was on its way before
    the RCPT was looked at.
    """
    if _names(reply.text, domain_of(recipient)):
        return msgspec.structs.replace(refusal, scope=LATER_DOMAIN.scope)
    if is_read_together and reply.enhanced is None and refusal.scope is Scope.DOMAIN:
        return msgspec.structs.replace(refusal, scope=LATER_PROVIDER.scope)
    return refusal


def _decide_final(
    transaction: Transaction,
    reply: SmtpReply,
    refused: dict[str, Refusal],
    read: _Read,
) -> Outcome:
    if reply.is_positive:
        return Accepted(parse_queue_id(reply.text), refused)
    if not reply.is_refusal:
        return Uncertain(Phase.FINAL, reply.to_reason("neither yes nor no: "), refused)
    accepted = transaction.accepted
    meant = _mailboxes_meant(accepted, reply)
    if not meant:
        refusal = read(Verb.FINAL, reply)
        return msgspec.structs.replace(refusal, refused=refused)
    refusal = read(Verb.RCPT, reply)
    if len(meant) == len(accepted):
        return msgspec.structs.replace(refusal, refused=refused)
    # Nobody got it, for the sake of those that are named: the rest goes out without them.
    refused = refused | dict.fromkeys(meant, refusal)
    return Deferred(Scope.MESSAGE, reply.to_reason(), refused=refused, at_once=True)


def _mailboxes_meant(accepted: list[str], reply: SmtpReply) -> list[str]:
    """Return the recipients whose mailboxes a refusal after the final dot is about.

    Some servers look at the mailbox only now. With one recipient it is clear whose it is, with
    several if the reply names it.
    """
    enhanced = reply.enhanced or ""
    is_mailbox = enhanced[2:] in _MAILBOX_CODES
    if not is_mailbox and not (not enhanced and re.search(NO_SUCH_USER, reply.text, re.IGNORECASE)):
        return []
    if find_ruling(Verb.RCPT, reply) not in _ABOUT_A_MAILBOX:
        return []
    if len(accepted) == 1:
        return accepted
    return [r for r in accepted if _names(reply.text, r)]


def _names(text: str, address: str) -> bool:
    return (
        re.search(rf"(?<![\w.+-]){re.escape(address)}(?![\w.-])", text, re.IGNORECASE) is not None
    )


def _widest(refusals: Iterable[Refusal], refused: dict[str, Refusal]) -> Refusal:
    """Return the refusal that speaks for all: what may still work, and the widest in scope."""
    loudest = max(refusals, key=lambda r: (isinstance(r, Deferred), _WIDTH.index(r.scope)))
    return msgspec.structs.replace(loudest, refused=refused)
