"""The writer: one actor that turns many commands into few durable commits.

Owns the store. Waits for no other actor: it fills reply slots, and nudges those that listen for
new work. While one group is committed on the executor's thread the next one gathers (group commit).

While the disk is full new messages are refused at once (503); other commands, outcomes above all,
wait here and are tried again. A broken disk ends the process: a second fsync after a failed one
would report success falsely.
Source: PostgreSQL's fsyncgate; SQLite, "How To Corrupt", §3.
"""

from __future__ import annotations

from collections.abc import Callable, Set
from typing import Final

import msgspec
import trio

from mailactors.runtime.cell import Cell
from mailactors.runtime.mailbox import Mailbox
from mailactors.runtime.ports import Executor, Ports
from mailactors.runtime.reply import ActorCrashedError, Reply
from mailactors.runtime.supervisor import describe
from mailactors.runtime.tally import Histogram
from mailactors.spool import port

FULL_RETRY_S: Final = 1.0
"""How often a full disk is tried again."""

MAILBOX_CAPACITY: Final = 4096
"""Commands that may wait; more than every lane's slots and the door's admission together."""

GROUP_BOUNDS: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_REFUSED_WHEN_FULL: Final = (port.Accept, port.AcceptMany, port.Retry, port.NoteAct)
_MAY_BRING_WORK: Final = (
    port.Receipt,
    port.Recorded,
    port.SettledByHand,
    port.Flushed,
    port.Corrected,
)
TRIES_MAX: Final = 3
"""How often a command on which the writer died is tried; commands are idempotent."""


class Write(msgspec.Struct, frozen=True):
    """A command and the slot for its result."""

    command: port.Command
    reply: Reply[port.Result]


class SpoolSpace(msgspec.Struct, frozen=True):
    """How full the spool was at the keeper's latest look."""

    backlog: int = 0
    """Deliveries on their way: neither final nor scheduled for later."""
    free_bytes: int | None = None
    """Room on the spool's disk; None where there is no disk."""


class SpoolSignals:
    """What the writer publishes."""

    def __init__(self) -> None:
        self._due: dict[str, Cell[int]] = {}
        self._listeners: list[Callable[[], None]] = []
        self.commits = Histogram(GROUP_BOUNDS)
        """How many commands shared each commit."""
        self.starts: Cell[int] = Cell(0)
        """Counts starts of the writer: commands sent to its predecessor may have been lost."""
        self.full_until_s: Cell[float] = Cell(0.0)
        """Monotonic; the disk was full, and a new message before then would be refused."""
        self.flushes: Cell[int] = Cell(0)
        """Counts commits with a flush by hand."""
        self.room: Cell[SpoolSpace] = Cell(SpoolSpace())
        self.standing: dict[str, Write] = {}
        """A stream's claim, to be executed in the commit that brings its next message."""

    @property
    def streams(self) -> Set[str]:
        """The streams of which something was ever due."""
        return self._due.keys()

    def due(self, stream: str) -> Cell[int]:
        """Return the count of a stream's commits that brought messages nobody has leased."""
        if stream not in self._due:
            self._due[stream] = Cell(0)
            for listener in self._listeners:
                self._due[stream].listen(listener)
        return self._due[stream]

    def listen(self, listener: Callable[[], None]) -> None:
        """Call `listener`, which must not block, when there is new work or a new writer."""
        self._listeners.append(listener)
        for cell in (self.starts, *self._due.values()):
            cell.listen(listener)


def open_writes() -> Mailbox[Write]:
    """Build the writer's mailbox; a command that it keeps dying of fails with ActorCrashedError."""

    def lost(write: Write, error: Exception) -> None:
        write.reply.fail(ActorCrashedError(describe(error)))

    return Mailbox("spool", MAILBOX_CAPACITY, lost, tries_max=TRIES_MAX)


