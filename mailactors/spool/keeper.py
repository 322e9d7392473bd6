"""The keeper: looks after the room that the spool has, and gives back what is no longer needed.

Owns nothing but a clock: every few seconds it publishes how full the spool is (`SpoolSignals.room`,
by which the door refuses in time), and it has the writer forget what retention no longer asks to
be kept, in small steps, so that mail is never held up for long.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from typing import Final

import msgspec
import trio

from mailactors.runtime.ports import Ports
from mailactors.spool.actor import SpoolSignals, SpoolSpace
from mailactors.spool.port import Purge, Purged, SpoolError
from mailactors.spool.reader import SpoolReader
from mailactors.spool.writer import SpoolWriter

LOOK_EVERY_S: Final = 5.0
PURGE_EVERY_S: Final = 60.0
PURGE_LIMIT: Final = 200
"""Messages that one commit forgets."""
PURGE_PAUSE_S: Final = 0.05
"""Between two such commits, for mail has the way."""


class Retention(msgspec.Struct, frozen=True):
    """How long what is final is kept."""

    final_after_s: float
    bodies_after_s: float


class KeeperActor:
    """The shell."""

    def __init__(
        self,
        folder: str | None,
        retention: Callable[[], Retention],
        reader: SpoolReader,
        writer: SpoolWriter,
        signals: SpoolSignals,
        ports: Ports,
    ) -> None:
        self._folder = folder
        self._retention = retention
        self._reader = reader
        self._writer = writer
        self._signals = signals
        self._clock = ports.clock
        self._journal = ports.journal

    async def run(self, task_status: trio.TaskStatus[None]) -> None:
        """Look and purge in turn."""
        task_status.started()
        purge_at_s = self._clock.now_s() + PURGE_EVERY_S
        while True:
            await self._look()
            if self._clock.now_s() >= purge_at_s:
                await self._purge()
                purge_at_s = self._clock.now_s() + PURGE_EVERY_S
            await trio.sleep(LOOK_EVERY_S)

    async def _look(self) -> None:
        """Publish how full the spool is."""
        pending = await self._reader.ask(lambda spool: spool.pending_counts())
        backlog = sum(count for states in pending.values() for count in states.values())
        free_bytes = None if self._folder is None else shutil.disk_usage(self._folder).free
        self._signals.room.publish(SpoolSpace(backlog, free_bytes))

    async def _purge(self) -> None:
        """Forget what is over and done, step by step."""
        retention, now = self._retention(), self._clock.wall_time()
        command = Purge(now - retention.final_after_s, now - retention.bodies_after_s, PURGE_LIMIT)
        messages = bodies = 0
        has_more, look_at_s = True, self._clock.now_s() + LOOK_EVERY_S
        while has_more:
            if self._clock.now_s() >= look_at_s:
                await self._look()
                look_at_s = self._clock.now_s() + LOOK_EVERY_S
            try:
                purged = await self._writer.ask(command)
            except SpoolError as error:
                self._journal.note("spool.purge_failed", level="warning", error=str(error))
                return
            assert isinstance(purged, Purged)
            messages, bodies = messages + purged.messages, bodies + purged.bodies
            has_more = purged.has_more
            await trio.sleep(PURGE_PAUSE_S)
        if messages or bodies:
            self._journal.note("spool.purged", messages=messages, bodies=bodies)
