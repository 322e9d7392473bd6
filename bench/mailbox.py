"""Compare the mailbox, built on a memory channel, with the deque and sleeping task of before.

    python -m bench.mailbox

One task sends, one receives; both mailboxes take turns in the same run, and the medians of their
rounds are compared. `Former` is kept here for the comparison alone.
"""

from __future__ import annotations

import statistics
import time
from collections import deque
from collections.abc import Iterator
from typing import Any, Final

import trio
import trio.testing

from mailactors.runtime.mailbox import BATCH_MAX, Mailbox, MailboxFullError

BATCHES: Final = (1, 16, 128)
"""Messages sent between two turns of the receiver."""
MESSAGES: Final = 20_000
ROUNDS: Final = 31
CAPACITY: Final = 4096


class Former:
    """The mailbox as it was: senders append to a deque and reschedule the sleeping receiver."""

    def __init__(self) -> None:
        self.name = "former"
        self.capacity = CAPACITY
        self._items: deque[int] = deque()
        self._under_cursor: deque[int] = deque()
        self._is_nudged = False
        self._receiver: trio.lowlevel.Task | None = None
        self._room: trio.lowlevel.ParkingLot | None = None
        self._empty: trio.lowlevel.ParkingLot | None = None
        self._tries = 0
        self._handled = 0

    @property
    def waiting(self) -> int:
        """Items sent but not yet handled."""
        return len(self._items) + len(self._under_cursor)

    def put_nowait(self, item: int) -> None:
        """Send without waiting."""
        if len(self._items) + len(self._under_cursor) >= self.capacity:
            raise MailboxFullError(f"{self.name}: {self.capacity} items are waiting already")
        self._items.append(item)
        self._wake()

    def nudge(self) -> None:
        """Wake the receiver."""
        self._is_nudged = True
        self._wake()

    async def wait(self) -> None:
        """Return when there is something to handle, or after a nudge."""
        if self._items or self._is_nudged:
            await trio.lowlevel.checkpoint_if_cancelled()
        else:
            assert self._receiver is None
            self._receiver = trio.lowlevel.current_task()
            await trio.lowlevel.wait_task_rescheduled(self._stop_waiting)
        self._is_nudged = False

    def take(self) -> Iterator[int]:
        """Yield what is there, one item at a time."""
        for _ in range(min(len(self._items), BATCH_MAX)):
            item = self._items.popleft()
            self._under_cursor.append(item)
            yield item
            self.done()

    def done(self) -> None:
        """Acknowledge what is under the cursor."""
        count = len(self._under_cursor)
        self._under_cursor.clear()
        self._tries = 0
        self._handled += count
        self._free(count)

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


def present() -> Mailbox[int]:
    """Build the mailbox of today."""
    return Mailbox("present", CAPACITY, lambda _item, _error: None)


async def receive(mailbox: Former | Mailbox[int]) -> None:
    """Handle what comes, which costs nothing."""
    while True:
        await mailbox.wait()
        for _ in mailbox.take():
            pass


async def time_messages(mailbox: Former | Mailbox[int], batch: int) -> float:
    """Return CPU seconds a message; `batch` messages each time that the receiver wakes."""
    put = mailbox.put_nowait
    async with trio.open_nursery() as nursery:
        nursery.start_soon(receive, mailbox)
        await trio.testing.wait_all_tasks_blocked()
        began_s = time.thread_time()
        for _ in range(MESSAGES // batch):
            for item in range(batch):
                put(item)
            await trio.lowlevel.checkpoint()
        took_s = time.thread_time() - began_s
        nursery.cancel_scope.cancel()
    assert mailbox.waiting <= batch
    return took_s / (MESSAGES // batch * batch)


async def time_nudges(mailbox: Former | Mailbox[int], _batch: int) -> float:
    """Return CPU seconds a nudge of a sleeping receiver."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(receive, mailbox)
        await trio.testing.wait_all_tasks_blocked()
        began_s = time.thread_time()
        for _ in range(MESSAGES):
            mailbox.nudge()
            await trio.lowlevel.checkpoint()
        took_s = time.thread_time() - began_s
        nursery.cancel_scope.cancel()
    return took_s / MESSAGES


def main() -> None:
    """Print a line for each way of sending."""
    print("CPU µs each, the turns of both tasks included  channel   former   ratio   more")
    for title, measure, batch in (
        *((f"messages, {batch} a wake-up", time_messages, batch) for batch in BATCHES),
        ("nudges, 1 a wake-up", time_nudges, 1),
    ):
        channel, former = [], []
        for _ in range(ROUNDS):
            channel.append(trio.run(measure, present(), batch) * 1e6)
            former.append(trio.run(measure, Former(), batch) * 1e6)
        new, old = statistics.median(channel), statistics.median(former)
        print(f"{title:46} {new:7.2f}  {old:7.2f}  {new / old:6.2f}  {new - old:+.2f}")


if __name__ == "__main__":
    main()
