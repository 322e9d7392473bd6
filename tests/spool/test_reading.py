"""Reading a spool's file without owning it: stopped, killed, in use, or no spool at all."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest

from mailactors.spool.port import Cancel, Ledger, SpoolBrokenError, SpoolError, SpoolSchemaError
from mailactors.spool.sqlite import SqliteStore
from mailactors.spool.sqlite.migrations import apply_migration, load_migrations
from mailactors.spool.sqlite.reading import read_spool
from tests.spool.makers import make_accept, one, receive

KILLED = """
import os, signal, sys
from mailactors.spool.sqlite import SqliteStore
from tests.spool.makers import make_accept, receive
store = SqliteStore.open(sys.argv[1])
for number in range(int(sys.argv[2])):
    receive(store, make_accept(f"m{number}"))
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "a spool?.db")


@pytest.fixture
def running(path: str) -> Iterator[SqliteStore]:
    store = SqliteStore.open(path)
    yield store
    store.close()


def ledger(path: str) -> Ledger:
    return read_spool(path, lambda spool: spool.ledger())


def make_spool(path: str, count: int = 2) -> None:
    store = SqliteStore.open(path)
    for number in range(count):
        receive(store, make_accept(f"m{number}"))
    store.close()


def make_killed(path: str, count: int = 3) -> None:
    """Leave what a process leaves that was killed: all it wrote is in the log still."""
    command = [sys.executable, "-c", KILLED, path, str(count)]
    ended = subprocess.run(command, check=False, env={**os.environ, "PYTHONPATH": os.getcwd()})
    assert -signal.SIGKILL == ended.returncode
    assert os.path.getsize(f"{path}-wal") > 0


def make_old(path: str, migrations: int) -> None:
    """Make a spool as the program with so many migrations did."""
    with contextlib.closing(apsw.Connection(path)) as db:
        for migration in load_migrations()[:migrations]:
            apply_migration(db, migration)


def contents(path: str) -> dict[str, bytes]:
    folder = Path(path).parent
    return {each.name: each.read_bytes() for each in sorted(folder.iterdir())}


def test_a_stopped_spool_is_read_and_left_as_it_is(path: str) -> None:
    make_spool(path)
    before = contents(path)

    assert Ledger(2, {"ready": 2}, 0) == ledger(path)
    assert before == contents(path)


@pytest.mark.slow
def test_a_killed_process_has_left_its_log_which_counts(path: str) -> None:
    make_killed(path)
    before = contents(path)

    assert Ledger(3, {"ready": 3}, 0) == ledger(path)
    assert before == contents(path)


@pytest.mark.slow
def test_a_log_without_its_index_counts_too(path: str) -> None:
    make_killed(path)
    os.unlink(f"{path}-shm")
    before = contents(path)

    assert Ledger(3, {"ready": 3}, 0) == ledger(path)
    assert before == contents(path)


@pytest.mark.slow
def test_a_spool_in_a_folder_that_is_read_only_is_read(path: str, tmp_path: Path) -> None:
    make_killed(path)
    for name in os.listdir(tmp_path):
        os.chmod(tmp_path / name, 0o400)
    os.chmod(tmp_path, 0o500)
    try:
        assert Ledger(3, {"ready": 3}, 0) == ledger(path)
    finally:
        os.chmod(tmp_path, 0o700)


def test_a_spool_in_use_is_read_as_it_is_now(path: str, running: SqliteStore) -> None:
    receive(running, make_accept("m1"))
    assert Ledger(1, {"ready": 1}, 0) == ledger(path)

    one(running, Cancel("m1"))

    assert Ledger(1, {"cancelled": 1}, 0) == ledger(path)


def test_a_service_may_start_and_write_while_its_file_is_read(path: str) -> None:
    make_spool(path)

    def start_and_write(_spool: object) -> str:
        store = SqliteStore.open(path)
        receive(store, make_accept("late"))
        store.close()
        return "done"

    assert "done" == read_spool(path, start_and_write)
    assert Ledger(3, {"ready": 3}, 0) == ledger(path)


def test_what_was_read_while_a_service_started_is_asked_again(path: str) -> None:
    make_spool(path)
    stores: list[SqliteStore] = []

    def ask(spool: object) -> int:
        if not stores:
            stores.append(SqliteStore.open(path))
            receive(stores[0], make_accept("late"))
        accepted = getattr(spool, "ledger")().accepted  # noqa: B009
        assert isinstance(accepted, int)
        return accepted

    assert 3 == read_spool(path, ask)
    stores[0].close()


def test_a_checkpoint_goes_on_while_a_reader_is_gone(path: str, running: SqliteStore) -> None:
    receive(running, make_accept("m1"))
    ledger(path)

    ((busy, *_),) = running._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    assert 0 == busy


def test_a_link_to_a_spool_is_read_with_its_log(
    path: str, tmp_path: Path, running: SqliteStore
) -> None:
    receive(running, make_accept("m1"))
    link = tmp_path / "link"
    link.symlink_to(path)

    assert Ledger(1, {"ready": 1}, 0) == ledger(str(link))


def test_a_file_that_is_not_there_is_told_and_not_made(path: str) -> None:
    with pytest.raises(SpoolError, match="there is no file"):
        ledger(path)

    assert not os.path.exists(path)


def test_another_file_is_no_spool(path: str) -> None:
    Path(path).write_bytes(b"Dear diary, " * 1000)

    with pytest.raises(SpoolSchemaError, match="is not a database"):
        ledger(path)


def test_another_programs_database_is_no_spool(path: str) -> None:
    db = apsw.Connection(path)
    db.execute("CREATE TABLE diary (day TEXT)")
    db.close()

    with pytest.raises(SpoolSchemaError, match="no spool of mailactors"):
        ledger(path)


def test_an_empty_file_is_no_spool_yet(path: str) -> None:
    Path(path).touch()

    with pytest.raises(SpoolSchemaError, match="no gateway has used it yet"):
        ledger(path)


def test_a_folder_is_no_spool(tmp_path: Path) -> None:
    with pytest.raises(SpoolError, match="there is no file"):
        ledger(str(tmp_path))


def test_a_newer_programs_spool_is_not_understood(path: str) -> None:
    make_spool(path)
    db = apsw.Connection(path)
    db.execute("INSERT INTO migrations VALUES (9999, '9999_future.sql', 'x')")
    db.close()

    with pytest.raises(SpoolSchemaError, match="newer mailactors; run that one"):
        ledger(path)


def test_an_older_programs_spool_must_be_served_first(path: str) -> None:
    make_old(path, 1)
    before = contents(path)

    with pytest.raises(SpoolSchemaError, match="older mailactors; serve it once"):
        ledger(path)
    assert before == contents(path)


def test_a_spool_without_a_table_of_risks_is_read(path: str) -> None:
    make_old(path, 2)

    assert Ledger(0, {}, 0) == ledger(path)


@pytest.mark.parametrize("offset", [100, 4096 + 100])
def test_a_damaged_spool_says_what_to_do(offset: int, path: str) -> None:
    make_spool(path, 20)
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write(b"\xff" * 8_000)

    with pytest.raises(SpoolBrokenError, match="is damaged"):
        ledger(path)


@pytest.mark.slow
def test_a_killed_processs_spool_is_served_again_after_it_was_read(path: str) -> None:
    make_killed(path)
    copy = f"{path}.copy"
    for suffix in ("", "-wal", "-shm"):
        shutil.copyfile(path + suffix, copy + suffix)

    ledger(copy)
    store = SqliteStore.open(copy)

    assert Ledger(3, {"ready": 3}, 0) == store.ledger()
    store.close()
