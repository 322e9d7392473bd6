"""What a store must list: messages by filter, and events as they come."""

from __future__ import annotations

from itertools import product

import pytest

from mailactors.model.lifecycle import State
from mailactors.spool.port import Cancel, FeedEvent, Filters, Page, Store
from tests.spool.contract import Contract
from tests.spool.makers import NOW, end_one, make_accept, one, receive

ALL = Filters()


def ids(page: Page) -> list[str]:
    return [message.id for message in page.messages]


def fill(store: Store) -> None:
    """Make messages m0 … m11 of two streams, three states and two pairs of recipients."""
    states = (State.SENT, State.BOUNCED, State.DEFERRED)
    pairs = [("ann@example.com", "bob@example.com"), ("cid@example.com", "bob@example.com")]
    for n, (state, recipients, stream) in enumerate(product(states, pairs, ["main", "bulk"])):
        at = NOW + 10 * n
        accept = make_accept(f"m{n}", recipients=recipients, stream=stream, at=at)
        if stream == "main":
            end_one(store, state, accept, at)
        else:
            receive(store, accept)


class ListsContract(Contract):
    """See the module."""

    @pytest.mark.parametrize(
        ("filters", "expected"),
        [
            (Filters(stream="bulk"), [11, 9, 7, 5, 3, 1]),
            (Filters(state=State.SENT), [2, 0]),
            (Filters(state=State.BOUNCED), [6, 4]),
            (Filters(state=State.READY), [11, 9, 7, 5, 3, 1]),
            (Filters(state=State.HELD), []),
            (Filters(recipient="ann@example.com"), [9, 8, 5, 4, 1, 0]),
            (Filters(recipient="nobody@example.com"), []),
            (Filters(recipient="bob@example.com", state=State.BOUNCED), [6, 4]),
            (Filters(recipient="ann@example.com", stream="bulk"), [9, 5, 1]),
            (Filters(state=State.READY, stream="main"), []),
            (Filters(state=State.READY, stream="bulk", recipient="cid@example.com"), [11, 7, 3]),
            (Filters(since=NOW + 90), [11, 10, 9]),
            (Filters(until=NOW + 20), [1, 0]),
            (Filters(since=NOW + 20, until=NOW + 50, stream="main"), [4, 2]),
            (Filters(since=NOW + 60, state=State.BOUNCED), [6]),
            (Filters(since=NOW + 1_000), []),
            (Filters(until=NOW - 1_000), []),
        ],
    )
    def test_filters_let_through(self, store: Store, filters: Filters, expected: list[int]) -> None:
        fill(store)

        page = store.messages(filters, 100, None)

        assert [f"m{n}" for n in expected] == ids(page)
        assert page.next_before_seq is None

    @pytest.mark.parametrize("filters", [ALL, Filters(recipient="bob@example.com")])
    @pytest.mark.parametrize("limit", [1, 5, 12, 13])
    def test_pages_follow_one_another(self, store: Store, filters: Filters, limit: int) -> None:
        fill(store)
        seen: list[str] = []
        page = store.messages(filters, limit, None)
        while True:
            assert len(page.messages) <= limit
            seen += ids(page)
            if page.next_before_seq is None:
                break
            page = store.messages(filters, limit, page.next_before_seq)

        assert [f"m{n}" for n in reversed(range(12))] == seen

    def test_every_state_can_be_asked_for(self, store: Store) -> None:
        for state in State:
            assert Page((), None) == store.messages(Filters(state=state), 10, None)

    def test_a_message_is_listed_once_with_all_its_deliveries(self, store: Store) -> None:
        receive(store, make_accept(recipients=["ann@example.com", "bob@example.com"]))

        page = store.messages(Filters(state=State.READY), 10, None)

        assert store.status("m1") == page.messages

    def test_time_filters_bear_a_clock_that_steps_a_little(self, store: Store) -> None:
        for n, at in enumerate([NOW + 30, NOW, NOW + 50, NOW + 20, NOW + 200]):
            receive(store, make_accept(f"m{n}", at=at))

        page = store.messages(Filters(since=NOW + 20, until=NOW + 50), 10, None)

        assert ids(page) == ["m3", "m0"]

    # Events

    def test_events_come_in_the_order_of_their_commits(self, store: Store) -> None:
        receive(store, make_accept("m1"))
        receive(store, make_accept("m2", stream="bulk"))
        one(store, Cancel("m1"), NOW + 1)

        events = store.events_after(0, 10)

        assert events == (
            FeedEvent(1, NOW, "accepted", {}, "m1", "main"),
            FeedEvent(2, NOW, "accepted", {}, "m2", "bulk"),
            FeedEvent(3, NOW + 1, "cancelled", {}, "m1", "main"),
        )
        assert store.latest_event_seq() == 3

    def test_events_go_on_after_the_last_one_seen(self, store: Store) -> None:
        assert (0, ()) == (store.latest_event_seq(), store.events_after(0, 10))
        store.apply([make_accept(f"m{n}") for n in range(5)], NOW)

        first = store.events_after(0, 3)
        rest = store.events_after(first[-1].seq, 3)

        assert [event.id for event in first + rest] == ["m0", "m1", "m2", "m3", "m4"]
        assert store.events_after(rest[-1].seq, 3) == ()
