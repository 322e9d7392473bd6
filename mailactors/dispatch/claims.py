"""What the dispatcher asks the spool for: at most one claim a stream.

Where something is due the claim is sent. Where nothing is, it stands by (`SpoolClient.stand_by`)
and the writer executes it in the commit that brings the stream's next message: a message that can
go out at once costs one commit instead of two, and one turn of the dispatcher.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Set
from dataclasses import dataclass
from typing import Final

from mailactors.runtime.reply import Reply
from mailactors.spool.client import SpoolClient
from mailactors.spool.port import Claim, Result

WINDOW: Final = 1000
"""Messages of a stream in memory at once: leases, not bodies."""
LOW_WATER: Final = 500
"""Below this many messages of a stream in memory, more are leased."""


@dataclass(eq=False)
class _Stream:
    """What is known of a stream's work on disk. `due_at` is UTC, inf for none."""

    due_at: float = 0.0
    claim: Reply[Result] | None = None
    """Sent or standing by."""
    seen: int = -1
    """The spool's signal at the time of the latest claim."""


class Claims:
    """The claims of one dispatcher. A predecessor's that still stand by are withdrawn.

    Args:
        node: who leases.
        wake: called when a claim is answered; must not block.
    """

    def __init__(self, node: str, spool: SpoolClient, wake: Callable[[], None]) -> None:
        self._node = node
        self._spool = spool
        self._wake = wake
        self._standing = spool.signals.standing
        self._standing.clear()
        self._streams: dict[str, _Stream] = {}

    def __iter__(self) -> Iterator[str]:
        """Yield the names of the streams."""
        return iter(self._streams)

    def cover(self, names: Set[str]) -> bool:
        """Whether all of these streams are claimed from."""
        return self._streams.keys() >= names

    def add(self, names: Iterable[str]) -> None:
        """Claim from these streams as well."""
        for name in names:
            self._streams.setdefault(name, _Stream())

    def expect(self, name: str, due_at: float) -> None:
        """Note that something of a stream is due at this time (UTC) at the latest."""
        stream = self._streams[name]
        stream.due_at = min(stream.due_at, due_at)

    def expect_all(self) -> None:
        """Note that something of every stream may be due."""
        for stream in self._streams.values():
            stream.due_at = 0.0

    def idle_until(self, name: str, now: float) -> float | None:
        """Return when (UTC) something of a stream is due; None if it is, or a claim is sent."""
        stream = self._streams[name]
        is_sent = stream.claim is not None and name not in self._standing
        is_news = stream.seen != self._spool.signals.due(name).value
        return None if is_sent or is_news or stream.due_at <= now else stream.due_at

    def answered(self) -> list[tuple[str, Reply[Result]]]:
        """Return the claims that were answered, and forget them."""
        found = []
        for name, stream in self._streams.items():
            if stream.claim is not None and stream.claim.is_done:
                found.append((name, stream.claim))
                stream.claim = None
        return found

    async def ask(self, now: float, waiting: Callable[[str], int]) -> None:
        """Send the claims that are due, and let others stand by where there is room.

        Args:
            now: UTC seconds.
            waiting: how many of a stream's messages are in memory.
        """
        for name, stream in self._streams.items():
            signal = self._spool.signals.due(name).value
            if signal != stream.seen:
                stream.seen, stream.due_at = signal, 0.0
            if stream.claim is not None and name not in self._standing:
                continue  # it is being answered
            count = waiting(name)
            if count >= LOW_WATER:
                self._withdraw(name, stream)
            elif stream.due_at <= now:
                self._withdraw(name, stream)
                stream.due_at = float("inf")
                claim = Claim(name, WINDOW - count, self._node)
                stream.claim = await self._spool.send(claim, self._wake)
            elif stream.claim is None:
                claim = Claim(name, WINDOW - LOW_WATER, self._node)
                stream.claim = self._spool.stand_by(name, claim, self._wake)

    def withdraw_all(self) -> None:
        """Withdraw the claims that stand by: nothing more is wanted."""
        for name in list(self._standing):
            self._withdraw(name, self._streams[name])

    def next_due_at(self, waiting: Callable[[str], int]) -> float:
        """Return when (UTC) a claim is to be sent without further news, or inf."""
        earliest = float("inf")
        for name, stream in self._streams.items():
            may_ask = stream.claim is None or name in self._standing
            if may_ask and stream.due_at < earliest and waiting(name) < LOW_WATER:
                earliest = stream.due_at
        return earliest

    def _withdraw(self, name: str, stream: _Stream) -> None:
        self._standing.pop(name, None)
        stream.claim = None
