"""A second owner of a spool, as another node is where the first one stood still for too long."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import apsw
import msgspec

from mailactors.model.lifecycle import State
from mailactors.spool.port import (
    Claim,
    Claimed,
    Command,
    Progress,
    Recover,
    Release,
    Result,
    SettleDoubt,
    Step,
)
from mailactors.spool.sqlite import SqliteStore
from mailactors.wiring import NODE
from tests.torture.spools import dead_spool

USURPER: Final = "usurper"
TAKEN_MAX: Final = 1000


class Taken(msgspec.Struct, frozen=True):
    """What the second owner holds: the epoch of its lease, by message, since a time (UTC)."""

    at: float
    epochs: dict[int, int]


class Found(msgspec.Struct, frozen=True):
    """What the first owner did to it. `faults` is empty, or it did what it may not."""

    stale_outcomes: int
    """Told under an epoch that was over."""
    faults: list[str]


def usurp(path: Path, resent: str, held: str) -> Taken:
    """Take over whatever is leased, or was being sent for the stream that resends, and keep it.

    For this moment there are two owners: the lock is the first one's, which stands still.

    Raises: SpoolBusyError, when it stands still in the middle of a transaction.
    """
    with _opened(path) as store:
        _apply(store, Recover(NODE, frozenset(), frozenset(), {"": 0.5}))
        with dead_spool(path) as spool:
            sql = "SELECT seq FROM deliveries WHERE state = 'uncertain' AND stream = ? ORDER BY seq"
            lost = [seq for (seq,) in spool.rows(sql, resent)]
        for seq in lost:
            again = (Step(0, State.READY, time.time()),)
            _apply(store, SettleDoubt(seq, again, Progress(), "resend", {}, is_risk=True))
        epochs: dict[int, int] = {}
        for stream in (resent, held):
            claimed = _apply(store, Claim(stream, TAKEN_MAX, USURPER))
            assert isinstance(claimed, Claimed)
            epochs.update((lease.seq, lease.epoch) for lease in claimed.leases)
    return Taken(time.time(), epochs)


def look_at(path: Path, taken: Taken) -> Found:
    """Return what became of it: it is leased still, or was sent after all before it was taken."""
    faults, stale = [], 0
    with dead_spool(path) as spool:
        for seq, epoch in taken.epochs.items():
            ((state, node, found),) = spool.rows(
                "SELECT state, node, epoch FROM deliveries WHERE seq = ?", seq
            )
            is_mine = (state, node, found) == ("leased", USURPER, epoch)
            if not is_mine and state != "sent":
                faults.append(f"message {seq} is {state}, with {node} under epoch {found}")
            for started_at, is_late in spool.rows(
                "SELECT started_at, is_late FROM attempts WHERE seq = ? AND epoch < ?", seq, epoch
            ):
                stale += is_late
                if started_at is not None and started_at > taken.at:
                    faults.append(f"message {seq} was sent under an epoch before {epoch}")
    return Found(stale, faults)


def give_back(path: Path, taken: Taken) -> None:
    """Give back what is still held, when the first owner is dead."""
    with _opened(path) as store:
        for seq, epoch in taken.epochs.items():
            _apply(store, Release(seq, (0,), epoch, time.time()))


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[SqliteStore]:
    db = apsw.Connection(str(path))
    try:
        yield SqliteStore(str(path), db, None)
    finally:
        db.close()


def _apply(store: SqliteStore, command: Command) -> Result:
    (result,) = store.apply([command], time.time())
    return result
