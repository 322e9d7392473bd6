"""What the dispatcher asks the spool for: at most one claim a stream.

Where something is due the claim is sent. Where nothing is, it stands by the writer
(`SpoolSignals.standing`), who executes it in the same commit as the next message of the stream: a
message that can go out at once costs one commit, not two, and one turn of the dispatcher.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Set
from dataclasses import dataclass
from typing import Final

from mailactors.dispatch.desk import DispatchDesk
from mailactors.runtime.reply import Reply
from mailactors.spool.actor import Write
from mailactors.spool.port import Claim, Result

WINDOW: Final = 1000
"""Messages of a stream in memory at once: leases, not bodies."""
LOW_WATER: Final = 500
"""Below this many more are leased."""


@dataclass(eq=False)
class _Stream:
    """What is known of a stream's work on disk. `due_at` is UTC, inf for none."""

    due_at: float = 0.0
    claim: Reply[Result] | None = None
    """Sent or standing."""
    seen: int = -1
    """The spool's signal at the time of the latest claim."""


class Claims:
    """The claims of one dispatcher; a predecessor's that still stand are withdrawn."""

    def __init__(self, desk: DispatchDesk) -> None:
        self._desk = desk
        self._standing = desk.signals.standing
        self._standing.clear()
        self._streams: dict[str, _Stream] = {}

    def __iter__(self) -> Iterator[str]:
        """Yield the names of the streams."""
        return iter(self._streams)

    def cover(self, names: Set[str]) -> bool:
        """Whether all of these streams are claimed from."""
        return self._streams.keys() >= names

    def add(self, names: Iterable[str]) -> None:
        """Claim from these streams, too."""
        for name in names:
            self._streams.setdefault(name, _Stream())

    def expect(self, name: str, due_at: float) -> None:
        """Take note that a stream will have something for us, at this time (UTC) at the latest."""
        stream = self._streams[name]
        stream.due_at = min(stream.due_at, due_at)

    def expect_all(self) -> None:
        """Take note that every stream may have something for us."""
        for stream in self._streams.values():
            stream.due_at = 0.0

    def answered(self) -> list[tuple[str, Reply[Result]]]:
        """Return the claims that were answered, and forget them."""
        found = []
        for name, stream in self._streams.items():
            if stream.claim is not None and stream.claim.is_done:
                found.append((name, stream.claim))
                stream.claim = None
        return found

    def take_due(self, now: float, waiting: Callable[[str], int]) -> list[Write]:
        """Return the claims that are to be sent now, and let those stand that may come in useful.

        Args:
            now: UTC seconds.
            waiting: how many of a stream's messages are in memory.
        """
        found = []
        for name, stream in self._streams.items():
            signal = self._desk.signals.due(name).value
            if signal != stream.seen:
                stream.seen, stream.due_at = signal, 0.0
            if stream.claim is not None and name not in self._standing:
                continue  # it is being answered
            count = waiting(name)
            if self._desk.is_draining or count >= LOW_WATER:
                self._withdraw(name, stream)
            elif stream.due_at <= now:
                self._withdraw(name, stream)
                stream.due_at = float("inf")
                found.append(self._claim(name, stream, WINDOW - count))
            elif stream.claim is None:
                self._standing[name] = self._claim(name, stream, WINDOW - LOW_WATER)
        return found

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

    def _claim(self, name: str, stream: _Stream, limit: int) -> Write:
        stream.claim = Reply(self._desk.outcomes.nudge)
        return Write(Claim(name, limit, self._desk.node), stream.claim)
