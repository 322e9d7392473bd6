"""The idempotency registry: many submissions of one message become one."""

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import msgspec
import pytest
import trio
import trio.testing

from mailactors.intake.registry import PENDING_MAX, RegistryActor, Submit, open_registry
from mailactors.intake.submission import OverloadedError
from mailactors.runtime.mailbox import Mailbox
from mailactors.runtime.ports import SilentJournal, SystemClock
from mailactors.runtime.reply import ActorCrashedError, Reply
from mailactors.runtime.supervisor import Child, Supervisor
from mailactors.spool.actor import Write
from mailactors.spool.port import Accept, Conflict, Receipt, Result, SpoolFullError
from tests.gateways import CrashPlan
from tests.spool.makers import make_accept


@dataclass
class Rig:
    """A registry in front of a spool whose part the test plays."""

    spool: Mailbox[Write]
    plan: CrashPlan
    registry: Mailbox[Submit] = field(default_factory=open_registry)

    def submit(self, accept: Accept) -> Reply[Result]:
        reply = Reply[Result]()
        self.registry.put_nowait(Submit(accept, reply))
        return reply

    async def forwarded(self) -> list[Write]:
        """Return what went to the spool since the last time."""
        await trio.testing.wait_all_tasks_blocked()
        self.spool.nudge()
        await self.spool.wait()
        group = self.spool.group()
        self.spool.done()
        return group


@contextlib.asynccontextmanager
async def running(capacity: int = 100_000, **crashes: int) -> AsyncIterator[Rig]:
    rig = Rig(Mailbox("spool", capacity, lambda _w, _e: None, capacity), CrashPlan(**crashes))
    child = Child(
        "registry", lambda: RegistryActor(rig.registry, rig.spool, rig.plan), (rig.registry,)
    )
    supervisor = Supervisor([child], SystemClock(), SilentJournal())
    async with trio.open_nursery() as nursery:
        await nursery.start(lambda task_status: supervisor.run(task_status=task_status))
        yield rig
        await supervisor.stop()


def receipt(id_: str = "m1") -> Receipt:
    return Receipt(1, id_, f"{id_}@mail.example", "", 0.0, is_replay=False)


async def test_one_with_the_same_key_and_content_joins_the_first() -> None:
    async with running() as rig:
        replies = [rig.submit(make_accept(f"m{n}", key="k")) for n in range(5)]
        (write,) = await rig.forwarded()
        write.reply.resolve(receipt("m0"))

        assert [await reply.wait(1) for reply in replies] == [receipt("m0")] * 5


async def test_joined_submissions_share_the_firsts_failure() -> None:
    async with running() as rig:
        replies = [rig.submit(make_accept(f"m{n}", key="k")) for n in range(2)]
        (write,) = await rig.forwarded()
        write.reply.fail(SpoolFullError("full"))

        for reply in replies:
            with pytest.raises(SpoolFullError):
                await reply.wait(1)


async def test_the_same_key_with_other_content_goes_to_the_spool() -> None:
    async with running() as rig:
        first = rig.submit(make_accept("m1", key="k", fingerprint="a"))
        second = rig.submit(make_accept("m2", key="k", fingerprint="b"))
        third = rig.submit(make_accept("m3", key="k", fingerprint="a"))
        one, two = await rig.forwarded()
        one.reply.resolve(receipt("m1"))
        two.reply.resolve(Conflict("m1"))

        assert await first.wait(1) == receipt("m1")
        assert await second.wait(1) == Conflict("m1")
        assert await third.wait(1) == receipt("m1")


async def test_the_same_key_in_another_scope_is_another_key() -> None:
    async with running() as rig:
        for scope in ("m1", "m2"):
            accept = make_accept(scope, key="k")
            key = msgspec.structs.replace(accept.key, scope=scope)
            rig.submit(msgspec.structs.replace(accept, key=key))
        forwarded = await rig.forwarded()

        assert ["m1", "m2"] == [
            write.command.message.id for write in forwarded if isinstance(write.command, Accept)
        ]


async def test_a_key_that_was_answered_goes_to_the_spool_again() -> None:
    async with running() as rig:
        rig.submit(make_accept("m1", key="k"))
        (first,) = await rig.forwarded()
        first.reply.resolve(receipt("m1"))
        again = rig.submit(make_accept("m2", key="k"))
        (second,) = await rig.forwarded()
        second.reply.resolve(receipt("m1"))

        assert await again.wait(1) == receipt("m1")


async def test_a_full_spool_mailbox_is_overload_at_once() -> None:
    async with running(capacity=1) as rig:
        first = rig.submit(make_accept("m1"))
        second = rig.submit(make_accept("m2"))
        with pytest.raises(OverloadedError, match="behind") as caught:
            await second.wait(1)

        assert caught.value.retry_after_s == 1.0
        assert not first.is_done


async def test_one_that_was_refused_is_not_joined() -> None:
    async with running(capacity=1) as rig:
        rig.submit(make_accept("m0"))
        refused = rig.submit(make_accept("m1", key="k"))
        with pytest.raises(OverloadedError):
            await refused.wait(1)
        await rig.forwarded()
        again = rig.submit(make_accept("m2", key="k"))
        (write,) = await rig.forwarded()
        write.reply.resolve(receipt("m2"))

        assert await again.wait(1) == receipt("m2")


async def test_only_the_submission_that_it_crashed_on_fails() -> None:
    async with running(registry__submit=1) as rig:
        first, second = rig.submit(make_accept("m1")), rig.submit(make_accept("m2"))
        with pytest.raises(ActorCrashedError):
            await first.wait(1)
        (write,) = await rig.forwarded()
        write.reply.resolve(receipt("m2"))

        assert await second.wait(1) == receipt("m2")


async def test_after_a_crash_one_with_the_same_key_goes_to_the_spool() -> None:
    async with running() as rig:
        first = rig.submit(make_accept("m1", key="k"))
        (write,) = await rig.forwarded()
        rig.plan.times["registry.submit"] = 1
        rig.submit(make_accept("poison"))
        again = rig.submit(make_accept("m2", key="k"))
        (second,) = await rig.forwarded()
        write.reply.resolve(receipt("m1"))
        second.reply.resolve(receipt("m1"))

        assert await first.wait(1) == await again.wait(1) == receipt("m1")


@pytest.mark.slow
async def test_the_memory_of_pending_submissions_is_bounded() -> None:
    async with running() as rig:
        actor = RegistryActor(rig.registry, rig.spool, CrashPlan())
        for n in range(PENDING_MAX + 300):
            actor._handle(Submit(make_accept(f"m{n}"), Reply[Result]()))
        actor._prune()

        assert len(actor._pending) == PENDING_MAX
        assert ("scope", "m299") not in actor._pending
        assert ("scope", "m300") in actor._pending
