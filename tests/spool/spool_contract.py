"""What any store must do: a suite that each one passes by subclassing `SpoolContract`."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mailactors.model.lifecycle import NEXT, PENDING, IllegalTransitionError, State
from mailactors.model.message import Address, Content, Envelope, Message, pack_content
from mailactors.spool.port import (
    Accept,
    Cancel,
    Cancelled,
    Claim,
    Claimed,
    Command,
    Conflict,
    Doubts,
    Expire,
    Expired,
    Intend,
    Intended,
    Key,
    Lease,
    Overdue,
    Progress,
    Receipt,
    Recover,
    Recovered,
    Release,
    Resolve,
    Result,
    Settle,
    Settled,
    Step,
    Store,
    Withdrawn,
)
from mailactors.spool.questions import Ledger

NOW = 1_800_000_000.0
LIFE_S = 3_600.0
KEY_S = 600.0
VERBS = (
    *("accept", "claim", "intend", "settle") * 4,
    *("release", "give up", "upkeep", "cancel", "resolve"),
)


def make_accept(
    id_: str = "m1",
    *,
    recipients: Sequence[str] = ("ann@example.com",),
    key: str | None = None,
    fingerprint: str = "same",
    client_id: str = "",
    stream: str = "main",
    at: float = NOW,
    not_before: float = 0.0,
) -> Accept:
    content = Content(Address("shop@example.com"), subject=f"About {id_}", text="Hello")
    message = Message(
        id=id_,
        message_id=f"{id_}@mail.example",
        date_s=at,
        envelope=Envelope("bounces@example.com", tuple(recipients)),
        content=content,
        stream=stream,
        accepted_at=at,
        not_before=not_before,
        expires_at=at + LIFE_S,
    )
    key_ = Key("scope", id_ if key is None else key, fingerprint, at + KEY_S)
    return Accept(message, pack_content(content), f"digest of {id_}", key_, client_id)


def make_intend(lease: Lease, attempt_id: str = "a1", ns: tuple[int, ...] | None = None) -> Intend:
    all_ns = tuple(n for n, _ in lease.recipients)
    return Intend(attempt_id, lease.seq, all_ns if ns is None else ns, lease.epoch, "primary")


def make_settle(lease: Lease, *steps: Step, attempt_id: str = "a1", **changes: Any) -> Settle:
    settle = Settle(
        attempt_id=attempt_id,
        seq=lease.seq,
        epoch=lease.epoch,
        provider="primary",
        steps=steps,
        progress=Progress(tried=("primary",)),
        outcome="accepted",
        facts={"rule": "it said so"},
    )
    return msgspec.structs.replace(settle, **changes)


def make_recover(node: str = "node", **changes: Any) -> Recover:
    recover = Recover(node, frozenset(), frozenset(), {"": 60.0})
    return msgspec.structs.replace(recover, **changes)


def one(store: Store, command: Command, now: float = NOW) -> Result:
    (result,) = store.apply([command], now)
    return result


def receive(store: Store, accept: Accept, now: float = NOW) -> Receipt:
    receipt = one(store, accept, now)
    assert isinstance(receipt, Receipt)
    return receipt


def lease_all(store: Store, stream: str = "main", now: float = NOW) -> tuple[Lease, ...]:
    claimed = one(store, Claim(stream, 1_000, "node"), now)
    assert isinstance(claimed, Claimed)
    return claimed.leases


def lease_one(store: Store, accept: Accept | None = None, now: float = NOW) -> Lease:
    receive(store, accept or make_accept(), now)
    (lease,) = lease_all(store, now=now)
    return lease


def send_one(store: Store, accept: Accept | None = None, now: float = NOW) -> Lease:
    lease = lease_one(store, accept, now)
    assert isinstance(one(store, make_intend(lease), now), Intended)
    return lease


def doubt_one(store: Store, *, due_at: float, accept: Accept | None = None) -> Lease:
    lease = send_one(store, accept)
    steps = [Step(n, State.UNCERTAIN, due_at) for n, _ in lease.recipients]
    one(store, make_settle(lease, *steps, outcome="uncertain"))
    return lease


def states(store: Store, name: str = "m1") -> list[str]:
    (status,) = store.status(name)
    return [delivery.state.value for delivery in status.deliveries]


def kinds(store: Store, name: str = "m1") -> list[str]:
    (status,) = store.status(name)
    return [event.kind for event in store.timeline(status.seq)]


class SpoolContract:
    """Subclass it as `Test…` with `make_store`; `check` may look at more than the port shows."""

    def make_store(self) -> contextlib.AbstractContextManager[Store]:
        """Return a new, empty store for the time of the context."""
        raise NotImplementedError

    def check(self, store: Store) -> None:
        """Look at the insides after each random command."""

    @pytest.fixture
    def store(self) -> Iterator[Store]:
        with self.make_store() as store:
            yield store

    # Accept

    def test_accepting_answers_with_a_receipt(self, store: Store) -> None:
        receipt = one(store, make_accept(client_id="order-7"))

        expected = Receipt(1, "m1", "m1@mail.example", "order-7", NOW, is_replay=False)
        assert expected == receipt

    def test_an_accepted_message_is_ready(self, store: Store) -> None:
        accept = make_accept(recipients=["ann@example.com", "bob@example.com"])

        receive(store, accept)

        (status,) = store.status("m1")
        assert [(delivery.n, delivery.recipient) for delivery in status.deliveries] == [
            (0, "ann@example.com"),
            (1, "bob@example.com"),
        ]
        assert states(store) == ["ready", "ready"]
        assert status.subject == "About m1"
        assert kinds(store) == ["accepted"]

    def test_seqs_follow_the_order_of_acceptance(self, store: Store) -> None:
        receipts = store.apply([make_accept("m1"), make_accept("m2")], NOW)

        assert [receipt.seq for receipt in receipts if isinstance(receipt, Receipt)] == [1, 2]

    def test_the_same_key_and_content_is_a_replay(self, store: Store) -> None:
        first = receive(store, make_accept("m1", key="k"))

        second = receive(store, make_accept("m2", key="k"))

        assert msgspec.structs.replace(first, is_replay=True) == second
        assert store.status("m2") == ()

    def test_a_replay_within_one_transaction_is_known(self, store: Store) -> None:
        results = store.apply([make_accept("m1", key="k"), make_accept("m2", key="k")], NOW)

        assert [one.is_replay for one in results if isinstance(one, Receipt)] == [False, True]

    def test_the_same_key_with_other_content_is_a_conflict(self, store: Store) -> None:
        receive(store, make_accept("m1", key="k"))

        result = one(store, make_accept("m2", key="k", fingerprint="other"))

        assert Conflict("m1") == result

    def test_an_expired_key_of_a_pending_message_still_holds(self, store: Store) -> None:
        receive(store, make_accept("m1", key="k"))

        receipt = receive(store, make_accept("m2", key="k"), NOW + KEY_S)

        assert (receipt.id, receipt.is_replay) == ("m1", True)

    def test_an_expired_key_of_a_final_message_is_free(self, store: Store) -> None:
        receive(store, make_accept("m1", key="k"))
        one(store, Cancel("m1"))

        receipt = receive(store, make_accept("m2", key="k", fingerprint="other"), NOW + KEY_S)

        assert (receipt.id, receipt.is_replay) == ("m2", False)

    def test_a_live_key_of_a_final_message_holds(self, store: Store) -> None:
        receive(store, make_accept("m1", key="k"))
        one(store, Cancel("m1"))

        receipt = receive(store, make_accept("m2", key="k"), NOW + KEY_S - 1)

        assert (receipt.id, receipt.is_replay) == ("m1", True)

    def test_the_same_acceptance_is_known_after_its_key_expired(self, store: Store) -> None:
        accept = make_accept()
        receive(store, accept)
        one(store, Cancel("m1"))

        receipt = receive(store, accept, NOW + KEY_S)

        assert receipt.is_replay

    # Claim

    def test_a_claim_leases_all_due_deliveries_of_a_message(self, store: Store) -> None:
        accept = make_accept(recipients=["ann@example.com", "bob@example.com"])
        receive(store, accept)

        claimed = one(store, Claim("main", 10, "node"))

        expected = Lease(
            seq=1,
            id="m1",
            stream="main",
            recipients=((0, "ann@example.com"), (1, "bob@example.com")),
            recipients_total=2,
            epoch=1,
            attempts=0,
            progress=Progress(),
            due_at=NOW,
            accepted_at=NOW,
            expires_at=NOW + LIFE_S,
            size_bytes=len(accept.packed),
        )
        assert Claimed((expected,), None) == claimed
        assert states(store) == ["leased", "leased"]

    def test_a_claim_takes_the_oldest_due_first(self, store: Store) -> None:
        for id_, not_before in [("m1", NOW + 3), ("m2", NOW + 1), ("m3", NOW + 1)]:
            receive(store, make_accept(id_, not_before=not_before))

        claimed = one(store, Claim("main", 2, "node"), NOW + 5)

        assert isinstance(claimed, Claimed)
        assert [lease.id for lease in claimed.leases] == ["m2", "m3"]
        assert claimed.next_due_at == NOW + 3

    def test_what_is_not_due_is_not_claimed(self, store: Store) -> None:
        receive(store, make_accept(not_before=NOW + 60))

        assert Claimed((), NOW + 60) == one(store, Claim("main", 10, "node"), NOW + 59)
        assert len(lease_all(store, now=NOW + 60)) == 1

    def test_streams_are_claimed_apart(self, store: Store) -> None:
        receive(store, make_accept(stream="bulk"))

        assert Claimed((), None) == one(store, Claim("main", 10, "node"))

    def test_what_is_leased_is_not_leased_again(self, store: Store) -> None:
        lease_one(store)

        assert Claimed((), None) == one(store, Claim("main", 10, "node"))

    def test_each_lease_has_a_higher_epoch(self, store: Store) -> None:
        first = lease_one(store)
        one(store, Release(first.seq, (0,), first.epoch, NOW))

        (second,) = lease_all(store)

        assert second.epoch > first.epoch

    def test_only_the_due_deliveries_of_a_message_are_leased(self, store: Store) -> None:
        accept = make_accept(recipients=["ann@example.com", "bob@example.com"])
        lease = send_one(store, accept)
        steps = Step(0, State.DEFERRED, NOW + 10), Step(1, State.DEFERRED, NOW + 20)
        one(store, make_settle(lease, *steps))

        claimed = one(store, Claim("main", 10, "node"), NOW + 10)

        assert isinstance(claimed, Claimed)
        assert claimed.leases[0].recipients == ((0, "ann@example.com"),)
        assert claimed.leases[0].recipients_total == 2
        assert claimed.next_due_at == NOW + 20

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
        assert kinds(store) == ["accepted", "expired"]

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

        assert Settled() == result
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

        assert Settled() == result
        assert before == (store.status("m1"), store.timeline(lease.seq))

    def test_an_outcome_after_recovery_is_only_evidence(self, store: Store) -> None:
        lease = send_one(store)
        one(store, make_recover())

        results = [one(store, make_settle(lease, Step(0, State.SENT))) for _ in range(2)]

        assert [Settled(is_stale=True)] * 2 == results
        assert states(store) == ["uncertain"]
        assert kinds(store) == ["accepted", "uncertain", "evidence"]

    def test_an_outcome_of_an_old_lease_is_only_evidence(self, store: Store) -> None:
        lease = lease_one(store)
        one(store, make_recover())
        lease_all(store)

        result = one(store, make_settle(lease, Step(0, State.FAILED)))

        assert Settled(is_stale=True) == result
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

        assert [Settled(), Settled()] == results
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

        assert Settled(is_stale=True) == result
        assert states(store) == ["sending"]

    # Release

    def test_released_deliveries_are_ready_at_the_time_given(self, store: Store) -> None:
        lease = lease_one(store)

        result = one(store, Release(lease.seq, (0,), lease.epoch, NOW + 5))

        assert Settled() == result
        assert states(store) == ["ready"]
        assert Claimed((), NOW + 5) == one(store, Claim("main", 1, "node"), NOW + 4)

    def test_deliveries_released_with_an_error_are_failed(self, store: Store) -> None:
        lease = lease_one(store)

        one(store, Release(lease.seq, (0,), lease.epoch, NOW, error="cannot be rendered"))

        assert states(store) == ["failed"]
        assert store.status("m1")[0].deliveries[0].error == "cannot be rendered"
        assert kinds(store) == ["accepted", "failed"]

    def test_an_old_epoch_releases_nothing(self, store: Store) -> None:
        lease = lease_one(store)
        release = Release(lease.seq, (0,), lease.epoch, NOW)
        one(store, release)
        lease_all(store)

        result = one(store, release)

        assert result == Settled(is_stale=True)
        assert states(store) == ["leased"]

    def test_what_is_on_its_way_is_not_released(self, store: Store) -> None:
        lease = send_one(store)

        one(store, Release(lease.seq, (0,), lease.epoch, NOW))

        assert states(store) == ["sending"]

    # Expire

    def test_deadlines_end_what_waits(self, store: Store) -> None:
        receive(store, make_accept("m1"))
        receive(store, make_accept("m2", at=NOW + 1))

        expired = one(store, Expire(10), NOW + LIFE_S)

        assert Expired((1,), ("m1",), NOW + 1 + LIFE_S) == expired
        assert states(store, "m1") == ["expired"]
        assert states(store, "m2") == ["ready"]
        assert kinds(store) == ["accepted", "expired"]

    def test_deadlines_are_taken_in_portions(self, store: Store) -> None:
        store.apply([make_accept("m1"), make_accept("m2"), make_accept("m3")], NOW)

        first = one(store, Expire(2), NOW + LIFE_S)
        second = one(store, Expire(2), NOW + LIFE_S)

        assert Expired((1, 2), ("m1", "m2"), NOW + LIFE_S) == first
        assert Expired((3,), ("m3",), None) == second

    def test_what_is_on_its_way_does_not_expire(self, store: Store) -> None:
        send_one(store)

        expired = one(store, Expire(10), NOW + LIFE_S)

        assert Expired((), (), None) == expired
        assert states(store) == ["sending"]

    def test_a_lease_past_its_deadline_expires(self, store: Store) -> None:
        lease = lease_one(store)

        one(store, Expire(10), NOW + LIFE_S)

        assert states(store) == ["expired"]
        assert Withdrawn() == one(store, make_intend(lease), NOW + LIFE_S)

    # Overdue, Resolve

    def test_a_doubt_is_due_when_its_wait_is_over(self, store: Store) -> None:
        lease = doubt_one(store, due_at=NOW + 60)

        early = one(store, Overdue(10), NOW + 59)
        late = one(store, Overdue(10), NOW + 60)

        assert Doubts((), NOW + 60) == early
        assert isinstance(late, Doubts)
        (doubt,) = late.doubts
        assert (lease.seq, "m1", "main", (0,)) == (doubt.seq, doubt.id, doubt.stream, doubt.ns)
        assert (
            doubt.provider,
            doubt.attempt_id,
            doubt.expires_at,
        ) == ("primary", "a1", NOW + LIFE_S)
        assert Progress(tried=("primary",)) == doubt.progress
        assert late.next_due_at is None

    def test_doubts_of_two_attempts_are_apart(self, store: Store) -> None:
        lease = lease_one(store, make_accept(recipients=["ann@example.com", "bob@example.com"]))
        for n, attempt_id in [(0, "a1"), (1, "a2")]:
            one(store, make_intend(lease, attempt_id, (n,)))
            one(store, make_settle(lease, Step(n, State.UNCERTAIN, NOW), attempt_id=attempt_id))

        all_of_them = one(store, Overdue(10))
        the_first = one(store, Overdue(1))

        assert isinstance(all_of_them, Doubts)
        assert [(d.attempt_id, d.ns) for d in all_of_them.doubts] == [("a1", (0,)), ("a2", (1,))]
        assert Doubts(all_of_them.doubts[:1], NOW) == the_first

    def test_resolving_moves_a_doubt_on_and_counts_the_risk(self, store: Store) -> None:
        lease = doubt_one(store, due_at=NOW)
        steps = (Step(0, State.DEFERRED, NOW + 1),)
        resolve = Resolve(lease.seq, steps, Progress(round=2), "resend", {"waited_s": 60}, True)

        results = [one(store, resolve), one(store, resolve)]

        assert [Settled(), Settled(is_stale=True)] == results
        assert states(store) == ["deferred"]
        assert 1 == store.status("m1")[0].declared_risks == store.ledger().declared_risks
        event = store.timeline(lease.seq)[-1]
        assert (event.kind, event.facts) == ("resolved", {"waited_s": 60, "rule": "resend"})

    def test_a_doubt_resolved_as_sent_is_no_risk(self, store: Store) -> None:
        lease = doubt_one(store, due_at=NOW)

        one(store, Resolve(lease.seq, (Step(0, State.SENT),), Progress(), "found", {}))

        assert states(store) == ["sent"]
        assert store.ledger().declared_risks == 0

    def test_a_doubt_may_wait_longer(self, store: Store) -> None:
        lease = doubt_one(store, due_at=NOW)
        steps = (Step(0, State.UNCERTAIN, NOW + 30),)

        one(store, Resolve(lease.seq, steps, Progress(), "nothing found yet", {}))

        assert Doubts((), NOW + 30) == one(store, Overdue(10))

    def test_only_doubts_are_resolved(self, store: Store) -> None:
        lease = send_one(store)

        result = one(store, Resolve(lease.seq, (Step(0, State.SENT),), Progress(), "found", {}))

        assert Settled(is_stale=True) == result
        assert states(store) == ["sending"]

    # Cancel

    def test_cancelling_ends_what_is_not_on_its_way(self, store: Store) -> None:
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
        assert Cancelled(False, 0, 0) == one(store, Cancel("nobody"))

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
        assert Doubts((), NOW + 5) == one(store, Overdue(10))
        (status,) = store.status("m1")
        assert (status.attempts, status.deliveries[0].attempts) == (1, 1)
        assert kinds(store) == ["accepted", "uncertain"]

    def test_what_is_in_flight_stays(self, store: Store) -> None:
        send_one(store, make_accept("m1"))
        lease = lease_one(store, make_accept("m2"))
        seqs = frozenset({lease.seq})

        result = one(store, make_recover(in_flight=frozenset({"a1"}), in_flight_seqs=seqs))

        assert Recovered(0, 0) == result
        assert (states(store, "m1"), states(store, "m2")) == (["sending"], ["leased"])

    def test_what_another_node_holds_stays(self, store: Store) -> None:
        lease_one(store)

        assert Recovered(0, 0) == one(store, make_recover("elsewhere"))
        assert states(store) == ["leased"]

    # Questions

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

    def test_pending_counts_leave_out_what_is_final(self, store: Store) -> None:
        receive(store, make_accept("m1"))
        one(store, Cancel("m1"))
        receive(store, make_accept("m2", stream="bulk"))
        lease_one(store, make_accept("m3"))

        assert store.pending_counts() == {"bulk": {"ready": 1}, "main": {"leased": 1}}

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

    # Any order of commands

    @settings(
        deadline=None,
        max_examples=50,
        suppress_health_check=[HealthCheck.differing_executors, HealthCheck.too_slow],
    )
    @given(seed=st.integers(0, 2**32), steps=st.integers(40, 120))
    def test_no_order_of_commands_leaves_the_table(self, seed: int, steps: int) -> None:
        rng = random.Random(seed)  # lists drawn by hypothesis are too short to get anywhere
        with self.make_store() as store:
            walk = Walk(store)
            for _ in range(steps):
                walk.step(rng.choice(VERBS), rng.randrange(100))
                self.check(store)


class Walk:
    """A random walk through the commands: each checked against the table, and applied twice."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._now = NOW
        self._count = 0
        self._leases: list[Lease] = []
        self._intents: list[tuple[Lease, Intend, Intended]] = []

    def step(self, verb: str, choice: int) -> None:
        self._now += choice  # a walk lasts about as long as a message may
        self._count += 1
        command = self._command(verb, choice)
        if command is None:
            return
        result = self._checked(command)
        if isinstance(result, Claimed):
            self._leases += result.leases
        if isinstance(result, Intended):
            assert isinstance(command, Intend)
            self._intents.append((self._pick(self._leases, choice), command, result))
        if not isinstance(command, Claim | Expire):
            self._check_replay(command, result)

    def _command(self, verb: str, choice: int) -> Command | None:
        name = f"w{self._count}"
        if verb == "accept":
            to = [f"{n}@example.com" for n in range(1 + choice % 3)]
            return make_accept(name, recipients=to, key=f"k{choice % 40}", at=self._now)
        if verb == "claim":
            return Claim("main", 1 + choice % 3, "node")
        if verb == "upkeep":
            return (Expire(1 + choice % 2), Overdue(2), make_recover())[choice % 3]
        if verb == "cancel":
            return Cancel(f"w{choice % self._count}")
        if verb == "resolve":
            return self._resolve(choice)
        if verb == "settle" and self._intents:
            return self._settle(choice)
        if not self._leases:
            return None
        lease = self._pick(self._leases, choice)
        ns = tuple(n for n, _ in lease.recipients[choice % 2 :])
        if verb == "release":
            error = "broken" if choice % 2 else ""
            return Release(lease.seq, ns, lease.epoch, self._now + choice, error)
        if verb == "give up":
            steps = [Step(n, State.DEFERRED, self._now) for n in ns]
            return make_settle(lease, *steps, attempt_id=name, is_attempt=False)
        return make_intend(lease, name, ns)

    def _settle(self, choice: int) -> Settle:
        lease, intend, intended = self._pick(self._intents, choice)
        targets = sorted(NEXT[State.SENDING])
        steps = [
            Step(n, targets[(choice + n) % len(targets)], self._now + choice)
            for n, _ in intended.recipients
        ]
        return make_settle(lease, *steps, attempt_id=intend.attempt_id)

    def _resolve(self, choice: int) -> Resolve | None:
        doubts = one(self._store, Overdue(100), self._now + 1_000)
        assert isinstance(doubts, Doubts)
        if not doubts.doubts:
            return None
        doubt = self._pick(doubts.doubts, choice)
        targets = sorted(NEXT[State.UNCERTAIN])
        steps = tuple(Step(n, targets[(choice + n) % len(targets)], self._now) for n in doubt.ns)
        return Resolve(doubt.seq, steps, doubt.progress, "by lot", {}, is_risk=choice % 2 == 0)

    def _checked(self, command: Command) -> Result:
        before = self._states()
        result = one(self._store, command, self._now)
        after = self._states()
        assert before.keys() <= after.keys()
        for delivery, state in after.items():
            previous = before.get(delivery, State.READY)
            assert state == previous or state in NEXT[previous], (command, previous, state)
        ledger = self._store.ledger()
        assert ledger.is_balanced
        assert len(after) == ledger.accepted
        pending = sum(sum(counts.values()) for counts in self._store.pending_counts().values())
        assert pending == sum(state in PENDING for state in after.values())
        return result

    def _check_replay(self, command: Command, result: Result) -> None:
        before = self._states(), self._store.ledger()
        again = one(self._store, command, self._now)
        assert before == (self._states(), self._store.ledger())
        if isinstance(result, Receipt):
            result = msgspec.structs.replace(result, is_replay=True)
        if not isinstance(command, Release | Resolve | Recover):
            assert result == again

    def _states(self) -> dict[tuple[int, int], State]:
        return {
            (status.seq, delivery.n): delivery.state
            for status in self._store.statuses(1_000, None)
            for delivery in status.deliveries
        }

    @staticmethod
    def _pick(things: Sequence[Any], choice: int) -> Any:
        return things[-1 - choice % len(things) % 8]  # mostly what is young
