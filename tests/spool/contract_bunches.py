"""What comes together has the results and the effects that it has one after another."""

from __future__ import annotations

from typing import Final

import msgspec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mailactors.model.lifecycle import State
from mailactors.spool.port import (
    Accept,
    Cancel,
    Claim,
    Claimed,
    Command,
    Intended,
    Lease,
    Recover,
    Result,
    Step,
    Store,
    Suppress,
    Withdrawn,
)
from tests.spool.contract import Contract
from tests.spool.makers import (
    LIFE_S,
    NOW,
    lease_all,
    make_accept,
    make_intend,
    make_recover,
    make_settle,
)

INTENT_CASES: Final = (
    *("plain", "plain", "two recipients", "one of two", "of two leases", "applied before"),
    *("expired", "cancelled", "suppressed", "one suppressed", "another epoch", "unknown message"),
    *("has its outcome", "purged attempt id", "twice in the bunch", "attempt id twice"),
)
OUTCOME_CASES: Final = (
    *("plain", "plain", "two recipients", "one of two", "deferred", "bounced", "uncertain"),
    *("another epoch", "recovered before", "applied before", "without an intent", "not sent"),
    *("released before", "twice in the bunch", "one sent, one bounced"),
)
SENT: Final = (Step(0, State.SENT),)
BOUNCED: Final = Step(0, State.BOUNCED, error="no such user", suppress=True)


def prepare_intent(case: str, lease: Lease, attempt_id: str) -> tuple[list[Command], list[Command]]:
    """Return what is executed before the bunch, and the intents of the bunch, for one message."""
    intent = make_intend(lease, attempt_id)
    match case:
        case "one of two" | "of two leases":
            halves: list[Command] = [make_intend(lease, f"{attempt_id}/{n}", (n,)) for n in (0, 1)]
            return [], halves[:1] if case == "one of two" else halves
        case "applied before":
            return [intent], [intent]
        case "cancelled":
            return [Cancel(lease.id)], [intent]
        case "suppressed" | "one suppressed":
            return [Suppress(lease.recipients[0][1], "asked", "by hand")], [intent]
        case "another epoch":
            return [], [msgspec.structs.replace(intent, epoch=intent.epoch - 1)]
        case "unknown message":
            return [], [msgspec.structs.replace(intent, seq=1_000_000 + intent.seq)]
        case "has its outcome":
            return [make_settle(lease, attempt_id=attempt_id, outcome="deferred")], [intent]
        case "twice in the bunch":
            return [], [intent, intent]
        case "attempt id twice":
            return [], [msgspec.structs.replace(intent, attempt_id="the same")]
    return [], [intent]


def prepare_outcome(
    case: str, lease: Lease, attempt_id: str
) -> tuple[list[Command], list[Command]]:
    """Return the same for outcomes."""
    intent = make_intend(lease, attempt_id)
    sent = tuple(Step(n, State.SENT) for n, _ in lease.recipients)
    settle = make_settle(lease, *sent, attempt_id=attempt_id)
    match case:
        case "one of two":
            return [make_intend(lease, attempt_id, (0,))], [
                msgspec.structs.replace(settle, steps=SENT)
            ]
        case "deferred" | "uncertain":
            step = Step(0, State(case), NOW + 60.0)
            return [intent], [msgspec.structs.replace(settle, steps=(step,), outcome=case)]
        case "bounced":
            return [intent], [msgspec.structs.replace(settle, steps=(BOUNCED,), outcome=case)]
        case "one sent, one bounced":
            steps = (BOUNCED, Step(1, State.SENT))
            return [intent], [msgspec.structs.replace(settle, steps=steps)]
        case "another epoch":
            return [intent], [msgspec.structs.replace(settle, epoch=settle.epoch - 1)]
        case "recovered before":
            return [intent, make_recover()], [settle]
        case "applied before":
            return [intent, settle], [settle]
        case "without an intent":
            return [], [make_settle(lease, attempt_id=attempt_id, outcome="deferred")]
        case "not sent":
            leased = (Step(0, State.LEASED),)
            return [intent], [msgspec.structs.replace(settle, steps=leased, is_attempt=False)]
        case "released before":
            return [intent, Recover("node", frozenset(), frozenset(), {"": 60.0})], [settle]
        case "twice in the bunch":
            return [intent], [settle, settle]
    return [intent], [settle]