class SpoolActor:
    """One loop: take a group of commands, commit it, answer."""

    def __init__(
        self,
        store: port.Store,
        mailbox: Mailbox[Write],
        signals: SpoolSignals,
        executor: Executor,
        ports: Ports,
    ) -> None:
        self._store = store
        self._mailbox = mailbox
        self._signals = signals
        self._executor = executor
        self._clock = ports.clock
        self._faults = ports.faults
        self._journal = ports.journal

    async def run(self, task_status: trio.TaskStatus[None]) -> None:
        """Commit group after group."""
        self._signals.starts.publish(self._signals.starts.value + 1)
        task_status.started()
        while True:
            await self._mailbox.wait()
            group = unanswered(self._mailbox.group())
            if group:
                await self._commit(group)
            self._mailbox.done()

    async def _commit(self, group: list[Write]) -> None:
        """Make a group durable, together with the claims that stand by for what it brings."""
        standing = self._signals.standing
        claims = [standing.pop(name) for name in streams_coming_in(group) if name in standing]
        try:
            await self._commit_whole(group + claims)
        finally:
            for claim in claims:  # ignored where it was answered
                claim.reply.resolve(port.Claimed((), None))

    async def _commit_whole(self, group: list[Write]) -> None:
        """Make a group durable, then answer; what may not be refused waits until there is room."""
        results = await self._apply(group)
        while results is None:
            if not refuse_new(group):
                return
            group = await self._wait_for_room()
            results = await self._apply(group)
        self._faults.point("spool.committed")
        for write, result in zip(group, results, strict=True):
            write.reply.resolve(result)
        if any(is_flush_by_hand(write.command) for write in group):
            self._signals.flushes.publish(self._signals.flushes.value + 1)
        for stream in streams_with_work(group, results):
            due = self._signals.due(stream)
            due.publish(due.value + 1)

    async def _wait_for_room(self) -> list[Write]:
        """Refuse new messages until it is time to try again, and return what waits for it."""
        with trio.move_on_after(FULL_RETRY_S):
            while True:
                # What was refused takes no room, however long the disk is full.
                self._mailbox.release(is_answered)
                await self._mailbox.wait()
                refuse_new(self._mailbox.group())
        self._mailbox.release(is_answered)
        return unanswered(self._mailbox.group())

    async def _apply(self, group: list[Write]) -> list[port.Result] | None:
        """Return the results, or None when the disk is full."""
        commands = [write.command for write in group]
        now = self._clock.wall_time()
        self._faults.point("spool.commit")
        try:
            results = await self._executor.run(lambda: self._store.apply(commands, now))
        except port.SpoolFullError as error:
            self._signals.full_until_s.publish(self._clock.now_s() + FULL_RETRY_S)
            self._journal.note("spool.full", level="error", error=str(error))
            return None
        except port.SpoolBrokenError as error:
            self._journal.note("spool.broken", level="error", error=str(error))
            raise
        self._signals.commits.observe(len(group))
        return results


def is_flush_by_hand(command: port.Command) -> bool:
    """Whether somebody makes deferred mail due; a recall is the dispatcher's."""
    return isinstance(command, port.Flush) and not command.is_recall


def unanswered(group: list[Write]) -> list[Write]:
    """Return the commands that are still to be done.

    The writer may have died after it answered some: what was refused must not be accepted now.
    """
    return [write for write in group if not is_answered(write)]


def is_answered(write: Write) -> bool:
    """Whether a command has its result, or was withdrawn."""
    return write.reply.is_done


def refuse_new(group: list[Write]) -> list[Write]:
    """Fail the commands of a group that others wait for and may ask again; return the others."""
    kept = []
    for write in group:
        if isinstance(write.command, _REFUSED_WHEN_FULL):
            write.reply.fail(port.SpoolFullError("the spool's disk is full"))
        else:
            kept.append(write)
    return kept


def streams_coming_in(group: list[Write]) -> list[str]:
    """Return the streams of which a group brings messages, each once, in order."""
    streams: dict[str, None] = {}
    for write in group:
        if isinstance(write.command, port.Accept):
            streams[write.command.message.stream] = None
        elif isinstance(write.command, port.AcceptMany):
            streams.update((each.message.stream, None) for each in write.command.accepts)
    return list(streams)


def streams_with_work(group: list[Write], results: list[port.Result]) -> list[str]:
    """Return the streams in which something may be due that no claim has reported, in order.

    A claim later in the group reports it: by its leases, or by when the next one is due.
    """
    streams: dict[str, None] = {}
    for write, result in zip(group, results, strict=True):
        if isinstance(write.command, port.Claim):
            streams.pop(write.command.stream, None)
        for each in result.results if isinstance(result, port.AcceptedMany) else (result,):
            if isinstance(each, _MAY_BRING_WORK) and each.stream:
                streams[each.stream] = None
    return list(streams)
