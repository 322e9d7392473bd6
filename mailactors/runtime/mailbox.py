"""Bounded mailboxes on memory channels, drained in batches, with a cursor that survives the actor.

The supervisor, not the actor, owns a mailbox. When an actor crashes its successor finds everything
but the one item under the cursor, which is handed to `on_crash`, so that its sender gets an error.
One poison item costs one crash, not a loop.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator
from typing import Final, Generic, TypeVar

import msgspec
import trio

from mailactors.errors import MailactorsError

T = TypeVar("T")

BATCH_MAX: Final = 256
"""Items drained at once: enough to share a commit, few enough to bound the latency."""


class MailboxFullError(MailactorsError):
    """A bounded mailbox has no room; the sender decides what that means."""


class MailboxStatistics(msgspec.Struct, frozen=True):
    """A snapshot for metrics."""

    name: str
    waiting: int
    """Items sent but not yet handled."""
    capacity: int
    handled: int
    """Items handled since the start."""
    crashed: int
    """Items that were under the cursor when the actor died."""


class Mailbox(Generic[T]):
    """A bounded FIFO with one receiving actor at a time.

    An actor consumes it in one of two ways. `take()` yields items one by one under the cursor;
    `group()` and `done()` handle several as one, and after a crash redeliver them singly, so that
    only the guilty one is lost. Where items are idempotent, `tries_max` lets even that one be tried
    again before it is given up.
    """

    def __init__(
        self,
        name: str,
        capacity: int,
        on_crash: Callable[[T, Exception], None],
        batch_max: int = BATCH_MAX,
        tries_max: int = 1,
    ) -> None:
        self.name = name
        self.capacity = capacity
        """A reload may change it, which a channel cannot: the channel itself has no bound."""
        self.batch_max = batch_max
        self._on_crash = on_crash
        self._sender, self._receiver = trio.open_memory_channel[T | None](math.inf)
        """None is a nudge; it is sent to a sleeping receiver only, and so never queued."""
        self._received: deque[T] = deque()
        """Out of the channel, not yet under the cursor; redelivered items are first."""
        self._under_cursor: deque[T] = deque()
        self._waiting = 0
        self._suspects = 0
        self._tries_max = tries_max
        self._tries = 0
        self._is_nudged = False
        self._room: trio.lowlevel.ParkingLot | None = None
        self._empty: trio.lowlevel.ParkingLot | None = None
        """Made for the first task that waits: most mailboxes never have one."""
        self._handled = 0
        self._crashed = 0

    # Senders

    def put_nowait(self, item: T) -> None:
        """Send without waiting.

        Raises: MailboxFullError when `capacity` items are waiting.
        """
        if self._waiting >= self.capacity:
            raise MailboxFullError(f"{self.name}: {self.capacity} items are waiting already")
        self._waiting += 1
        self._sender.send_nowait(item)

    async def put(self, item: T) -> None:
        """Send, waiting for room."""
        while self._waiting >= self.capacity:
            if self._room is None:
                self._room = trio.lowlevel.ParkingLot()
            await self._room.park()
        self.put_nowait(item)

    async def wait_empty(self) -> None:
        """Return once everything that was sent is handled."""
        while self._waiting:
            if self._empty is None:
                self._empty = trio.lowlevel.ParkingLot()
            await self._empty.park()

    def nudge(self) -> None:
        """Wake the receiver though there may be nothing for it; many nudges are one."""
        if not self._is_nudged:
            self._is_nudged = True
            if self._receiver.statistics().tasks_waiting_receive:
                self._sender.send_nowait(None)

    # The receiver

    @property
    def is_ready(self) -> bool:
        """Whether `wait` returns at once."""
        return self._is_nudged or self._waiting > len(self._under_cursor)

    async def wait(self) -> None:
        """Return when there is something to handle, or after a nudge; at once if there is.

        A cancelled wait takes nothing: the channel hands over an item or raises Cancelled, and
        what it hands over is the mailbox's before the actor goes on.
        """
        if self.is_ready:
            await trio.lowlevel.checkpoint_if_cancelled()
        else:
            item = await self._receiver.receive()
            if item is not None:
                self._received.append(item)
        self._is_nudged = False

    def take(self) -> Iterator[T]:
        """Yield what is there, one item at a time, each under the cursor while it is handled."""
        for _ in range(self._batch(self.batch_max)):
            yield self._advance()
            self.done()

    def group(self) -> list[T]:
        """Return what is there, to be handled as one and acknowledged with `done()`."""
        size = 1 if self._suspects else self.batch_max
        self._suspects = max(0, self._suspects - 1)
        for _ in range(self._batch(size)):
            self._advance()
        return list(self._under_cursor)

    def done(self) -> None:
        """Acknowledge what is under the cursor."""
        count = len(self._under_cursor)
        self._under_cursor.clear()
        self._tries = 0
        self._free(count)
        self._handled += count

    def release(self, is_handled: Callable[[T], bool]) -> None:
        """Acknowledge a part of what is under the cursor, and give its room back."""
        kept = deque(item for item in self._under_cursor if not is_handled(item))
        count = len(self._under_cursor) - len(kept)
        self._under_cursor = kept
        self._free(count)
        self._handled += count

    def _batch(self, size_max: int) -> int:
        return min(size_max, self._waiting - len(self._under_cursor))

    def _advance(self) -> T:
        item = self._received.popleft() if self._received else self._receiver.receive_nowait()
        assert item is not None
        self._under_cursor.append(item)
        return item

    # The supervisor

    def crash(self, error: Exception) -> None:
        """Deal with what was under the cursor when the actor died of `error`.

        A single item is dropped and reported. Which of several was guilty is unknown, so they are
        redelivered one by one.
        """
        count = len(self._under_cursor)
        self._tries += 1 if count == 1 else 0
        if count > 1 or self._tries < self._tries_max:
            self._suspects += count
            self._received.extendleft(reversed(self._under_cursor))
            self._under_cursor.clear()
        elif count == 1:
            self._tries = 0
            item = self._under_cursor.popleft()
            self._crashed += 1
            self._free(1)
            self._on_crash(item, error)

    def statistics(self) -> MailboxStatistics:
        """Return how full the mailbox is and what went through it."""
        return MailboxStatistics(
            self.name, self._waiting, self.capacity, self._handled, self._crashed
        )

    @property
    def under_cursor(self) -> tuple[T, ...]:
        """What is being handled at this moment."""
        return tuple(self._under_cursor)

    @property
    def waiting(self) -> int:
        """Items sent but not yet handled."""
        return self._waiting

    def _free(self, count: int) -> None:
        self._waiting -= count
        if self._room is not None:
            self._room.unpark(count=count)
        if self._empty is not None and not self._waiting:
            self._empty.unpark_all()
