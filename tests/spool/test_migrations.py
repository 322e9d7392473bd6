"""Spools of older programs are brought up to date in place; those of newer ones are refused."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

import apsw
import pytest

from mailactors.model.lifecycle import FINAL, State
from mailactors.spool.port import NotRetried, Purge, Purged, Receipt, Retry, SpoolSchemaError
from mailactors.spool.sqlite import SqliteStore, migrations
from mailactors.spool.sqlite.backup import backup_spool
from tests.spool.makers import KEY_S, NOW, lease_all, make_accept, make_intend, one, receive

ROWS_0001 = Path(__file__).with_name("spool_0001.sql")
"""Written by the program of that time, through its own commands."""


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "spool.db")


@pytest.fixture
def old(path: str) -> str:
    """Make a spool of migration 0001 with a message in each state."""
    with contextlib.closing(apsw.Connection(path)) as db:
        db.pragma("journal_mode", "WAL")
        migrations.apply_migration(db, migrations.load_migrations()[0])
        db.execute(ROWS_0001.read_text())
    return path


def test_an_older_spool_has_everything_after_its_upgrade(old: str) -> None:
    store = SqliteStore.open(old)

    for state in State:
        (status,) = store.status(f"order-{state}")
        (delivery,) = status.deliveries
        assert (state.value, state) == (status.id, delivery.state)
        assert (f"{state}@example.com", "") == (delivery.recipient, status.retry_of)
        assert store.timeline(status.seq)[0].kind == "accepted"
    ledger = store.ledger()
    assert (12, dict.fromkeys(sorted(State), 1), 0) == (ledger.accepted, ledger.states, 0)
    assert (ledger, {}) == (store.audit().counted, store.audit().differences)
    assert [event.seq for event in store.events_after(0, 100)] == list(range(1, 22))
    store.close()


def test_mail_of_an_older_spool_flows_on(old: str) -> None:
    store = SqliteStore.open(old)
    now = NOW + 2_000_000

    leases = lease_all(store, now=now)
    results = [one(store, make_intend(lease, f"new {lease.seq}"), NOW) for lease in leases]

    assert ["ready", "deferred"] == [lease.id for lease in leases]
    assert all(type(result).__name__ == "Intended" for result in results)
    assert receive(store, make_accept("new", key="held"), NOW).id == "held"
    assert receive(store, make_accept("new"), NOW).seq == 13
    store.close()


def test_what_ended_in_an_older_spool_is_retried_and_purged(old: str) -> None:
    store = SqliteStore.open(old)

    retried = {state: one(store, Retry(state, f"again {state}"), NOW) for state in State}
    purged = one(store, Purge(NOW + 3, NOW + 3, 100), NOW + KEY_S)

    assert {state for state, result in retried.items() if isinstance(result, Receipt)} == {
        *(State.BOUNCED, State.FAILED, State.EXPIRED, State.SUPPRESSED, State.CANCELLED)
    }
    assert all(isinstance(retried[state], Receipt | NotRetried) for state in State)
    assert Purged(len(FINAL), 0, has_more=False) == purged
    assert store.ledger().is_balanced
    assert store.audit().differences == {}
    store.close()


def test_an_upgrade_is_made_once(old: str) -> None:
    SqliteStore.open(old).close()

    store = SqliteStore.open(old)

    names = [row[0] for row in store._db.execute("SELECT name FROM migrations ORDER BY number")]
    store.close()
    assert [migration.name for migration in migrations.load_migrations()] == names


def test_a_newer_spool_is_refused(path: str) -> None:
    SqliteStore.open(path).close()
    with contextlib.closing(sqlite3.connect(path)) as other:
        other.execute("INSERT INTO migrations VALUES (99, '0099_future.sql', 'x')")
        other.commit()
    before = Path(path).read_bytes()

    for use in (SqliteStore.open, lambda path: backup_spool(path, f"{path}.copy")):
        with pytest.raises(SpoolSchemaError, match=r"0099_future\.sql.*newer.*run that one"):
            use(path)

    assert before == Path(path).read_bytes()


def test_a_changed_migration_is_refused(path: str) -> None:
    SqliteStore.open(path).close()
    with contextlib.closing(sqlite3.connect(path)) as other:
        other.execute("UPDATE migrations SET sha256 = 'another'")
        other.commit()

    with pytest.raises(SpoolSchemaError, match=r"0001_spool\.sql is not the one"):
        SqliteStore.open(path)


def test_a_failed_migration_leaves_nothing_behind() -> None:
    db = apsw.Connection(":memory:")
    broken = migrations.Migration(1, "0001_broken.sql", "CREATE TABLE a (x); CREATE TABLE a (x);")

    with pytest.raises(apsw.SQLError):
        migrations.apply_migration(db, broken)

    assert db.execute("SELECT count(*) FROM sqlite_schema").get == 0


def test_suppressions_of_before_ignore_case_after_the_upgrade(path: str) -> None:
    with contextlib.closing(apsw.Connection(path)) as db:
        for migration in migrations.load_migrations()[:6]:
            migrations.apply_migration(db, migration)
        db.execute(
            "INSERT INTO suppressions VALUES ('Ann@example.com', 'asked', 'api', 2.0),"
            " ('ann@example.com', '550', 'bounce', 1.0), ('ZOË@example.com', '', 'api', 3.0)"
        )

    store = SqliteStore.open(path)

    assert [("ann@example.com", "bounce", 1.0), ("zoë@example.com", "api", 3.0)] == [
        (each.address, each.source, each.created_at) for each in store.suppressions(10)
    ]
    store.close()
