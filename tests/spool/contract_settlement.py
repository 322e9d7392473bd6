"""What a store must do with doubts: repeat, look up, report, settle by hand, blame."""

from __future__ import annotations

from typing import Any

import pytest

from mailactors.model.lifecycle import State
from mailactors.spool.port import (
    NEVER_AT,
    CountCrash,
    Doubt,
    Doubts,
    FindDueDoubts,
    IntendAgain,
    Intended,
    LookUps,
    Postpone,
    RecordDeliveryEvent,
    Recorded,
    Recovered,
    SettleByHand,
    SettledByHand,
    SettleDoubt,
    Step,
    Store,
    Suppress,
    Withdrawn,
)
from tests.spool.contract import Contract
from tests.spool.makers import (
    LIFE_S,
    NOW,
    doubt_one,
    kinds,
    lease_all,
    lease_one,
    make_accept,
    make_intend,
    make_recover,
    make_settle,
    one,
    send_one,
    states,
)

TWO = ["ann@example.com", "bob@example.com"]


def doubts_of(store: Store, now: float = NOW) -> list[Doubt]:
    doubts = one(store, FindDueDoubts(10), now)
    assert isinstance(doubts, Doubts)
    return list(doubts.doubts)


def again(doubt: Doubt, attempt_id: str = "a2", **changes: Any) -> IntendAgain:
    fields = {"epoch": doubt.epoch, "repeat_of": doubt.attempt_id, "not_after": NOW + 99}
    return IntendAgain(attempt_id, doubt.seq, provider=doubt.provider, **{**fields, **changes})


