"""Recipient domains that take nothing now: asked rarely again, at no cost for others."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from mailactors.dispatch.attempt import Attempt, Done
from mailactors.dispatch.domains import (
    ASK_EVERY_S,
    DEFERRED_IN_A_ROW,
    DOMAINS_MAX,
    HOLD_JITTER,
    HOLD_MAX_S,
    HOLD_MIN_S,
    Domains,
    hold_time_s,
)
from mailactors.model.outcome import (
    Accepted,
    Deferred,
    NotAttempted,
    Outcome,
    Reason,
    Rejected,
    Scope,
    Uncertain,
    Why,
)
from mailactors.model.outcome import Phase as Lost
from mailactors.runtime.ports import SilentJournal
from mailactors.spool.port import Lease
from tests.dispatch.makers import ignore, make_lease

NOW_S = 1000.0
REASON = Reason("try again later", 421)
LATER = Deferred(Scope.DOMAIN, REASON)


class Listening(SilentJournal):
    """Keeps what was said."""

    def __init__(self) -> None:
        self.notes: list[tuple[str, Any]] = []

    def note(self, event: str, /, *, level: str = "info", **facts: Any) -> None:
        self.notes.append((event, facts["domain"]))


def lease_to(*addresses: str, attempts: int = 1) -> Lease:
    recipients = tuple(enumerate(addresses))
    return msgspec.structs.replace(make_lease(), recipients=recipients, attempts=attempts)


def end(domains: Domains, outcome: Outcome, *addresses: str, took_s: float = 0.1) -> None:
    """Let an attempt end at `NOW_S`."""
    attempt = Attempt("1", lease_to(*(addresses or ("bob@big.example",))), "primary", ignore)
    attempt.sending_s = NOW_S - took_s
    domains.note(Done(attempt, outcome, NOW_S))


def deferring(journal: Listening | None = None, took_s: float = 0.1) -> Domains:
    domains = Domains(journal or Listening())
    for _ in range(DEFERRED_IN_A_ROW):
        end(domains, LATER, took_s=took_s)
    return domains


BIG = lease_to("ann@big.example")


def test_a_few_deferrals_hold_nothing() -> None:
    domains = Domains(Listening())
    for _ in range(DEFERRED_IN_A_ROW - 1):
        end(domains, LATER)

    assert domains.deferring_s(BIG, NOW_S) is None


@pytest.mark.parametrize(
    ("own", "is_held"), [("@big.example", True), ("from:ann@own.example", False)]
)
def test_a_domain_over_its_own_limit_is_deferring_but_not_for_a_senders(
    own: str, is_held: bool
) -> None:
    domains = Domains(Listening())
    too_fast = Deferred(Scope.PROVIDER, Reason("rate limit", 450), throttled=True)
    for _ in range(DEFERRED_IN_A_ROW):
        attempt = Attempt("1", BIG, "primary", ignore, own_limits=frozenset({own}))
        domains.note(Done(attempt, too_fast, NOW_S))

    assert is_held is (domains.deferring_s(BIG, NOW_S) is not None)


def test_many_in_a_row_hold_what_was_tried_before_and_this_is_told() -> None:
    journal = Listening()
    domains = deferring(journal)
    end(domains, LATER)

    assert 0.5 == domains.deferring_s(BIG, NOW_S + 0.5)
    assert [("domain.deferring", "big.example")] == journal.notes


@pytest.mark.parametrize(
    "lease",
    [
        lease_to("ann@big.example", attempts=0),
        lease_to("ann@small.example"),
        lease_to("ann@big.example", "ann@small.example"),
    ],
    ids=["never tried", "another domain", "one of two is another"],
)
def test_what_is_new_or_not_only_for_that_domain_goes_out(lease: Lease) -> None:
    assert deferring().deferring_s(lease, NOW_S + 0.5) is None


def test_a_message_has_a_last_try_before_its_deadline() -> None:
    domains = deferring()

    held = domains.deferring_s(BIG, NOW_S + 0.5, left_s=3600.0)
    last = domains.deferring_s(BIG, NOW_S + 0.5, left_s=60.0)

    assert (0.5, None) == (held, last)


def test_letters_case_makes_no_other_domain() -> None:
    assert 0.5 == deferring().deferring_s(lease_to("ann@BIG.example"), NOW_S + 0.5)


@pytest.mark.parametrize(
    ("took_s", "every_s"), [(0.1, ASK_EVERY_S), (20.0, 20.0)], ids=["prompt", "slow"]
)
def test_one_asks_again_now_and_then(took_s: float, every_s: float) -> None:
    domains = deferring(took_s=took_s)
    at_s = [NOW_S + tick / 10 for tick in range(int(100 * every_s) + 1)]

    asked_s = [now_s for now_s in at_s if domains.deferring_s(BIG, now_s) is None]

    apart_s = [after - before for before, after in zip([NOW_S, *asked_s], asked_s, strict=False)]
    assert len(asked_s) >= 8
    assert min(apart_s) >= every_s - 1e-6


@pytest.mark.parametrize(
    ("outcome", "is_lifted"),
    [
        (Accepted("42"), True),
        (Rejected(Scope.RECIPIENT, REASON), True),
        (Rejected(Scope.MESSAGE, REASON), False),
        (Rejected(Scope.PROVIDER, REASON), False),
        (LATER, False),
        (Deferred(Scope.RECIPIENT, REASON), False),
        (Deferred(Scope.PROVIDER, REASON), False),
        (Uncertain(Lost.FINAL, REASON), False),
        (NotAttempted(Why.BREAKER), False),
    ],
    ids=str,
)
def test_the_first_that_is_taken_lifts_it(outcome: Outcome, is_lifted: bool) -> None:
    journal = Listening()
    domains = deferring(journal)

    end(domains, outcome)

    assert is_lifted is (domains.deferring_s(BIG, NOW_S + 0.5) is None)
    assert is_lifted is (("domain.lifted", "big.example") in journal.notes)


def test_a_success_in_between_begins_the_count_anew() -> None:
    domains = Domains(Listening())
    for number in range(3 * DEFERRED_IN_A_ROW):
        end(domains, Accepted("42") if number % DEFERRED_IN_A_ROW == 0 else LATER)

    assert domains.deferring_s(BIG, NOW_S) is None


def test_each_recipient_of_a_mixed_answer_speaks_for_its_own_domain() -> None:
    domains = Domains(Listening())
    mixed = Accepted("42", {"bob@big.example": LATER})
    for _ in range(DEFERRED_IN_A_ROW):
        end(domains, mixed, "bob@big.example", "bob@small.example")

    assert 0.5 == domains.deferring_s(BIG, NOW_S + 0.5)
    assert domains.deferring_s(lease_to("ann@small.example"), NOW_S + 0.5) is None


def test_the_memory_is_bounded() -> None:
    domains = deferring()
    for number in range(DOMAINS_MAX):
        end(domains, LATER, f"bob@d{number}.example")

    assert DOMAINS_MAX == len(domains._domains)
    assert domains.deferring_s(BIG, NOW_S + 0.5) is None


@pytest.mark.parametrize(
    ("deferring_s", "plain_s"), [(0.0, HOLD_MIN_S), (120.0, 60.0), (1e6, HOLD_MAX_S)]
)
def test_holds_grow_with_the_trouble_and_are_spread(deferring_s: float, plain_s: float) -> None:
    spread = [hold_time_s(deferring_s, draw) for draw in (0.0, 0.5, 1.0)]

    assert spread == pytest.approx([plain_s * share for share in (1 - HOLD_JITTER, 1, 1.25)])