def make_message(number: int, case: str) -> Accept:
    count = 2 if "two" in case or "one " in case else 1
    recipients = [f"r{number}.{n}@example.com" for n in range(count)]
    accept = make_accept(f"m{number}", recipients=recipients)
    if case == "expired":
        message = msgspec.structs.replace(accept.message, expires_at=NOW + 5.0)
        return msgspec.structs.replace(accept, message=message)
    return accept


def state_of(store: Store, count: int) -> list[object]:
    """Return all that the port shows, without the order in which events were written."""
    seen: list[object] = [store.ledger()]
    for number in range(count):
        (status,) = store.status(f"m{number}")
        events = store.timeline(status.seq)
        timeline = sorted((event.kind, event.at, repr(event.facts)) for event in events)
        seen += [status.deliveries, timeline]
    seen.append(sorted(store.attempt_counts("primary", 0.0, 60.0).items()))
    return seen


class BunchesContract(Contract):
    """See the module."""

    @settings(
        deadline=None, max_examples=60, suppress_health_check=[HealthCheck.differing_executors]
    )
    @given(
        intents=st.lists(st.sampled_from(INTENT_CASES), max_size=6),
        outcomes=st.lists(st.sampled_from(OUTCOME_CASES), max_size=6),
        is_mixed=st.booleans(),
    )
    def test_a_bunch_does_what_its_commands_do_singly(
        self, intents: list[str], outcomes: list[str], is_mixed: bool
    ) -> None:
        cases = [*intents, *outcomes]
        seen = []
        for together in (True, False):
            with self.make_store() as store:
                store.apply([make_message(n, case) for n, case in enumerate(cases)], NOW)
                leases = {lease.id: lease for lease in lease_all(store)}
                bunch: list[Command] = []
                for number, case in enumerate(cases):
                    prepare = prepare_intent if number < len(intents) else prepare_outcome
                    before, commands = prepare(case, leases[f"m{number}"], f"a{number}")
                    for command in before:
                        store.apply([command], NOW + 1.0)
                    bunch += commands
                if is_mixed:
                    bunch = bunch[::2] + bunch[1::2]
                if together:
                    results = store.apply(bunch, NOW + 10.0)
                else:
                    results = [store.apply([each], NOW + 10.0)[0] for each in bunch]
                seen.append((results, state_of(store, len(cases))))
                self.check(store)

        assert seen[1] == seen[0]

    def test_a_bunch_applied_again_changes_nothing(self, store: Store) -> None:
        store.apply([make_message(n, "plain") for n in range(20)], NOW)
        leases = lease_all(store)

        intended = store.apply([make_intend(each, f"of {each.id}") for each in leases], NOW)
        settles = [make_settle(each, *SENT, attempt_id=f"of {each.id}") for each in leases]
        recorded = store.apply(settles, NOW)
        again = store.apply(settles, NOW)

        assert {Intended} == {type(each) for each in intended}
        assert [each.recipients for each in leases] == [
            each.recipients for each in intended if isinstance(each, Intended)
        ]
        assert recorded == again
        assert {"sent": 20} == store.ledger().states

    def test_an_intent_that_lost_its_lease_costs_its_neighbours_nothing(self, store: Store) -> None:
        store.apply([make_message(n, "plain") for n in range(3)], NOW)
        leases = lease_all(store)
        store.apply([Recover("node", frozenset(), frozenset(), {"": 60.0})], NOW)
        again = store.apply([Claim("main", 1, "node")], NOW)[0]
        assert isinstance(again, Claimed)

        results: list[Result] = store.apply(
            [make_intend(each, f"a{each.seq}") for each in (*leases[1:], *again.leases)],
            NOW + LIFE_S / 2,
        )

        assert [Withdrawn, Withdrawn, Intended] == [type(each) for each in results]
