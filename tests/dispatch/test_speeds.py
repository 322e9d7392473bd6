"""Whose slowness it is, a recipient domain's or a provider's, and how many slots a domain has."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailactors.dispatch.speeds import DOMAINS_MAX, Speeds, slots_of_domain
from mailactors.observe.alarms import is_free
from tests.dispatch.makers import make_attempt, make_lane

LANE = "primary"


def speeds_of(late: str = "", prompt: str = "", elsewhere: str = "") -> Speeds:
    """Return what is known at 110 s, each domain by a letter."""
    speeds = Speeds()
    for number, (lane, domains) in enumerate(
        [(LANE, prompt), ("secondary", elsewhere), (LANE, late)]
    ):
        for domain in domains:
            speeds.note(lane, frozenset({domain}), 105.0 + number, is_late=domains is late)
    return speeds


@pytest.mark.parametrize(
    ("known", "is_lost", "expected"),
    [
        (speeds_of(), False, True),  # nothing speaks for the provider's own slowness
        (speeds_of(), True, False),
        (speeds_of(late="d"), False, True),
        (speeds_of(late="de"), False, True),
        (speeds_of(late="def"), False, False),
        (speeds_of(late="de", prompt="p"), False, True),
        (speeds_of(late="de", prompt="p"), True, True),
        (speeds_of(late="defg", prompt="pqrst"), False, True),
        (speeds_of(late="defgh", prompt="pqrst"), False, False),
        (speeds_of(elsewhere="d"), False, False),
        (speeds_of(elsewhere="e"), False, True),
        (speeds_of(elsewhere="d", prompt="p"), False, True),
        (speeds_of(prompt="d"), False, False),  # slow now and then only
    ],
)
def test_slowness_is_the_domains_unless_much_speaks_against_the_provider(
    known: Speeds, is_lost: bool, expected: bool
) -> None:
    assert expected is known.is_domains_own(LANE, frozenset("d"), 100.0, is_lost=is_lost)


def test_what_was_before_the_call_is_no_evidence() -> None:
    known = speeds_of(late="def", elsewhere="d")

    assert known.is_domains_own(LANE, frozenset("d"), 108.0, is_lost=False)


def test_the_latest_answer_decides_whether_a_domain_is_prompt() -> None:
    speeds = Speeds()
    found = [speeds.is_prompt(LANE, "d")]
    for is_late in (False, True, False):
        speeds.note(LANE, frozenset("d"), 1.0, is_late=is_late)
        found.append(speeds.is_prompt(LANE, "d"))

    assert [False, True, False, True] == found
    assert not speeds.is_prompt("secondary", "d")


def test_the_memory_is_bounded() -> None:
    speeds = Speeds()
    for number in range(DOMAINS_MAX + 1):
        speeds.note(LANE, frozenset({str(number)}), float(number), is_late=False)

    assert not speeds.is_prompt(LANE, "0")
    assert speeds.is_prompt(LANE, "1")


@given(slots=st.integers(1, 200), domains=st.integers(1, 12))
def test_however_many_domains_are_slow_a_new_one_finds_a_slot(slots: int, domains: int) -> None:
    taken = [0] * domains
    for number in range(domains):
        while sum(taken) < slots and taken[number] < slots_of_domain(
            slots, sum(taken), taken[number], is_prompt=False
        ):
            taken[number] += 1

    assert sum(taken) < slots or slots < 2**domains


def test_a_lane_counts_a_domains_attempts_until_they_end() -> None:
    lane = make_lane(concurrency_max=4)
    for number in range(2):
        lane.offer(make_attempt(lane, number), 0.0)
    full = lane.has_room_for(["x.example"]), lane.has_room_for(["y.example"])
    crowded = [lane.is_crowded, is_free(lane, 0.0)]

    lane.end(next(iter(lane.in_flight.values())))

    assert (False, True) == full
    assert [True, False] == crowded
    assert lane.has_room_for(["x.example"])
    assert is_free(lane, 0.0)
