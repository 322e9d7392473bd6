"""A table of real replies, each with what is done about it."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from mailactors.model.outcome import Accepted, Deferred, Outcome, Refusal, Rejected, Scope
from mailactors.providers.smtp.classify import classify, decide_outcome
from mailactors.providers.smtp.replies import ReplyParser, SmtpReply
from mailactors.providers.smtp.rulings import (
    DAY_RETRY_S,
    GREYLIST_RETRY_S,
    HOUR_RETRY_S,
    ROWS,
)
from mailactors.providers.smtp.transaction import Transaction
from mailactors.providers.smtp.verbs import Verb

TABLE = tomllib.loads((Path(__file__).parent / "smtp_replies.toml").read_text())["replies"]
BOB, CAT = "bob@y.example", "cat@z.example"
OK = SmtpReply(250, (b"2.1.5 Ok",))

FINAL_WORDS = {
    "bounce": (Scope.RECIPIENT, True),
    "unsure": (Scope.RECIPIENT, False),
    "each lane once": (Scope.MESSAGE, True),
    "disable": (Scope.PROVIDER, True),
}
"""Refused for good: the mailbox, a recipient perhaps, the message, the account."""
BY_OTHERS = {
    ("disable", "next lane"): "disable",
    ("lane failed", "each lane once"): "not this sender",
}
"""What is read so while nothing gets through, and otherwise once other messages do."""
LATER_WORDS = {
    "later": Scope.RECIPIENT,
    "domain later": Scope.DOMAIN,
    "next lane": Scope.MESSAGE,
    "lane failed": Scope.PROVIDER,
}
WAITS_S = {"throttle hour": HOUR_RETRY_S, "throttle day": DAY_RETRY_S, "throttle": None}


def word_of(refusal: Outcome) -> str:
    """Return the table's word for what is done about a refusal."""
    match refusal:
        case Rejected(scope=scope, is_sure=is_sure):
            return next(word for word, made in FINAL_WORDS.items() if made == (scope, is_sure))
        case Deferred(at_once=True):
            return "split"
        case Deferred(throttled=True, retry_after_s=wait_s):
            return next((word for word, s in WAITS_S.items() if s == wait_s), "throttle")
        case Deferred(scope=Scope.RECIPIENT, retry_after_s=wait_s) if wait_s == GREYLIST_RETRY_S:
            return "greylist"
        case Deferred(scope=scope):
            return next(word for word, made in LATER_WORDS.items() if made is scope)
        case _:
            raise AssertionError(refusal)


def parse(says: str) -> SmtpReply:
    (reply,) = ReplyParser().feed(says.encode() + b"\r\n")
    return reply


def refusal_of(verb: Verb, reply: SmtpReply, *, others_get_through: bool = False) -> Outcome:
    """Return what becomes of a message to Bob alone, or of the command that was refused."""
    if verb is not Verb.FINAL:
        return classify(verb, reply, others_get_through=others_get_through)
    transaction = Transaction((BOB,), OK, {BOB: OK}, SmtpReply(354, (b"",)), reply)
    return decide_outcome(transaction, others_get_through=others_get_through)


def read(verb: Verb, reply: SmtpReply) -> str:
    """Return the table's word for a refusal, by itself and beside others that get through."""
    alone = word_of(refusal_of(verb, reply))
    beside = word_of(refusal_of(verb, reply, others_get_through=True))
    return BY_OTHERS.get((alone, beside), alone)


@pytest.mark.parametrize("row", TABLE, ids=lambda row: f"{row['verb']} {row['says'][:60]}")
def test_reply_is_read_as_the_table_says(row: dict[str, str]) -> None:
    verb, reply = Verb[row["verb"]], parse(row["says"])
    refusal = refusal_of(verb, reply)

    assert row["does"] == read(verb, reply)
    assert isinstance(refusal, Refusal)
    assert not refusal.reason.text.startswith("unmapped")


def test_table_is_large_and_each_row_says_where_it_is_from() -> None:
    assert len({(row["verb"], row["says"]) for row in TABLE}) == len(TABLE) >= 120
    assert all(row["source"] and row["means"] for row in TABLE)
    words = {*FINAL_WORDS, *LATER_WORDS, *WAITS_S, *BY_OTHERS.values(), "split", "greylist"}
    assert words == {row["does"] for row in TABLE}


def test_each_ruling_has_its_source_and_a_temporary_refusal_is_never_final() -> None:
    assert all(row.source for row in ROWS)
    assert not [row for row in ROWS if row.ruling.is_final and "4" in {c[0] for c in row.codes}]


@pytest.mark.parametrize(
    ("verb", "row"),
    [(verb, row) for row in TABLE if row["does"] == "disable" for verb in (Verb[row["verb"]],)],
    ids=lambda value: value["says"][:60] if isinstance(value, dict) else value.value,
)
def test_account_is_not_to_blame_while_others_get_through(verb: Verb, row: dict[str, str]) -> None:
    refusal = classify(verb, parse(row["says"]), others_get_through=True)

    is_of_a_message = verb in (Verb.MAIL, Verb.RCPT, Verb.DATA, Verb.FINAL)
    assert ("next lane" if is_of_a_message else "disable") == word_of(refusal)


