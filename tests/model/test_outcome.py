"""Outcomes: each recipient's own, and what the breaker learns."""

from typing import get_args

import msgspec
import pytest

from mailactors.model.outcome import (
    Accepted,
    Deferred,
    NotAttempted,
    Outcome,
    Phase,
    Reason,
    Rejected,
    Scope,
    Uncertain,
    Verdict,
    Why,
    decide_verdict,
    split_by_recipient,
)

WHY = Reason("because", 451, "4.2.0")
GONE = Rejected(Scope.RECIPIENT, Reason("no such user", 550, "5.1.1"))
LATER = Deferred(Scope.RECIPIENT, Reason("greylisted", 451), 300.0)

SCOPED: list[Outcome] = [
    *(Deferred(scope, WHY, throttled=False) for scope in Scope),
    *(Rejected(scope, WHY) for scope in Scope),
]
THROTTLED: list[Outcome] = [Deferred(scope, WHY, throttled=True) for scope in Scope]
UNCERTAIN: list[Outcome] = [Uncertain(phase, WHY) for phase in Phase]
NOT_ATTEMPTED: list[Outcome] = [NotAttempted(why) for why in Why]
EVERY: list[Outcome] = [Accepted("1"), *SCOPED, *THROTTLED, *UNCERTAIN, *NOT_ATTEMPTED]


def name(outcome: Outcome) -> str:
    parts = (type(outcome).__name__, *(str(getattr(outcome, f, "")) for f in ("scope", "phase")))
    return " ".join(part for part in parts if part)


def test_these_are_all_kinds_of_outcome() -> None:
    assert {type(outcome) for outcome in EVERY} == set(get_args(Outcome))


@pytest.mark.parametrize("outcome", EVERY, ids=name)
def test_without_exceptions_all_recipients_share_the_outcome(outcome: Outcome) -> None:
    apart = split_by_recipient(outcome, ["b", "a"])

    assert list(apart.items()) == [("b", outcome), ("a", outcome)]


@pytest.mark.parametrize(
    "outcome",
    [
        Accepted("1", {"gone": GONE, "later": LATER}),
        Deferred(Scope.PROVIDER, WHY, refused={"gone": GONE, "later": LATER}),
        Rejected(Scope.MESSAGE, WHY, {"gone": GONE, "later": LATER}),
        Uncertain(Phase.FINAL, WHY, {"gone": GONE, "later": LATER}),
    ],
    ids=name,
)
def test_a_refused_recipient_has_an_outcome_of_its_own(outcome: Outcome) -> None:
    apart = split_by_recipient(outcome, ["later", "fine", "gone"])

    assert list(apart.items()) == [("later", LATER), ("fine", outcome), ("gone", GONE)]


def test_a_refusal_of_another_recipient_changes_no_outcome() -> None:
    outcome = Accepted("1", {"stranger": GONE})

    assert split_by_recipient(outcome, ["fine"]) == {"fine": outcome}


def test_no_recipients_have_no_outcomes() -> None:
    assert all(split_by_recipient(outcome, []) == {} for outcome in EVERY)


@pytest.mark.parametrize("outcome", SCOPED, ids=name)
def test_only_a_refusal_about_the_provider_speaks_against_it(outcome: Deferred | Rejected) -> None:
    is_about_it = outcome.scope is Scope.PROVIDER

    assert decide_verdict(outcome) is (Verdict.FAILURE if is_about_it else Verdict.SUCCESS)


@pytest.mark.parametrize("outcome", [*THROTTLED, *NOT_ATTEMPTED], ids=name)
def test_what_says_nothing_about_health_is_ignored(outcome: Outcome) -> None:
    assert decide_verdict(outcome) is Verdict.IGNORED


@pytest.mark.parametrize("outcome", UNCERTAIN, ids=name)
def test_a_lost_connection_speaks_against_the_provider(outcome: Outcome) -> None:
    assert decide_verdict(outcome) is Verdict.FAILURE


@pytest.mark.parametrize("outcome", [Accepted("1"), *SCOPED, *THROTTLED, *UNCERTAIN], ids=name)
def test_a_refused_recipient_does_not_change_the_providers_verdict(outcome: Outcome) -> None:
    mixed = msgspec.structs.replace(outcome, refused={"gone": GONE, "later": LATER})

    assert decide_verdict(mixed) is decide_verdict(outcome)


@pytest.mark.parametrize("outcome", EVERY, ids=name)
def test_an_outcome_survives_being_written_down(outcome: Outcome) -> None:
    packed = msgspec.json.encode(outcome)

    assert msgspec.json.decode(packed, type=Outcome) == outcome
