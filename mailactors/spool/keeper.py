"""The keeper: publishes how full the spool is, and deletes what retention no longer keeps.

Owns nothing: every few seconds it publishes the backlog and the free space (`SpoolSignals.room`, by
which the door refuses in time), and it has the writer delete in small steps, so that mail is never
delayed for long.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from typing import Final

import msgspec
import trio

from mailactors.runtime.ports import Ports
from mailactors.spool.actor import SpoolSpace
from mailactors.spool.client import SpoolClient
from mailactors.spool.port import Purge, Purged, SpoolError

LOOK_EVERY_S: Final = 5.0
PURGE_EVERY_S: Final = 60.0
PURGE_LIMIT: Final = 200
"""Messages that one commit deletes."""
PURGE_PAUSE_S: Final = 0.05
"""Between two such commits: mail goes first."""


class Retention(msgspec.Struct, frozen=True):
    """How long final messages and their bodies are kept."""

    final_after_s: float
    bodies_after_s: float


class KeeperActor:
    """One loop: look at the space every few seconds, purge every minute."""

    def __init__(
        self,
        folder: str | None,
        retention: Callable[[], Retention],
        spool: SpoolClient,
        ports: Ports,
    ) -> None:
        self._folder = folder
        self._retention = retention
        self._spool = spool
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
        now = self._clock.wall_time()
        backlog = await self._spool.read(lambda spool: spool.backlog(now))
        free_bytes = None if self._folder is None else shutil.disk_usage(self._folder).free
        self._spool.signals.room.publish(SpoolSpace(backlog, free_bytes))

    async def _purge(self) -> None:
        retention, now = self._retention(), self._clock.wall_time()
        command = Purge(now - retention.final_after_s, now - retention.bodies_after_s, PURGE_LIMIT)
        messages = bodies = 0
        has_more, look_at_s = True, self._clock.now_s() + LOOK_EVERY_S
        while has_more:
            if self._clock.now_s() >= look_at_s:
                await self._look()
                look_at_s = self._clock.now_s() + LOOK_EVERY_S
            try:
                purged = await self._spool.ask(command)
            except SpoolError as error:
                self._journal.note("spool.purge_failed", level="warning", error=str(error))
                return
            assert isinstance(purged, Purged)
            messages, bodies = messages + purged.messages, bodies + purged.bodies
            has_more = purged.has_more
            await trio.sleep(PURGE_PAUSE_S)
        if messages or bodies:
            self._journal.note("spool.purged", messages=messages, bodies=bodies)
