"""Claims: one a stream, sent where something is due, standing by where nothing is."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from trio.testing import MockClock

from mailactors.dispatch.claims import LOW_WATER, WINDOW, Claims
from mailactors.runtime.mailbox import Mailbox
from mailactors.spool.actor import Write
from mailactors.spool.client import SpoolClient
from mailactors.spool.port import Claim, Claimed
from tests.gateways import (
    CrashPlan,
    letter,
    make_config,
    make_ports,
    open_store,
    provider,
    running,
    spool_client,
    wait_for_states,
)

NOW = 1_800_000_000.0


NODE = "node"


def none_waiting(_stream: str) -> int:
    return 0


@pytest.fixture
def spool() -> SpoolClient:
    return spool_client(Mailbox[Write]("spool", 100, lambda _write, _error: None))


def make_claims(spool: SpoolClient, *streams: str) -> Claims:
    claims = Claims(NODE, spool, lambda: None)
    claims.add(streams)
    return claims


async def asked(
    claims: Claims,
    spool: SpoolClient,
    now: float = NOW,
    waiting: Callable[[str], int] = none_waiting,
) -> list[Write]:
    """Let claims ask, and return what went to the writer."""
    await claims.ask(now, waiting)
    return list(spool.mailbox.take())


async def claims_after_an_empty_answer(
    spool: SpoolClient, next_due_at: float | None = None
) -> Claims:
    """Return the claims of a dispatcher that asked once, when nothing was due."""
    claims = make_claims(spool, "main")
    (write,) = await asked(claims, spool)
    write.reply.resolve(Claimed((), next_due_at))
    assert [name for name, _ in claims.answered()] == ["main"]
    if next_due_at is not None:
        claims.expect("main", next_due_at)
    return claims


async def test_at_first_every_stream_is_asked(spool: SpoolClient) -> None:
    claims = make_claims(spool, "main", "bulk")

    writes = await asked(claims, spool)

    assert [write.command for write in writes] == [
        Claim("main", WINDOW, NODE),
        Claim("bulk", WINDOW, NODE),
    ]
    assert await asked(claims, spool) == []
    assert spool.signals.standing == {}


async def test_where_nothing_is_due_a_claim_stands_by(spool: SpoolClient) -> None:
    claims = await claims_after_an_empty_answer(spool)

    assert await asked(claims, spool) == []
    assert spool.signals.standing["main"].command == Claim("main", WINDOW - LOW_WATER, NODE)


async def test_a_standing_claim_stays_the_same(spool: SpoolClient) -> None:
    claims = await claims_after_an_empty_answer(spool)
    await asked(claims, spool)
    before = spool.signals.standing["main"]

    await asked(claims, spool, NOW + 1)

    assert spool.signals.standing["main"] is before


async def test_when_something_is_due_the_claim_is_sent_and_stands_by_no_more(
    spool: SpoolClient,
) -> None:
    claims = await claims_after_an_empty_answer(spool, next_due_at=NOW + 5)
    await asked(claims, spool)
    assert claims.next_due_at(none_waiting) == NOW + 5

    writes = await asked(claims, spool, NOW + 5)

    assert [write.command for write in writes] == [Claim("main", WINDOW, NODE)]
    assert spool.signals.standing == {}
    assert claims.next_due_at(none_waiting) == float("inf")


async def test_a_signal_of_the_spool_is_reason_to_ask(spool: SpoolClient) -> None:
    claims = await claims_after_an_empty_answer(spool)
    await asked(claims, spool)

    spool.signals.due("main").publish(1)

    assert len(await asked(claims, spool)) == 1


async def test_a_claim_that_the_writer_took_is_waited_for(spool: SpoolClient) -> None:
    claims = await claims_after_an_empty_answer(spool)
    await asked(claims, spool)
    taken = spool.signals.standing.pop("main")
    spool.signals.due("main").publish(1)

    assert await asked(claims, spool) == []
    assert spool.signals.standing == {}

    taken.reply.resolve(Claimed((), None))
    assert claims.answered() == [("main", taken.reply)]
    assert len(await asked(claims, spool)) == 1


async def test_a_dispatcher_that_drains_withdraws_its_claims(spool: SpoolClient) -> None:
    claims = await claims_after_an_empty_answer(spool)
    await asked(claims, spool)
    assert spool.signals.standing

    claims.withdraw_all()

    assert spool.signals.standing == {}
    assert claims.answered() == []


async def test_with_enough_in_memory_nothing_is_asked_for(spool: SpoolClient) -> None:
    claims = await claims_after_an_empty_answer(spool, next_due_at=NOW)
    await asked(claims, spool, NOW - 1)

    assert await asked(claims, spool, NOW, lambda _: LOW_WATER) == []
    assert spool.signals.standing == {}
    assert claims.next_due_at(lambda _: LOW_WATER) == float("inf")
    assert len(await asked(claims, spool, NOW, lambda _: LOW_WATER - 1)) == 1


async def test_a_successor_withdraws_what_stands_by(spool: SpoolClient) -> None:
    claims = await claims_after_an_empty_answer(spool)
    await asked(claims, spool)
    assert spool.signals.standing

    make_claims(spool)

    assert spool.signals.standing == {}


@pytest.mark.parametrize("name", ["dispatcher", "spool"])
async def test_what_comes_in_as_an_actor_crashes_is_sent_once(
    name: str, autojump_clock: MockClock
) -> None:
    with open_store() as store:
        async with running(make_config(), store) as gateway:
            await gateway.door.submit(letter("0"))
            await wait_for_states(gateway, sent=1)
            assert gateway.spool.signals.standing
            gateway.supervisor.crash(name)
            await gateway.door.submit(letter("1"))
            await wait_for_states(gateway, sent=2)

            assert len(provider(gateway, "primary").received) == 2


async def test_leases_of_a_claim_whose_answer_is_lost_are_released(
    autojump_clock: MockClock,
) -> None:
    plan = CrashPlan()
    with open_store() as store:
        async with running(make_config(), store, make_ports(plan)) as gateway:
            await gateway.door.submit(letter("0"))
            await wait_for_states(gateway, sent=1)
            plan.times["spool.committed"] = 1
            await gateway.door.submit(letter("1"))
            await wait_for_states(gateway, sent=2)

            assert plan.times["spool.committed"] == 0
            assert len(provider(gateway, "primary").received) == 2
            assert (await gateway.spool.read(lambda spool: spool.ledger())).declared_risks == 0
