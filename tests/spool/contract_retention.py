"""What a store must forget, and what it must not."""

from __future__ import annotations

import pytest

from mailactors.model.lifecycle import State
from mailactors.spool.port import (
    Cancel,
    Filters,
    Ledger,
    Progress,
    Purge,
    Purged,
    Receipt,
    Risk,
    SettleDoubt,
    Step,
    Store,
)
from tests.spool.contract import Contract
from tests.spool.makers import (
    KEY_S,
    NOW,
    doubt_one,
    end_one,
    lease_all,
    make_accept,
    make_intend,
    make_settle,
    one,
    receive,
)

NEVER = float("-inf")
DAY_S = 86_400.0
LATER = NOW + KEY_S


def purge(
    store: Store,
    *,
    final_before: float = NEVER,
    bodies_before: float = NEVER,
    limit: int = 100,
    now: float = LATER,
) -> Purged:
    result = one(store, Purge(final_before, bodies_before, limit), now)
    assert isinstance(result, Purged)
    return result


def cancelled(store: Store, id_: str = "m1", at: float = NOW) -> None:
    receive(store, make_accept(id_), at)
    one(store, Cancel(id_), at)


class RetentionContract(Contract):
    """See the module."""

    def test_a_final_message_goes_when_it_is_old_enough(self, store: Store) -> None:
        cancelled(store)

        assert Purged(0, 0, has_more=False) == purge(store, final_before=NOW)
        assert Purged(1, 0, has_more=False) == purge(store, final_before=NOW + 1)

        assert store.status("m1") == ()
        assert store.timeline(1) == ()
        assert store.events_after(0, 10) == ()

    def test_tags_go_with_their_message(self, store: Store) -> None:
        receive(store, make_accept("m1", tags=("vip",)))
        receive(store, make_accept("m2", tags=("vip",)))
        one(store, Cancel("m1"))

        purge(store, final_before=NOW + 1)

        page = store.messages(Filters(tag="vip"), 10, None)
        assert ["m2"] == [message.id for message in page.messages]

    def test_its_age_is_counted_from_its_end(self, store: Store) -> None:
        receive(store, make_accept())
        one(store, Cancel("m1"), NOW + 50)

        assert purge(store, final_before=NOW + 50).messages == 0
        assert purge(store, final_before=NOW + 51).messages == 1

    @pytest.mark.parametrize("how", ["sent", "resolved", "expired at the intent", "released"])
    def test_every_way_to_an_end_has_a_time(self, store: Store, how: str) -> None:
        match how:
            case "resolved":
                lease = doubt_one(store, due_at=NOW)
                one(store, SettleDoubt(lease.seq, (Step(0, State.SENT),), Progress(), "found", {}))
            case "sent":
                end_one(store, State.SENT)
            case _:
                receive(store, make_accept())
                (lease,) = lease_all(store)
                if how == "released":
                    one(store, make_settle(lease, Step(0, State.FAILED)))
                else:
                    one(store, make_intend(lease), NOW + 3_600)

        assert purge(store, final_before=NOW + 3_601, now=NOW + 3_601).messages == 1

    def test_what_is_not_final_stays_however_old(self, store: Store) -> None:
        end_one(store, State.DEFERRED, make_accept("deferred"))
        lease = doubt_one(store, due_at=NOW, accept=make_accept("held"))
        one(store, SettleDoubt(lease.seq, (Step(0, State.HELD),), Progress(), "hold", {}))
        receive(store, make_accept("ready"))

        age = NOW + 1_000 * DAY_S
        result = purge(store, final_before=age, bodies_before=age, now=age)

        assert Purged(0, 0, has_more=False) == result
        assert store.ledger().accepted == 3

    def test_a_message_with_a_pending_delivery_stays(self, store: Store) -> None:
        receive(store, make_accept(recipients=["ann@example.com", "bob@example.com"]))
        (lease,) = lease_all(store)
        one(store, make_settle(lease, Step(0, State.FAILED), Step(1, State.DEFERRED, NOW)))

        assert purge(store, final_before=LATER, bodies_before=LATER).messages == 0
        assert len(lease_all(store)) == 1

    def test_the_ledger_still_accounts_for_what_is_gone(self, store: Store) -> None:
        cancelled(store, "m1")
        cancelled(store, "m2")
        end_one(store, State.SENT, make_accept("m3"))
        before = store.ledger()
        purge(store, final_before=NOW + 1, limit=2)
        receive(store, make_accept("m4"))

        ledger = store.ledger()

        assert Ledger(3, {"cancelled": 2, "sent": 1}, 0) == before
        assert Ledger(4, {"cancelled": 2, "ready": 1, "sent": 1}, 0, purged=2) == ledger
        assert ledger.is_balanced

    def test_declared_risks_are_not_forgotten(self, store: Store) -> None:
        lease = doubt_one(store, due_at=NOW)
        steps = (Step(0, State.READY, NOW),)
        one(store, SettleDoubt(lease.seq, steps, Progress(), "resend", {}, is_risk=True))
        one(store, Cancel("m1"))

        purge(store, final_before=LATER)

        risks = (Risk("main", "primary", 1),)
        assert Ledger(1, {"cancelled": 1}, 1, purged=1, risks=risks) == store.ledger()

    def test_a_message_stays_while_its_key_holds(self, store: Store) -> None:
        cancelled(store)

        early = purge(store, final_before=LATER, now=LATER - 1)
        replay = receive(store, make_accept("m2", key="m1"), LATER - 1)
        late = purge(store, final_before=LATER, now=LATER)

        assert (early.messages, late.messages) == (0, 1)
        assert (replay.id, replay.is_replay) == ("m1", True)

    def test_the_key_of_a_purged_message_is_free(self, store: Store) -> None:
        cancelled(store)
        purge(store, final_before=LATER)

        receipt = receive(store, make_accept("m2", key="m1", fingerprint="other"), LATER)

        assert (receipt.seq, receipt.is_replay) == (2, False)

    def test_the_expired_key_of_a_final_message_goes_before_it(self, store: Store) -> None:
        cancelled(store)
        receive(store, make_accept("m2"))
        purge(store)

        results = [
            one(store, make_accept(f"new {name}", key=name), LATER - 1) for name in ("m1", "m2")
        ]

        assert [r.is_replay for r in results if isinstance(r, Receipt)] == [False, True]
        assert len(store.status("m1")) == 1

    def test_a_live_key_is_not_purged(self, store: Store) -> None:
        cancelled(store)

        purge(store, now=LATER - 1)

        assert receive(store, make_accept("m2", key="m1"), LATER - 1).is_replay

    def test_contents_go_before_their_messages(self, store: Store) -> None:
        cancelled(store, "m1", NOW)
        cancelled(store, "m2", NOW + 10)

        results = [purge(store, bodies_before=NOW + 5) for _ in range(2)]

        assert [Purged(0, 1, has_more=False), Purged(0, 0, has_more=False)] == results
        assert [status.id for status in store.statuses(10, None)] == ["m2", "m1"]
        assert purge(store, final_before=LATER).messages == 2

    def test_the_oldest_go_first_in_portions(self, store: Store) -> None:
        for number in range(5):
            cancelled(store, f"m{number}", NOW + number)

        first = purge(store, final_before=LATER, limit=2)
        left = [status.id for status in store.statuses(10, None)]
        others = [purge(store, final_before=LATER, limit=2) for _ in range(2)]

        assert Purged(2, 0, has_more=True) == first
        assert left == ["m4", "m3", "m2"]
        assert [Purged(2, 0, has_more=True), Purged(1, 0, has_more=False)] == others

    def test_attempts_of_the_last_day_are_counted_whatever_is_purged(self, store: Store) -> None:
        end_one(store, State.SENT)
        in_a_day = NOW + DAY_S

        purge(store, final_before=in_a_day, now=in_a_day)
        counted = store.attempt_counts("primary", 0.0, 4 * NOW)
        purge(store, final_before=in_a_day, now=in_a_day + 1)

        assert {0: 1} == counted
        assert store.attempt_counts("primary", 0.0, 4 * NOW) == {}

    def test_attempts_are_kept_as_long_as_messages(self, store: Store) -> None:
        end_one(store, State.SENT)

        purge(store, final_before=NOW, now=NOW + 9 * DAY_S)

        assert store.attempt_counts("primary", 0.0, 4 * NOW) == {0: 1}

    def test_an_open_intent_is_kept_however_old(self, store: Store) -> None:
        receive(store, make_accept())
        (lease,) = lease_all(store)
        one(store, make_intend(lease))
        age = NOW + 9 * DAY_S
        purge(store, final_before=age, now=age)

        one(store, make_settle(lease, Step(0, State.SENT)), age)

        assert store.attempt_counts("primary", 0.0, 4 * NOW) == {0: 1}
        assert store.ledger().states == {"sent": 1}

    def test_a_seq_is_not_used_again_after_a_purge(self, store: Store) -> None:
        cancelled(store)
        latest = store.latest_event_seq()
        purge(store, final_before=LATER)

        receipt = receive(store, make_accept("m2"))

        assert receipt.seq == 2
        assert store.latest_event_seq() == latest + 1
