"""A watchdog's look into an SQLite spool: what it returns, and how little it reads for that."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from mailactors.model.lifecycle import State
from mailactors.spool.port import Cancel, Inspection, InspectionQuery, LeaseOwner, MessageFacts
from mailactors.spool.sqlite import SqliteStore
from mailactors.spool.store import inspection
from mailactors.spool.store.inspection import AUDITED, FOUND_MAX, HEADS, SCANNED
from tests.spool.makers import (
    LIFE_S,
    NOW,
    doubt_one,
    end_one,
    lease_all,
    lease_one,
    make_accept,
    one,
    receive,
    send_one,
)

NODE = "node"
LATER = NOW + 60.0
OVER = NOW + LIFE_S + 1.0


@pytest.fixture
def store() -> Iterator[SqliteStore]:
    store = SqliteStore.open(":memory:")
    yield store
    store.close()


def look(
    store: SqliteStore, now: float = NOW, owner: LeaseOwner | None = None, **marks: Any
) -> Inspection:
    return store.inspect(InspectionQuery(now, owner or LeaseOwner(NODE), **marks))


def ids(inspection: Inspection) -> list[str]:
    return [message.id for message in inspection.messages]


def change(store: SqliteStore, sql: str, *bindings: Any) -> None:
    """Plant a defect that no command would make."""
    store._db.execute(sql, bindings)


def fill(store: SqliteStore, count: int) -> None:
    """Make a backlog of as many messages, of two streams, a hundred of them leased to no owner."""
    change(
        store,
        "WITH RECURSIVE k(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM k WHERE i < ?)"
        " INSERT INTO messages (seq, id, client_id, message_id, stream, sender, subject, date_s,"
        " accepted_at, not_before, expires_at, size_bytes, digest, recipients_total, open_count,"
        " progress) SELECT i, 'm' || i, '', '', iif(i % 3, 'bulk', 'main'), '', '', 0, ?2, 0,"
        " ?2 + 3600, 0, '', 1, 1, x'80' FROM k",
        count,
        NOW,
    )
    change(
        store,
        "INSERT INTO deliveries (seq, n, recipient, domain, stream, state, due_at, updated_at)"
        " SELECT seq, 0, '', '', stream, CASE WHEN seq <= 100 THEN 'leased'"
        " WHEN seq % 5 = 0 THEN 'held' WHEN seq % 5 = 1 THEN 'deferred' ELSE 'ready' END,"
        " accepted_at + seq / 1000.0, accepted_at FROM messages",
    )


# What it reads


STATEMENTS = (
    *("TAKEN", "STREAMS", "DUE", "PROVIDERS", "DOUBTED", "PAST_DEADLINE", "BLOCK", "ODD"),
    *("STRAY", "PURGED", "MESSAGES", "DELIVERIES"),
)


@pytest.mark.parametrize("name", STATEMENTS)
def test_every_statement_reads_along_an_index(name: str, store: SqliteStore) -> None:
    sql = getattr(inspection, name).format(among=store._rows.dialect.among)
    plan = store._db.execute(f"EXPLAIN QUERY PLAN {sql}", (0,) * sql.count("?")).fetchall()

    steps = [str(row[3]) for row in plan]
    scanned = [step for step in steps if step.startswith("SCAN")]
    small = r"SCAN (deliveries USING INDEX deliveries_taken|found|spool|purged|.*\(|json)"
    assert [] == [step for step in scanned if not re.match(small, step)]
    assert any("SEARCH" in step for step in steps) or name in {"TAKEN", "PURGED"}


def test_all_statements_are_held_to_that() -> None:
    texts = {
        name
        for name, value in vars(inspection).items()
        if isinstance(value, str) and "SELECT" in value and not name.startswith("__")
    }

    assert texts == set(STATEMENTS)


def steps_of_a_look(store: SqliteStore, now: float) -> int:
    """Return how much SQLite had to do, in hundreds of its instructions."""
    count = 0

    def step() -> bool:
        nonlocal count
        count += 1
        return False

    store._db.set_progress_handler(step, 100)
    look(store, now)
    store._db.set_progress_handler(None)
    return count


@pytest.mark.slow
def test_a_look_costs_no_more_with_a_hundred_times_the_backlog(store: SqliteStore) -> None:
    other = SqliteStore.open(":memory:")
    fill(store, 2_000)
    fill(other, 200_000)
    for now in (NOW - 1.0, LATER, OVER):
        few, many = steps_of_a_look(store, now), steps_of_a_look(other, now)

        assert many <= 1.1 * few
    other.close()


# What it returns


def test_an_empty_spool_has_nothing_to_judge(store: SqliteStore) -> None:
    assert Inspection(()) == look(store)


def test_a_message_is_returned_as_it_stands(store: SqliteStore) -> None:
    lease = send_one(store, make_accept(recipients=["a@example.com", "b@example.com"]))

    (message,) = look(store).messages

    assert (lease.seq, "m1", "main", 2, 2, 2, None) == (
        *(message.seq, message.id, message.stream, message.recipients_total),
        *(message.open_count, message.written_for, message.final_at),
    )
    assert (NOW, NOW + LIFE_S) == (message.accepted_at, message.expires_at)
    assert [(0, "sending", lease.epoch, NODE, "a1")] * 1 == [
        (each.n, each.state, each.epoch, each.node, each.attempt_id)
        for each in message.deliveries[:1]
    ]
    assert lease.progress == message.progress


def test_known_leases_and_attempts_are_left_out(store: SqliteStore) -> None:
    sending = send_one(store, make_accept("m1"))
    leased = lease_one(store, make_accept("m2"))
    owner = LeaseOwner(
        NODE,
        frozenset({"a1"}),
        frozenset({(sending.seq, sending.epoch), (leased.seq, leased.epoch)}),
        frozenset(),
    )

    assert [] == ids(look(store, owner=owner))
    assert {"main": 2} == look(store, owner=owner).taken


@pytest.mark.parametrize(
    ("seq", "epoch", "node", "expected"),
    [
        (2, 7, "node", True),
        (3, 7, "node", True),
        (2, 6, "node", False),
        (4, 7, "node", False),
        (2, 7, "other", False),
    ],
)
def test_an_owner_knows_its_leases(seq: int, epoch: int, node: str, expected: bool) -> None:
    owner = LeaseOwner("node", flying=frozenset({(3, 7)}), waiting=frozenset({(2, 7)}))

    assert expected == owner.knows_lease(seq, epoch, node)


def test_an_owner_that_cannot_say_is_asked_for_its_name_only() -> None:
    assert LeaseOwner("node").knows_lease(1, 7, "node")
    assert not LeaseOwner("node").knows_lease(1, 7, "other")


def test_the_heads_of_waiting_leases_are_returned(store: SqliteStore) -> None:
    for number in range(HEADS + 5):
        receive(store, make_accept(f"m{number:02}", at=NOW - number))
    lease_all(store)

    assert HEADS == len(look(store).messages)
    assert "m00" not in ids(look(store))


def test_the_heads_of_what_is_due_are_returned_of_each_stream(store: SqliteStore) -> None:
    for number in range(HEADS + 5):
        receive(store, make_accept(f"m{number:02}", at=NOW + number))
    receive(store, make_accept("bulk", stream="bulk"))
    receive(store, make_accept("late", stream="bulk", not_before=LATER + 1.0))

    found = ids(look(store, LATER))

    assert {*(f"m{number:02}" for number in range(HEADS)), "bulk"} == set(found)


def test_what_was_due_to_be_settled_is_returned(store: SqliteStore) -> None:
    doubt_one(store, due_at=LATER)

    assert [] == ids(look(store, LATER - 1.0))
    (message,) = look(store, LATER).messages
    assert ("uncertain", LATER) == (message.deliveries[0].state, message.deliveries[0].doubt_at)


def test_what_waits_past_its_deadline_is_returned(store: SqliteStore) -> None:
    receive(store, make_accept("m1", not_before=OVER + 100.0))

    assert [] == ids(look(store, OVER - 2.0))
    assert ["m1"] == ids(look(store, OVER))


def test_what_is_held_past_its_deadline_is_passed_over_in_turn(store: SqliteStore) -> None:
    fill(store, 6 * SCANNED)
    change(store, "UPDATE deliveries SET state = 'held'")
    change(store, "UPDATE deliveries SET state = 'deferred', due_at = ?", OVER + 100.0)
    change(store, "UPDATE deliveries SET state = 'held' WHERE seq <= ?", 3 * SCANNED)
    change(store, "UPDATE messages SET expires_at = ? + seq / 1e6", NOW)
    mark, found = 0.0, tuple[MessageFacts, ...]()

    for _ in range(4):
        inspection = look(store, OVER, expiry_mark=mark)
        mark, found = inspection.expiry_mark, inspection.messages

    assert HEADS == len(found)
    assert min(each.seq for each in found) == 3 * SCANNED + 1
    assert mark == look(store, OVER, expiry_mark=mark).expiry_mark  # until they are expired


def test_suspects_are_looked_at_again(store: SqliteStore) -> None:
    end_one(store, State.SENT)

    assert [] == ids(look(store))
    assert ["m1"] == ids(look(store, seqs=(1, 99)))


@pytest.mark.parametrize(
    "defect",
    [
        "UPDATE messages SET open_count = 2 WHERE seq = 2",
        "UPDATE messages SET open_count = 0 WHERE seq = 2",
        "UPDATE messages SET recipients_total = 2 WHERE seq = 2",
        "UPDATE messages SET final_at = 1.0 WHERE seq = 2",
        "DELETE FROM deliveries WHERE seq = 2",
        "UPDATE deliveries SET state = 'nowhere' WHERE seq = 2",
        "UPDATE deliveries SET state = 'uncertain' WHERE seq = 2",
        "UPDATE messages SET open_count = 0 WHERE seq = 2;"
        "UPDATE deliveries SET state = 'sent' WHERE seq = 2",
    ],
)
def test_what_does_not_add_up_is_found_wherever_it_is(defect: str, store: SqliteStore) -> None:
    for number in range(1, 4):
        receive(store, make_accept(f"m{number}", not_before=LATER))
    end_one(store, State.SENT, make_accept("m4"))
    assert [] == ids(look(store))

    change(store, defect)

    assert ["m2"] == ids(look(store))


def test_deliveries_without_a_message_are_found(store: SqliteStore) -> None:
    receive(store, make_accept("m1", not_before=LATER))
    receive(store, make_accept("m2", not_before=LATER))

    change(store, "DELETE FROM messages WHERE seq = 2")

    assert (2,) == look(store).strays


def test_every_message_has_its_turn(store: SqliteStore) -> None:
    fill(store, 2 * AUDITED + 10)
    change(store, "UPDATE deliveries SET state = 'held' WHERE state <> 'held'")
    change(store, "UPDATE messages SET open_count = 0 WHERE seq = ?", 2 * AUDITED + 5)
    marks, found = [0], []

    for _ in range(3):
        inspection = look(store, audit_mark=marks[-1])
        marks.append(inspection.audit_mark)
        found.append([each.seq for each in inspection.messages])

    assert [0, AUDITED, 2 * AUDITED, 0] == marks
    assert [[], [], [2 * AUDITED + 5]] == found


def test_a_spool_that_is_all_wrong_is_returned_in_part(store: SqliteStore) -> None:
    fill(store, 3 * FOUND_MAX)
    change(store, "UPDATE deliveries SET state = 'held'")
    change(store, "UPDATE messages SET open_count = 7")

    assert FOUND_MAX == len(look(store).messages)


def test_what_retention_deleted_must_add_up_too(store: SqliteStore) -> None:
    receive(store, make_accept())
    one(store, Cancel("m1"))
    change(store, "UPDATE spool SET purged_accepted = 5")
    change(store, "INSERT INTO purged VALUES ('sent', 4)")

    assert 1 == look(store).purged_imbalance


def test_a_look_changes_nothing(store: SqliteStore) -> None:
    fill(store, 500)
    before = store._db.total_changes()

    look(store, OVER)

    assert before == store._db.total_changes()
    assert not store._db.in_transaction
    assert msgspec.structs.asdict(store.audit().counted)["accepted"] == 500
