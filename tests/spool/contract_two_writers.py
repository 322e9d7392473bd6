"""What two writers on one store may rely on: the feed's order, claims, epochs, a dead node."""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait

import pytest

from mailactors.model.lifecycle import State
from mailactors.spool.port import (
    Cancel,
    Claim,
    Claimed,
    Command,
    InspectionQuery,
    Intended,
    Lease,
    LeaseOwner,
    Questions,
    Receipt,
    Recorded,
    Recovered,
    Release,
    Result,
    SpoolBusyError,
    Step,
    Store,
    Withdrawn,
)
from tests.spool.makers import (
    NOW,
    kinds,
    make_accept,
    make_intend,
    make_recover,
    make_settle,
    one,
    receive,
    states,
)

LEASE_S = 30.0
"""How long the tests wait for a node before they take its leases."""
Stores = tuple[Store, Store]


class TwoWritersContract:
    """Subclass it as `Test…` with `make_stores` and `uncommitted`.

    What an engine does not allow to happen is a test of the same name that says and shows so.
    """

    def make_stores(self) -> contextlib.AbstractContextManager[Stores]:
        """Return two handles on one new, empty store."""
        raise NotImplementedError

    def uncommitted(
        self, store: Store, commands: Sequence[Command], now: float
    ) -> contextlib.AbstractContextManager[Sequence[Result]]:
        """Execute commands in a transaction that is open until the end of the context."""
        raise NotImplementedError

    @pytest.fixture
    def stores(self) -> Iterator[Stores]:
        with self.make_stores() as stores:
            yield stores

    # The feed

    def test_a_reader_misses_no_event_of_either_writer(self, stores: Stores) -> None:
        done = threading.Event()
        with ThreadPoolExecutor(3) as pool:
            reading = pool.submit(follow, stores[0].reader(), done)
            writing = [pool.submit(accept_many, store, str(store)) for store in stores]
            for each in writing:
                each.result()
            done.set()
            read = reading.result()

        every = [event.seq for event in stores[1].events_after(0, 1_000)]
        assert 2 * 100 == len(every)
        assert every == read

    def test_an_event_that_is_committed_late_is_not_missed(self, stores: Stores) -> None:
        first, second = stores
        reader = second.reader()
        with ThreadPoolExecutor(1) as pool:
            with self.uncommitted(first, [make_accept("early")], NOW):
                other = pool.submit(apply, second, [make_accept("late")])
                wait([other], timeout=0.05)  # it commits first, or waits
                seen = [event.id for event in reader.events_after(0, 10)]
                last = reader.latest_event_seq()
            other.result()

        seen += [event.id for event in reader.events_after(last, 10)]
        assert ["early", "late"] == sorted(seen)

    # Claims

    def test_a_message_is_leased_to_one_of_them(self, stores: Stores) -> None:
        first, second = stores
        first.apply([make_accept(f"m{n}") for n in range(10)], NOW)

        leases = [*claim(first, "first", 4), *claim(second, "second", 100)]

        assert list(range(1, 11)) == sorted(lease.seq for lease in leases)
        assert () == claim(first, "first", 100)

    def test_claims_at_the_same_time_do_not_overlap(self, stores: Stores) -> None:
        for start in range(0, 200, 50):
            stores[0].apply([make_accept(f"m{start + n}") for n in range(50)], NOW)

        with ThreadPoolExecutor(2) as pool:
            found = list(pool.map(claim_all, stores, ("first", "second")))

        assert list(range(1, 201)) == sorted(lease.seq for lease in itertools.chain(*found))
        epochs = [{lease.epoch for lease in leases} for leases in found]
        assert not epochs[0] & epochs[1]

    def test_a_claim_passes_over_what_another_is_claiming(self, stores: Stores) -> None:
        first, second = stores
        first.apply([make_accept("m1"), make_accept("m2")], NOW)

        with self.uncommitted(first, [Claim("main", 1, "first")], NOW) as (claimed,):
            leases = claim(second, "second", 10)

        assert isinstance(claimed, Claimed)
        assert ["m1", "m2"] == [lease.id for lease in (*claimed.leases, *leases)]

    def test_epochs_rise_over_both_writers(self, stores: Stores) -> None:
        epochs = []
        for n, store in enumerate(stores * 2):
            receive(store, make_accept(f"m{n}"))
            epochs += [lease.epoch for lease in claim(store, str(n), 1)]

        assert sorted(set(epochs)) == epochs

    def test_a_key_is_one_message_for_both(self, stores: Stores) -> None:
        first, second = stores
        receipt = receive(first, make_accept("m1", key="k"))

        again = receive(second, make_accept("m2", key="k"))

        assert (receipt.seq, True) == (again.seq, again.is_replay)

    # A dead node

    def test_a_dead_nodes_leases_are_freed_by_their_age(self, stores: Stores) -> None:
        dead, alive = stores
        receive(dead, make_accept("old"))
        (old,) = claim(dead, "dead", 1)
        now = NOW + LEASE_S
        receive(dead, make_accept("young", at=now))
        (young,) = claim(dead, "dead", 1, now)

        kept = young_leases(alive, "dead", now + 1)
        recovered = one(alive, make_recover("dead", leases=kept), now + 1)

        assert frozenset({(young.seq, young.epoch)}) == kept
        assert Recovered(1, 0) == recovered
        (again,) = claim(alive, "alive", 10, now + 1)
        assert (old.seq, True) == (again.seq, again.epoch > old.epoch)
        assert isinstance(one(dead, make_intend(young), now + 1), Intended)

    def test_a_late_intent_under_an_old_epoch_is_withdrawn(self, stores: Stores) -> None:
        dead, alive = stores
        old, new = leased_again(dead, alive)

        assert Withdrawn() == one(dead, make_intend(old, "late"), NOW)

        assert isinstance(one(alive, make_intend(new), NOW), Intended)

    def test_a_late_release_under_an_old_epoch_changes_nothing(self, stores: Stores) -> None:
        dead, alive = stores
        old, _ = leased_again(dead, alive)

        assert Recorded(is_stale=True) == one(dead, Release(old.seq, (0,), old.epoch, NOW), NOW)

        assert ["leased"] == states(alive)

    def test_a_late_failure_under_an_old_epoch_is_only_evidence(self, stores: Stores) -> None:
        dead, alive = stores
        old, _ = leased_again(dead, alive)
        late = make_settle(old, Step(0, State.BOUNCED), attempt_id="late", outcome="rejected")

        assert Recorded(is_stale=True) == one(dead, late, NOW)

        assert ["leased"] == states(alive)
        assert "evidence" in kinds(alive)

    def test_a_dead_nodes_intent_is_uncertain_and_its_late_answer_counts(
        self, stores: Stores
    ) -> None:
        dead, alive = stores
        receive(dead, make_accept())
        (lease,) = claim(dead, "dead", 1)
        one(dead, make_intend(lease))

        assert Recovered(0, 1) == one(alive, make_recover("dead"))
        assert ["uncertain"] == states(alive)

        one(dead, make_settle(lease, Step(0, State.SENT)))
        assert ["sent"] == states(alive)

    def test_a_recovery_leaves_other_nodes_alone(self, stores: Stores) -> None:
        dead, alive = stores
        receive(alive, make_accept())
        (lease,) = claim(alive, "alive", 1)

        assert Recovered(0, 0) == one(dead, make_recover("dead"))

        assert isinstance(one(alive, make_intend(lease)), Intended)

    def test_what_one_cancels_the_other_does_not_send(self, stores: Stores) -> None:
        first, second = stores
        receive(first, make_accept())
        (lease,) = claim(first, "first", 1)

        one(second, Cancel("m1"))

        assert Withdrawn() == one(first, make_intend(lease))


