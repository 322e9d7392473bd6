"""A second owner of a spool, as another node is whose first one stood still for too long."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Final

import apsw

from mailactors.spool.port import Claim, Claimed, Command, Recover, Release, Result
from mailactors.spool.sqlite import SqliteStore
from mailactors.wiring import NODE
from tests.torture.spools import dead_spool

USURPER: Final = "usurper"
UNCERTAIN_WAIT_S: Final = 0.5
TAKEN_MAX: Final = 1000
STREAMS: Final = ("mail", "invoice")


def usurp(path: Path) -> None:
    """Take over whatever is leased or being sent, under new epochs, and give it back.

    For this moment there are two owners: the lock is the first one's, which stands still.

    Raises: apsw.BusyError, when it stands still in the middle of a transaction.
    """
    db = apsw.Connection(str(path))
    try:
        store = SqliteStore(str(path), db, None)
        waits = {"": UNCERTAIN_WAIT_S}
        _apply(store, Recover(NODE, frozenset(), frozenset(), waits))
        for stream in STREAMS:
            claimed = _apply(store, Claim(stream, TAKEN_MAX, USURPER))
            assert isinstance(claimed, Claimed)
            for lease in claimed.leases:
                ns = tuple(n for n, _ in lease.recipients)
                _apply(store, Release(lease.seq, ns, lease.epoch, lease.due_at))
    finally:
        db.close()


def _apply(store: SqliteStore, command: Command) -> Result:
    (result,) = store.apply([command], time.time())
    return result


def stale_outcomes(path: Path) -> int:
    """Return how many outcomes came from an owner whose epoch was over."""
    with dead_spool(path) as spool:
        return int(spool.rows("SELECT count(*) FROM attempts WHERE is_late")[0][0])
