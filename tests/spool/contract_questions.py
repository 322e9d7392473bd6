"""What a store must answer."""

from __future__ import annotations

import pytest

from mailactors.model.lifecycle import Status
from mailactors.spool.port import (
    Cancel,
    Ledger,
    Pending,
    Store,
)
from tests.spool.contract import Contract
from tests.spool.makers import NOW, lease_all, lease_one, make_accept, make_intend, one, receive


class QuestionsContract(Contract):
    """See the module."""

    # Questions

    def test_the_newest_time_is_the_latest_events_or_a_later_intents(self, store: Store) -> None:
        assert 0.0 == store.newest_at()

        receive(store, make_accept("m1"), NOW + 3600)  # by a clock that was ahead
        receive(store, make_accept("m2"), NOW)
        assert NOW == store.newest_at()

        lease = lease_all(store, now=NOW + 1)[1]
        assert NOW == store.newest_at()
        one(store, make_intend(lease), NOW + 2)
        assert NOW + 2 == store.newest_at()

    def test_a_name_is_our_id_or_the_clients(self, store: Store) -> None:
        for id_, client_id in [("m1", "order"), ("m2", "order"), ("m3", "")]:
            receive(store, make_accept(id_, client_id=client_id))

        assert [status.id for status in store.status("order")] == ["m2", "m1"]
        assert [status.id for status in store.status("m3")] == ["m3"]
        assert () == store.status("") == store.status("nobody")

    def test_statuses_are_paged_newest_first(self, store: Store) -> None:
        store.apply([make_accept(f"m{number}") for number in range(1, 6)], NOW)

        first = store.statuses(2, None)
        second = store.statuses(2, first[-1].seq)

        assert [status.id for status in first] == ["m5", "m4"]
        assert [status.id for status in second] == ["m3", "m2"]

    def test_an_empty_ledger_is_balanced(self, store: Store) -> None:
        ledger = store.ledger()

        assert Ledger(0, {}, 0) == ledger
        assert ledger.is_balanced

    def test_the_ledger_counts_deliveries_by_state(self, store: Store) -> None:
        receive(store, make_accept("m2", recipients=["a@example.com", "b@example.com"]))
        one(store, Cancel("m2"))
        lease_one(store)

        ledger = store.ledger()

        assert Ledger(3, {"cancelled": 2, "leased": 1}, 0) == ledger
        assert ledger.is_balanced

    def test_an_audit_finds_what_is_kept_in_every_row(self, store: Store) -> None:
        receive(store, make_accept("m1", recipients=["a@example.com", "b@example.com"]))
        receive(store, make_accept("m2", stream="bulk"))
        lease_all(store, "bulk")
        one(store, Cancel("m1"))

        audit = store.audit()

        assert (store.ledger(), {}) == (audit.counted, audit.differences)
        assert {"cancelled": 2, "leased": 1} == audit.kept.states

    def test_the_heads_of_a_long_backlog_tell_its_ages(
        self, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("mailactors.spool.store.pending.HEAD", 2)
        for n in range(6):
            receive(store, make_accept(f"m{n}", at=NOW + n), NOW + n)

        assert (Pending("main", Status.QUEUED, 6, NOW, NOW),) == store.pending(NOW + 9)

    def test_pending_counts_leave_out_what_is_final(self, store: Store) -> None:
        receive(store, make_accept("m1"))
        one(store, Cancel("m1"))
        receive(store, make_accept("m2", stream="bulk"))
        lease_one(store, make_accept("m3"))

        assert store.pending_counts() == {"bulk": {"ready": 1}, "main": {"leased": 1}}
        assert store.backlog(NOW) == 2

    def test_what_is_pending_is_known_with_its_oldest(self, store: Store) -> None:
        for n, stream in enumerate(["main", "main", "bulk", "done"]):
            receive(store, make_accept(f"m{n}", stream=stream, at=NOW + n), NOW + n)
        one(store, Cancel("m3"))
        lease_all(store, "bulk", NOW + 50.0)

        assert (
            Pending("bulk", Status.QUEUED, 1, NOW + 2, NOW + 50.0),
            Pending("main", Status.QUEUED, 2, NOW, NOW),
        ) == store.pending(NOW + 50.0)

    def test_states_of_one_status_are_counted_together(self, store: Store) -> None:
        lease_one(store, make_accept("m1"), NOW + 5)
        receive(store, make_accept("m2", at=NOW + 1), NOW + 1)

        assert (Pending("main", Status.QUEUED, 2, NOW, NOW + 1),) == store.pending(NOW + 9)

    def test_what_is_scheduled_waits_from_its_time_on(self, store: Store) -> None:
        receive(store, make_accept("m1", not_before=NOW + 60), NOW)
        receive(store, make_accept("m2"), NOW)

        assert (
            Pending("main", Status.QUEUED, 1, NOW, NOW),
            Pending("main", Status.SCHEDULED, 1, NOW + 60, NOW + 60),
        ) == store.pending(NOW + 59)
        one(store, Cancel("m2"))
        assert (Pending("main", Status.QUEUED, 1, NOW + 60, NOW + 60),) == store.pending(NOW + 60)

    def test_what_is_scheduled_is_not_on_its_way(self, store: Store) -> None:
        receive(store, make_accept("m1", recipients=["a@a.example", "b@a.example"]))
        receive(store, make_accept("m2", not_before=NOW + 60))
        receive(store, make_accept("m3", not_before=NOW + 60))
        one(store, Cancel("m3"))

        assert (2, 2, 3) == tuple(store.backlog(NOW + after_s) for after_s in (0, 59, 60))

    def test_an_imbalance_is_a_number(self) -> None:
        ledger = Ledger(5, {"sent": 2, "held": 1}, 0)

        assert (2, False) == (ledger.imbalance, ledger.is_balanced)
        assert (-1, False) == (Ledger(2, {"sent": 3}, 0).imbalance, ledger.is_balanced)

    def test_attempts_are_counted_by_bucket(self, store: Store) -> None:
        for number, at in enumerate([NOW, NOW + 59, NOW + 60, NOW + 130]):
            lease = lease_one(store, make_accept(f"m{number}"), at)
            one(store, make_intend(lease, f"a{number}"), at)

        counts = store.attempt_counts("primary", NOW + 1, 60.0)

        first = int(NOW // 60)
        assert {first: 1, first + 1: 1, first + 2: 1} == counts
        assert store.attempt_counts("other", 0.0, 60.0) == {}

    def test_a_reader_sees_what_is_committed(self, store: Store) -> None:
        reader = store.reader()

        receive(store, make_accept())

        assert store.status("m1") == reader.status("m1") != ()

    def test_a_group_is_all_or_nothing(self, store: Store) -> None:
        receive(store, make_accept("m1"))
        twice = make_accept("m1", key="another")

        with pytest.raises(Exception, match="id"):
            store.apply([make_accept("m2"), twice], NOW)

        assert store.status("m2") == ()
        assert receive(store, make_accept("m2")).seq == 2
