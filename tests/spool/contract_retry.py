"""How a store retries, by hand, what was not sent."""

from __future__ import annotations

import pytest

from mailactors.model.lifecycle import State
from mailactors.spool.port import (
    Accept,
    Cancel,
    Expire,
    Filters,
    Intended,
    NotRetried,
    Progress,
    Purge,
    Receipt,
    Retry,
    SettleDoubt,
    Step,
    Store,
)
from tests.spool.contract import Contract
from tests.spool.makers import (
    LIFE_S,
    NOW,
    doubt_one,
    end_one,
    kinds,
    lease_all,
    lease_one,
    make_accept,
    make_intend,
    make_settle,
    one,
    receive,
    send_one,
    states,
)

LATER = NOW + 5_000
TWO = ("ann@example.com", "bob@example.com")


def why(store: Store, command: Retry, now: float = LATER) -> str:
    result = one(store, command, now)
    assert isinstance(result, NotRetried), result
    return result.why


def half_sent(store: Store) -> Accept:
    """Send a message to the first of two recipients; the second one bounces."""
    accept = make_accept(recipients=TWO, client_id="order")
    lease = send_one(store, accept)
    one(store, make_settle(lease, Step(0, State.SENT), Step(1, State.BOUNCED, error="550 no")))
    return accept


