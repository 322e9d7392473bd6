"""The reporter: tells an operator, in one log record, the whole story of what finally failed.

The spool writes the report as an event in the transaction in which a delivery ends badly, so that
none is missed; this actor follows those events and says them aloud. After a crash or a restart it
goes on from the present: the events are still there for whoever asks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import trio

from mailactors.model.facts import public_facts
from mailactors.model.message import without_recipients
from mailactors.runtime.ports import Journal
from mailactors.spool.port import FeedEvent
from mailactors.spool.reader import SpoolReader

LOOK_EVERY_S: Final = 1.0
REPORTS_AT_ONCE: Final = 100


class ReporterActor:
    """The shell."""

    def __init__(self, reader: SpoolReader, journal: Journal) -> None:
        self._reader = reader
        self._journal = journal

    async def run(self, task_status: trio.TaskStatus[None]) -> None:
        """Follow the reports from now on."""
        seq = await self._reader.ask(lambda spool: spool.latest_event_seq())
        task_status.started()
        while True:
            for event in await self._reports_after(seq):
                seq = event.seq
                facts = hide(public_facts(event.facts), await self._recipients(event.id))
                self._journal.note(
                    "message.failed", level="error", id=event.id, stream=event.stream, **facts
                )
            await trio.sleep(LOOK_EVERY_S)

    async def _recipients(self, message_id: str) -> list[str]:
        found = await self._reader.ask(lambda spool: spool.status(message_id))
        return [each.recipient for message in found for each in message.deliveries]

    async def _reports_after(self, seq: int) -> tuple[FeedEvent, ...]:
        return await self._reader.ask(lambda spool: spool.failures_after(seq, REPORTS_AT_ONCE))


def hide(facts: Any, recipients: Sequence[str]) -> Any:
    """Return facts in which no text names a recipient."""
    if isinstance(facts, str):
        return without_recipients(facts, recipients)
    if isinstance(facts, dict):
        return {name: hide(value, recipients) for name, value in facts.items()}
    if isinstance(facts, list):
        return [hide(each, recipients) for each in facts]
    return facts
