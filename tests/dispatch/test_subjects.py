"""Whose limit it is that refuses as too fast, by who else is accepted meanwhile."""

from __future__ import annotations

import pytest

from mailactors.dispatch.lane import LearntPace
from mailactors.dispatch.limiter import THROTTLE_WAIT_S, decide_return, new_state, next_permit_s
from mailactors.dispatch.quota import Quota
from mailactors.dispatch.subjects import (
    ASK_EVERY_S,
    LANE_LIMIT_S,
    OTHERS_MIN,
    STRIKES_LIMITED,
    STRIKES_OWN,
    SUBJECTS_MAX,
    Subjects,
    subjects_of,
)
from mailactors.model.outcome import Accepted, Deferred, Outcome, Reason, Rejected, Scope

TOO_FAST = Deferred(Scope.PROVIDER, Reason("slow down", 450, "4.7.1"), throttled=True)
SENT = Accepted("42")
BOUNCED = Rejected(Scope.RECIPIENT, Reason("no such user", 550, "5.1.1"))
BUSY = Deferred(Scope.PROVIDER, Reason("unavailable", 503))


OWN = "ann@own.example"


class Lane:
    """Attempts one after the other, a second apart."""

    def __init__(self) -> None:
        self.subjects = Subjects()
        self.now_s = 1000.0

    def end(
        self, outcome: Outcome, address: str, sender: str = "ann@own.example"
    ) -> frozenset[str]:
        permit_s, self.now_s = self.now_s, self.now_s + 1.0
        return self.subjects.note({address: outcome}, sender, permit_s, self.now_s - 0.5)

    def shared(self, address: str, sender: str = "ann@own.example") -> int:
        return self.subjects.shared(subjects_of([address], sender), self.now_s)


def strike(lane: Lane, times: int, address: str, sender: str, other: tuple[str, str]) -> list[bool]:
    """Refuse one message again and again while another is accepted in between."""
    found = []
    for _ in range(times):
        found.append(bool(lane.end(TOO_FAST, address, sender)))
        lane.end(SENT, *other)
    return found


@pytest.mark.parametrize(
    ("address", "sender", "other", "own"),
    [
        ("bob@a.example", "s@own.example", ("eve@a.example", "s@own.example"), "bob@a.example"),
        ("bob@a.example", "s@own.example", ("bob@b.example", "s@own.example"), "@a.example"),
        (
            "bob@a.example",
            "s@own.example",
            ("bob@a.example", "t@own.example"),
            "from:s@own.example",
        ),
    ],
    ids=["recipient", "domain", "sender"],
)
def test_what_is_refused_alone_again_and_again_has_a_limit_of_its_own(
    address: str, sender: str, other: tuple[str, str], own: str
) -> None:
    lane = Lane()

    found = strike(lane, STRIKES_OWN, address, sender, other)

    assert [False] * (STRIKES_OWN - 1) + [True] == found
    assert own in lane.end(TOO_FAST, address, sender)


def test_a_lanes_limit_is_nobodys_own() -> None:
    lane = Lane()
    for number in range(300):
        outcome = TOO_FAST if number % 6 == 5 else SENT

        assert not lane.end(outcome, f"bob{number}@{'ab'[number % 2]}.example")


@pytest.mark.parametrize("others", range(1, OTHERS_MIN + 1))
def test_the_same_one_is_refused_each_time_at_a_limit_that_the_lane_has_shown(others: int) -> None:
    lane, own = Lane(), []
    lane.end(TOO_FAST, "first@a.example")
    lane.end(SENT, "first@a.example")
    for _ in range(STRIKES_LIMITED):
        own.append(lane.end(TOO_FAST, "bob@a.example"))
        for number in range(others):
            lane.end(SENT, f"eve{number}@a.example")

    assert not any(own[:-1])
    assert (others == OTHERS_MIN) is bool(own[-1])


def test_a_lanes_limit_is_shown_for_a_while_and_by_the_same_sender_only() -> None:
    lane = Lane()
    other = ("eve@b.example", "t@own.example")
    lane.end(TOO_FAST, "first@a.example", "s@own.example")
    lane.end(SENT, "first@a.example", "t@own.example")
    soon = strike(lane, STRIKES_OWN, "bob@a.example", "s@own.example", other)
    lane.end(SENT, "bob@a.example", "s@own.example")
    lane.now_s += LANE_LIMIT_S
    later = strike(lane, STRIKES_OWN, "bob@a.example", "s@own.example", other)

    assert [True, True] == [soon[-1], later[-1]]


def test_refusals_of_what_was_under_way_are_one() -> None:
    subjects = Subjects()
    for number in range(20):
        at_s = 10.0 + 0.01 * number
        subjects.note({"eve@b.example": SENT}, "t@own.example", at_s, at_s + 0.2)
        own = subjects.note({"bob@a.example": TOO_FAST}, "s@own.example", at_s, at_s + 0.2)

        assert frozenset() == own or number * 0.01 > 0.2 * (STRIKES_OWN - 1)


