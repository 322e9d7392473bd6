"""What a purge frees is given back to the disk, and lists do not grow with the history."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from mailactors.model.lifecycle import STATES_OF, Status
from mailactors.spool.port import Cancel, Filters, Purge, Purged
from mailactors.spool.sqlite import SqliteStore
from mailactors.spool.sqlite.rows import PAGES_KEPT
from mailactors.spool.store.lists import EXAMINED_MAX, ListQuery, build_query
from tests.spool.makers import KEY_S, NOW, make_accept, one, receive

ROWS = 100_000
PAGE_BYTES = 4_096


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    store = SqliteStore.open(str(tmp_path / "spool.db"))
    yield store
    store.close()


def purge_all(store: SqliteStore) -> int:
    for count in range(1, 1_000):
        result = one(store, Purge(NOW + 1, NOW + 1, 500), NOW + KEY_S)
        assert isinstance(result, Purged)
        if not result.has_more:
            return count
    raise AssertionError("a purge without end")


@pytest.mark.slow
def test_the_file_shrinks_after_a_purge(store: SqliteStore, tmp_path: Path) -> None:
    body = bytes(20_000)
    accepts = [make_accept(f"m{n}") for n in range(1_000)]
    store.apply([msgspec.structs.replace(accept, packed=body) for accept in accepts], NOW)
    store.apply([Cancel(f"m{n}") for n in range(999)], NOW)
    store._checkpoint()
    before = os.stat(tmp_path / "spool.db").st_size

    purge_all(store)

    assert before > 1_000 * len(body)
    assert os.stat(tmp_path / "spool.db").st_size < (PAGES_KEPT + 100) * PAGE_BYTES
    assert os.stat(tmp_path / "spool.db-wal").st_size == 0
    assert store._db.pragma("integrity_check") == "ok"
    assert [status.id for status in store.statuses(10, None)] == ["m999"]
    for table in ("messages", "deliveries", "contents", "keys"):
        assert store._db.execute(f"SELECT count(*) FROM {table}").get == 1
    assert store._db.execute("SELECT count(*) FROM events").get == 1


def test_a_file_of_before_is_purged_without_shrinking(tmp_path: Path) -> None:
    path = str(tmp_path / "spool.db")
    store = SqliteStore.open(path)
    store._db.pragma("journal_mode", "DELETE")
    store._db.pragma("auto_vacuum", "NONE")
    store._db.execute("VACUUM")
    store.close()
    store = SqliteStore.open(path)
    receive(store, make_accept())
    one(store, Cancel("m1"))

    purge_all(store)

    assert store._db.pragma("auto_vacuum") == 0
    assert store.ledger().purged == 1
    store.close()


@pytest.fixture(scope="module")
def history() -> Iterator[SqliteStore]:
    """A spool with a long history: nearly all of it sent, of one stream."""
    store = SqliteStore.open(":memory:")
    store._db.execute(
        """
        WITH RECURSIVE numbers (value) AS
          (SELECT 1 UNION ALL SELECT value + 1 FROM numbers WHERE value < ?2)
        INSERT INTO messages (id, client_id, message_id, stream, sender, subject, date_s,
          accepted_at, not_before, expires_at, size_bytes, digest, recipients_total, open_count,
          progress, final_at)
        SELECT 'm' || value, '', '', iif(value = 77, 'rare', 'main'), '', '', ?1, ?1 + value, 0,
          ?1 + value + 3600, 0, '', 1, value IN (33, 44, 55, 66), x'80', ?1 + value
        FROM numbers
        """,
        (NOW, ROWS),
    )
    store._db.execute(
        """
        INSERT INTO deliveries (seq, n, recipient, domain, stream, state, due_at, updated_at)
        SELECT seq, 0, 'user' || (seq % 5000) || '@example.com', 'example.com', stream,
          CASE seq WHEN 22 THEN 'bounced' WHEN 33 THEN 'held' WHEN 44 THEN 'deferred'
            WHEN 55 THEN 'uncertain' WHEN 66 THEN 'sending' ELSE 'sent' END, 0, 0
        FROM messages ORDER BY seq
        """
    )
    store._db.execute("INSERT INTO message_tags VALUES ('rare', 77), ('rare', 22)")
    yield store
    store.close()


class Steps:
    """Counts the steps of SQLite's machine: what a question costs, whatever the hour."""

    def __init__(self, store: SqliteStore) -> None:
        self._db = store._db
        self.hundreds = 0

    def _tick(self) -> bool:
        self.hundreds += 1
        return False

    def __enter__(self) -> Steps:
        self._db.set_progress_handler(self._tick, 100)
        return self

    def __exit__(self, *_: object) -> None:
        self._db.set_progress_handler(None)


