"""Every pair of states, what is final, and the public names of deliveries and messages."""

import itertools
import typing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailactors.errors import MailactorsError
from mailactors.model.lifecycle import (
    FINAL,
    NEXT,
    PENDING,
    STATES_OF,
    IllegalTransitionError,
    State,
    Status,
    check_transition,
    status_of,
    summarize_statuses,
)

WITHDRAWN = "expired suppressed cancelled"
FOLLOWING = {
    "ready": f"leased sent failed {WITHDRAWN}",
    "deferred": f"leased sent failed {WITHDRAWN}",
    "leased": f"ready deferred sending sent failed {WITHDRAWN}",
    "sending": "sent bounced failed leased ready deferred uncertain expired",
    "uncertain": "sent bounced failed ready deferred held sending",
    "held": "sent bounced failed ready",
}
"""The table written out once more, so that a change of it is deliberate."""
PAIRS = list(itertools.product(State, State))


def is_legal(before: State, after: State) -> bool:
    return after.value in FOLLOWING.get(before.value, "").split()


@pytest.mark.parametrize(
    ("before", "after"), [pair for pair in PAIRS if is_legal(*pair)], ids=" to ".join
)
def test_a_step_of_the_table_is_allowed(before: State, after: State) -> None:
    check_transition(before, after)


@pytest.mark.parametrize(
    ("before", "after"), [pair for pair in PAIRS if not is_legal(*pair)], ids=" to ".join
)
def test_a_step_that_is_not_in_the_table_is_a_bug(before: State, after: State) -> None:
    with pytest.raises(IllegalTransitionError, match=f"from {before} to {after}"):
        check_transition(before, after)


def test_the_table_has_every_state_and_cannot_be_changed() -> None:
    with pytest.raises(TypeError):
        typing.cast("dict[State, frozenset[State]]", NEXT)[State.SENT] = frozenset()

    assert set(NEXT) == set(State)
    assert issubclass(IllegalTransitionError, MailactorsError)


def test_every_state_is_either_final_or_pending() -> None:
    assert {state.value for state in FINAL} == {"sent", "bounced", "failed", *WITHDRAWN.split()}
    assert FINAL | PENDING == set(State)
    assert FINAL & PENDING == set()
    assert State.HELD in PENDING


@pytest.mark.parametrize("start", sorted(PENDING))
def test_every_pending_state_can_reach_an_end(start: State) -> None:
    assert reachable(start) & FINAL


@pytest.mark.parametrize("end", sorted(FINAL))
def test_a_final_state_is_never_left(end: State) -> None:
    assert reachable(end) == {end}


def test_what_may_have_been_sent_is_never_withdrawn_as_if_it_were_not() -> None:
    assert NEXT[State.UNCERTAIN] & {State.EXPIRED, State.CANCELLED, State.SUPPRESSED} == set()
    assert NEXT[State.HELD] & {State.EXPIRED, State.CANCELLED, State.SUPPRESSED} == set()


def test_nothing_is_sent_without_an_intent() -> None:
    before_sent = {state for state in State if State.SENT in NEXT[state]}
    before_sending = {state for state in State if State.SENDING in NEXT[state]}

    # A pending delivery had an intent before: evidence says that attempt was accepted.
    assert before_sent == PENDING
    assert before_sending == {State.LEASED, State.UNCERTAIN}


def reachable(start: State) -> set[State]:
    found = {start}
    while True:
        more = found.union(*(NEXT[state] for state in found))
        if more == found:
            return found
        found = more


@pytest.mark.parametrize("state", State)
def test_every_state_has_a_public_name_that_leads_back_to_it(state: State) -> None:
    assert state in STATES_OF[status_of(state)]
    assert state in STATES_OF[status_of(state, is_scheduled=True)]


def test_the_public_sees_neither_leases_nor_intents_but_the_final_states_as_they_are() -> None:
    assert status_of(State.READY) is status_of(State.LEASED) is Status.QUEUED
    assert status_of(State.SENDING) is Status.PROCESSING
    assert {status_of(state).value for state in FINAL} == {state.value for state in FINAL}


def test_only_a_ready_delivery_can_be_scheduled() -> None:
    scheduled = {state for state in State if status_of(state, is_scheduled=True) == "scheduled"}

    assert scheduled == {State.READY}
    assert STATES_OF[Status.SCHEDULED] == {State.READY}
    assert STATES_OF[Status.QUEUED] == {State.READY, State.LEASED}


@pytest.mark.parametrize("status", Status)
def test_deliveries_that_agree_give_the_message_their_status(status: Status) -> None:
    assert summarize_statuses(frozenset({status})) == status.value


@pytest.mark.parametrize(
    ("statuses", "expected"),
    [
        ("sent deferred", "deferred"),
        ("queued deferred", "queued"),
        ("scheduled queued", "queued"),
        ("scheduled deferred", "deferred"),
        ("scheduled cancelled", "scheduled"),
        ("queued held", "held"),
        ("held uncertain", "uncertain"),
        ("uncertain processing", "processing"),
        ("sent bounced", "partial"),
        ("expired cancelled", "partial"),
    ],
)
def test_the_most_telling_status_is_the_messages(statuses: str, expected: str) -> None:
    assert summarize_statuses(frozenset(map(Status, statuses.split()))) == expected


@given(st.frozensets(st.sampled_from(Status), min_size=1))
def test_a_message_is_pending_as_long_as_any_delivery_is(statuses: frozenset[Status]) -> None:
    final = {state.value for state in FINAL}

    summary = summarize_statuses(statuses)

    assert (summary in final | {"partial"}) == (statuses <= final)
    assert summary == "partial" or summary in statuses
