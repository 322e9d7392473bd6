"""What becomes an alarm: every rule as a table, and how faults last, are named, and clear."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from mailactors.dispatch.attempt import Attempt
from mailactors.dispatch.lane import BreakerState, BreakerStatus, Lane, LimiterStatus
from mailactors.dispatch.retry import Failover, StreamPolicy
from mailactors.observe.alarms import (
    LAG_MAX_S,
    LATE_S,
    NAMED_MAX,
    RULES,
    SUSPECTED_MAX,
    AlarmKind,
    AlarmRegister,
    Finding,
    Snapshot,
    decide_changes,
    is_free,
    process_faults,
    spool_faults,
)
from mailactors.runtime.mailbox import MailboxStatistics
from mailactors.spool.port import (
    ALONE_FROM,
    DeliveryFacts,
    Inspection,
    Lease,
    LeaseOwner,
    MessageFacts,
    Progress,
)
from tests.dispatch.makers import ignore, make_lane, make_lease

NOW = 1_800_000_000.0
PAST = NOW - LATE_S - 1.0
NEVER = float("inf")
ROOM = 500
FLYING = frozenset({(1, 7)})
KNOWN = Snapshot(
    now=NOW,
    owner=LeaseOwner("single", frozenset({"a1"})),
    plans={"main": StreamPolicy(("primary", "secondary"))},
    free=frozenset(),
    healthy=frozenset({"primary", "secondary"}),
    room=ROOM,
)


def delivery(state: str, n: int = 0, **changes: Any) -> DeliveryFacts:
    facts = DeliveryFacts(n, state, NOW, NOW, 7, "single", "a1", "primary")
    return msgspec.structs.replace(facts, **changes)


def message(*deliveries: DeliveryFacts, **changes: Any) -> MessageFacts:
    """Return a message whose deliveries add up, unless told otherwise."""
    final = {"sent", "bounced", "failed", "expired", "suppressed", "cancelled"}
    count, open_count = len(deliveries), sum(each.state not in final for each in deliveries)
    facts = MessageFacts(
        seq=1,
        id="m1",
        stream="main",
        accepted_at=PAST,
        expires_at=NOW + 3600.0,
        final_at=None if open_count else NOW,
        recipients_total=count,
        open_count=open_count,
        written_for=count,
        crashes=0,
        progress=Progress(),
        deliveries=deliveries,
    )
    return msgspec.structs.replace(facts, **changes)


def faults(*messages: MessageFacts, taken: int = 0, **known: Any) -> list[Finding]:
    changed = msgspec.structs.replace(KNOWN, **known)
    return list(spool_faults(Inspection(messages, {"main": taken}), changed))


def kinds(found: Sequence[Finding]) -> list[str]:
    return [fault.kind.value for fault in found]


# One delivery


@pytest.mark.parametrize(
    ("state", "changes", "expected"),
    [
        ("ready", {}, []),
        ("ready", {"due_at": PAST}, ["not_claimed"]),
        ("ready", {"due_at": NOW + 9.0, "updated_at": PAST}, []),
        ("deferred", {"due_at": NOW}, []),
        ("deferred", {"due_at": PAST}, ["not_claimed"]),
        ("deferred", {"due_at": NOW + 86_400.0}, []),
        ("leased", {}, []),
        ("leased", {"updated_at": PAST - 86_400.0}, []),
        ("leased", {"node": "other"}, ["lease_orphaned"]),
        ("leased", {"node": ""}, ["lease_orphaned"]),
        ("sending", {}, []),
        ("sending", {"updated_at": PAST - 86_400.0}, []),
        ("sending", {"attempt_id": "a2"}, ["intent_orphaned"]),
        ("sending", {"attempt_id": "a2", "node": "other"}, ["intent_orphaned"]),
        ("uncertain", {"doubt_at": NOW}, []),
        ("uncertain", {"doubt_at": PAST}, ["not_settled"]),
        ("uncertain", {"doubt_at": NEVER}, ["not_settled"]),
        ("uncertain", {"doubt_at": None}, ["not_settled"]),
        ("held", {"doubt_at": NEVER, "updated_at": 0.0}, []),
        ("held", {"doubt_at": None}, []),
        ("held", {"doubt_at": PAST}, ["not_settled"]),
        *((state, {"due_at": PAST}, []) for state in ("sent", "bounced", "failed", "expired")),
    ],
)
def test_a_delivery_is_where_it_may_be(
    state: str, changes: dict[str, Any], expected: list[str]
) -> None:
    assert expected == kinds(faults(message(delivery(state, **changes))))


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        ("ready", ["not_expired"]),
        ("deferred", ["not_expired"]),
        ("leased", ["not_expired"]),
        ("sending", []),
        ("uncertain", []),
        ("held", []),
        ("expired", []),
    ],
)
def test_what_waits_past_its_deadline_should_have_expired(state: str, expected: list[str]) -> None:
    late = message(delivery(state, doubt_at=NOW + 1.0), expires_at=PAST)
    just_now = message(delivery(state, doubt_at=NOW + 1.0), expires_at=NOW)

    assert expected == kinds(faults(late))
    assert [] == faults(just_now)
    assert [PAST] * len(expected) == [fault.since for fault in faults(late)]


def test_what_is_due_may_wait_while_there_is_no_room_for_it() -> None:
    due = message(delivery("ready", due_at=PAST))

    assert [] == faults(due, taken=ROOM)
    assert ["not_claimed"] == kinds(faults(due, taken=ROOM - 1))


def test_an_owner_that_can_say_knows_each_lease_by_its_epoch() -> None:
    leased = message(delivery("leased"))

    assert [] == faults(leased, owner=LeaseOwner("single", waiting=frozenset({(1, 7)})))
    assert [] == faults(leased, owner=LeaseOwner("single", flying=FLYING, waiting=frozenset()))
    found = faults(leased, owner=LeaseOwner("single", waiting=frozenset({(1, 6)})))
    assert ["lease_orphaned"] == kinds(found)


# A lane that is free


@pytest.mark.parametrize(
    ("free", "progress", "expected"),
    [
        ((), Progress(), []),
        (("primary",), Progress(), ["provider primary is free"]),
        (("secondary",), Progress(), ["provider secondary is free"]),
        (("tertiary",), Progress(), []),
        (("primary",), Progress(barred=("primary",)), []),
        (("primary",), Progress(tried=("primary",)), []),
        (("secondary",), Progress(tried=("primary",)), ["provider secondary is free"]),
    ],
)
def test_what_is_leased_goes_out_while_a_lane_that_it_may_take_is_free(
    free: tuple[str, ...], progress: Progress, expected: list[str]
) -> None:
    found = faults(message(delivery("leased"), progress=progress), free=frozenset(free))

    assert expected == [fault.detail for fault in found]


def test_what_is_in_flight_does_not_wait_for_a_lane() -> None:
    owner = LeaseOwner("single", frozenset({"a1"}), FLYING)

    assert [] == faults(message(delivery("leased")), free=frozenset({"primary"}), owner=owner)


def test_a_patient_stream_may_wait_for_a_lane_that_is_well() -> None:
    plans = {"main": StreamPolicy(("primary", "secondary"), Failover.AFTER_RETRIES)}
    leased, free = message(delivery("leased")), frozenset({"secondary"})

    assert [] == faults(leased, plans=plans, free=free)
    found = faults(leased, plans=plans, free=free, healthy=frozenset({"secondary"}))
    assert ["not_sent"] == kinds(found)


def test_a_partial_envelope_may_wait_for_a_lane_that_carries_it() -> None:
    plans = {"main": StreamPolicy(("primary", "secondary"), own_envelope=("secondary",))}
    partial = message(delivery("leased"), delivery("sent", 1))

    assert [] == faults(partial, plans=plans, free=frozenset({"primary"}))
    assert ["not_sent"] == kinds(faults(partial, plans=plans, free=frozenset({"secondary"})))


def test_messages_that_go_alone_wait_for_each_other() -> None:
    suspect = message(delivery("leased"), crashes=ALONE_FROM)
    doubtful = message(delivery("uncertain", doubt_at=PAST), crashes=ALONE_FROM)
    innocent = message(delivery("leased"), crashes=ALONE_FROM - 1)
    free = frozenset({"primary"})

    assert [] == faults(suspect, doubtful, free=free, is_alone=True)
    assert ["not_sent"] == kinds(faults(innocent, free=free, is_alone=True))
    assert ["not_sent", "not_settled"] == kinds(faults(suspect, doubtful, free=free))


def test_a_repetition_waits_while_as_many_as_may_be_are_on_their_way() -> None:
    due = message(delivery("uncertain", doubt_at=PAST))

    assert [] == faults(due, repeating=frozenset({"primary"}))
    assert ["not_settled"] == kinds(faults(due, repeating=frozenset({"secondary"})))


def lane(**changes: Any) -> Lane:
    found = make_lane(concurrency_max=1)
    found.limiter_status.publish(LimiterStatus(0.0, 5))
    for name, value in changes.items():
        if name in {"limiter_status", "breaker_status"}:
            getattr(found, name).publish(value)
        else:
            setattr(found, name, value)
    return found


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, True),
        ({"limiter_status": LimiterStatus(10.1, 5)}, False),
        ({"limiter_status": LimiterStatus(9.9, 5)}, True),
        ({"limiter_status": LimiterStatus(0.0, 0)}, False),
        ({"limiter_status": LimiterStatus(0.0, 5, is_paused=True)}, False),
        ({"breaker_status": BreakerStatus(BreakerState.OPEN, 1.0)}, False),
        ({"breaker_status": BreakerStatus(BreakerState.HALF_OPEN, 0.0, 3)}, False),
        ({"breaker_status": BreakerStatus(BreakerState.DISABLED, 1.0)}, False),
        ({"is_retired": True}, False),
        ({"in_flight": {"a1": None}}, False),
    ],
)
def test_a_lane_is_free_when_it_would_certainly_take_a_message(
    changes: dict[str, Any], expected: bool
) -> None:
    assert expected == is_free(lane(**changes), 10.0)


# A message that does not add up


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, []),
        ({"open_count": 2}, [("count_wrong", "open_count 2, not final 1")]),
        (
            {"open_count": 0},
            [
                ("count_wrong", "open_count 0, not final 1"),
                ("final_undated", "final_at is missing"),
            ],
        ),
        ({"final_at": NOW}, [("final_undated", "final_at is set")]),
        ({"recipients_total": 3}, [("ledger_imbalance", "accepted 3, in a state 2")]),
        ({"recipients_total": 1}, [("ledger_imbalance", "accepted 1, in a state 2")]),
    ],
)
def test_a_message_adds_up(changes: dict[str, Any], expected: list[tuple[str, str]]) -> None:
    found = faults(message(delivery("sent"), delivery("ready", 1), **changes))

    assert expected == [(fault.kind.value, fault.detail) for fault in found]


def test_a_final_message_is_dated() -> None:
    assert [] == faults(message(delivery("sent")))
    assert ["final_undated"] == kinds(faults(message(delivery("sent"), final_at=None)))


def test_a_state_that_there_is_not_is_none() -> None:
    found = faults(message(delivery("nowhere"), open_count=0, final_at=NOW))

    assert ["ledger_imbalance"] == kinds(found)


def test_what_belongs_to_no_message_is_told() -> None:
    strays = list(spool_faults(Inspection((), strays=(4,)), KNOWN))
    purged = list(spool_faults(Inspection((), purged_imbalance=-2), KNOWN))

    assert [("ledger_imbalance", "message no. 4")] == [(f.kind.value, f.subject) for f in strays]
    assert ["-2 of what retention deleted"] == [fault.detail for fault in purged]


def test_many_deliveries_in_the_same_case_are_one_fault() -> None:
    many = message(*(delivery("leased", n, node="other") for n in range(50)))

    (found,) = faults(many)

    assert ("m1", 1, "main", "queued", "leased to node 'other'") == (
        *(found.subject, found.seq, found.stream, found.state),
        found.detail,
    )


# The process


def box(waiting: int = 3, handled: int = 5, crashed: int = 0) -> MailboxStatistics:
    return MailboxStatistics("registry", waiting, 10, handled, crashed)


def test_a_mailbox_with_something_in_it_is_suspected_until_it_moves() -> None:
    (first,) = process_faults([box()], [], 0.0, None)
    (second,) = process_faults([box(handled=6)], [], 0.0, None)
    (third,) = process_faults([box(crashed=1)], [], 0.0, None)

    assert ("mailbox_stuck", "registry", "3 items wait") == (
        *(first.kind.value, first.subject),
        first.detail,
    )
    assert 3 == len({first.spell, second.spell, third.spell})
    assert [] == list(process_faults([box(waiting=0)], [], 0.0, None))


def test_each_attempt_is_suspected_for_as_long_as_it_is_on_its_way() -> None:
    lease: Lease = make_lease()
    attempts = {id_: Attempt(id_, lease, "primary", ignore) for id_ in ("a1", "a2")}

    found = list(process_faults([], [lane(in_flight=attempts)], 0.0, None))

    assert [("attempt_stuck", lease.id, "a1"), ("attempt_stuck", lease.id, "a2")] == [
        (fault.kind.value, fault.subject, fault.spell) for fault in found
    ]
    assert "attempt a1 with primary, queued" == found[0].detail


def test_a_late_loop_and_a_look_under_way_are_told() -> None:
    assert [] == list(process_faults([], [], LAG_MAX_S, None))
    assert ["loop_blocked"] == kinds(list(process_faults([], [], LAG_MAX_S + 0.1, None)))
    assert ["look_stuck"] == kinds(list(process_faults([], [], 0.0, 3.0)))


# From fault to alarm

FAULT = Finding(AlarmKind.NOT_SENT, "m1", "7", 1)
PATIENCE_S = RULES[AlarmKind.NOT_SENT].patience_s


def test_a_fault_is_an_alarm_when_it_has_lasted_and_is_raised_once() -> None:
    book = AlarmRegister()

    assert () == decide_changes(book, [FAULT], 0.0, NOW).raised
    assert () == decide_changes(book, [FAULT], PATIENCE_S - 0.1, NOW).raised
    (alarm,) = decide_changes(book, [FAULT], PATIENCE_S, NOW + 1.0).raised
    assert () == decide_changes(book, [FAULT], 2 * PATIENCE_S, NOW).raised

    assert (FAULT, NOW + 1.0, PATIENCE_S) == (alarm.fault, alarm.raised_at, alarm.raised_s)
    assert {("not_sent",): 1} == book.raised.counts
    assert (1,) == book.seqs()


def test_an_alarm_is_cleared_once_when_its_fault_is_gone() -> None:
    book = AlarmRegister()
    decide_changes(book, [FAULT], 0.0, NOW)
    (raised,) = decide_changes(book, [FAULT], PATIENCE_S, NOW).raised

    assert (raised,) == decide_changes(book, [], 90.0, NOW).cleared
    assert () == decide_changes(book, [], 95.0, NOW).cleared
    assert not book.alarms
    assert not book.suspected


def test_a_fault_that_comes_back_has_to_last_again() -> None:
    book = AlarmRegister()
    decide_changes(book, [FAULT], 0.0, NOW)
    decide_changes(book, [], 5.0, NOW)
    decide_changes(book, [FAULT], 10.0, NOW)

    assert () == decide_changes(book, [FAULT], PATIENCE_S + 5.0, NOW).raised
    assert 1 == len(decide_changes(book, [FAULT], PATIENCE_S + 10.0, NOW).raised)


def test_what_has_moved_on_is_another_fault() -> None:
    book = AlarmRegister()
    for number in range(20):
        spell = msgspec.structs.replace(FAULT, spell=str(number))

        assert () == decide_changes(book, [spell], number * PATIENCE_S, NOW).raised


def test_the_wall_clock_counts_for_nothing() -> None:
    book = AlarmRegister()
    decide_changes(book, [FAULT], 0.0, NOW)

    assert () == decide_changes(book, [FAULT], 5.0, NOW + 3600.0).raised
    assert 1 == len(decide_changes(book, [FAULT], PATIENCE_S, NOW - 3600.0).raised)


@pytest.mark.parametrize("kind", [k for k in AlarmKind if RULES[k].patience_s == 0.0])
def test_what_can_never_be_is_an_alarm_at_once(kind: AlarmKind) -> None:
    assert 1 == len(decide_changes(AlarmRegister(), [Finding(kind, "m1")], 0.0, NOW).raised)


def test_so_many_are_named_and_the_others_counted() -> None:
    book = AlarmRegister()
    found = [Finding(AlarmKind.COUNT_WRONG, f"m{n}", seq=n) for n in range(1, NAMED_MAX + 6)]

    named = decide_changes(book, found, 0.0, NOW).raised

    assert NAMED_MAX == len(named)
    assert NAMED_MAX + 5 == book.counts(0.0)["count_wrong"]
    after = decide_changes(book, found[3:], 5.0, NOW)
    assert (3, 3) == (len(after.cleared), len(after.raised))


def test_no_more_is_remembered_than_so_much() -> None:
    book = AlarmRegister()
    known = [Finding(AlarmKind.NOT_CLAIMED, "first", seq=1)]
    decide_changes(book, known, 0.0, NOW)
    flood = [Finding(AlarmKind.COUNT_WRONG, f"m{n}", seq=n + 2) for n in range(2 * SUSPECTED_MAX)]

    decide_changes(book, [*flood, *known], 5.0, NOW)

    assert SUSPECTED_MAX + 1 == len(book.suspected)
    assert 0.0 == book.suspected[AlarmKind.NOT_CLAIMED, "first", ""][1]


def test_while_nothing_can_move_suspicions_do_not_age_and_alarms_stay() -> None:
    book = AlarmRegister()
    other = Finding(AlarmKind.NOT_SENT, "m2", "8", 2)
    decide_changes(book, [FAULT], 0.0, NOW)
    decide_changes(book, [FAULT, other], PATIENCE_S, NOW)

    book.forget_suspicions()

    after = decide_changes(book, [FAULT, other], PATIENCE_S + 100.0, NOW)
    assert ((), ()) == (after.raised, after.cleared)
    assert ["m1"] == [alarm.fault.subject for alarm in book.alarms.values()]


def test_every_kind_has_a_rule_and_a_count() -> None:
    assert set(RULES) == set(AlarmKind)
    assert dict.fromkeys([kind.value for kind in AlarmKind], 0) == AlarmRegister().counts(0.0)
