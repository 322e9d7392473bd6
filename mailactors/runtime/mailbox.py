"""Bounded mailboxes, drained in batches, with a cursor that survives the actor.

The supervisor, not the actor, owns a mailbox: when an actor crashes, everything is still there for
its successor except the one item under the cursor, which is handed to `on_crash` so that whoever
waits for it is told. One poison item costs one crash, not a loop.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Final, Generic, TypeVar

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

    Two ways to consume, never mixed on one mailbox: `take()` handles items one by one under the
    cursor; `group()` and `done()` handle several as one, and after a crash redeliver them singly,
    so that only the guilty one is lost. Where items are idempotent, `tries_max` lets even that one
    be tried again before it is given up.
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
        self.batch_max = batch_max
        self._on_crash = on_crash
        self._items: deque[T] = deque()
        self._under_cursor: deque[T] = deque()
        self._suspects = 0
        self._tries_max = tries_max
        self._tries = 0
        self._is_nudged = False
        self._receiver: trio.lowlevel.Task | None = None
        self._room: trio.lowlevel.ParkingLot | None = None
        self._empty: trio.lowlevel.ParkingLot | None = None
        """Made for whoever waits first: most mailboxes never have anyone there."""
        self._handled = 0
        self._crashed = 0

    # Senders

    def put_nowait(self, item: T) -> None:
        """Send without waiting.

        Raises: MailboxFullError when `capacity` items are waiting.
        """
        if len(self._items) + len(self._under_cursor) >= self.capacity:
            raise MailboxFullError(f"{self.name}: {self.capacity} items are waiting already")
        self._items.append(item)
        self._wake()

    async def put(self, item: T) -> None:
        """Send, waiting for room."""
        while self.waiting >= self.capacity:
            if self._room is None:
                self._room = trio.lowlevel.ParkingLot()
            await self._room.park()
        self.put_nowait(item)

    async def wait_empty(self) -> None:
        """Return once everything that was sent is handled."""
        while self.waiting:
            if self._empty is None:
                self._empty = trio.lowlevel.ParkingLot()
            await self._empty.park()

    def nudge(self) -> None:
        """Wake the receiver though there may be nothing for it; many nudges are one."""
        self._is_nudged = True
        self._wake()

    # The receiver

    async def wait(self) -> None:
        """Return when there is something to handle, or after a nudge; at once if there is."""
        if self._items or self._is_nudged:
            await trio.lowlevel.checkpoint_if_cancelled()
        else:
            assert self._receiver is None
            self._receiver = trio.lowlevel.current_task()
            await trio.lowlevel.wait_task_rescheduled(self._stop_waiting)
        self._is_nudged = False

    def take(self) -> Iterator[T]:
        """Yield what is there, one item at a time, each under the cursor while it is handled."""
        for _ in range(min(len(self._items), self.batch_max)):
            item = self._items.popleft()
            self._under_cursor.append(item)
            yield item
            self.done()

    def group(self) -> list[T]:
        """Return what is there, to be handled as one and acknowledged with `done()`."""
        size = 1 if self._suspects else self.batch_max
        self._suspects = max(0, self._suspects - 1)
        for _ in range(min(size, len(self._items))):
            self._under_cursor.append(self._items.popleft())
        return list(self._under_cursor)

    def done(self) -> None:
        """Say that what was under the cursor is handled."""
        count = len(self._under_cursor)
        self._under_cursor.clear()
        self._tries = 0
        self._handled += count
        self._free(count)

    def release(self, is_handled: Callable[[T], bool]) -> None:
        """Say that a part of what is under the cursor is handled, and give its room back."""
        kept = deque(item for item in self._under_cursor if not is_handled(item))
        count = len(self._under_cursor) - len(kept)
        self._under_cursor = kept
        self._handled += count
        self._free(count)

    # The supervisor

    def crash(self, error: Exception) -> None:
        """Deal with what was under the cursor when the actor died of `error`.

        A single item is dropped and reported; of several, nobody knows which it was, so they are
        redelivered one by one.
        """
        count = len(self._under_cursor)
        self._tries += 1 if count == 1 else 0
        if count > 1 or self._tries < self._tries_max:
            self._suspects += count
            self._items.extendleft(reversed(self._under_cursor))
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
            self.name, self.waiting, self.capacity, self._handled, self._crashed
        )

    @property
    def under_cursor(self) -> tuple[T, ...]:
        """What is being handled at this moment."""
        return tuple(self._under_cursor)

    @property
    def waiting(self) -> int:
        """Items sent but not yet handled."""
        return len(self._items) + len(self._under_cursor)

    def _wake(self) -> None:
        if self._receiver is not None:
            trio.lowlevel.reschedule(self._receiver)
            self._receiver = None

    def _stop_waiting(self, _raise_cancel: Any) -> trio.lowlevel.Abort:
        self._receiver = None
        return trio.lowlevel.Abort.SUCCEEDED

    def _free(self, count: int) -> None:
        if self._room is not None:
            self._room.unpark(count=count)
        if self._empty is not None and not self.waiting:
            self._empty.unpark_all()