class SettlementContract(Contract):
    """See the module."""

    # By key

    def test_a_repetition_goes_on_where_the_doubt_was(self, store: Store) -> None:
        doubt_one(store, due_at=NOW, accept=make_accept(recipients=TWO))
        (doubt,) = doubts_of(store)

        results = [one(store, again(doubt), NOW + 5) for _ in range(2)]

        assert results[0] == results[1]
        assert isinstance(results[0], Intended)
        assert ((0, TWO[0]), (1, TWO[1])) == results[0].recipients
        assert states(store) == ["sending", "sending"]
        assert doubts_of(store, NOW + 1_000) == []
        lost = [Step(n, State.UNCERTAIN, NOW + 7) for n in (0, 1)]
        lease = lease_of(doubt)
        one(store, make_settle(lease, *lost, attempt_id="a2", is_repeat=True), NOW + 6)
        (after,) = doubts_of(store, NOW + 7)
        assert ("a2", NOW, NOW, NOW + 6, 1, True) == (
            *(after.attempt_id, after.began_at, after.since, after.ended_at, after.repeats),
            after.is_whole,
        )

    @pytest.mark.parametrize(
        "changes",
        [{"epoch": 77}, {"repeat_of": "a0"}, {"not_after": NOW + 5}],
        ids=["epoch", "attempt", "window"],
    )
    def test_a_repetition_that_is_not_the_same_is_refused(
        self, store: Store, changes: dict[str, Any]
    ) -> None:
        doubt_one(store, due_at=NOW)
        (doubt,) = doubts_of(store)

        assert Withdrawn() == one(store, again(doubt, **changes), NOW + 5)
        assert states(store) == ["uncertain"]
        assert store.attempt_counts("primary", NOW - 99, 1.0) == {int(NOW): 1}

    def test_what_look_ups_found_does_not_count_for_a_later_attempt(self, store: Store) -> None:
        doubt_one(store, due_at=NOW)
        (doubt,) = doubts_of(store)
        looks = LookUps(count=1, negatives=1, negative_at=NOW, answered_at=NOW)
        kept = (Step(0, State.UNCERTAIN, NOW),)
        one(store, SettleDoubt(1, kept, None, "nothing", {}, attempt_id="a1", looks=looks))
        assert [1] == [each.looks.negatives for each in doubts_of(store)]

        one(store, again(doubt), NOW + 5)
        lost = Step(0, State.UNCERTAIN, NOW + 7)
        one(store, make_settle(lease_of(doubt), lost, attempt_id="a2", is_repeat=True), NOW + 6)

        (after,) = doubts_of(store, NOW + 7)
        assert (1, 0) == (after.looks.count, after.looks.negatives)

    def test_past_the_deadline_nothing_is_repeated(self, store: Store) -> None:
        doubt_one(store, due_at=NOW)
        (doubt,) = doubts_of(store)

        late = again(doubt, not_after=NOW + 2 * LIFE_S)

        assert Withdrawn() == one(store, late, NOW + LIFE_S)
        assert states(store) == ["uncertain"]

    def test_one_who_is_suppressed_stops_the_whole_repetition(self, store: Store) -> None:
        doubt_one(store, due_at=NOW, accept=make_accept(recipients=TWO))
        (before,) = doubts_of(store)
        one(store, Suppress("bob@EXAMPLE.com", "asked", "test"))
        (after,) = doubts_of(store)

        assert (False, True) == (before.is_suppressed, after.is_suppressed)
        assert Withdrawn() == one(store, again(before))
        assert states(store) == ["uncertain", "uncertain"]

    def test_what_is_left_of_an_envelope_is_not_repeated(self, store: Store) -> None:
        doubt_one(store, due_at=NOW, accept=make_accept(recipients=TWO))
        one(store, RecordDeliveryEvent("m1", "primary", TWO[0], "delivered", NOW))
        (doubt,) = doubts_of(store)

        assert (False, ((1, TWO[1]),)) == (doubt.is_whole, doubt.recipients)
        assert Withdrawn() == one(store, again(doubt))

    def test_an_intent_after_its_own_outcome_is_void(self, store: Store) -> None:
        doubt_one(store, due_at=NOW)
        (doubt,) = doubts_of(store)
        lost = Step(0, State.UNCERTAIN, NOW)
        settle = make_settle(
            lease_of(doubt), lost, attempt_id="a2", is_repeat=True, is_attempt=False
        )

        one(store, settle)

        assert Withdrawn() == one(store, again(doubt))
        assert states(store) == ["uncertain"]

    def test_an_accepted_repetition_ends_the_doubt(self, store: Store) -> None:
        doubt_one(store, due_at=NOW)
        (doubt,) = doubts_of(store)
        one(store, again(doubt))

        settle = make_settle(lease_of(doubt), Step(0, State.SENT), attempt_id="a2", is_repeat=True)
        one(store, settle)

        assert states(store) == ["sent"]
        assert doubts_of(store, NEVER_AT) == []

    def test_a_crash_during_a_repetition_leaves_the_doubt_as_old_as_it_is(
        self, store: Store
    ) -> None:
        doubt_one(store, due_at=NOW)
        (doubt,) = doubts_of(store)
        one(store, again(doubt), NOW + 5)

        one(store, make_recover(), NOW + 6)

        (after,) = doubts_of(store, NOW + 66)
        assert (NOW, NOW + 6, 1) == (after.since, after.ended_at, after.repeats)
        assert states(store) == ["uncertain"]

    def test_after_a_resend_the_key_is_as_old_as_the_message(self, store: Store) -> None:
        doubt_one(store, due_at=NOW)
        one(store, SettleDoubt(1, (Step(0, State.READY, NOW),), None, "resend", {}, is_risk=True))
        (lease,) = lease_all(store, now=NOW + 50)
        one(store, make_intend(lease, "a2"), NOW + 50)
        lost = Step(0, State.UNCERTAIN, NOW + 60)
        one(store, make_settle(lease, lost, attempt_id="a2"), NOW + 55)

        (doubt,) = doubts_of(store, NOW + 60)

        assert (NOW, NOW + 55) == (doubt.began_at, doubt.since)

    # Look-ups and times

    def test_what_look_ups_came_to_is_kept(self, store: Store) -> None:
        doubt_one(store, due_at=NOW)
        looks = LookUps(3, 1, 1, NOW + 1, NOW + 2)
        step = Step(0, State.UNCERTAIN, NOW + 9)

        one(store, SettleDoubt(1, (step,), None, "nothing", {}, attempt_id="a1", looks=looks))

        (doubt,) = doubts_of(store, NOW + 9)
        assert looks == doubt.looks
        assert kinds(store)[-1] == "asked"

    def test_what_was_found_out_of_another_attempt_changes_nothing(self, store: Store) -> None:
        doubt_one(store, due_at=NOW)
        resolve = SettleDoubt(1, (Step(0, State.SENT),), None, "found", {}, attempt_id="a0")

        assert Recorded(is_stale=True) == one(store, resolve)
        assert states(store) == ["uncertain"]

    def test_a_held_doubt_is_looked_at_again_and_never_uncertain(self, store: Store) -> None:
        doubt_one(store, due_at=NOW)
        hold = SettleDoubt(1, (Step(0, State.HELD, NOW),), None, "hold", {}, next_at=NOW + 50)
        one(store, hold)

        back = one(store, SettleDoubt(1, (Step(0, State.UNCERTAIN, NOW),), None, "no", {}))

        assert Recorded(is_stale=True) == back
        assert [True] == [doubt.is_held for doubt in doubts_of(store, NOW + 50)]
        assert doubts_of(store, NOW + 49) == []

    def test_a_doubt_is_put_off_without_a_word(self, store: Store) -> None:
        doubt_one(store, due_at=NOW)
        before = kinds(store)

        done = one(store, Postpone(1, ("a0", "a1"), NOW + 30, 2))
        none = one(store, Postpone(1, ("a0",), NOW, 2))

        assert (Recorded(), Recorded(is_stale=True)) == (done, none)
        assert doubts_of(store, NOW + 29) == []
        assert [2] == [doubt.repeats for doubt in doubts_of(store, NOW + 30)]
        assert before == kinds(store)

    def test_each_provider_has_a_portion_of_its_own(self, store: Store) -> None:
        for number in range(6):
            lease = lease_one(store, make_accept(f"m{number}"))
            name = "sick" if number < 5 else "well"
            attempt = f"attempt {number}"
            intend = make_intend(lease, attempt)
            one(store, type(intend)(attempt, lease.seq, (0,), lease.epoch, name))
            lost = Step(0, State.UNCERTAIN, NOW + number)
            one(store, make_settle(lease, lost, attempt_id=attempt, provider=name))

        doubts = one(store, FindDueDoubts(2), NOW + 10)

        assert isinstance(doubts, Doubts)
        assert ["m0", "m1", "m5"] == [doubt.id for doubt in doubts.doubts]
        assert NOW + 2 == doubts.next_due_at

    # What a marker proves

    def test_a_marker_may_be_another_recipients(self, store: Store) -> None:
        lease = send_one(store, make_accept(recipients=TWO))
        steps = (Step(0, State.SENT), Step(1, State.DEFERRED, NOW))
        one(store, make_settle(lease, *steps))
        (later,) = lease_all(store)
        one(store, make_intend(later, "a2"))
        one(
            store,
            make_settle(later, Step(1, State.UNCERTAIN, NOW), attempt_id="a2", outcome="uncertain"),
        )

        assert [False] == [doubt.is_sole for doubt in doubts_of(store)]

    def test_a_marker_of_earlier_attempts_for_the_same_is_theirs(self, store: Store) -> None:
        lease = send_one(store)
        one(store, make_settle(lease, Step(0, State.LEASED), outcome="deferred"))
        one(store, make_intend(lease, "a2"))
        lost = Step(0, State.UNCERTAIN, NOW)
        facts = {"next": {"0": "uncertain"}}
        one(
            store,
            make_settle(lease, lost, attempt_id="a2", outcome="uncertain", facts=facts),
        )
        (doubt,) = doubts_of(store)
        one(store, again(doubt, "a3"))
        one(store, make_recover())

        assert [True] == [doubt.is_sole for doubt in doubts_of(store, NOW + 60)]

    # Events

    @pytest.mark.parametrize("state", [State.DEFERRED, State.UNCERTAIN, State.BOUNCED])
    def test_an_event_counts_for_a_provider_that_had_an_attempt(
        self, store: Store, state: State
    ) -> None:
        lease = send_one(store)
        one(store, make_settle(lease, Step(0, state, NOW + 5)))

        stranger = one(store, RecordDeliveryEvent("m1", "secondary", TWO[0], "delivered", NOW))
        known = one(store, RecordDeliveryEvent("m1", "primary", TWO[0], "delivered", NOW))
        again_ = one(store, RecordDeliveryEvent("m1", "primary", TWO[0], "delivered", NOW + 1))

        is_final = state is State.BOUNCED
        assert (Recorded(True), Recorded(is_final), Recorded(True)) == (stranger, known, again_)
        assert states(store) == [state.value if is_final else "sent"]
        assert kinds(store)[-1] == ("evidence" if is_final else "resolved")

    def test_a_bounce_of_another_provider_is_only_evidence(self, store: Store) -> None:
        lease = send_one(store)
        one(store, make_settle(lease, Step(0, State.LEASED), outcome="deferred"))
        one(store, type(make_intend(lease))("a2", lease.seq, (0,), lease.epoch, "secondary"))
        lost = Step(0, State.UNCERTAIN, NOW)
        one(store, make_settle(lease, lost, attempt_id="a2", provider="secondary"))

        one(store, RecordDeliveryEvent("m1", "primary", TWO[0], "bounced", NOW))

        assert states(store) == ["uncertain"]
        assert [()] == [doubt.evidence for doubt in doubts_of(store)]

    @pytest.mark.parametrize("state", [State.LEASED, State.DEFERRED, State.BOUNCED, State.FAILED])
    def test_what_was_delivered_while_it_was_sent_again_has_not_failed(
        self, store: Store, state: State
    ) -> None:
        lease = send_one(store, make_accept(recipients=TWO))
        one(store, RecordDeliveryEvent("m1", "primary", TWO[0], "delivered", NOW))
        steps = (Step(0, state, NOW + 5, "no", suppress=True), Step(1, state, NOW + 5, "no"))
        settle = make_settle(lease, *steps, outcome="deferred")

        assert [Recorded(), Recorded()] == [one(store, settle) for _ in range(2)]
        assert states(store) == ["sent", state.value]
        assert (True, 1) == (store.ledger().is_balanced, store.status("m1")[0].attempts)
        assert kinds(store).count("resolved") == 1
        assert one(store, Suppress(TWO[0], "", "test")).source == "test"  # type: ignore[attr-defined]

    def test_nothing_is_left_of_a_failure_where_all_was_delivered(self, store: Store) -> None:
        lease = send_one(store)
        one(store, RecordDeliveryEvent("m1", "primary", TWO[0], "delivered", NOW))
        settle = make_settle(lease, Step(0, State.LEASED), outcome="deferred")

        assert [Recorded(True), Recorded(True)] == [one(store, settle) for _ in range(2)]
        assert states(store) == ["sent"]
        assert (True, 1) == (store.ledger().is_balanced, store.status("m1")[0].attempts)

    def test_a_bounce_that_came_while_it_was_sent_again_is_only_evidence(
        self, store: Store
    ) -> None:
        lease = send_one(store)
        one(store, RecordDeliveryEvent("m1", "primary", TWO[0], "bounced", NOW))

        one(store, make_settle(lease, Step(0, State.LEASED), outcome="deferred"))

        assert states(store) == ["leased"]

    # By hand

    def test_a_person_settles_all_that_is_open(self, store: Store) -> None:
        doubt_one(store, due_at=NOW, accept=make_accept(recipients=TWO))
        one(store, SettleDoubt(1, (Step(1, State.HELD, NOW),), None, "hold", {}))

        done = one(store, SettleByHand("m1", "resend", "she said so"))
        again_ = one(store, SettleByHand("m1", "resend"))

        assert SettledByHand(True, (0, 1), (), stream="main") == done
        assert isinstance(again_, SettledByHand)
        assert ((), (0, 1)) == (again_.settled, again_.left)
        assert again_.why
        assert states(store) == ["ready", "ready"]
        (risk,) = store.ledger().risks
        assert ("main", "primary", 2, 2) == (
            *(risk.stream, risk.provider, risk.count),
            store.ledger().declared_risks,
        )

    def test_an_unknown_message_is_not_settled_by_hand(self, store: Store) -> None:
        assert SettledByHand(is_known=False) == one(store, SettleByHand("none", "sent"))

    def test_a_failure_by_hand_is_reported(self, store: Store) -> None:
        doubt_one(store, due_at=NOW)

        one(store, SettleByHand("m1", "failed", "lost"))

        assert states(store) == ["failed"]
        assert kinds(store)[-1] == "final_failure"

    def test_failures_of_one_commit_are_reported_once_each(self, store: Store) -> None:
        doubt_one(store, due_at=NOW, accept=make_accept(recipients=TWO))

        store.apply(
            [SettleDoubt(1, (Step(n, State.FAILED),), None, "no", {}) for n in (1, 0)], NOW + 5
        )

        reported = [e.facts["deliveries"] for e in store.timeline(1) if e.kind == "final_failure"]
        assert [[1], [0]] == [[each["n"] for each in deliveries] for deliveries in reported]

    # Who is blamed

    def test_a_real_outcome_clears_a_message(self, store: Store) -> None:
        lease = send_one(store)
        results = [one(store, CountCrash(lease.seq, 2)) for _ in range(2)]
        one(store, make_settle(lease, Step(0, State.DEFERRED, NOW)))

        (after,) = lease_all(store)

        assert ([Recorded(), Recorded()], 0) == (results, after.crashes)

    def test_blame_is_read_with_the_lease(self, store: Store) -> None:
        lease = lease_one(store)
        one(store, CountCrash(lease.seq, 2))
        one(store, make_recover())

        (after,) = lease_all(store)

        assert after.crashes == 2

    @pytest.mark.parametrize(("suspects", "held"), [(1, ("m0",)), (2, ())])
    def test_a_death_is_blamed_on_the_only_suspect(
        self, store: Store, suspects: int, held: tuple[str, ...]
    ) -> None:
        for number in range(3):
            lease = lease_one(store, make_accept(f"m{number}"))
            one(store, make_intend(lease, f"attempt {number}"))
            if number < suspects:
                one(store, CountCrash(lease.seq, 2))

        recovered = one(store, make_recover(died=True))

        assert Recovered(0, 3, held) == recovered
        expected = ["held" if f"m{number}" in held else "uncertain" for number in range(3)]
        assert expected == [states(store, f"m{number}")[0] for number in range(3)]

    def test_deaths_of_actors_blame_whom_they_died_on(self, store: Store) -> None:
        first = send_one(store, make_accept("m1"))
        second = lease_one(store, make_accept("m2"))
        one(store, make_intend(second, "a2"))
        third = lease_one(store, make_accept("m3"))
        one(store, CountCrash(third.seq, 2))

        blamed = frozenset({first.seq, third.seq})
        one(store, make_recover(blamed=blamed))

        assert ["failed"] == states(store, "m3")
        claimed = [states(store, name) for name in ("m1", "m2")]
        assert claimed == [["uncertain"], ["uncertain"]]
        crashes = {doubt.id: doubt.crashes for doubt in doubts_of(store, NOW + 60)}
        assert {"m1": 1, "m2": 0} == crashes


def lease_of(doubt: Doubt) -> Any:
    """Return what `make_settle` needs of a lease."""
    return doubt