def test_without_others_there_is_no_evidence() -> None:
    lane = Lane()

    assert not any(lane.end(TOO_FAST, "bob@a.example") for _ in range(50))


@pytest.mark.parametrize(("other", "is_evidence"), [(BOUNCED, True), (BUSY, False)], ids=str)
def test_a_bounce_shows_that_the_lane_takes_others_and_a_failure_does_not(
    other: Outcome, is_evidence: bool
) -> None:
    lane, own = Lane(), frozenset[str]()
    for _ in range(STRIKES_OWN):
        own = lane.end(TOO_FAST, "bob@a.example")
        lane.end(other, "eve@b.example", "t@own.example")

    assert is_evidence is bool(own)


def test_one_that_is_accepted_begins_anew() -> None:
    lane = Lane()
    strike(lane, STRIKES_OWN, "bob@a.example", "s@x.example", ("eve@b.example", "t@x.example"))

    lane.end(SENT, "bob@a.example", "s@x.example")

    assert not lane.end(TOO_FAST, "bob@a.example", "s@x.example")


def test_what_has_an_own_limit_at_one_lane_needs_no_other_witness_at_the_next() -> None:
    elsewhere: dict[str, float] = {}
    first, second = Lane(), Lane()
    first.subjects, second.subjects = Subjects(elsewhere), Subjects(elsewhere)
    strike(first, STRIKES_OWN, "bob@a.example", OWN, ("eve@b.example", "t@own.example"))

    own, other = second.end(TOO_FAST, "eve@a.example"), second.end(TOO_FAST, "x@b.example", "t@x")

    assert {"@a.example", f"from:{OWN}"} == own
    assert frozenset() == other


def test_one_recipient_of_several_is_told_from_the_others() -> None:
    lane, own = Lane(), frozenset[str]()
    apart: dict[str, Outcome] = {"bob@a.example": TOO_FAST, "eve@b.example": SENT}
    for _ in range(STRIKES_OWN):
        lane.now_s += 1.0
        own = lane.subjects.note(apart, "s@own.example", lane.now_s, lane.now_s + 0.5)

    assert {"bob@a.example", "@a.example"} == own


def test_others_go_first_until_one_of_them_got_through() -> None:
    lane = Lane()
    lane.end(TOO_FAST, "bob@a.example")

    suspects = (
        lane.shared("bob@a.example"),
        lane.shared("eve@a.example"),
        lane.shared("x@b.example"),
    )
    lane.end(SENT, "x@b.example", "t@own.example")

    assert (3, 2, 1) == suspects
    assert 0 == lane.shared("bob@a.example")


def test_one_with_an_own_limit_goes_behind_the_others_but_is_asked_now_and_then() -> None:
    lane = Lane()
    strike(lane, STRIKES_OWN, "bob@a.example", "s@x.example", ("eve@a.example", "s@x.example"))

    soon = lane.shared("bob@a.example", "s@x.example")
    lane.now_s += ASK_EVERY_S

    assert (1, 0) == (soon, lane.shared("bob@a.example", "s@x.example"))


def test_the_memory_is_bounded() -> None:
    lane = Lane()
    for number in range(SUBJECTS_MAX):
        lane.end(TOO_FAST, f"bob{number}@a.example")

    assert 0 == lane.shared("bob0@other.example", "z@z.example")
    assert SUBJECTS_MAX == len(lane.subjects._known)


def test_an_own_limit_neither_closes_the_lane_nor_teaches_it_a_pace() -> None:
    state, mine = new_state(Quota()), frozenset({"bob@a.example"})

    decide_return(state, 5.0, TOO_FAST, 5.1, 0.0, mine, own=mine)

    assert 5.1 == next_permit_s(state, 5.1)
    assert state.pacing.lesson is None


@pytest.mark.parametrize(("others", "is_forgotten"), [((), True), (("eve@b.example",), False)])
def test_a_pace_is_forgotten_that_only_an_own_limit_has_taught(
    others: tuple[str, ...], is_forgotten: bool
) -> None:
    state, mine = new_state(Quota()), frozenset({"bob@a.example"})
    for name in ("bob@a.example", *others):
        decide_return(state, 5.0, TOO_FAST, 5.1, 0.0, frozenset({name}))
    state.pacing.learnt = LearntPace(0.2, 0.2, 5.0, 6.0, 10.0)

    decide_return(state, 9.0, TOO_FAST, 9.1, 0.0, mine, own=mine)

    assert is_forgotten is (state.pacing.learnt is None)
    assert next_permit_s(state, 9.1) <= 5.1 + THROTTLE_WAIT_S + 4.0
