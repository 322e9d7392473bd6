"""A backup is one moment of a spool that goes on working."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from mailactors.spool.port import Cancel, Purge, SpoolError, SpoolSchemaError
from mailactors.spool.sqlite import SqliteStore
from mailactors.spool.sqlite.backup import backup_spool
from tests.spool.makers import KEY_S, NOW, make_accept, one, receive


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "spool.db")


@pytest.fixture
def copy(tmp_path: Path) -> str:
    return str(tmp_path / "copy.db")


def fill(store: SqliteStore, count: int = 1_000) -> None:
    store.apply([make_accept(f"m{n}") for n in range(count)], NOW)


def test_a_backup_opens_and_holds_everything(path: str, copy: str) -> None:
    store = SqliteStore.open(path)
    fill(store)
    one(store, Cancel("m7"))

    store.backup(copy)

    with_copy = SqliteStore.open(copy)
    assert store.statuses(2_000, None) == with_copy.statuses(2_000, None)
    assert store.ledger() == with_copy.ledger()
    assert with_copy._db.pragma("integrity_check") == "ok"
    assert with_copy._db.pragma("auto_vacuum") == 2
    assert receive(with_copy, make_accept("new")).seq == 1_001
    with_copy.close()
    store.close()


def test_a_backup_is_for_its_owners_eyes_and_alone(path: str, copy: str, tmp_path: Path) -> None:
    store = SqliteStore.open(path)

    store.backup(copy)

    assert os.stat(copy).st_mode & 0o777 == 0o600
    store.close()
    assert {"spool.db", "spool.db.lock", "copy.db"} == {file.name for file in tmp_path.iterdir()}


def test_progress_is_told(path: str, copy: str) -> None:
    store = SqliteStore.open(path)
    fill(store, 5_000)
    reported: list[tuple[int, int]] = []

    store.backup(copy, lambda done, total: reported.append((done, total)))

    assert len(reported) > 1
    assert reported == sorted(reported)
    assert reported[-1][0] == reported[-1][1] == os.stat(copy).st_size // 4_096
    store.close()


def test_a_file_is_never_overwritten(path: str, copy: str) -> None:
    store = SqliteStore.open(path)
    Path(copy).write_text("precious")

    with pytest.raises(SpoolError, match=f"{copy} exists"):
        store.backup(copy)

    assert Path(copy).read_text() == "precious"
    store.close()


def test_a_file_made_meanwhile_is_not_overwritten_either(path: str, copy: str) -> None:
    store = SqliteStore.open(path)

    def write(_done: int, _total: int) -> None:
        Path(copy).write_text("precious")

    with pytest.raises(SpoolError, match=f"{copy} exists"):
        store.backup(copy, write)

    assert Path(copy).read_text() == "precious"
    assert not os.path.exists(f"{copy}.part")
    store.close()


def test_a_backup_that_fails_leaves_no_file(path: str, copy: str, tmp_path: Path) -> None:
    store = SqliteStore.open(path)

    def stop(_done: int, _total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.backup(copy, stop)
    with pytest.raises(SpoolError, match="nowhere"):
        store.backup(str(tmp_path / "nowhere" / "copy.db"))

    assert not list(tmp_path.glob("copy*"))
    receive(store, make_accept())
    store.close()


def test_the_writer_goes_on_during_a_backup(path: str, copy: str) -> None:
    store = SqliteStore.open(path)
    fill(store, 5_000)
    accepted = 5_000

    def write(_done: int, _total: int) -> None:
        nonlocal accepted
        receive(store, make_accept(f"m{accepted}"))
        accepted += 1
        one(store, Cancel(f"m{accepted - 4_000}"))
        one(store, Purge(NOW + 1, NOW + 1, 1), NOW + KEY_S)

    store.backup(copy, write)

    with_copy = SqliteStore.open(copy)
    assert accepted > 5_002
    assert (5_000, {"ready": 5_000}) == (with_copy.ledger().accepted, with_copy.ledger().states)
    assert store.ledger().is_balanced
    with_copy.close()
    store.close()


def test_a_backup_on_another_thread_holds_all_that_was_acknowledged(path: str, copy: str) -> None:
    store = SqliteStore.open(path)
    fill(store, 2_000)
    thread = threading.Thread(target=store.backup, args=(copy,))

    thread.start()
    count = 2_000
    while thread.is_alive() or count == 2_000:
        receive(store, make_accept(f"m{count}"))
        count += 1
    thread.join()

    with_copy = SqliteStore.open(copy)
    ledger = with_copy.ledger()
    assert 2_000 <= ledger.accepted <= count
    assert ledger.is_balanced
    with_copy.close()
    store.close()


def test_a_spool_in_memory_is_copied_to_a_file(copy: str) -> None:
    store = SqliteStore.open(":memory:")
    fill(store, 10)

    store.backup(copy)

    with_copy = SqliteStore.open(copy)
    assert store.statuses(20, None) == with_copy.statuses(20, None)
    with_copy.close()
    store.close()


@pytest.mark.slow
def test_another_process_may_take_the_backup(path: str, copy: str) -> None:
    store = SqliteStore.open(path)
    fill(store)
    program = (
        "import sys; from mailactors.spool import engines; engines.backup_spool(*sys.argv[1:])"
    )

    subprocess.run([sys.executable, "-c", program, path, copy], check=True)
    receive(store, make_accept("after"))

    with_copy = SqliteStore.open(copy)
    assert with_copy.ledger().accepted == 1_000
    with_copy.close()
    store.close()


def test_only_a_spool_is_copied(path: str, copy: str) -> None:
    with pytest.raises(SpoolError, match=f"{path} cannot be copied"):
        backup_spool(path, copy)
    Path(path).write_text("not a database at all" * 100)
    with pytest.raises(SpoolSchemaError, match="is not a database"):
        backup_spool(path, copy)

    assert not os.path.exists(copy)
