"""The tables: what each refusal means, and several of them together."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailactors.model.outcome import (
    Accepted,
    Deferred,
    Phase,
    Reason,
    Rejected,
    Scope,
    Uncertain,
    Verdict,
    decide_verdict,
)
from mailactors.providers.smtp.classify import (
    classify,
    decide_outcome,
    parse_queue_id,
    parse_retry_hint,
)
from mailactors.providers.smtp.replies import SmtpReply
from mailactors.providers.smtp.rulings import BY_CODE
from mailactors.providers.smtp.transaction import Transaction
from mailactors.providers.smtp.verbs import Verb

BOB, CAT, DAN = "bob@y.example", "cat@z.example", "dan@z.example"


def make_reply(line: str) -> SmtpReply:
    return SmtpReply(int(line[:3]), (line[4:].encode(),))


@pytest.mark.parametrize(
    ("verb", "line", "kind", "scope"),
    [
        (Verb.GREETING, "554 no service here", Deferred, Scope.PROVIDER),
        (Verb.EHLO, "421 busy", Deferred, Scope.PROVIDER),
        (Verb.HELO, "550 go away", Deferred, Scope.PROVIDER),
        (Verb.AUTH, "535 5.7.8 bad credentials", Rejected, Scope.PROVIDER),
        (Verb.AUTH, "534 5.7.9 too weak", Rejected, Scope.PROVIDER),
        (Verb.AUTH, "454 4.7.0 temporary failure", Deferred, Scope.PROVIDER),
        (Verb.MAIL, "451 4.3.0 later", Deferred, Scope.PROVIDER),
        (Verb.MAIL, "530 5.7.0 authentication required", Rejected, Scope.PROVIDER),
        (Verb.MAIL, "550 5.7.1 sender not verified", Deferred, Scope.PROVIDER),
        (Verb.MAIL, "552 5.3.4 too big", Rejected, Scope.MESSAGE),
        (Verb.MAIL, "553 5.1.7 bad sender", Rejected, Scope.MESSAGE),
        (Verb.RCPT, "421 4.7.0 not this domain", Deferred, Scope.DOMAIN),
        (Verb.RCPT, "450 4.2.1 mailbox busy", Deferred, Scope.RECIPIENT),
        (Verb.RCPT, "452 4.5.3 too many recipients", Deferred, Scope.RECIPIENT),
        (Verb.RCPT, "452 4.3.1 disk full", Deferred, Scope.PROVIDER),
        (Verb.RCPT, "454 4.7.1 relay access denied", Deferred, Scope.PROVIDER),
        (Verb.RCPT, "550 no such user", Rejected, Scope.RECIPIENT),
        (Verb.RCPT, "550 5.1.1 no such user", Rejected, Scope.RECIPIENT),
        (Verb.RCPT, "551 moved", Rejected, Scope.RECIPIENT),
        (Verb.RCPT, "553 5.1.3 bad syntax", Rejected, Scope.RECIPIENT),
        (Verb.RCPT, "556 5.1.10 null MX", Rejected, Scope.RECIPIENT),
        (Verb.RCPT, "552 5.2.2 over quota", Deferred, Scope.RECIPIENT),
        (Verb.RCPT, "552 5.3.4 message too big", Rejected, Scope.MESSAGE),
        (Verb.RCPT, "552 message size exceeds limit", Rejected, Scope.MESSAGE),
        # Postfix says at RCPT what it thinks of the sender and of us: nobody is to be suppressed.
        (Verb.RCPT, "553 5.7.1 <a>: Sender address rejected: not owned", Deferred, Scope.PROVIDER),
        (Verb.RCPT, "554 5.7.1 <b>: Relay access denied", Rejected, Scope.PROVIDER),
        (Verb.RCPT, "554 5.7.1 policy", Rejected, Scope.MESSAGE),
        (Verb.RCPT, "550 5.7.1 Service unavailable; client blocked", Rejected, Scope.MESSAGE),
        (Verb.DATA, "554 5.5.1 no valid recipients", Rejected, Scope.MESSAGE),
        (Verb.DATA, "421 closing", Deferred, Scope.PROVIDER),
        (Verb.FINAL, "421 4.3.2 closing", Deferred, Scope.PROVIDER),
        (Verb.FINAL, "451 4.3.0 queue file write error", Deferred, Scope.PROVIDER),
        (Verb.FINAL, "451 4.7.1 try again", Deferred, Scope.MESSAGE),
        (Verb.FINAL, "550 5.7.1 spam", Rejected, Scope.MESSAGE),
        (Verb.FINAL, "552 5.3.4 too big", Rejected, Scope.MESSAGE),
        (Verb.FINAL, "554 Message rejected: Email address is not verified.", Deferred,
         Scope.PROVIDER),
    ],
)  # fmt: skip
def test_refusal_means(verb: Verb, line: str, kind: type, scope: Scope) -> None:
    refusal = classify(verb, make_reply(line))

    assert (kind, scope) == (type(refusal), refusal.scope)
    assert refusal.reason.code == int(line[:3])
    assert not refusal.reason.text.startswith("unmapped")


@pytest.mark.parametrize(
    ("line", "wait_s"),
    [
        ("450 4.2.0 <b>: Recipient address rejected: Greylisted", 300),
        ("451 4.7.1 Greylisting in action, please come back in 00:04:59", 300),
        ("450 greylisted, try again in 10 minutes", 600),
        ("450 4.2.1 mailbox busy, retry after 30 seconds", 30),
        ("450 4.2.1 mailbox busy", None),
    ],
)
def test_greylisting_waits_at_least_300_seconds(line: str, wait_s: float | None) -> None:
    refusal = classify(Verb.RCPT, make_reply(line))

    assert isinstance(refusal, Deferred)
    assert (Scope.RECIPIENT, wait_s) == (refusal.scope, refusal.retry_after_s)


@pytest.mark.parametrize(
    "line",
    [
        "451 4.7.1 please try again later",
        "450 4.7.1 <b@y.example>: Recipient address rejected: Access denied",
        "451 4.7.0 temporarily refused",
    ],
)
def test_access_policy_is_no_greylisting(line: str) -> None:
    refusal = classify(Verb.RCPT, make_reply(line))

    assert Deferred(Scope.MESSAGE, make_reply(line).to_reason()) == refusal


@pytest.mark.parametrize(
    ("verb", "line"),
    [
        (Verb.FINAL, "454 Throttling failure: Maximum sending rate exceeded."),
        (Verb.MAIL, "454 Throttling failure: Daily message quota exceeded."),
        (Verb.MAIL, "421 4.7.0 Rate limit exceeded, try again in 60 seconds"),
        (Verb.GREETING, "421 4.7.0 Too many concurrent connections"),
    ],
)
def test_throttling_is_the_limiters_affair(verb: Verb, line: str) -> None:
    refusal = classify(verb, make_reply(line))

    assert isinstance(refusal, Deferred)
    assert refusal.throttled
    assert decide_verdict(refusal) is Verdict.IGNORED


def test_unlisted_code_is_said_to_be_unmapped() -> None:
    before = classify(Verb.RCPT, make_reply("599 what"))
    after = classify(Verb.FINAL, make_reply("599 what"))
    later = classify(Verb.FINAL, make_reply("499 what"))

    assert Deferred(Scope.PROVIDER, Reason("unmapped reply to RCPT: what", 599)) == before
    assert Rejected(Scope.MESSAGE, Reason("unmapped reply to final dot: what", 599)) == after
    assert Deferred(Scope.PROVIDER, Reason("unmapped reply to final dot: what", 499)) == later


def test_each_code_stands_once_and_agrees_with_its_class() -> None:
    for verb, rows in BY_CODE.items():
        codes = [code for codes in rows.values() for code in codes]
        assert len(set(codes)) == len(codes), verb
        # A 4yz may work later, by its very meaning.
        assert all(
            code // 100 == 5 for ruling, codes in rows.items() for code in codes if ruling.is_final
        )


@given(st.sampled_from(list(Verb)), st.integers(400, 599), st.text(max_size=40))
def test_every_refusal_means_something(verb: Verb, code: int, text: str) -> None:
    refusal = classify(verb, SmtpReply(code, (text.encode("utf-8", "replace"),)))

    assert refusal.reason.code == code
    assert len(refusal.reason.text) < 600


def make_transaction(
    answers: dict[str, str], *, mail: str = "250 ok", data: str = "", final: str = ""
) -> Transaction:
    return Transaction(
        tuple(answers),
        make_reply(mail),
        {recipient: make_reply(line) for recipient, line in answers.items()},
        make_reply(data) if data else None,
        make_reply(final) if final else None,
    )


def test_some_refused_and_the_rest_accepted() -> None:
    answers = {BOB: "250 ok", CAT: "550 5.1.1 no", DAN: "450 4.2.1 busy"}

    outcome = decide_outcome(make_transaction(answers, data="354 go", final="250 queued as X"))

    assert isinstance(outcome, Accepted)
    assert {CAT: Rejected, DAN: Deferred} == {r: type(o) for r, o in outcome.refused.items()}


def test_all_refused_alike_is_that_refusal_with_each_by_name() -> None:
    outcome = decide_outcome(make_transaction({BOB: "550 5.1.1 no", CAT: "551 5.1.6 moved"}))

    assert isinstance(outcome, Rejected)
    assert outcome.scope is Scope.RECIPIENT
    assert {r: o.reason.code for r, o in outcome.refused.items()} == {BOB: 550, CAT: 551}


def test_all_refused_differently_may_still_work_for_some() -> None:
    outcome = decide_outcome(make_transaction({BOB: "550 5.1.1 no", CAT: "450 4.2.1 busy"}))

    assert isinstance(outcome, Deferred)
    assert outcome.scope is Scope.RECIPIENT
    assert list(outcome.refused) == [BOB, CAT]


@pytest.mark.parametrize("code", ["550", "551", "553", "501", "521", "510", "556"])
def test_bare_refusal_of_a_recipient_proves_nothing(code: str) -> None:
    refusal = classify(Verb.RCPT, make_reply(f"{code} not here"))

    assert isinstance(refusal, Rejected)
    assert (Scope.RECIPIENT, False) == (refusal.scope, refusal.is_sure)


@pytest.mark.parametrize("enhanced", ["5.1.1", "5.1.2", "5.1.3", "5.1.6", "5.2.1", "5.2.2"])
def test_enhanced_code_of_a_mailbox_is_proof(enhanced: str) -> None:
    refusal = classify(Verb.RCPT, make_reply(f"550 {enhanced} not here"))

    assert isinstance(refusal, Rejected)
    assert (Scope.RECIPIENT, True) == (refusal.scope, refusal.is_sure)


def test_recipients_that_a_transaction_has_no_room_for_go_in_a_further_one() -> None:
    answers = {BOB: "250 ok", CAT: "452 4.5.3 too many recipients", DAN: "550 too many recipients"}

    outcome = decide_outcome(make_transaction(answers, data="354 go", final="250 queued as X"))

    assert isinstance(outcome, Accepted)
    refused = [outcome.refused[r] for r in (CAT, DAN)]
    assert [True, True] == [isinstance(r, Deferred) and r.at_once for r in refused]


def test_where_not_one_recipient_fits_nothing_is_split() -> None:
    outcome = decide_outcome(make_transaction({BOB: "452 4.5.3 too many recipients"}))

    assert isinstance(outcome, Deferred)
    assert (Scope.MESSAGE, False) == (outcome.scope, outcome.at_once)
    assert not any(isinstance(r, Deferred) and r.at_once for r in outcome.refused.values())


@pytest.mark.parametrize(
    ("line", "is_together", "scope"),
    [
        ("421 4.3.2 shutting down", False, Scope.PROVIDER),
        ("421 closing connection", False, Scope.PROVIDER),
        ("421 see you", True, Scope.PROVIDER),
        ("421 see you", False, Scope.DOMAIN),
        ("421 4.7.0 not you", True, Scope.DOMAIN),
        ("421 too much mail for z.example, closing", True, Scope.DOMAIN),
    ],
)
def test_421_at_a_recipient_is_the_servers_own_or_the_domains(
    line: str, is_together: bool, scope: Scope
) -> None:
    transaction = make_transaction({BOB: "250 ok", CAT: line})
    transaction.is_read_together = is_together

    outcome = decide_outcome(transaction)

    assert isinstance(outcome, Deferred)
    assert scope is outcome.scope


@pytest.mark.parametrize("answers", [{}, {BOB: "250 ok"}, {BOB: "550 5.1.1 no"}])
def test_421_that_answers_nothing_is_certainly_not_sent(answers: dict[str, str]) -> None:
    transaction = make_transaction(answers)
    transaction.closing = make_reply("421 4.3.2 shutting down")

    outcome = decide_outcome(transaction)

    assert isinstance(outcome, Deferred)
    assert Scope.PROVIDER is outcome.scope
    assert [r for r, line in answers.items() if line[0] == "5"] == list(outcome.refused)


def test_refusal_after_the_dot_concerns_whom_it_names() -> None:
    answers = {BOB: "250 ok", CAT: "250 ok", DAN: "550 5.1.1 no"}
    final = "550 5.1.1 <cat@z.example> no such user"

    outcome = decide_outcome(make_transaction(answers, data="354 go", final=final))

    assert isinstance(outcome, Deferred)
    assert outcome.at_once
    assert decide_verdict(outcome) is Verdict.SUCCESS
    assert [DAN, CAT] == list(outcome.refused)
    assert outcome.refused[CAT] == classify(Verb.RCPT, make_reply(final))


def test_refusal_after_the_dot_that_names_nobody_is_the_messages() -> None:
    final = "550 5.1.1 <concat@z.example> no such user"

    outcome = decide_outcome(
        make_transaction({BOB: "250 ok", CAT: "250 ok"}, data="354 go", final=final)
    )

    assert isinstance(outcome, Rejected)
    assert Scope.MESSAGE is outcome.scope


def test_refusal_after_the_dot_that_names_everybody_is_everybodys() -> None:
    final = "550 5.2.1 <bob@y.example>, <cat@z.example>: disabled"

    outcome = decide_outcome(
        make_transaction({BOB: "250 ok", CAT: "250 ok"}, data="354 go", final=final)
    )

    assert isinstance(outcome, Rejected)
    assert Scope.RECIPIENT is outcome.scope


def test_hang_up_over_one_recipient_leaves_the_others_to_another_time() -> None:
    answers = {BOB: "250 ok", CAT: "550 5.1.1 no", DAN: "421 4.7.0 enough"}

    outcome = decide_outcome(make_transaction(answers))

    assert isinstance(outcome, Deferred)
    assert outcome.scope is Scope.DOMAIN
    assert list(outcome.refused) == [CAT, DAN]
    assert decide_verdict(outcome) is not Verdict.FAILURE


def test_content_refused_keeps_who_was_refused_by_name() -> None:
    answers = {BOB: "250 ok", CAT: "550 5.1.1 no"}

    outcome = decide_outcome(make_transaction(answers, data="354 go", final="554 5.7.1 spam"))

    assert isinstance(outcome, Rejected)
    assert outcome.scope is Scope.MESSAGE
    assert list(outcome.refused) == [CAT]


def test_unknown_mailbox_after_the_dot_is_the_recipients_if_there_is_one() -> None:
    final = "550 5.1.1 no such user"

    one = decide_outcome(make_transaction({BOB: "250 ok"}, data="354 go", final=final))
    two = decide_outcome(
        make_transaction({BOB: "250 ok", CAT: "250 ok"}, data="354 go", final=final)
    )

    assert isinstance(one, Rejected)
    assert one.scope is Scope.RECIPIENT
    assert isinstance(two, Rejected)
    assert two.scope is Scope.MESSAGE


@pytest.mark.parametrize(
    "final",
    [
        "550 5.1.0 spam detected",
        "554 5.2.0 STOREDRV.Submission.Exception: unknown",
        "554 Transaction failed: Configuration set does not exist",
        "550 message sending for this account is disabled",
    ],
)
def test_not_every_51_after_the_dot_is_a_mailbox(final: str) -> None:
    outcome = decide_outcome(make_transaction({BOB: "250 ok"}, data="354 go", final=final))

    assert isinstance(outcome, Rejected)
    assert Scope.RECIPIENT is not outcome.scope


@pytest.mark.parametrize(
    ("line", "enhanced"),
    [
        ("550 sorry, no mailbox here by that name. (#5.1.1)", "5.1.1"),
        ("452 #4.5.3 Too many recipients.", "4.5.3"),
        ("550 5.1.1 no (#5.7.1)", "5.1.1"),
        ("550 sorry (#4.4.1)", None),
        ("550 sorry, see (5.1.1)", None),
    ],
)
def test_enhanced_code_as_qmail_says_it(line: str, enhanced: str | None) -> None:
    assert enhanced == make_reply(line).enhanced


@pytest.mark.parametrize("phase", list(Phase))
def test_only_a_loss_after_the_dot_is_uncertain(phase: Phase) -> None:
    transaction = make_transaction({BOB: "250 ok", CAT: "550 no"}, data="354 go")

    outcome = decide_outcome(transaction, (phase, Reason("gone")))

    assert isinstance(outcome, Uncertain if phase is Phase.FINAL else Deferred)
    assert list(outcome.refused) == [CAT]


def test_answer_goes_before_a_loss() -> None:
    transaction = make_transaction({BOB: "250 ok"}, data="354 go", final="250 queued as X")

    assert Accepted("X") == decide_outcome(transaction, (Phase.FINAL, Reason("gone")))


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Ok: queued as 4XyZ12", "4XyZ12"),
        ("OK id=1rAbCd-0001Ab-2C", "1rAbCd-0001Ab-2C"),
        ("Ok 0102018e0a1b2c3d-11111111-000000", "0102018e0a1b2c3d-11111111-000000"),
        ("OK: message queued as abc", "abc"),
        ("Message accepted for delivery", "Message accepted for delivery"),
        ("Ok", "Ok"),
    ],
)
def test_name_that_the_server_gave(text: str, name: str) -> None:
    assert name == parse_queue_id(text)


@pytest.mark.parametrize(
    ("text", "wait_s"),
    [
        ("try again in 5 minutes", 300),
        ("please wait 45 seconds", 45),
        ("retry after 2 hours", 7200),
        ("Try again in 99999 h", 86400),
        ("try again later", None),
        ("mailbox 300 is busy", None),
        ("again in 5 monkeys", None),
    ],
)
def test_hint_when_to_come_back(text: str, wait_s: float | None) -> None:
    assert wait_s == parse_retry_hint(text)
