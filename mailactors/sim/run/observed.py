"""The spool and the vendors as one process uses them, with the checks as observer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Self

from mailactors.model.lifecycle import State
from mailactors.sim.check.invariants import Invariants
from mailactors.sim.vendor.call import AttemptObserver
from mailactors.sim.world.world import World
from mailactors.spool.port import Command, Result, SpoolBrokenError, SpoolFullError
from mailactors.spool.sqlite import TEMPORARY, SqliteStore


class ProcessObserver(AttemptObserver):
    """Reports one process's attempts and commits to the checks, and its failures."""

    def __init__(
        self, invariants: Invariants, failed: Callable[[str], None], is_dead: Callable[[], bool]
    ) -> None:
        self._invariants = invariants
        self._failed = failed
        self._is_dead = is_dead

    def began(self, provider: str) -> None:
        self._must_live(f"connected to {provider}")
        self._invariants.began(provider)

    def unused(self, provider: str, began_s: float) -> None:
        self._invariants.unused(provider, began_s)

    def sending(self, provider: str, number: int) -> None:
        self._must_live(f"sent to {provider}", number)
        self._invariants.sending(provider, number)

    def failed(self, provider: str) -> None:
        self._failed(provider)

    def arrived(self, provider: str, number: int) -> None:
        self._invariants.arrived(provider, number)

    def throttled(self, provider: str, retry_after_s: float) -> None:
        if not self._is_dead():
            self._invariants.throttled(provider, retry_after_s)

    def wrote(self) -> None:
        """A transaction is about to be written."""
        self._must_live("wrote")

    def _must_live(self, what: str, number: int = -1) -> None:
        if self._is_dead():
            self._invariants.report("nothing after death", f"a dead process {what}", number)


class ObservedStore(SqliteStore):
    """The spool as one process sees it; the checks see every commit."""

    invariants: Invariants | None = None
    process: ProcessObserver | None = None
    world: World | None = None

    def of_process(self, invariants: Invariants, process: ProcessObserver, world: World) -> Self:
        """Return the same spool for a process, with all earlier commits."""
        store = type(self)(TEMPORARY, self._db, None)
        store.invariants, store.process, store.world = invariants, process, world
        return store

    def delivery_state(self, seq: int) -> State | None:
        """Return the state of a message's only delivery; None if there is none."""
        state = self._db.execute("SELECT state FROM deliveries WHERE seq = ?", (seq,)).get
        return None if state is None else State(state)

    def apply(self, commands: Sequence[Command], now: float) -> list[Result]:
        """Apply commands and show them to the checks; on a faulty disk, fail as a real one does."""
        if self.process is not None:
            self.process.wrote()
        fault = None if self.world is None else self.world.disk.fault()
        if fault is not None and fault.what == "enospc":
            raise SpoolFullError("no room (simulated)")
        if fault is not None and fault.what == "eio":
            raise SpoolBrokenError("the disk failed (simulated)")
        try:
            results = super().apply(commands, now)
        except (SpoolFullError, SpoolBrokenError) as error:  # not simulated: see above
            raise RuntimeError(f"this machine fails the simulator: {error}") from error
        if self.invariants is not None:
            self.invariants.committed(commands, results, now)
        return results
