"""The writer: few commits for many commands, answers after the commit, full and broken disks."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from mailactors.runtime.mailbox import Mailbox
from mailactors.runtime.ports import Faults
from mailactors.runtime.reply import ActorCrashedError, Reply
from mailactors.runtime.supervisor import Child, Supervisor
from mailactors.spool.actor import (
    FULL_RETRY_S,
    TRIES_MAX,
    SpoolActor,
    SpoolSignals,
    Write,
    open_writes,
)
from mailactors.spool.port import (
    Accept,
    AcceptMany,
    Cancel,
    Cancelled,
    Claim,
    Claimed,
    Command,
    Conflict,
    Expire,
    Expired,
    Receipt,
    Result,
    Retry,
    SpoolBrokenError,
    SpoolError,
    SpoolFullError,
    Store,
)
from mailactors.spool.sqlite import SqliteStore
from tests.gateways import (
    CrashPlan,
    NotingJournal,
    VirtualClock,
    make_ports,
    open_store,
    spool_client,
)
from tests.spool.makers import make_accept

T = TypeVar("T")


class Gate:
    """An executor whose work waits until it is let through."""

    def __init__(self) -> None:
        self._way = trio.Event()
        self._way.set()
        self.waiting = 0

    async def run(self, work: Callable[[], T]) -> T:
        self.waiting += 1
        await self._way.wait()
        self.waiting -= 1
        return work()

    def shut(self) -> None:
        self._way = trio.Event()

    def open(self) -> None:
        self._way.set()

    def close(self) -> None:
        """Nothing to give back."""


class FaultyStore:
    """A store that raises given errors before it works again."""

    def __init__(self, inner: SqliteStore) -> None:
        self._inner = inner
        self.errors: list[Exception] = []
        self.groups: list[tuple[Command, ...]] = []
        """What was applied, tries that failed included."""
        self.poison = ""
        """The message on which it dies."""

    def apply(self, commands: Sequence[Command], now: float) -> list[Result]:
        self.groups.append(tuple(commands))
        if self.errors:
            raise self.errors.pop(0)
        if any(isinstance(c, Accept) and c.message.id == self.poison for c in commands):
            raise ValueError(f"cannot digest {self.poison}")
        return self._inner.apply(commands, now)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


@dataclass
class Rig:
    """A writer and what is around it."""

    inner: SqliteStore
    faults: Faults = field(default_factory=CrashPlan)
    gate: Gate = field(default_factory=Gate)
    writes: Mailbox[Write] = field(default_factory=open_writes)
    signals: SpoolSignals = field(default_factory=SpoolSignals)
    journal: NotingJournal = field(default_factory=NotingJournal)

    def __post_init__(self) -> None:
        self.store = FaultyStore(self.inner)

    def build(self) -> SpoolActor:
        store: Store = self.store
        ports = dataclasses.replace(make_ports(), faults=self.faults, journal=self.journal)
        return SpoolActor(store, self.writes, self.signals, self.gate, ports)

    def write(self, command: Command) -> Reply[Result]:
        reply = Reply[Result]()
        self.writes.put_nowait(Write(command, reply))
        return reply

    def accepted(self) -> int:
        return self.inner.ledger().accepted


@contextlib.asynccontextmanager
async def running(faults: Faults | None = None) -> AsyncIterator[Rig]:
    with open_store() as store:
        rig = Rig(store, faults or CrashPlan())
        child = Child("spool", rig.build, (rig.writes,), fatal=(SpoolBrokenError,))
        supervisor = Supervisor([child], VirtualClock(), rig.journal)
        async with trio.open_nursery() as nursery:
            await nursery.start(lambda task_status: supervisor.run(task_status=task_status))
            yield rig
            await supervisor.stop()


async def test_what_gathers_during_a_commit_shares_the_next() -> None:
    async with running() as rig:
        rig.gate.shut()
        first = rig.write(make_accept("m0"))
        await trio.testing.wait_all_tasks_blocked()
        rest = [rig.write(make_accept(f"m{n}")) for n in range(1, 101)]
        rig.gate.open()
        receipts = [await reply.wait(5) for reply in [first, *rest]]

        assert [1, 100] == [len(group) for group in rig.store.groups]
        assert [f"m{n}" for n in range(101)] == [
            receipt.id for receipt in receipts if isinstance(receipt, Receipt)
        ]
        assert (2, 101) == (sum(rig.signals.commits.counts), rig.signals.commits.total)


async def test_no_command_is_answered_before_the_commit() -> None:
    async with running() as rig:
        rig.gate.shut()
        replies = [rig.write(make_accept("m1")), rig.write(Expire(10))]
        await trio.testing.wait_all_tasks_blocked()

        assert rig.gate.waiting == 1
        assert [False, False] == [reply.is_done for reply in replies]
        assert rig.signals.due("main").value == 0
        rig.gate.open()
        receipt, expired = [await reply.wait(5) for reply in replies]
        assert isinstance(receipt, Receipt)
        assert isinstance(expired, Expired)


async def test_one_answer_belongs_to_each_command() -> None:
    async with running() as rig:
        replies = [
            rig.write(make_accept("m1", key="same", fingerprint="a")),
            rig.write(make_accept("m2", key="same", fingerprint="a")),
            rig.write(make_accept("m3", key="same", fingerprint="b")),
            rig.write(Cancel("m1")),
        ]
        results = [await reply.wait(5) for reply in replies]

    first, again, conflict, cancelled = results
    assert isinstance(first, Receipt)
    assert isinstance(again, Receipt)
    assert (first.id, first.id) == (again.id, "m1")
    assert conflict == Conflict("m1")
    assert cancelled == Cancelled(is_known=True, cancelled_count=1, too_late_count=0)


async def test_streams_with_new_messages_are_signalled_once_a_commit() -> None:
    nudges: list[str] = []
    async with running() as rig:
        for stream in ("main", "bulk", "otp"):
            rig.signals.due(stream).listen(functools.partial(nudges.append, stream))
        rig.gate.shut()
        await rig_idle(rig)
        replies = [rig.write(make_accept(f"m{n}", stream="main")) for n in range(3)]
        many = tuple(make_accept(f"b{n}", stream="bulk") for n in range(3))
        replies += [rig.write(AcceptMany(many)), rig.write(Expire(1))]
        rig.gate.open()
        for reply in replies:
            await reply.wait(5)

        assert sorted(nudges) == ["bulk", "main"]
        assert [1, 1, 0] == [rig.signals.due(name).value for name in ("main", "bulk", "otp")]


async def test_a_retry_by_hand_is_new_work_for_its_stream() -> None:
    async with running() as rig:
        await rig.write(make_accept("m1", stream="bulk")).wait(5)
        await rig.write(Cancel("m1")).wait(5)
        before = rig.signals.due("bulk").value

        receipt = await rig.write(Retry("m1", "m2")).wait(5)

        assert isinstance(receipt, Receipt)
        assert rig.signals.due("bulk").value == before + 1


async def rig_idle(rig: Rig) -> None:
    await trio.testing.wait_all_tasks_blocked()
    assert rig.gate.waiting == 0


async def test_new_messages_are_refused_at_once_while_the_disk_is_full(
    autojump_clock: MockClock,
) -> None:
    async with running() as rig:
        rig.store.errors = [SpoolFullError("no room")] * 3
        replies = [rig.write(make_accept("m1")), rig.write(AcceptMany((make_accept("m2"),)))]
        replies.append(rig.write(Retry("m0", "m3")))

        for reply in replies:
            with pytest.raises(SpoolFullError, match="disk is full"):
                await reply.wait(0.5)

        assert trio.current_time() < 0.5
        assert rig.signals.full_until_s.value == FULL_RETRY_S
        assert [{"error": "no room"}] == rig.journal.named("spool.full")
        assert rig.accepted() == 0


async def test_what_is_promised_waits_for_room(autojump_clock: MockClock) -> None:
    async with running() as rig:
        rig.store.errors = [SpoolFullError("no room")] * 3
        refused = rig.write(make_accept("m1"))
        promised = rig.write(Expire(10))

        with pytest.raises(SpoolFullError):
            await refused.wait(0.1)
        assert not promised.is_done
        await promised.wait(10)

        assert trio.current_time() == 3 * FULL_RETRY_S
        assert rig.signals.full_until_s.value == 3 * FULL_RETRY_S
        assert [2, 1, 1, 1] == [len(group) for group in rig.store.groups]
        assert rig.accepted() == 0


async def test_a_withdrawn_command_is_not_done_when_there_is_room(
    autojump_clock: MockClock,
) -> None:
    async with running() as rig:
        await rig.write(make_accept("m1")).wait(5)
        rig.store.errors = [SpoolFullError("no room")] * 100
        promised = rig.write(Expire(10))
        await trio.sleep(FULL_RETRY_S / 2)

        with pytest.raises(SpoolError, match="did not answer"):
            await spool_client(rig.writes).ask(Cancel("m1"))
        rig.store.errors.clear()
        await promised.wait(5)

        assert {"ready": 1} == rig.inner.ledger().states


async def test_messages_that_come_while_the_writer_waits_for_room_are_refused_as_well(
    autojump_clock: MockClock,
) -> None:
    async with running() as rig:
        rig.store.errors = [SpoolFullError("no room")] * 5
        promised = [rig.write(Expire(10))]
        await trio.sleep(2.5)
        refused = rig.write(make_accept("m1"))
        promised.append(rig.write(Expire(20)))

        with pytest.raises(SpoolFullError):
            await refused.wait(0.1)
        for reply in promised:
            await reply.wait(10)

        assert trio.current_time() == 5 * FULL_RETRY_S
        assert rig.store.groups[-1] == (Expire(10), Expire(20))


async def test_what_is_refused_takes_no_room_in_the_mailbox(autojump_clock: MockClock) -> None:
    async with running() as rig:
        rig.store.errors = [SpoolFullError("no room")] * 20
        promised = rig.write(Expire(10))
        for n in range(100):
            refused = rig.write(make_accept(f"m{n}"))
            with pytest.raises(SpoolFullError):
                await refused.wait(1)
            await trio.sleep(0.1)

            assert rig.writes.waiting <= 2
        await promised.wait(30)
        await trio.testing.wait_all_tasks_blocked()

        assert (0, 101) == (rig.writes.waiting, rig.writes.statistics().handled)


async def test_when_there_is_room_again_messages_are_accepted(autojump_clock: MockClock) -> None:
    async with running() as rig:
        rig.store.errors = [SpoolFullError("no room")]
        with pytest.raises(SpoolFullError):
            await rig.write(make_accept("m1")).wait(1)

        receipt = await rig.write(make_accept("m1")).wait(1)

        assert isinstance(receipt, Receipt)
        assert rig.accepted() == 1


async def test_what_was_refused_is_not_accepted_after_a_crash(autojump_clock: MockClock) -> None:
    plan = CrashPlan()
    async with running(plan) as rig:
        rig.store.errors = [SpoolFullError("no room")]
        refused = rig.write(make_accept("m1"))
        promised = rig.write(Expire(10))
        with pytest.raises(SpoolFullError):
            await refused.wait(0.5)
        plan.times["spool.commit"] = 1
        await promised.wait(10)

        assert sum(plan.times.values()) == 0
        assert rig.accepted() == 0


async def test_a_broken_disk_ends_the_supervisor() -> None:
    with pytest.RaisesGroup(
        pytest.RaisesExc(SpoolBrokenError, match="fsync"), flatten_subgroups=True
    ):
        async with running() as rig:
            rig.store.errors = [SpoolBrokenError("fsync failed")]
            reply = rig.write(make_accept("m1"))
            await reply.wait(5)

    assert [{"error": "fsync failed"}] == rig.journal.named("spool.broken")
    assert not reply.is_done
    assert len(rig.store.groups) == 1


@pytest.mark.parametrize("point", ["spool.commit", "spool.committed"])
@pytest.mark.parametrize("count", [1, 5])
async def test_a_group_on_which_the_writer_died_is_replayed(point: str, count: int) -> None:
    plan = CrashPlan(**{point: 1})
    async with running(plan) as rig:
        replies = [rig.write(make_accept(f"m{n}")) for n in range(count)]
        receipts = [await reply.wait(5) for reply in replies]

        assert [f"m{n}" for n in range(count)] == [
            receipt.id for receipt in receipts if isinstance(receipt, Receipt)
        ]
        assert rig.accepted() == count
        assert rig.signals.starts.value == 2
        assert rig.signals.due("main").value >= 1


async def test_only_the_guilty_command_is_given_up(autojump_clock: MockClock) -> None:
    async with running() as rig:
        rig.store.poison = "m1"
        replies = [rig.write(make_accept(f"m{n}")) for n in range(3)]
        first = await replies[0].wait(60)
        with pytest.raises(ActorCrashedError, match="cannot digest m1"):
            await replies[1].wait(60)
        last = await replies[2].wait(60)

        assert isinstance(first, Receipt)
        assert isinstance(last, Receipt)
        assert rig.signals.starts.value == 1 + 1 + TRIES_MAX
        assert rig.accepted() == 2


async def test_each_start_is_signalled() -> None:
    starts: list[int] = []
    plan = CrashPlan(spool__commit=2)
    async with running(plan) as rig:
        rig.signals.starts.listen(lambda: starts.append(rig.signals.starts.value))
        await rig.write(Expire(1)).wait(5)

    assert starts == [2, 3]


async def test_a_stop_finishes_the_commit_that_has_begun() -> None:
    with open_store() as store:
        rig = Rig(store)
        async with trio.open_nursery() as nursery:
            await nursery.start(rig.build().run)
            reply = rig.write(make_accept("m1"))
            await reply.wait(5)
            nursery.cancel_scope.cancel()

        assert rig.accepted() == 1


async def test_a_question_sees_what_was_committed() -> None:
    async with running() as rig:
        await rig.write(make_accept("m1", stream="main")).wait(5)
        client = spool_client(rig.writes, rig.inner)

        ledger = await client.read(lambda spool: spool.ledger())
        attempts = await client.count_attempts("primary", 0.0, 1.0)

        assert (ledger.accepted, ledger.states["ready"]) == (1, 1)
        assert attempts == {}


# Claims that stand by


def stand(rig: Rig, stream: str = "main", limit: int = 10) -> Reply[Result]:
    reply = Reply[Result]()
    rig.signals.standing[stream] = Write(Claim(stream, limit, "node"), reply)
    return reply


async def test_a_standing_claim_is_one_commit_with_what_comes_in() -> None:
    async with running() as rig:
        claim = stand(rig)
        receipt = await rig.write(make_accept("1")).wait(1)
        claimed = claim.result()

    assert isinstance(receipt, Receipt)
    assert isinstance(claimed, Claimed)
    assert [lease.seq for lease in claimed.leases] == [receipt.seq]
    assert [len(group) for group in rig.store.groups] == [2]
    assert rig.signals.due("main").value == 0  # no second signal is needed
    assert rig.signals.standing == {}


async def test_a_standing_claim_waits_for_its_own_stream() -> None:
    async with running() as rig:
        claim = stand(rig, "other")
        await rig.write(make_accept("1")).wait(1)

    assert not claim.is_done
    assert list(rig.signals.standing) == ["other"]
    assert rig.signals.due("main").value == 1


async def test_a_standing_claim_serves_several_at_once() -> None:
    async with running() as rig:
        claim = stand(rig)
        await rig.write(AcceptMany((make_accept("1"), make_accept("2")))).wait(1)
        claimed = claim.result()

    assert isinstance(claimed, Claimed)
    assert len(claimed.leases) == 2


async def test_a_standing_claim_tells_when_there_is_more_than_it_takes() -> None:
    async with running() as rig:
        claim = stand(rig, limit=1)
        await rig.write(AcceptMany((make_accept("1"), make_accept("2")))).wait(1)
        claimed = claim.result()

    assert isinstance(claimed, Claimed)
    assert len(claimed.leases) == 1
    assert claimed.next_due_at is not None


@pytest.mark.parametrize("point", ["spool__commit", "spool__committed"])
async def test_a_standing_claim_that_the_writer_dies_on_is_answered_with_nothing(
    point: str,
) -> None:
    async with running(CrashPlan(**{point: 1})) as rig:
        claim = stand(rig)
        await rig.write(make_accept("1")).wait(1)

    assert claim.result() == Claimed((), None)
    assert rig.signals.starts.value == 2  # by which its asker knows that leases may be lost


async def test_a_standing_claim_is_let_go_while_the_disk_is_full(
    autojump_clock: MockClock,
) -> None:
    async with running() as rig:
        rig.store.errors = [SpoolFullError("full")]
        claim = stand(rig)
        accept = rig.write(make_accept("1"))
        cancel = rig.write(Cancel("x"))
        await cancel.wait(10)
        assert rig.accepted() == 0

    with pytest.raises(SpoolFullError):
        accept.result()
    assert claim.result() == Claimed((), None)


async def test_what_was_refused_is_not_accepted_by_a_successor(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The writer answers 503 and dies before its mailbox has let go of the message."""
    release, deaths = Mailbox.release, iter([RuntimeError("dies")])

    def dying(self: Mailbox[Any], is_done: Callable[[Any], bool]) -> None:
        if error := next(deaths, None):
            raise error
        release(self, is_done)

    monkeypatch.setattr(Mailbox, "release", dying)
    async with running() as rig:
        rig.store.errors = [SpoolFullError("no room")]
        refused = rig.write(make_accept("m1"))
        promised = rig.write(Expire(10))
        with pytest.raises(SpoolFullError):
            await refused.wait(0.5)
        await promised.wait(10)

        assert [2, 1] == [len(group) for group in rig.store.groups]
        assert rig.accepted() == 0


async def test_what_was_withdrawn_while_the_writer_was_busy_is_not_done() -> None:
    async with running() as rig:
        rig.gate.shut()
        first = rig.write(Expire(10))
        await trio.testing.wait_all_tasks_blocked()
        withdrawn = rig.write(make_accept("m1"))
        withdrawn.fail(SpoolError("its client has gone"))
        rig.gate.open()
        await first.wait(1)
        await rig.write(Expire(20)).wait(1)

        assert rig.accepted() == 0
