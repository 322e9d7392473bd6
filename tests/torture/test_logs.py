"""The write-ahead log, cut off anywhere: what was acknowledged before the cut is there."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from mailactors.model.lifecycle import State
from mailactors.spool.port import Step
from mailactors.spool.sqlite import SqliteStore
from mailactors.spool.sqlite.connection import PAGE_BYTES
from tests.spool.makers import NOW, lease_all, make_accept, make_intend, make_settle
from tests.torture.peer import StoringPeer
from tests.torture.rig import Acknowledgements, Load
from tests.torture.scenes import Scene
from tests.torture.spools import dead_spool
from tests.torture.zygote import Zygote

pytestmark = pytest.mark.slow

HEADER_BYTES = 32
FRAME_BYTES = 24 + PAGE_BYTES
GROUPS = 3


@dataclass(frozen=True)
class Acknowledged:
    """What the spool had promised when its log had a length: messages by their states."""

    log_bytes: int
    states: dict[str, str]


def load_spool(path: Path, copy: Path, early_frames: int) -> list[Acknowledged]:
    """Accept, intend and settle in groups; copy the files in mid-load; return each promise.

    There was a checkpoint before: the database holds something, and the log goes over an older one.
    """
    store = SqliteStore.open(str(path))
    store.apply([make_accept(f"early{n}") for n in range(5)], NOW)
    store._checkpoint()
    promises = []

    def commit(*commands: object) -> None:
        store.apply(commands, NOW)  # type: ignore[arg-type]
        statuses = store.statuses(1_000, None)
        states = {each.id: each.deliveries[0].state.value for each in statuses}
        frames = store._wal_pages - early_frames
        promises.append(Acknowledged(HEADER_BYTES + frames * FRAME_BYTES, states))

    for group in range(GROUPS):
        commit(*(make_accept(f"m{group}-{n}") for n in range(3)))
        leases = lease_all(store)
        attempts = [(lease, f"attempt of {lease.id}") for lease in leases]
        commit(*(make_intend(lease, attempt) for lease, attempt in attempts))
        commit(
            *(
                make_settle(lease, Step(0, State.SENT), attempt_id=attempt)
                for lease, attempt in attempts
            )
        )
    shutil.copy(path, copy)
    shutil.copy(f"{path}-wal", f"{copy}-wal")
    store.close()
    return promises


def cut_lengths(log_bytes: int) -> list[int]:
    """Every frame's boundary, and a place in the middle of every frame, as a torn write leaves."""
    frames = (log_bytes - HEADER_BYTES) // FRAME_BYTES
    ends = [HEADER_BYTES + n * FRAME_BYTES for n in range(frames + 1)]
    torn = [end + 24 + PAGE_BYTES // 3 for end in ends[:-1]]
    return sorted([0, HEADER_BYTES // 2, *ends, *torn])


def check_every_cut(tmp_path: Path, early_frames: int = 0) -> int:
    promises = load_spool(tmp_path / "spool.db", tmp_path / "copy.db", early_frames)
    log = (tmp_path / "copy.db-wal").read_bytes()
    cuts = cut_lengths(promises[-1].log_bytes)
    assert promises[-1].log_bytes <= len(log)
    seen: set[int] = set()
    for number, cut in enumerate(cuts):
        path = tmp_path / f"cut{number}.db"
        shutil.copy(tmp_path / "copy.db", path)
        Path(f"{path}-wal").write_bytes(log[:cut])
        kept = [index for index, each in enumerate(promises) if each.log_bytes <= cut]
        store = SqliteStore.open(str(path))
        statuses = store.statuses(1_000, None)
        assert store.ledger().is_balanced
        store.close()
        with dead_spool(path) as spool:
            spool.check_integrity()
            spool.balanced_ledger()
        states = {each.id: each.deliveries[0].state.value for each in statuses}
        if kept:
            promised = promises[kept[-1]].states
            assert states.keys() >= promised.keys(), f"cut at {cut}: an acknowledged one is gone"
            assert not went_back(promised, states), f"cut at {cut}: an outcome is gone"
            seen.add(kept[-1])
        for each in (path, Path(f"{path}-wal"), Path(f"{path}-shm"), Path(f"{path}.lock")):
            each.unlink(missing_ok=True)
    assert len(seen) == len(promises), "some promise was never the last that was kept"
    return len(cuts)


ORDER = ("ready", "leased", "sending", "sent")


def went_back(promised: dict[str, str], states: dict[str, str]) -> list[str]:
    """Return messages that are not as far as was promised."""
    return [id_ for id_, state in promised.items() if ORDER.index(states[id_]) < ORDER.index(state)]


def test_a_log_cut_off_anywhere_has_all_that_was_promised_before(tmp_path: Path) -> None:
    assert check_every_cut(tmp_path) > 2 * GROUPS * 3


def test_a_promise_before_its_last_frame_fails_that(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="is gone"):
        check_every_cut(tmp_path, early_frames=1)


def test_the_files_of_a_service_copied_under_load_have_what_was_acknowledged(
    services: Zygote, peer: StoringPeer, tmp_path: Path
) -> None:
    (tmp_path / "one").mkdir()
    scene = Scene(services, peer, tmp_path / "one")
    scene.more = "[streams.invoice]\n"
    child = scene.start()
    acks = Acknowledgements(tmp_path / "acknowledged")
    load = Load(child, 0, [], acks, seed=1)
    assert load.first.wait(10.0)
    copies = []
    for number in range(4):
        known = dict(acks.ids)
        copy = tmp_path / f"copy{number}.db"
        # The database changes only at a checkpoint, and there is none yet: the log is all.
        shutil.copy(scene.path, copy)
        shutil.copy(f"{scene.path}-wal", f"{copy}-wal")
        copies.append((copy, known))
        load.first.clear()
        assert load.first.wait(10.0)
    child.kill()
    load.end()
    assert load.errors == []
    for copy, known in copies:
        store = SqliteStore.open(str(copy))
        assert set(known) <= {each.client_id for each in store.statuses(10_000, None)}
        assert store.ledger().is_balanced
        store.close()
        with dead_spool(copy) as spool:
            spool.check_integrity()
    acks.close()
