"""How a store accepts messages and leases them to a dispatcher."""

from __future__ import annotations

import msgspec

from mailactors.model.lifecycle import State
from mailactors.spool.port import (
    Accept,
    Cancel,
    Claim,
    Claimed,
    Conflict,
    Lease,
    Progress,
    Receipt,
    Release,
    Step,
    Store,
)
from tests.spool.contract import Contract
from tests.spool.makers import (
    KEY_S,
    LIFE_S,
    NOW,
    kinds,
    lease_all,
    lease_one,
    make_accept,
    make_settle,
    one,
    receive,
    send_one,
    states,
)


def with_former(accept: Accept, fingerprint: str) -> Accept:
    """Let a command also name the fingerprint that versions before 0.2 made."""
    key = msgspec.structs.replace(accept.key, fingerprint_before=fingerprint)
    return msgspec.structs.replace(accept, key=key)


class AcceptContract(Contract):
    """See the module."""

    # Accept

    def test_accepting_answers_with_a_receipt(self, store: Store) -> None:
        receipt = one(store, make_accept(client_id="order-7"))

        expected = Receipt(1, "m1", "m1@mail.example", "order-7", NOW, False, "main")
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

    def test_a_fingerprint_in_the_former_form_is_known_again(self, store: Store) -> None:
        receive(store, make_accept("m1", key="k", fingerprint="former"))

        same = one(store, with_former(make_accept("m2", key="k"), "former"))
        other = one(store, with_former(make_accept("m3", key="k"), "another"))

        assert isinstance(same, Receipt)
        assert (same.id, same.is_replay) == ("m1", True)
        assert other == Conflict("m1")

    def test_a_content_whose_key_has_the_former_form_is_known_again(self, store: Store) -> None:
        receive(store, make_accept("m1", key="former", fingerprint="former"))

        again = make_accept("m2", key="same", fingerprint="same")

        assert receive(store, with_former(again, "former")).id == "m1"

    def test_a_clients_key_is_not_taken_for_a_fingerprint(self, store: Store) -> None:
        receive(store, make_accept("m1", key="former", fingerprint="former"))

        receipt = receive(store, with_former(make_accept("m2", key="k"), "former"))

        assert (receipt.id, receipt.is_replay) == ("m2", False)

    def test_a_former_key_that_expired_hides_no_live_one(self, store: Store) -> None:
        receive(store, make_accept("m1", key="former", fingerprint="former"))
        one(store, Cancel("m1"))
        again = with_former(make_accept("m2", key="same", at=NOW + KEY_S), "former")
        receive(store, again, NOW + KEY_S)

        third = with_former(make_accept("m3", key="same", at=NOW + KEY_S), "former")

        assert receive(store, third, NOW + KEY_S).id == "m2"

    def test_an_expired_key_of_a_pending_message_still_holds(self, store: Store) -> None:
        receive(store, make_accept("m1", key="k"))

        receipt = receive(store, make_accept("m2", key="k"), NOW + KEY_S)

        assert (receipt.id, receipt.is_replay) == ("m1", True)

    def test_an_expired_key_of_a_final_message_is_free(self, store: Store) -> None:
        receive(store, make_accept("m1", key="k"))
        one(store, Cancel("m1"))

        receipt = receive(store, make_accept("m2", key="k", fingerprint="other"), NOW + KEY_S)

        assert (receipt.id, receipt.is_replay) == ("m2", False)

    def test_a_key_made_of_the_content_ends_with_its_window(self, store: Store) -> None:
        receive(store, make_accept("m1", key="same", fingerprint="same"))
        again = make_accept("m2", key="same", fingerprint="same")

        before, after = [receive(store, again, NOW + at_s) for at_s in (KEY_S - 1, KEY_S)]

        assert [("m1", True), ("m2", False)] == [(r.id, r.is_replay) for r in (before, after)]

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
            sender=accept.message.envelope.sender,
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
