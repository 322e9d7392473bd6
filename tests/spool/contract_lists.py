"""What a store must list: messages by filter, and events as they come."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest

from mailactors.model.lifecycle import State, Status
from mailactors.spool.port import Cancel, FeedEvent, Filters, Page, Store
from tests.spool.contract import Contract
from tests.spool.makers import NOW, end_one, lease_one, make_accept, one, receive

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
            (Filters(status=Status.SENT), [2, 0]),
            (Filters(status=Status.BOUNCED), [6, 4]),
            (Filters(status=Status.QUEUED), [11, 9, 7, 5, 3, 1]),
            (Filters(status=Status.HELD), []),
            (Filters(recipient="ann@example.com"), [9, 8, 5, 4, 1, 0]),
            (Filters(recipient="nobody@example.com"), []),
            (Filters(recipient="bob@example.com", status=Status.BOUNCED), [6, 4]),
            (Filters(recipient="ann@example.com", stream="bulk"), [9, 5, 1]),
            (Filters(status=Status.QUEUED, stream="main"), []),
            (Filters(status=Status.QUEUED, stream="bulk", recipient="cid@example.com"), [11, 7, 3]),
            (Filters(since=NOW + 90), [11, 10, 9]),
            (Filters(until=NOW + 20), [1, 0]),
            (Filters(since=NOW + 20, until=NOW + 50, stream="main"), [4, 2]),
            (Filters(since=NOW + 60, status=Status.BOUNCED), [6]),
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

    def test_every_status_can_be_asked_for(self, store: Store) -> None:
        for status in Status:
            assert Page((), None) == store.messages(Filters(status=status), 10, None)

    def test_a_message_is_listed_once_with_all_its_deliveries(self, store: Store) -> None:
        receive(store, make_accept(recipients=["ann@example.com", "bob@example.com"]))

        page = store.messages(Filters(status=Status.QUEUED), 10, None)

        assert store.status("m1") == page.messages

    def test_a_scheduled_message_is_not_a_queued_one(self, store: Store) -> None:
        receive(store, make_accept("m1", not_before=NOW + 60))
        lease_one(store, make_accept("m2"))
        receive(store, make_accept("m3"))

        def listed(status: Status, now: float, **others: Any) -> list[str]:
            filters = Filters(status=status, now=now, **others)
            return ids(store.messages(filters, 10, None))

        assert ["m1"] == listed(Status.SCHEDULED, NOW + 59)
        assert ["m1"] == listed(Status.SCHEDULED, NOW, recipient="ann@example.com")
        assert ["m3", "m2"] == listed(Status.QUEUED, NOW)
        assert ["m3", "m2"] == listed(Status.QUEUED, NOW, stream="main")
        assert [] == listed(Status.SCHEDULED, NOW + 60)
        assert ["m3", "m2", "m1"] == listed(Status.QUEUED, NOW + 60)

    def test_messages_are_found_by_their_tags(self, store: Store) -> None:
        receive(store, make_accept("m1", tags=("receipt", "receipt", "vip")))
        receive(store, make_accept("m2", tags=("receipt",), stream="bulk", at=NOW + 10))
        receive(store, make_accept("m3", recipients=["bob@example.com"], tags=("vip",)))
        receive(store, make_accept("m4"))
        one(store, Cancel("m1"))

        def listed(**filters: Any) -> list[str]:
            return ids(store.messages(Filters(**filters), 10, None))

        assert ["m2", "m1"] == listed(tag="receipt")
        assert ["m3", "m1"] == listed(tag="vip")
        assert [] == listed(tag="rec")
        assert ["m2"] == listed(tag="receipt", status=Status.QUEUED)
        assert ["m1"] == listed(tag="receipt", status=Status.CANCELLED, stream="main")
        assert [] == listed(tag="receipt", status=Status.CANCELLED, stream="bulk")
        assert ["m2"] == listed(tag="receipt", since=NOW + 5)
        assert ["m3"] == listed(tag="vip", recipient="bob@example.com")

    def test_tags_and_metadata_are_kept_as_they_came(self, store: Store) -> None:
        receive(store, make_accept("m1", tags=("b", "a"), metadata={"order": "17"}))
        receive(store, make_accept("m2"))

        (first,), (second,) = store.status("m1"), store.status("m2")

        assert (("b", "a"), {"order": "17"}) == (first.tags, first.metadata)
        assert ((), {}) == (second.tags, second.metadata)

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
            FeedEvent(1, NOW, "accepted", {}, "m1", "main", "", "m1@mail.example"),
            FeedEvent(2, NOW, "accepted", {}, "m2", "bulk", "", "m2@mail.example"),
            FeedEvent(3, NOW + 1, "cancelled", {}, "m1", "main", "", "m1@mail.example"),
        )
        assert store.latest_event_seq() == 3

    def test_events_go_on_after_the_last_one_seen(self, store: Store) -> None:
        assert (0, ()) == (store.latest_event_seq(), store.events_after(0, 10))
        store.apply([make_accept(f"m{n}") for n in range(5)], NOW)

        first = store.events_after(0, 3)
        rest = store.events_after(first[-1].seq, 3)

        assert [event.id for event in first + rest] == ["m0", "m1", "m2", "m3", "m4"]
        assert store.events_after(rest[-1].seq, 3) == ()
