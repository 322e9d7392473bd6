"""The spool's client: what waits for room, what waits for an answer, and what does not wait."""

from __future__ import annotations

import pytest
import trio

from mailactors.runtime.mailbox import Mailbox, MailboxFullError
from mailactors.runtime.reply import ActorCrashedError, Reply
from mailactors.spool.actor import Write
from mailactors.spool.client import SpoolClient
from mailactors.spool.port import Cancel, Claim, Claimed, Expire, Expired, Result, SpoolError
from tests.gateways import spool_client

EXPIRED = Expired((), (), None)


def client_with_room(capacity: int) -> SpoolClient:
    return spool_client(Mailbox[Write]("spool", capacity, lambda _write, _error: None))


def answer(client: SpoolClient, result: Result | Exception) -> None:
    """Play the writer: answer every command that waits."""
    for write in client.mailbox.take():
        if isinstance(result, Exception):
            write.reply.fail(result)
        else:
            write.reply.resolve(result)


async def test_send_waits_for_room_but_not_for_the_result(nursery: trio.Nursery) -> None:
    client, replies = client_with_room(1), list[Reply[Result]]()

    async def send_two() -> None:
        for limit in (1, 2):
            replies.append(await client.send(Expire(limit)))

    nursery.start_soon(send_two)
    await trio.testing.wait_all_tasks_blocked()
    while_full = len(replies)
    answer(client, EXPIRED)
    await trio.testing.wait_all_tasks_blocked()

    assert (1, 2) == (while_full, len(replies))
    assert [True, False] == [reply.is_done for reply in replies]


async def test_send_calls_back_once_the_result_is_there() -> None:
    client, calls = client_with_room(1), list[str]()
    reply = await client.send(Expire(1), lambda: calls.append("done"))
    before = list(calls)

    answer(client, EXPIRED)

    assert ([], ["done"], EXPIRED) == (before, calls, reply.result())


def test_send_nowait_refuses_when_the_writer_is_behind() -> None:
    client = client_with_room(1)
    client.send_nowait(Expire(1), Reply())

    with pytest.raises(MailboxFullError):
        client.send_nowait(Expire(1), Reply())


async def test_ask_returns_the_result(nursery: trio.Nursery) -> None:
    client, results = client_with_room(1), list[Result]()

    async def ask() -> None:
        results.append(await client.ask(Expire(1)))

    nursery.start_soon(ask)
    await trio.testing.wait_all_tasks_blocked()
    answer(client, EXPIRED)
    await trio.testing.wait_all_tasks_blocked()

    assert [EXPIRED] == results


@pytest.mark.parametrize("fault", ["full", "silent", "crashed"])
async def test_ask_fails_when_the_result_is_not_known(
    fault: str, autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    client = client_with_room(0 if fault == "full" else 1)

    async def crash() -> None:
        await trio.sleep(1)
        answer(client, ActorCrashedError("RuntimeError: it died"))

    if fault == "crashed":
        nursery.start_soon(crash)
    with pytest.raises(SpoolError, match="did not answer"):
        await client.ask(Cancel("m1"))

    assert [True] * client.mailbox.waiting == [
        write.reply.is_done for write in client.mailbox.take()
    ], "what nobody waits for is withdrawn"


def test_a_claim_stands_by_until_the_writer_takes_it() -> None:
    client, calls = client_with_room(1), list[str]()

    reply = client.stand_by("main", Claim("main", 5, "node"), lambda: calls.append("done"))
    standing = client.signals.standing.pop("main")
    standing.reply.resolve(Claimed((), None))

    assert (Claim("main", 5, "node"), 0) == (standing.command, client.mailbox.waiting)
    assert (reply, ["done"]) == (standing.reply, calls)