class RetryContract(Contract):
    """See the module."""

    def test_a_retry_has_the_tags_and_the_metadata_of_the_old_message(self, store: Store) -> None:
        receive(store, make_accept(tags=("vip",), metadata={"order": "17"}))
        one(store, Cancel("m1"))

        one(store, Retry("m1", "m2"), LATER)

        (status,) = store.status("m2")
        assert (("vip",), {"order": "17"}) == (status.tags, status.metadata)
        page = store.messages(Filters(tag="vip"), 10, None)
        assert ["m2", "m1"] == [message.id for message in page.messages]

    def test_a_retry_is_a_new_message_of_what_was_not_sent(self, store: Store) -> None:
        half_sent(store)

        receipt = one(store, Retry("m1", "m2"), LATER)

        assert Receipt(2, "m2", "m1@mail.example", "order", LATER, False, "main") == receipt
        (old,) = store.status("m1")
        (new,) = store.status("m2")
        assert ("m1", "") == (new.retry_of, old.retry_of)
        assert ["bob@example.com"] == [delivery.recipient for delivery in new.deliveries]
        assert (states(store, "m1"), states(store, "m2")) == (["sent", "bounced"], ["ready"])
        assert (old.subject, old.sender) == (new.subject, new.sender)

    def test_what_was_cancelled_before_its_time_keeps_it(self, store: Store) -> None:
        receive(store, make_accept(not_before=NOW + 100))
        one(store, Cancel("m1"), NOW + 1)
        (old,) = store.status("m1")

        one(store, Retry("m1", "again"), NOW + 10)

        (new,) = store.status("again")
        assert (NOW + 10, NOW + 100) == (new.accepted_at, new.not_before)
        assert old.expires_at == new.expires_at
        assert [NOW + 100] == [each.due_at for each in new.deliveries]
        assert () == lease_all(store, now=NOW + 99)
        assert ["again"] == [lease.id for lease in lease_all(store, now=NOW + 100)]

    def test_a_retry_lives_as_long_as_the_old_one_did(self, store: Store) -> None:
        receive(store, make_accept(not_before=NOW + 100))
        one(store, Cancel("m1"))

        one(store, Retry("m1", "m2"), LATER)

        (new,) = store.status("m2")
        assert (LATER, LATER, LATER + LIFE_S - 100) == (
            new.accepted_at,
            new.not_before,
            new.expires_at,
        )

    def test_a_retry_is_sent_with_the_old_content_date_and_message_id(self, store: Store) -> None:
        accept = half_sent(store)
        one(store, Retry("m1", "m2"), LATER)

        (lease,) = lease_all(store, now=LATER)
        intended = one(store, make_intend(lease, "a2"), LATER)

        assert (
            Intended(
                "m1@mail.example",
                NOW,
                "bounces@example.com",
                ((0, "bob@example.com"),),
                accept.packed,
            )
            == intended
        )

    def test_a_retry_of_some_recipients_is_a_partial_envelope(self, store: Store) -> None:
        half_sent(store)
        one(store, Retry("m1", "m2"), LATER)
        (lease,) = lease_all(store, now=LATER)
        one(store, Cancel("m2"), LATER)
        one(store, Retry("m2", "m3"), LATER)

        (second,) = lease_all(store, now=LATER)

        assert (2, 2) == (lease.recipients_total, second.recipients_total)

    def test_both_timelines_tell_of_a_retry(self, store: Store) -> None:
        half_sent(store)

        one(store, Retry("m1", "m2"), LATER)

        old, new = store.timeline(1)[-1], store.timeline(2)[-1]
        assert (old.kind, old.facts) == ("retried", {"rule": "by hand", "id": "m2", "ns": [1]})
        facts = {"rule": "by hand", "retry_of": "m1", "ns": [1]}
        assert (new.kind, new.facts) == ("accepted", facts)

    def test_the_same_retry_again_is_known(self, store: Store) -> None:
        half_sent(store)
        one(store, Retry("m1", "m2"), LATER)

        receipt = one(store, Retry("m1", "m2"), LATER + 1)

        assert Receipt(2, "m2", "m1@mail.example", "order", LATER, True, "main") == receipt
        assert kinds(store, "m2") == ["accepted"]

    def test_what_a_retry_took_over_is_not_retried_again(self, store: Store) -> None:
        half_sent(store)
        one(store, Retry("m1", "m2"), LATER)

        assert "it was retried already, as m2" == why(store, Retry("m1", "m3"))
        assert "it was retried already, as m2" == why(store, Retry("m1", "m3", (1,)))
        assert store.status("m3") == ()

    def test_only_some_may_be_retried_at_a_time(self, store: Store) -> None:
        receive(store, make_accept(recipients=TWO))
        one(store, Cancel("m1"))

        results = [one(store, Retry("m1", "m2", (1,))), one(store, Retry("m1", "m3"))]

        assert all(isinstance(result, Receipt) for result in results)
        recipients = [store.status(name)[0].deliveries[0].recipient for name in ("m2", "m3")]
        assert ["bob@example.com", "ann@example.com"] == recipients

    def test_a_retry_may_be_retried(self, store: Store) -> None:
        half_sent(store)
        one(store, Retry("m1", "m2"), LATER)
        one(store, Cancel("m2"), LATER)

        assert isinstance(one(store, Retry("m2", "m3"), LATER), Receipt)

    @pytest.mark.parametrize(
        "state", ["ready", "leased", "sending", "uncertain", "held", "deferred"]
    )
    def test_what_is_pending_is_not_retried(self, store: Store, state: str) -> None:
        match state:
            case "ready":
                receive(store, make_accept())
            case "leased":
                lease_one(store)
            case "sending":
                send_one(store)
            case "deferred":
                end_one(store, State.DEFERRED)
            case _:
                doubt_one(store, due_at=NOW)
        if state == "held":
            one(store, SettleDoubt(1, (Step(0, State.HELD),), Progress(), "hold", {}))

        assert f"it is not final yet: {state}" == why(store, Retry("m1", "m2"))
        assert f"delivery 0 is {state}" == why(store, Retry("m1", "m2", (0,)))

    @pytest.mark.parametrize("state", [State.BOUNCED, State.FAILED, State.EXPIRED])
    def test_what_ended_unsent_is_retried(self, store: Store, state: State) -> None:
        end_one(store, state)

        assert isinstance(one(store, Retry("m1", "m2"), LATER), Receipt)

    def test_what_was_sent_is_not_retried(self, store: Store) -> None:
        end_one(store, State.SENT)

        assert "everything was sent" == why(store, Retry("m1", "m2"))
        assert "delivery 0 is sent" == why(store, Retry("m1", "m2", (0,)))

    def test_a_finished_delivery_is_retried_while_another_is_pending(self, store: Store) -> None:
        lease = send_one(store, make_accept(recipients=TWO))
        steps = Step(0, State.FAILED), Step(1, State.DEFERRED, NOW + 60)
        one(store, make_settle(lease, *steps))

        assert "it is not final yet: deferred" == why(store, Retry("m1", "m2"), NOW)
        assert isinstance(one(store, Retry("m1", "m2", (0,))), Receipt)

    def test_what_is_unknown_is_not_retried(self, store: Store) -> None:
        half_sent(store)

        result = one(store, Retry("unknown", "m2"))

        assert NotRetried("there is no such message", is_known=False) == result
        assert "it has no delivery 7" == why(store, Retry("m1", "m2", (7,)))

    def test_a_retry_does_not_take_another_messages_id(self, store: Store) -> None:
        half_sent(store)
        receive(store, make_accept("m2"))

        assert "m2 is another message" == why(store, Retry("m1", "m2"))

    def test_without_its_content_a_message_is_not_retried(self, store: Store) -> None:
        half_sent(store)
        one(store, Purge(NOW - 1, LATER, 10), LATER)

        assert "its content is no longer kept" == why(store, Retry("m1", "m2"))

    def test_a_retry_expires_like_any_other(self, store: Store) -> None:
        half_sent(store)
        one(store, Retry("m1", "m2"), LATER)

        one(store, Expire(10), LATER + LIFE_S)

        assert states(store, "m2") == ["expired"]
        assert store.ledger().is_balanced
        assert store.ledger().accepted == 3
