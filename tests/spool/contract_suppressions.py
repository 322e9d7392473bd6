"""What a store must do with addresses that get no mail."""

from __future__ import annotations

import pytest

from mailactors.model.lifecycle import State
from mailactors.spool.port import (
    Intended,
    Progress,
    Recorded,
    SettleDoubt,
    Step,
    Store,
    Suppress,
    Suppression,
    Unsuppress,
    Unsuppressed,
    Withdrawn,
)
from tests.spool.contract import Contract
from tests.spool.makers import (
    NOW,
    doubt_one,
    end_one,
    kinds,
    lease_one,
    make_accept,
    make_intend,
    make_recover,
    make_settle,
    one,
    send_one,
    states,
)

ANN = Suppress("ann@example.com", "asked by phone", "api")
TWO = ("ann@example.com", "bob@example.com")


def addresses(store: Store) -> list[str]:
    return [suppression.address for suppression in store.suppressions(100)]


class SuppressionsContract(Contract):
    """See the module."""

    def test_a_suppressed_address_is_listed_with_its_reason(self, store: Store) -> None:
        result = one(store, ANN)

        expected = Suppression("ann@example.com", "asked by phone", "api", NOW)
        assert expected == result
        assert (expected,) == store.suppressions(10)

    def test_the_first_reason_stands(self, store: Store) -> None:
        first = one(store, ANN)

        second = one(store, Suppress("ann@example.com", "550 unknown", "bounce"), NOW + 9)

        assert first == second

    def test_a_suppression_is_taken_back(self, store: Store) -> None:
        one(store, ANN)

        results = [one(store, Unsuppress("ann@EXAMPLE.com")) for _ in range(2)]

        assert results == [
            Unsuppressed("ann@example.com", was_suppressed=True),
            Unsuppressed("ann@example.com", was_suppressed=False),
        ]
        assert store.suppressions(10) == ()

    def test_suppressions_are_paged_in_their_order(self, store: Store) -> None:
        for name in "dbaec":
            one(store, Suppress(f"{name}@example.com", "", "api"))

        first = store.suppressions(2)
        rest = store.suppressions(10, first[-1].address)

        assert [s.address[0] for s in first] == ["a", "b"]
        assert [s.address[0] for s in rest] == ["c", "d", "e"]

    @pytest.mark.parametrize(
        ("address", "is_same"),
        [("ann@EXAMPLE.com", True), ("Ann@example.com", True), ("ann@example.org", False)],
    )
    def test_the_whole_address_is_the_same_in_any_case(
        self, store: Store, address: str, is_same: bool
    ) -> None:
        one(store, Suppress(address, "", "api"))
        lease = lease_one(store)

        result = one(store, make_intend(lease))

        assert is_same == isinstance(result, Withdrawn)

    @pytest.mark.parametrize(
        ("listed", "recipient"),
        [
            ("zoë@example.com", "ZOË@example.com"),
            ("zoe\u0308@example.com", "zoë@example.com"),
            ("ann@bücher.example", "Ann@xn--bcher-kva.example"),
            ("ann@XN--BCHER-KVA.example", "ann@BÜCHER.example"),
            ("ΟΔΟΣ@example.com", "οδος@example.com"),
        ],
    )
    def test_an_address_of_any_script_is_found_and_removed(
        self, store: Store, listed: str, recipient: str
    ) -> None:
        one(store, Suppress(listed, "", "api"))
        one(store, Suppress(recipient, "", "bounce"))
        assert 1 == len(store.suppressions(10))

        withdrawn = one(store, make_intend(lease_one(store, make_accept(recipients=[recipient]))))
        removed = one(store, Unsuppress(recipient))

        assert isinstance(withdrawn, Withdrawn)
        assert isinstance(removed, Unsuppressed)
        assert (True, ()) == (removed.was_suppressed, store.suppressions(10))

    def test_a_suppressed_delivery_is_not_sent(self, store: Store) -> None:
        lease = lease_one(store)
        one(store, ANN)

        results = [one(store, make_intend(lease)) for _ in range(2)]

        assert [Withdrawn(), Withdrawn()] == results
        assert states(store) == ["suppressed"]
        (status,) = store.status("m1")
        assert "suppressed (api: asked by phone)" == status.deliveries[0].error
        event = store.timeline(lease.seq)[-1]
        facts = {"rule": "suppression list", "why": {"0": "api: asked by phone"}}
        assert (event.kind, event.facts) == ("suppressed", facts)
        assert kinds(store) == ["accepted", "suppressed"]
        assert store.attempt_counts("primary", 0.0, 1.0) == {}
        assert store.ledger().is_balanced

    def test_the_others_of_its_envelope_are_sent(self, store: Store) -> None:
        one(store, ANN)
        lease = lease_one(store, make_accept(recipients=TWO))

        results = [one(store, make_intend(lease)) for _ in range(2)]

        for result in results:
            assert isinstance(result, Intended)
            assert result.recipients == ((1, "bob@example.com"),)
        assert states(store) == ["suppressed", "sending"]

    def test_giving_such_an_attempt_up_leaves_the_suppressed_one(self, store: Store) -> None:
        one(store, ANN)
        lease = send_one(store, make_accept(recipients=TWO))
        steps = Step(0, State.LEASED), Step(1, State.LEASED)

        result = one(store, make_settle(lease, *steps, is_attempt=False))

        assert Recorded() == result
        assert states(store) == ["suppressed", "leased"]

    def test_a_sending_delivery_does_not_change(self, store: Store) -> None:
        lease = send_one(store)
        one(store, ANN)

        assert isinstance(one(store, make_intend(lease)), Intended)
        assert states(store) == ["sending"]

    def test_a_bounce_that_is_about_the_address_suppresses_it(self, store: Store) -> None:
        end_one(store, State.BOUNCED, suppress=True, error="550 5.1.1 unknown")

        expected = Suppression("ann@example.com", "550 5.1.1 unknown", "bounce", NOW)
        assert (expected,) == store.suppressions(10)

    @pytest.mark.parametrize(
        ("state", "suppress"), [(State.BOUNCED, False), (State.FAILED, True), (State.SENT, True)]
    )
    def test_other_ends_suppress_nothing(self, store: Store, state: State, suppress: bool) -> None:
        end_one(store, state, suppress=suppress)

        assert addresses(store) == []

    def test_only_those_who_bounced_are_suppressed(self, store: Store) -> None:
        lease = send_one(store, make_accept(recipients=TWO))

        steps = Step(0, State.SENT), Step(1, State.BOUNCED, suppress=True)
        one(store, make_settle(lease, *steps))

        assert addresses(store) == ["bob@example.com"]

    def test_a_bounce_that_came_too_late_suppresses_nothing(self, store: Store) -> None:
        lease = send_one(store)
        one(store, make_recover())

        one(store, make_settle(lease, Step(0, State.BOUNCED, suppress=True)))

        assert addresses(store) == []

    def test_a_replayed_bounce_does_not_suppress_again(self, store: Store) -> None:
        lease = send_one(store)
        settle = make_settle(lease, Step(0, State.BOUNCED, suppress=True))
        one(store, settle)
        one(store, Unsuppress("ann@example.com"))

        one(store, settle)

        assert addresses(store) == []

    def test_a_doubt_that_ends_in_a_bounce_suppresses(self, store: Store) -> None:
        lease = doubt_one(store, due_at=NOW)
        steps = (Step(0, State.BOUNCED, suppress=True),)

        one(store, SettleDoubt(lease.seq, steps, Progress(), "reported", {}))

        assert addresses(store) == ["ann@example.com"]
