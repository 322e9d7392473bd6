"""What a store must do with intents and outcomes: intend, settle, release."""

from __future__ import annotations

import pytest

from mailactors.model.lifecycle import IllegalTransitionError, State
from mailactors.spool.port import (
    Cancel,
    Claim,
    Claimed,
    Intend,
    Intended,
    Progress,
    Recorded,
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


class OutcomesContract(Contract):
    """See the module."""

    # Intend

    def test_an_intent_carries_what_is_needed_to_render(self, store: Store) -> None:
        accept = make_accept()
        lease = lease_one(store, accept)

        intended = one(store, make_intend(lease))

        assert Intended(
            "m1@mail.example", NOW, "bounces@example.com", lease.recipients, accept.packed
        ) == (intended)
        assert states(store) == ["sending"]

    def test_the_same_intent_again_answers_the_same(self, store: Store) -> None:
        lease = lease_one(store)
        first = one(store, make_intend(lease))

        second = one(store, make_intend(lease), NOW + 1)

        assert first == second
        assert store.attempt_counts("primary", NOW, 2 * NOW) == {0: 1}

    def test_an_intent_of_an_old_epoch_is_withdrawn(self, store: Store) -> None:
        lease = lease_one(store)
        one(store, Release(lease.seq, (0,), lease.epoch, NOW))
        lease_all(store)

        assert Withdrawn() == one(store, make_intend(lease))
        assert states(store) == ["leased"]

    def test_a_cancelled_delivery_is_not_intended(self, store: Store) -> None:
        lease = lease_one(store)
        one(store, Cancel("m1"))

        assert Withdrawn() == one(store, make_intend(lease))
        assert states(store) == ["cancelled"]

    def test_a_delivery_past_its_deadline_expires_at_the_intent(self, store: Store) -> None:
        lease = lease_one(store)

        result = one(store, make_intend(lease), NOW + LIFE_S)

        assert Withdrawn() == result
        assert states(store) == ["expired"]
        assert kinds(store) == ["accepted", "expired", "final_failure"]

    def test_a_settled_intent_is_not_repeated(self, store: Store) -> None:
        lease = send_one(store)
        one(store, make_settle(lease, Step(0, State.SENT)))

        assert Withdrawn() == one(store, make_intend(lease))

    def test_two_intents_may_share_a_lease(self, store: Store) -> None:
        lease = lease_one(store, make_accept(recipients=["ann@example.com", "bob@example.com"]))

        first = one(store, make_intend(lease, "a1", (0,)))
        second = one(store, make_intend(lease, "a2", (1,)))

        assert isinstance(first, Intended)
        assert isinstance(second, Intended)
        assert first.recipients == ((0, "ann@example.com"),)
        assert second.recipients == ((1, "bob@example.com"),)

    def test_an_intent_of_an_unknown_message_is_withdrawn(self, store: Store) -> None:
        assert Withdrawn() == one(store, Intend("a1", 77, (0,), 1, "primary"))

    # Settle

    def test_an_outcome_moves_each_delivery_on(self, store: Store) -> None:
        lease = send_one(store, make_accept(recipients=["ann@example.com", "bob@example.com"]))
        steps = Step(0, State.SENT), Step(1, State.DEFERRED, NOW + 30, "450 busy")

        result = one(store, make_settle(lease, *steps), NOW + 2)

        assert Recorded() == result
        (status,) = store.status("m1")
        assert status.attempts == 1
        ann, bob = status.deliveries
        assert (ann.state, ann.provider, ann.attempts, ann.error) == (State.SENT, "primary", 1, "")
        assert (bob.state, bob.due_at, bob.error) == (State.DEFERRED, NOW + 30, "450 busy")
        assert bob.updated_at == NOW + 2

    def test_an_outcome_is_an_event_with_its_facts(self, store: Store) -> None:
        lease = send_one(store)

        one(store, make_settle(lease, Step(0, State.SENT)))

        event = store.timeline(lease.seq)[-1]
        assert event.kind == "attempt"
        assert event.facts == {
            "rule": "it said so",
            "provider": "primary",
            "outcome": "accepted",
            "attempt_id": "a1",
        }

    def test_progress_comes_back_with_the_next_lease(self, store: Store) -> None:
        lease = send_one(store)
        progress = Progress(round=2, tried=("primary",), barred=("other",), prefer="primary")
        one(store, make_settle(lease, Step(0, State.DEFERRED, NOW), progress=progress))

        (again,) = lease_all(store)

        assert (progress, 1) == (again.progress, again.attempts)

    def test_what_no_provider_saw_is_no_attempt(self, store: Store) -> None:
        lease = lease_one(store)

        one(store, make_settle(lease, Step(0, State.DEFERRED, NOW), is_attempt=False))

        (status,) = store.status("m1")
        assert (status.attempts, status.deliveries[0].attempts) == (0, 0)
        assert store.attempt_counts("primary", 0.0, 1.0) == {}

    @pytest.mark.parametrize("is_intended", [True, False])
    def test_the_same_outcome_again_changes_nothing(self, store: Store, is_intended: bool) -> None:
        lease = send_one(store) if is_intended else lease_one(store)
        settle = make_settle(lease, Step(0, State.DEFERRED, NOW + 9))
        one(store, settle)
        before = store.status("m1"), store.timeline(lease.seq)

        result = one(store, settle, NOW + 1)

        assert Recorded() == result
        assert before == (store.status("m1"), store.timeline(lease.seq))

    def test_an_acceptance_after_recovery_settles_as_evidence(self, store: Store) -> None:
        lease = send_one(store)
        one(store, make_recover())

        results = [one(store, make_settle(lease, Step(0, State.SENT))) for _ in range(2)]

        assert [Recorded(is_stale=True)] * 2 == results
        assert states(store) == ["sent"]
        assert kinds(store) == ["accepted", "uncertain", "evidence", "resolved"]

    def test_an_acceptance_settles_what_waits_to_be_sent_again(self, store: Store) -> None:
        lease = send_one(store)
        one(store, make_recover())
        steps = (Step(0, State.READY, NOW),)
        one(store, SettleDoubt(lease.seq, steps, None, "resend", {}, is_risk=True))
        (again,) = lease_all(store)

        one(store, make_settle(lease, Step(0, State.SENT)))

        assert states(store) == ["sent"]
        assert Withdrawn() == one(store, make_intend(again, "a2"))

    @pytest.mark.parametrize("state", [State.DEFERRED, State.READY, State.LEASED])
    def test_a_late_failure_is_only_evidence(self, store: Store, state: State) -> None:
        lease = send_one(store)
        one(store, make_recover())

        result = one(store, make_settle(lease, Step(0, state, NOW)))

        assert Recorded(is_stale=True) == result
        assert states(store) == ["uncertain"]
        assert kinds(store) == ["accepted", "uncertain", "evidence"]

    def test_an_outcome_of_an_old_lease_is_only_evidence(self, store: Store) -> None:
        lease = lease_one(store)
        one(store, make_recover())
        lease_all(store)

        result = one(store, make_settle(lease, Step(0, State.FAILED)))

        assert Recorded(is_stale=True) == result
        assert states(store) == ["leased"]

    def test_an_outcome_without_an_intent_cannot_be_sent(self, store: Store) -> None:
        lease = lease_one(store)

        with pytest.raises(IllegalTransitionError):
            store.apply([make_accept("m2"), make_settle(lease, Step(0, State.SENT))], NOW)

        assert states(store) == ["leased"]
        assert store.status("m2") == ()

    def test_a_failure_may_leave_the_lease_to_the_next_lane(self, store: Store) -> None:
        lease = send_one(store)
        one(store, make_settle(lease, Step(0, State.LEASED, error="421 not now")))

        intended = one(store, make_intend(lease, "a2"))

        assert isinstance(intended, Intended)
        assert states(store) == ["sending"]
        assert store.status("m1")[0].attempts == 1

    @pytest.mark.parametrize("is_intended", [True, False])
    def test_a_void_intent_leaves_the_lease_as_it_was(
        self, store: Store, is_intended: bool
    ) -> None:
        lease = send_one(store) if is_intended else lease_one(store)
        settle = make_settle(lease, Step(0, State.LEASED), is_attempt=False)

        results = [one(store, settle), one(store, settle)]

        assert [Recorded(), Recorded()] == results
        (delivery,) = store.status("m1")[0].deliveries
        assert (delivery.state, delivery.due_at, delivery.attempts) == (State.LEASED, NOW, 0)

    def test_an_intent_that_comes_after_its_own_outcome_is_withdrawn(self, store: Store) -> None:
        lease = lease_one(store)
        one(store, make_settle(lease, Step(0, State.LEASED), is_attempt=False))

        assert Withdrawn() == one(store, make_intend(lease))
        assert states(store) == ["leased"]
        assert isinstance(one(store, make_intend(lease, "a2")), Intended)

    def test_an_outcome_moves_only_what_its_own_attempt_sent(self, store: Store) -> None:
        lease = send_one(store)

        result = one(store, make_settle(lease, Step(0, State.SENT), attempt_id="a2"))

        assert Recorded(is_stale=True) == result
        assert states(store) == ["sending"]

    # Release

    def test_released_deliveries_are_ready_at_the_time_given(self, store: Store) -> None:
        lease = lease_one(store)

        result = one(store, Release(lease.seq, (0,), lease.epoch, NOW + 5))

        assert Recorded() == result
        assert states(store) == ["ready"]
        assert Claimed((), NOW + 5) == one(store, Claim("main", 1, "node"), NOW + 4)

    def test_deliveries_released_with_an_error_are_failed(self, store: Store) -> None:
        lease = lease_one(store)

        one(store, Release(lease.seq, (0,), lease.epoch, NOW, error="cannot be rendered"))

        assert states(store) == ["failed"]
        assert store.status("m1")[0].deliveries[0].error == "cannot be rendered"
        assert kinds(store) == ["accepted", "failed", "final_failure"]

    def test_an_old_epoch_releases_nothing(self, store: Store) -> None:
        lease = lease_one(store)
        release = Release(lease.seq, (0,), lease.epoch, NOW)
        one(store, release)
        lease_all(store)

        result = one(store, release)

        assert result == Recorded(is_stale=True)
        assert states(store) == ["leased"]

    def test_a_sending_delivery_is_not_released(self, store: Store) -> None:
        lease = send_one(store)

        one(store, Release(lease.seq, (0,), lease.epoch, NOW))

        assert states(store) == ["sending"]
