"""What a store must do off the common way: deadlines, doubts, cancelling, crashes."""

from __future__ import annotations

import math
from typing import Any

import pytest

from mailactors.model.lifecycle import State
from mailactors.spool.port import (
    Cancel,
    Cancelled,
    Claim,
    Claimed,
    CorrectDoubts,
    CorrectDue,
    Corrected,
    Doubts,
    Expire,
    Expired,
    FindDueDoubts,
    Flush,
    Flushed,
    Progress,
    Recorded,
    Recovered,
    Release,
    SettleDoubt,
    Step,
    Store,
    Withdrawn,
)
from tests.spool.contract import Contract
from tests.spool.makers import (
    LIFE_S,
    NOW,
    doubt_one,
    kinds,
    lease_one,
    make_accept,
    make_intend,
    make_recover,
    make_settle,
    one,
    receive,
    send_one,
    states,
)


class UpkeepContract(Contract):
    """See the module."""

    # Expire

    def test_deadlines_end_what_waits(self, store: Store) -> None:
        receive(store, make_accept("m1"))
        receive(store, make_accept("m2", at=NOW + 1))

        expired = one(store, Expire(10), NOW + LIFE_S)

        assert Expired((1,), ("m1",), NOW + 1 + LIFE_S) == expired
        assert states(store, "m1") == ["expired"]
        assert states(store, "m2") == ["ready"]
        assert kinds(store) == ["accepted", "expired", "final_failure"]

    def test_deadlines_are_taken_in_portions(self, store: Store) -> None:
        store.apply([make_accept("m1"), make_accept("m2"), make_accept("m3")], NOW)

        first = one(store, Expire(2), NOW + LIFE_S)
        second = one(store, Expire(2), NOW + LIFE_S)

        assert Expired((1, 2), ("m1", "m2"), NOW + LIFE_S) == first
        assert Expired((3,), ("m3",), None) == second

    def test_a_sending_delivery_does_not_expire(self, store: Store) -> None:
        send_one(store)

        expired = one(store, Expire(10), NOW + LIFE_S)

        assert Expired((), (), None) == expired
        assert states(store) == ["sending"]

    def test_a_lease_past_its_deadline_expires(self, store: Store) -> None:
        lease = lease_one(store)

        one(store, Expire(10), NOW + LIFE_S)

        assert states(store) == ["expired"]
        assert Withdrawn() == one(store, make_intend(lease), NOW + LIFE_S)

    # FindDueDoubts, SettleDoubt

    def test_a_doubt_is_due_when_its_wait_is_over(self, store: Store) -> None:
        lease = doubt_one(store, due_at=NOW + 60)

        early = one(store, FindDueDoubts(10), NOW + 59)
        late = one(store, FindDueDoubts(10), NOW + 60)

        assert Doubts((), NOW + 60) == early
        assert isinstance(late, Doubts)
        (doubt,) = late.doubts
        assert (lease.seq, "m1", "main", (0,)) == (doubt.seq, doubt.id, doubt.stream, doubt.ns)
        assert (
            doubt.provider,
            doubt.attempt_id,
            doubt.expires_at,
        ) == ("primary", "a1", NOW + LIFE_S)
        assert (NOW, NOW, NOW) == (doubt.began_at, doubt.since, doubt.ended_at)
        assert late.next_due_at is None

    def test_doubts_of_two_attempts_are_apart(self, store: Store) -> None:
        lease = lease_one(store, make_accept(recipients=["ann@example.com", "bob@example.com"]))
        for n, attempt_id in [(0, "a1"), (1, "a2")]:
            one(store, make_intend(lease, attempt_id, (n,)))
            one(store, make_settle(lease, Step(n, State.UNCERTAIN, NOW), attempt_id=attempt_id))

        all_of_them = one(store, FindDueDoubts(10))
        the_first = one(store, FindDueDoubts(1))

        assert isinstance(all_of_them, Doubts)
        assert [(d.attempt_id, d.ns) for d in all_of_them.doubts] == [("a1", (0,)), ("a2", (1,))]
        assert Doubts(all_of_them.doubts[:1], NOW) == the_first

    def test_resolving_moves_a_doubt_on_and_counts_the_risk(self, store: Store) -> None:
        lease = doubt_one(store, due_at=NOW)
        steps = (Step(0, State.DEFERRED, NOW + 1),)
        resolve = SettleDoubt(lease.seq, steps, Progress(round=2), "resend", {"waited_s": 60}, True)

        results = [one(store, resolve), one(store, resolve)]

        assert [Recorded(stream="main"), Recorded(is_stale=True)] == results
        assert states(store) == ["deferred"]
        assert 1 == store.status("m1")[0].declared_risks == store.ledger().declared_risks
        event = store.timeline(lease.seq)[-1]
        assert (event.kind, event.facts) == ("resolved", {"waited_s": 60, "rule": "resend"})

    def test_a_doubt_resolved_as_sent_is_no_risk(self, store: Store) -> None:
        lease = doubt_one(store, due_at=NOW)

        one(store, SettleDoubt(lease.seq, (Step(0, State.SENT),), Progress(), "found", {}))

        assert states(store) == ["sent"]
        assert store.ledger().declared_risks == 0

    def test_a_doubt_may_wait_longer(self, store: Store) -> None:
        lease = doubt_one(store, due_at=NOW)
        steps = (Step(0, State.UNCERTAIN, NOW + 30),)

        one(store, SettleDoubt(lease.seq, steps, Progress(), "nothing found yet", {}))

        assert Doubts((), NOW + 30) == one(store, FindDueDoubts(10))

    def test_only_doubts_are_resolved(self, store: Store) -> None:
        lease = send_one(store)

        result = one(store, SettleDoubt(lease.seq, (Step(0, State.SENT),), Progress(), "found", {}))

        assert Recorded(is_stale=True) == result
        assert states(store) == ["sending"]

    # Flush

    def defer(self, store: Store, name: str, due_at: float, provider: str = "primary") -> None:
        lease = lease_one(store, make_accept(name))
        one(store, make_intend(lease, f"of {name}"))
        steps = [Step(n, State.DEFERRED, due_at) for n, _ in lease.recipients]
        facts: dict[str, Any] = {"attempt_id": f"of {name}", "provider": provider}
        command = make_settle(lease, *steps, outcome="deferred", **facts)
        one(store, command)

    def test_what_is_deferred_is_due_now(self, store: Store) -> None:
        self.defer(store, "m1", NOW + 500)

        flushed = one(store, Flush("main", "", NOW + 5, 10), NOW + 6)

        assert Flushed(1, None, "main") == flushed
        assert Flushed(0, None) == one(store, Flush("main", "", NOW + 5, 10), NOW + 6)
        assert kinds(store)[-1] == "flushed"
        claimed = one(store, Claim("main", 10, "node"), NOW + 6)
        assert isinstance(claimed, Claimed)
        assert [(1, NOW + 5)] == [(each.seq, each.due_at) for each in claimed.leases]

    def test_a_flush_leaves_what_is_scheduled_sent_or_anothers(self, store: Store) -> None:
        self.defer(store, "m1", NOW + 500, provider="secondary")
        receive(store, make_accept("m2", not_before=NOW + 900))
        send_one(store, make_accept("m3"))
        self.defer(store, "m4", NOW + 500)

        other = one(store, Flush("other", "", NOW + 5, 10), NOW + 6)
        primary = one(store, Flush("main", "primary", NOW + 5, 10), NOW + 6)
        rest = one(store, Flush("main", "", NOW + 5, 10), NOW + 6)

        assert [Flushed(0, None), Flushed(1, None, "main"), Flushed(1, None, "main")] == [
            *(other, primary, rest)
        ]
        assert NOW + 900 == store.status("m2")[0].deliveries[0].due_at

    def test_a_flush_goes_on_where_it_was(self, store: Store) -> None:
        for n in range(5):
            self.defer(store, f"m{n}", NOW + 500 + n)

        first = one(store, Flush("main", "", NOW + 5, 2), NOW + 6)
        assert isinstance(first, Flushed)
        second = one(store, Flush("main", "", NOW + 5, 2, first.after), NOW + 7)
        assert isinstance(second, Flushed)
        third = one(store, Flush("main", "", NOW + 5, 2, second.after), NOW + 8)

        assert Flushed(2, (NOW + 501, 2, 0), "main") == first
        assert Flushed(2, (NOW + 503, 4, 0), "main") == second
        assert Flushed(1, None, "main") == third

    def test_what_was_released_for_later_is_flushed_as_well(self, store: Store) -> None:
        lease = lease_one(store)
        one(store, Release(lease.seq, (0,), lease.epoch, NOW + 300))

        assert Flushed(1, None, "main") == one(store, Flush("main", "", NOW + 5, 10), NOW + 6)

    # Clocks

    def test_a_wait_that_was_written_in_the_future_is_as_long_from_now(self, store: Store) -> None:
        self.defer(store, "m1", NOW + 300)  # written at NOW
        receive(store, make_accept("m2"))  # due at NOW

        corrected = one(store, CorrectDue("main", 10), NOW - 3600)

        assert Corrected(2, None, "main") == corrected
        assert [NOW - 3300, NOW - 3600] == [
            store.status(name)[0].deliveries[0].due_at for name in ("m1", "m2")
        ]
        assert Corrected(0) == one(store, CorrectDue("main", 10), NOW - 3600)

    def test_a_wait_that_is_right_or_scheduled_stays(self, store: Store) -> None:
        self.defer(store, "m1", NOW + 9000)
        receive(store, make_accept("m2", not_before=NOW + 900))

        assert Corrected(0) == one(store, CorrectDue("main", 10), NOW + 1)
        assert Corrected(1, None, "main") == one(store, CorrectDue("main", 10), NOW - 3600)
        assert NOW + 900 == store.status("m2")[0].deliveries[0].due_at

    def test_waits_are_corrected_in_portions(self, store: Store) -> None:
        for n in range(3):
            self.defer(store, f"m{n}", NOW + 500 + n)

        first = one(store, CorrectDue("main", 2), NOW - 60)
        assert isinstance(first, Corrected)
        second = one(store, CorrectDue("main", 2, first.after), NOW - 60)

        assert Corrected(2, (NOW + 501, 2, 0), "main") == first
        assert Corrected(1, None, "main") == second

    def test_a_doubt_that_was_written_in_the_future_is_due_now(self, store: Store) -> None:
        doubt_one(store, due_at=NOW + 60)

        corrected = one(store, CorrectDoubts(7200.0), NOW - 3600)

        assert Corrected(1) == corrected
        found = one(store, FindDueDoubts(10), NOW - 3600)
        assert isinstance(found, Doubts)
        (doubt,) = found.doubts
        assert (NOW - 3600, NOW - 3600) == (doubt.since, doubt.ended_at)
        assert Corrected(0) == one(store, CorrectDoubts(7200.0), NOW - 3600)

    @pytest.mark.parametrize(
        ("back_s", "now", "began_at"),
        [
            (3600.0, NOW + 900 - 3600, NOW - 3600),  # the last time is later than now
            (600.0, NOW + 900 - 600, NOW - 600),  # it is not
            (math.inf, NOW + 900 - 3600, 0.0),
            (math.inf, NOW + 900 - 600, -math.inf),
            (0.0, NOW + 900 - 3600, NOW - 2700),
        ],
    )
    def test_a_key_is_as_old_after_the_clock_was_set_back(
        self, back_s: float, now: float, began_at: float, store: Store
    ) -> None:
        doubt_one(store, due_at=NOW + 60)

        one(store, CorrectDoubts(7200.0, back_s), now)

        found = one(store, FindDueDoubts(10), now + 7200)
        assert isinstance(found, Doubts)
        assert [began_at] == [doubt.began_at for doubt in found.doubts]

    def test_a_doubt_waits_no_longer_than_any_rule(self, store: Store) -> None:
        doubt_one(store, due_at=NOW + 9000)

        assert Corrected(0) == one(store, CorrectDoubts(9000.0), NOW)
        assert Corrected(1) == one(store, CorrectDoubts(7200.0), NOW)
        found = one(store, FindDueDoubts(10), NOW)
        assert isinstance(found, Doubts)
        assert NOW == found.doubts[0].since

    # Cancel

    def test_cancelling_ends_what_is_not_sending(self, store: Store) -> None:
        lease = lease_one(store, make_accept(recipients=["ann@example.com", "bob@example.com"]))
        one(store, make_intend(lease, ns=(0,)))

        results = [one(store, Cancel("m1")), one(store, Cancel("m1"))]

        assert [Cancelled(True, 1, 1)] * 2 == results
        assert states(store) == ["sending", "cancelled"]
        assert kinds(store) == ["accepted", "cancelled"]

    def test_an_uncertain_delivery_is_too_late_to_cancel(self, store: Store) -> None:
        doubt_one(store, due_at=NOW)

        assert Cancelled(True, 0, 1) == one(store, Cancel("m1"))

    def test_an_unknown_message_cannot_be_cancelled(self, store: Store) -> None:
        assert Cancelled(False, 0, 0) == one(store, Cancel("unknown"))

    # Recover

    def test_a_lease_without_an_intent_is_ready_again(self, store: Store) -> None:
        lease_one(store)

        assert Recovered(1, 0) == one(store, make_recover())
        assert states(store) == ["ready"]
        assert store.status("m1")[0].attempts == 0

    def test_an_open_intent_is_uncertain_and_waits(self, store: Store) -> None:
        send_one(store)

        results = [one(store, make_recover(uncertain_wait_s={"main": 5.0, "": 60.0}))]
        results.append(one(store, make_recover()))

        assert [Recovered(0, 1), Recovered(0, 0)] == results
        assert states(store) == ["uncertain"]
        assert Doubts((), NOW + 5) == one(store, FindDueDoubts(10))
        (status,) = store.status("m1")
        assert (status.attempts, status.deliveries[0].attempts) == (1, 1)
        assert kinds(store) == ["accepted", "uncertain"]

    def test_what_is_in_flight_stays(self, store: Store) -> None:
        send_one(store, make_accept("m1"))
        lease = lease_one(store, make_accept("m2"))
        leases = frozenset({(lease.seq, lease.epoch)})

        result = one(store, make_recover(in_flight=frozenset({"a1"}), leases=leases))

        assert Recovered(0, 0) == result
        assert (states(store, "m1"), states(store, "m2")) == (["sending"], ["leased"])

    def test_what_another_node_holds_stays(self, store: Store) -> None:
        lease_one(store)

        assert Recovered(0, 0) == one(store, make_recover("elsewhere"))
        assert states(store) == ["leased"]