@pytest.mark.parametrize(
    ("filters", "count"),
    [
        (Filters(), 10),
        (Filters(recipient="user7@example.com"), 10),
        (Filters(recipient="nobody@example.com"), 0),
        (Filters(recipient="user22@example.com", status=Status.BOUNCED), 1),
        (Filters(status=Status.BOUNCED), 1),
        (Filters(status=Status.CANCELLED), 0),
        (Filters(status=Status.HELD), 1),
        (Filters(status=Status.DEFERRED), 1),
        (Filters(status=Status.UNCERTAIN), 1),
        (Filters(status=Status.PROCESSING), 1),
        (Filters(status=Status.QUEUED), 0),
        (Filters(status=Status.QUEUED, stream="main"), 0),
        (Filters(status=Status.SENT), 10),
        (Filters(status=Status.SCHEDULED), 0),
        (Filters(stream="rare"), 1),
        (Filters(tag="rare"), 2),
        (Filters(tag="rare", status=Status.BOUNCED), 1),
        (Filters(tag="rare", recipient="user77@example.com"), 1),
        (Filters(tag="none"), 0),
        (Filters(stream="none"), 0),
        (Filters(since=NOW + ROWS - 5), 6),
        (Filters(since=NOW + 500, until=NOW + 505), 5),
        (Filters(until=NOW - 5_000), 0),
    ],
)
def test_a_list_does_not_read_the_whole_history(
    history: SqliteStore, filters: Filters, count: int
) -> None:
    with Steps(history) as steps:
        page = history.messages(filters, 10, None)

    assert count == len(page.messages)
    assert steps.hundreds < 100, "more than 10,000 steps over 100,000 messages"
    query = build_query(history._rows.dialect, filters)
    block = (0,) if filters.recipient else ()
    plan = [
        row[3]
        for row in history._db.execute(
            f"EXPLAIN QUERY PLAN {query.sql}", query.values(0, ROWS, *block)
        )
    ]
    scans = [step for step in plan if step.startswith("SCAN")]
    assert all("deliveries_due" in scan or "deliveries_uncertain" in scan for scan in scans), (
        "what waits is sorted anew; nothing else is read from end to end"
    )


def test_what_no_index_knows_is_looked_for_in_portions(history: SqliteStore) -> None:
    filters = Filters(status=Status.SENT, stream="rare")
    pages = 0
    before_seq = None
    found: list[str] = []
    while True:
        with Steps(history) as steps:
            page = history.messages(filters, 10, before_seq)
        assert steps.hundreds < EXAMINED_MAX
        pages += 1
        found += [message.id for message in page.messages]
        if page.next_before_seq is None:
            break
        before_seq = page.next_before_seq

    assert found == ["m77"]
    assert ROWS // EXAMINED_MAX == pages


@pytest.mark.parametrize("status", [Status.QUEUED, Status.DEFERRED, Status.UNCERTAIN])
def test_a_long_backlog_is_not_sorted_for_a_list(status: Status, history: SqliteStore) -> None:
    filters = Filters(status=status, now=NOW)

    short = build_query(history._rows.dialect, filters)
    long = build_query(history._rows.dialect, filters, frozenset(STATES_OF[status]))

    assert "TEMP B-TREE" in plan_of(history, short)
    assert "TEMP B-TREE" not in plan_of(history, long)


def plan_of(store: SqliteStore, query: ListQuery) -> str:
    """Return how SQLite reads a list."""
    rows = store._db.execute(f"EXPLAIN QUERY PLAN {query.sql}", query.values(0, 2**62))
    return "\n".join(row[3] for row in rows)
