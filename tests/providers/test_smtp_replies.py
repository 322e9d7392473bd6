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


def refusal_of(verb: Verb, reply: SmtpReply) -> Outcome:
    """Return what becomes of a message to Bob alone, or of the command that was refused."""
    if verb is not Verb.FINAL:
        return classify(verb, reply)
    return decide_outcome(Transaction((BOB,), OK, {BOB: OK}, SmtpReply(354, (b"",)), reply))


@pytest.mark.parametrize("row", TABLE, ids=lambda row: f"{row['verb']} {row['says'][:60]}")
def test_reply_is_read_as_the_table_says(row: dict[str, str]) -> None:
    refusal = refusal_of(Verb[row["verb"]], parse(row["says"]))

    assert row["does"] == word_of(refusal)
    assert isinstance(refusal, Refusal)
    assert not refusal.reason.text.startswith("unmapped")


def test_table_is_large_and_each_row_says_where_it_is_from() -> None:
    assert len({(row["verb"], row["says"]) for row in TABLE}) == len(TABLE) >= 120
    assert all(row["source"] and row["means"] for row in TABLE)
    assert {*FINAL_WORDS, *LATER_WORDS, *WAITS_S, "split", "greylist"} == {
        row["does"] for row in TABLE
    }


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
