"""Questions to the spool, beside the writer: a view of its own on a thread of its own.

A slow question never holds up a commit; a question sees everything that was committed before it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from mailactors.runtime.ports import Executor
from mailactors.spool.port import Questions

T = TypeVar("T")


class SpoolReader:
    """Asks a store's read-only view."""

    def __init__(self, view: Questions, executor: Executor) -> None:
        self._view = view
        self._executor = executor

    async def ask(self, question: Callable[[Questions], T]) -> T:
        """Return what `question` finds out, such as `lambda spool: spool.ledger()`."""
        return await self._executor.run(lambda: question(self._view))

    async def count_attempts(self, provider: str, since: float, bucket_s: float) -> dict[int, int]:
        """Return a provider's intents since a time (UTC), by floor(started_at / bucket_s)."""
        return await self.ask(lambda spool: spool.attempt_counts(provider, since, bucket_s))