def claim(store: Store, node: str, limit: int, now: float = NOW) -> tuple[Lease, ...]:
    (claimed,) = apply(store, [Claim("main", limit, node)], now)
    assert isinstance(claimed, Claimed)
    return claimed.leases


def claim_all(store: Store, node: str) -> list[Lease]:
    leases: list[Lease] = []
    while found := claim(store, node, 7):
        leases += found
    return leases


def accept_many(store: Store, name: str) -> None:
    for n in range(0, 100, 5):
        receipts = apply(store, [make_accept(f"{name} {n + i}") for i in range(5)])
        assert all(isinstance(receipt, Receipt) for receipt in receipts)


def apply(store: Store, commands: Sequence[Command], now: float = NOW) -> list[Result]:
    """Execute commands, again and again while the other writer is busy."""
    while True:
        with contextlib.suppress(SpoolBusyError):
            return store.apply(commands, now)


def follow(reader: Questions, done: threading.Event) -> list[int]:
    """Read the feed, a few events at a time, until it has ended."""
    seen: list[int] = []
    while True:
        is_last = done.is_set()
        events = reader.events_after(seen[-1] if seen else 0, 7)
        seen += [event.seq for event in events]
        if is_last and not events:
            return seen


def leased_again(dead: Store, alive: Store) -> tuple[Lease, Lease]:
    """Return a dead node's lease of a message, and the one that follows it."""
    receive(dead, make_accept())
    (old,) = claim(dead, "dead", 1)
    one(alive, make_recover("dead"))
    (new,) = claim(alive, "alive", 1)
    return old, new


def young_leases(store: Store, node: str, now: float) -> frozenset[tuple[int, int]]:
    """Return a node's leases, (seq, epoch), that are not older than `LEASE_S`."""
    inspection = store.inspect(InspectionQuery(now, LeaseOwner("another")))
    return frozenset(
        (message.seq, delivery.epoch)
        for message in inspection.messages
        for delivery in message.deliveries
        if delivery.node == node and now - delivery.updated_at <= LEASE_S
    )