@pytest.mark.parametrize("verb", [Verb.MAIL, Verb.RCPT, Verb.FINAL])
def test_sender_who_got_through_before_is_not_refused_for_good(verb: Verb) -> None:
    refused = parse("550 5.7.1 Sender address rejected: not owned by user")

    unknown, known = (
        classify(verb, refused, others_get_through=True, is_sender_known=is_known)
        for is_known in (False, True)
    )

    assert ["each lane once", "next lane"] == [word_of(unknown), word_of(known)]


@pytest.mark.parametrize(
    "says",
    [
        "550 The sender domain has a bad reputation",
        "553 Return-Path is not accepted here",
        "550 Mail from <ann@x.example> refused",
        "550 5.1.0 Sender account is disabled",
    ],
)
def test_what_is_said_of_the_sender_is_not_the_recipients(says: str) -> None:
    refusal = classify(Verb.RCPT, parse(says))

    assert refusal.scope is not Scope.RECIPIENT


@pytest.mark.parametrize(
    ("verb", "says", "word"),
    [
        (Verb.RCPT, "530 5.7.0 Must issue a STARTTLS command first", "disable"),
        (Verb.RCPT, "550 Authentication failed or required", "disable"),
        (Verb.RCPT, "550 You must check for new mail before sending mail", "disable"),
        (Verb.FINAL, "554 5.7.1 This account has been limited. Contact support", "disable"),
        (Verb.FINAL, "550 Account is suspended for sending spam", "disable"),
        (Verb.RCPT, "550 5.7.1 [192.0.2.1] is not permitted to send mail here", "disable"),
        (Verb.RCPT, "550 5.2.1 This account has been suspended", "bounce"),
        (Verb.RCPT, "550 This account has been disabled or discontinued", "unsure"),
        (Verb.FINAL, "550 The example.com domain is not verified", "not this sender"),
        (
            Verb.FINAL,
            "553 5.7.1 You may not use this From address",
            "not this sender",
        ),
        (Verb.MAIL, "550 5.7.1 ann@x.example not in list of permitted senders", "not this sender"),
        (Verb.FINAL, "550 5.7.1 Blocked for containing a blacklisted URL", "each lane once"),
        (Verb.RCPT, "550 Rejecting for Sender Policy Framework", "each lane once"),
    ],
)
def test_account_sender_and_content_are_told_apart(verb: Verb, says: str, word: str) -> None:
    assert word == read(verb, parse(says))


@pytest.mark.parametrize(
    "says",
    ["550 Sorry, try again later", "554 5.7.1 temporarily refused", "550 5.0.0 Please retry later"],
)
@pytest.mark.parametrize("verb", [Verb.MAIL, Verb.RCPT, Verb.DATA, Verb.FINAL])
def test_server_that_asks_for_another_try_gets_it(verb: Verb, says: str) -> None:
    assert "next lane" == word_of(classify(verb, parse(says)))


@pytest.mark.parametrize(
    ("verb", "says", "word"),
    [
        (Verb.FINAL, "552 Your message exceeded the maximum size limit", "each lane once"),
        (Verb.MAIL, "552 5.3.4 message exceeded your size limit", "each lane once"),
        (Verb.RCPT, "550 You exceeded the maximum recipients limit", "split"),
        (Verb.RCPT, "550 5.2.2 User has exceeded the mailbox quota", "bounce"),
        (Verb.FINAL, "554 You have exceeded your plan's monthly message allowance", "throttle day"),
        (Verb.FINAL, "550 Mail limit exceeded", "throttle day"),
        (Verb.RCPT, "550 Outbound quota exceeded for user ann", "throttle day"),
        (Verb.FINAL, "451 You have exceeded your hourly sending limit of 300", "throttle hour"),
        (Verb.FINAL, "550 Insufficient balance, please top up your account", "throttle day"),
        (Verb.RCPT, "552 User has exceeded the mailbox quota", "later"),
    ],
)
def test_what_is_exceeded_says_whose_it_is(verb: Verb, says: str, word: str) -> None:
    assert word == word_of(refusal_of(verb, parse(says)))


def test_rate_is_one_recipients_where_another_was_taken_in_the_same_transaction() -> None:
    refused = SmtpReply(450, (b"4.7.1 rate limit exceeded",))
    transaction = Transaction(
        (BOB, CAT), OK, {BOB: OK, CAT: refused}, SmtpReply(354, (b"",)), SmtpReply(250, (b"Ok",))
    )

    outcome = decide_outcome(transaction)

    assert isinstance(outcome, Accepted)
    assert "later" == word_of(outcome.refused[CAT])
    assert "throttle" == word_of(classify(Verb.RCPT, refused))


def test_rate_is_the_lanes_however_much_it_took_before() -> None:
    refusal = classify(Verb.RCPT, parse("450 4.7.1 rate limit exceeded"), others_get_through=True)

    assert "throttle" == word_of(refusal)


@pytest.mark.parametrize(
    ("says", "wait_s"),
    [
        ("550 Too many messages. Try again in 92 seconds.", 92.0),
        ("550 5.4.5 Daily limit exceeded, try again in 2 hours", 7200.0),
        ("550 5.4.5 Daily limit exceeded", DAY_RETRY_S),
        ("450 4.2.0 greylisted for 60 seconds, try again in 60 seconds", GREYLIST_RETRY_S),
    ],
)
def test_what_a_server_asks_for_goes_before_what_is_usual(says: str, wait_s: float) -> None:
    refusal = classify(Verb.RCPT, parse(says))

    assert isinstance(refusal, Deferred)
    assert wait_s == refusal.retry_after_s
