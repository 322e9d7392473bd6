"""The SQLite store: the contract with a file and without one, and what only a file has."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import apsw
import msgspec
import pytest

from mailactors.spool.port import (
    Claim,
    Receipt,
    SpoolBrokenError,
    SpoolError,
    SpoolFullError,
    SpoolInUseError,
    SpoolSchemaError,
    Store,
)
from mailactors.spool.sqlite import MEMORY, TEMPORARY, SqliteStore
from mailactors.spool.sqlite.connection import TEMPORARY_CACHE_KIB
from mailactors.spool.sqlite.store import CHECKPOINT_PAGES
from mailactors.spool.store import deliver
from tests.spool.makers import NOW, make_accept, one, receive
from tests.spool.spool_contract import SpoolContract


def check_doubts(store: Store) -> None:
    """Whatever is uncertain, held or repeated has a doubt, and there are no others."""
    assert isinstance(store, SqliteStore)
    doubts = store._db.execute("SELECT seq, attempt_id FROM doubts ORDER BY 1, 2").fetchall()
    uncertain = store._db.execute(
        "SELECT DISTINCT seq, attempt_id FROM deliveries"
        " WHERE state IN ('uncertain', 'held') ORDER BY 1, 2"
    ).fetchall()
    sending = store._db.execute(
        "SELECT DISTINCT seq, attempt_id FROM deliveries WHERE state = 'sending'"
    ).fetchall()
    assert [each for each in doubts if each not in sending] == uncertain


def check_open_counts(store: Store) -> None:
    assert isinstance(store, SqliteStore)
    wrong = store._db.execute(
        "SELECT seq FROM messages WHERE open_count <> (SELECT count(*) FROM deliveries"
        " WHERE deliveries.seq = messages.seq AND state IN"
        " ('ready', 'deferred', 'leased', 'sending', 'uncertain', 'held')) ORDER BY seq"
    ).fetchall()
    assert wrong == []


class TestOnDisk(SpoolContract):
    @contextlib.contextmanager
    def make_store(self) -> Iterator[Store]:
        with tempfile.TemporaryDirectory() as folder:
            store = SqliteStore.open(f"{folder}/spool.db")
            yield store
            store.close()

    def check(self, store: Store) -> None:
        check_open_counts(store)
        check_doubts(store)


class TestInMemory(SpoolContract):
    PATH = MEMORY

    @contextlib.contextmanager
    def make_store(self) -> Iterator[Store]:
        store = SqliteStore.open(self.PATH)
        yield store
        store.close()

    def check(self, store: Store) -> None:
        check_open_counts(store)
        check_doubts(store)


class TestTemporary(TestInMemory):
    PATH = TEMPORARY


def test_a_temporary_one_has_no_more_in_memory_than_its_cache() -> None:
    store = SqliteStore.open(TEMPORARY)
    cache_bytes, packed = 1024 * TEMPORARY_CACHE_KIB, b"x" * 100_000
    count = 3 * cache_bytes // len(packed)

    for number in range(count):
        one(store, msgspec.structs.replace(make_accept(f"m{number}"), packed=packed))

    used_bytes, _ = store._db.status(apsw.SQLITE_DBSTATUS_CACHE_USED)
    assert cache_bytes / 2 < used_bytes < 1.2 * cache_bytes
    assert count == store.ledger().accepted
    assert packed == store._db.execute("SELECT packed FROM contents WHERE seq = 1").get
    store.close()


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "spool.db")


def test_the_file_is_opened_for_durability(path: str) -> None:
    store = SqliteStore.open(path)

    assert store._db.pragma("journal_mode") == "wal"
    assert store._db.pragma("synchronous") == 2
    store.close()


def test_another_journal_than_expected_is_refused() -> None:
    with pytest.raises(SpoolError, match="the journal is memory, not wal"):
        SqliteStore.open(":memory:", journal_mode="wal")


def test_a_second_owner_is_told_who_has_the_file(path: str) -> None:
    store = SqliteStore.open(path)

    with pytest.raises(SpoolInUseError, match=f"{path} is in use"):
        SqliteStore.open(path)

    store.close()
    SqliteStore.open(path).close()


def test_another_name_for_the_file_has_the_same_lock(path: str, tmp_path: Path) -> None:
    store = SqliteStore.open(path)
    other = tmp_path / "other.db"
    other.symlink_to(path)

    with pytest.raises(SpoolInUseError):
        SqliteStore.open(str(other))

    store.close()


def test_a_hard_link_has_the_same_lock(path: str, tmp_path: Path) -> None:
    store = SqliteStore.open(path)
    (tmp_path / "elsewhere").mkdir()
    other = tmp_path / "elsewhere" / "other.db"
    other.hardlink_to(path)

    with pytest.raises(SpoolInUseError, match="is in use"):
        SqliteStore.open(str(other))

    receive(store, make_accept())  # SQLite's own locks are not lost by that
    store.close()
    SqliteStore.open(str(other)).close()


def test_a_file_in_the_place_of_one_in_use_has_its_lock(path: str) -> None:
    store = SqliteStore.open(path)
    os.rename(path, f"{path}.old")

    with pytest.raises(SpoolInUseError, match=r"\.lock"):
        SqliteStore.open(path)

    store.close()


def test_files_that_others_may_read_are_put_right(path: str) -> None:
    SqliteStore.open(path).close()
    suffixes = ("", "-wal", "-shm", ".lock")
    for suffix in suffixes:
        Path(path + suffix).touch()
        os.chmod(path + suffix, 0o644)

    store = SqliteStore.open(path)
    receive(store, make_accept())

    modes = {suffix: os.stat(path + suffix).st_mode & 0o777 for suffix in suffixes}
    assert dict.fromkeys(suffixes, 0o600) == modes
    store.close()


def test_a_file_that_cannot_be_made_private_is_refused(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    SqliteStore.open(path).close()
    os.chmod(path, 0o640)

    def forbidden(_name: str, _mode: int) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "chmod", forbidden)

    with pytest.raises(SpoolError, match=f"other users.*chmod 600 {path}"):
        SqliteStore.open(path)
    monkeypatch.undo()
    SqliteStore.open(path).close()


def test_the_mail_is_for_its_owners_eyes(path: str) -> None:
    store = SqliteStore.open(path)
    receive(store, make_accept())

    modes = {name: os.stat(path + name).st_mode & 0o777 for name in ("", "-wal", "-shm", ".lock")}

    assert set(modes.values()) == {0o600}, modes
    store.close()


def test_a_missing_folder_is_an_error_with_its_name(tmp_path: Path) -> None:
    with pytest.raises(SpoolError, match="nowhere"):
        SqliteStore.open(str(tmp_path / "nowhere" / "spool.db"))


def test_a_file_that_is_no_database_is_refused(path: str) -> None:
    Path(path).write_text("not a database at all, but long enough to be looked at" * 40)

    with pytest.raises(SpoolSchemaError, match="is not a database"):
        SqliteStore.open(path)


def test_another_programs_database_is_refused_unchanged(path: str) -> None:
    with contextlib.closing(sqlite3.connect(path)) as other:
        other.execute("CREATE TABLE theirs (x)")
    os.chmod(path, 0o644)
    before = Path(path).read_bytes()

    with pytest.raises(SpoolSchemaError, match="no spool of mailactors"):
        SqliteStore.open(path)

    assert (before, 0o644) == (Path(path).read_bytes(), os.stat(path).st_mode & 0o777)


def test_a_refused_file_is_not_kept_locked(path: str) -> None:
    Path(path).write_text("not a database at all" * 100)
    with pytest.raises(SpoolSchemaError):
        SqliteStore.open(path)
    Path(path).unlink()

    SqliteStore.open(path).close()


def test_what_was_accepted_is_there_after_reopening(path: str) -> None:
    store = SqliteStore.open(path)
    receive(store, make_accept())
    before = store.status("m1")
    store.close()

    store = SqliteStore.open(path)

    assert before == store.status("m1") != ()
    store.close()


def test_a_seq_is_never_used_again(path: str) -> None:
    store = SqliteStore.open(path)
    receive(store, make_accept())
    for table in ("messages", "contents", "deliveries", "keys", "events"):
        store._db.execute(f"DELETE FROM {table}")

    assert receive(store, make_accept()).seq == 2
    store.close()


def test_a_full_disk_undoes_the_group_and_is_survived(path: str) -> None:
    store = SqliteStore.open(path)
    receive(store, make_accept("m1"))
    room = store._db.pragma("max_page_count")
    store._db.pragma("max_page_count", store._db.pragma("page_count"))
    group = [make_accept(f"x{number}") for number in range(100)]

    with pytest.raises(SpoolFullError, match="no room"):
        store.apply(group, NOW)

    assert [status.id for status in store.statuses(10, None)] == ["m1"]
    store._db.pragma("max_page_count", room)
    assert all(isinstance(result, Receipt) for result in store.apply(group, NOW))
    assert store.ledger().is_balanced
    store.close()


class FaultyDisk(apsw.VFS):
    """The default file system, whose fsync fails while `is_failing`."""

    is_failing = False
    usual = apsw.vfs_names()[0]

    def __init__(self) -> None:
        super().__init__("faulty", self.usual, makedefault=True)

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> apsw.VFSFile:  # noqa: N802
        disk = self

        class File(apsw.VFSFile):
            def __init__(self) -> None:
                super().__init__(disk.usual, name, flags)

            def xSync(self, flags: int) -> None:  # noqa: N802
                if disk.is_failing:
                    raise apsw.IOError("fsync failed")
                super().xSync(flags)

        return File()


@pytest.fixture
def disk() -> Iterator[FaultyDisk]:
    disk = FaultyDisk()
    yield disk
    disk.unregister()
    apsw.set_default_vfs(disk.usual)


def test_a_failed_fsync_ends_the_use_of_the_handle(path: str, disk: FaultyDisk) -> None:
    store = SqliteStore.open(path)
    disk.is_failing = True

    with pytest.raises(SpoolBrokenError, match="failed"):
        store.apply([make_accept()], NOW)

    disk.is_failing = False
    with pytest.raises(SpoolBrokenError):
        store.apply([make_accept()], NOW)
    store.close()


def test_a_checkpoint_that_fails_ends_it_after_its_commit(path: str, disk: FaultyDisk) -> None:
    store = SqliteStore.open(path)
    receive(store, make_accept())
    disk.is_failing = True

    store._checkpoint()

    with pytest.raises(SpoolBrokenError, match="at a checkpoint"):
        store.apply([Claim("main", 1, "node")], NOW)
    disk.is_failing = False
    store.close()


@pytest.mark.slow
def test_the_log_is_checkpointed(path: str) -> None:
    store = SqliteStore.open(path)
    for number in range(30):
        store.apply([make_accept(f"m{number}-{other}") for other in range(100)], NOW)

    assert os.stat(f"{path}-wal").st_size < 3 * CHECKPOINT_PAGES * 4_096
    store.close()


@pytest.mark.parametrize(
    ("sql", "index"),
    [
        (
            "SELECT due_at, seq FROM deliveries WHERE stream = ? AND state IN"
            " ('ready', 'deferred') ORDER BY due_at, seq, n",
            "deliveries_due",
        ),
        (
            "SELECT seq FROM deliveries WHERE state = 'uncertain' ORDER BY due_at, seq, n",
            "deliveries_uncertain",
        ),
        (
            "SELECT seq FROM deliveries WHERE state IN ('leased', 'sending') ORDER BY seq, n",
            "deliveries_taken",
        ),
        (
            "SELECT min(expires_at) FROM messages WHERE open_count > 0 AND expires_at > ?",
            "messages_open",
        ),
    ],
)
def test_a_backlog_is_read_along_an_index(sql: str, index: str) -> None:
    store = SqliteStore.open(":memory:")

    plan = [row[3] for row in store._db.execute(f"EXPLAIN QUERY PLAN {sql}", (0,) * sql.count("?"))]

    assert len(plan) == 1, plan  # no temporary B-tree to sort with
    assert index in plan[0]
    store.close()


def test_a_claim_reads_the_due_deliveries_first() -> None:
    store = SqliteStore.open(":memory:")

    plan = [row[3] for row in store._db.execute(f"EXPLAIN QUERY PLAN {deliver._DUE}", ("main",))]

    assert len(plan) == 2, plan  # in the order of the index
    assert "deliveries_due (stream=?)" in plan[0]
    store.close()


def commit_forever(path: str) -> None:
    """Accept messages and print each receipt's id, until killed."""
    store = SqliteStore.open(path)
    number = 0
    while True:
        group = [make_accept(f"m{number + other}") for other in range(5)]
        number += 5
        for receipt in store.apply(group, NOW):
            assert isinstance(receipt, Receipt)
            sys.stdout.write(f"{receipt.id}\n")
            sys.stdout.flush()


@pytest.mark.slow
def test_every_receipt_survives_a_kill(path: str) -> None:
    program = f"from tests.spool.test_sqlite import commit_forever; commit_forever({path!r})"
    with subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    ) as child:
        assert child.stdout is not None
        printed = [child.stdout.readline().strip() for _ in range(200)]
        child.kill()
        printed += child.stdout.read().split("\n")[:-1]

    store = SqliteStore.open(path)

    stored = {status.id for status in store.statuses(1_000_000, None)}
    assert set(printed) <= stored
    assert store.ledger().is_balanced
    assert store._db.pragma("integrity_check") == "ok"
    one(store, Claim("main", 1, "node"))
    store.close()


def test_threads_take_turns_with_one_in_memory() -> None:
    store = SqliteStore.open(":memory:")
    errors: list[Exception] = []

    def ask() -> None:
        try:
            for _ in range(200):
                store.reader().pending(NOW)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for number in range(200):
        receive(store, make_accept(f"m{number}"))
    for thread in threads:
        thread.join()

    assert [] == errors
    assert 200 == store.ledger().accepted
    store.close()
