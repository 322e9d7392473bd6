"""Claims: one a stream, sent where something is due, standing by where nothing is."""

from __future__ import annotations

import pytest
from trio.testing import MockClock

from mailactors.dispatch.claims import LOW_WATER, WINDOW, Claims
from mailactors.dispatch.desk import DispatchDesk
from mailactors.spool.actor import Write
from mailactors.spool.port import Claim, Claimed
from mailactors.wiring import build
from tests.gateways import (
    CrashPlan,
    letter,
    make_config,
    make_ports,
    open_store,
    provider,
    running,
    wait_for_states,
)

NOW = 1_800_000_000.0


@pytest.fixture
def desk() -> DispatchDesk:
    with open_store() as store:
        return build(make_config(), make_ports(), store).desk


def none_waiting(_stream: str) -> int:
    return 0


def claims_after_an_empty_answer(desk: DispatchDesk, next_due_at: float | None = None) -> Claims:
    """Return the claims of a dispatcher that has asked once, and was told that nothing is due."""
    claims = Claims(desk)
    claims.add(["main"])
    (write,) = claims.take_due(NOW, none_waiting)
    write.reply.resolve(Claimed((), next_due_at))
    assert [name for name, _ in claims.answered()] == ["main"]
    if next_due_at is not None:
        claims.expect("main", next_due_at)
    return claims


def test_at_first_every_stream_is_asked(desk: DispatchDesk) -> None:
    claims = Claims(desk)
    claims.add(["main", "bulk"])

    writes = claims.take_due(NOW, none_waiting)

    assert [write.command for write in writes] == [
        Claim("main", WINDOW, desk.node),
        Claim("bulk", WINDOW, desk.node),
    ]
    assert claims.take_due(NOW, none_waiting) == []
    assert desk.signals.standing == {}


def test_where_nothing_is_due_a_claim_stands(desk: DispatchDesk) -> None:
    claims = claims_after_an_empty_answer(desk)

    assert claims.take_due(NOW, none_waiting) == []
    assert desk.signals.standing["main"].command == Claim("main", WINDOW - LOW_WATER, desk.node)


def test_a_standing_claim_stays_the_same(desk: DispatchDesk) -> None:
    claims = claims_after_an_empty_answer(desk)
    claims.take_due(NOW, none_waiting)
    before = desk.signals.standing["main"]

    claims.take_due(NOW + 1, none_waiting)

    assert desk.signals.standing["main"] is before


def test_when_something_is_due_the_claim_stands_no_more_but_is_sent(desk: DispatchDesk) -> None:
    claims = claims_after_an_empty_answer(desk, next_due_at=NOW + 5)
    claims.take_due(NOW, none_waiting)
    assert claims.next_due_at(none_waiting) == NOW + 5

    writes = claims.take_due(NOW + 5, none_waiting)

    assert [write.command for write in writes] == [Claim("main", WINDOW, desk.node)]
    assert desk.signals.standing == {}
    assert claims.next_due_at(none_waiting) == float("inf")


def test_a_signal_of_the_spool_is_reason_to_ask(desk: DispatchDesk) -> None:
    claims = claims_after_an_empty_answer(desk)
    claims.take_due(NOW, none_waiting)

    desk.signals.due("main").publish(1)

    assert len(claims.take_due(NOW, none_waiting)) == 1


def test_a_claim_that_the_writer_took_up_is_waited_for(desk: DispatchDesk) -> None:
    claims = claims_after_an_empty_answer(desk)
    claims.take_due(NOW, none_waiting)
    taken: Write = desk.signals.standing.pop("main")
    desk.signals.due("main").publish(1)

    assert claims.take_due(NOW, none_waiting) == []
    assert desk.signals.standing == {}

    taken.reply.resolve(Claimed((), None))
    assert claims.answered() == [("main", taken.reply)]
    assert len(claims.take_due(NOW, none_waiting)) == 1


def test_who_drains_wants_nothing(desk: DispatchDesk) -> None:
    claims = claims_after_an_empty_answer(desk)
    claims.take_due(NOW, none_waiting)

    desk.drain()

    assert claims.take_due(NOW, none_waiting) == []
    assert desk.signals.standing == {}


def test_who_has_enough_in_memory_wants_nothing(desk: DispatchDesk) -> None:
    claims = claims_after_an_empty_answer(desk, next_due_at=NOW)
    claims.take_due(NOW - 1, none_waiting)

    assert claims.take_due(NOW, lambda _: LOW_WATER) == []
    assert desk.signals.standing == {}
    assert claims.next_due_at(lambda _: LOW_WATER) == float("inf")
    assert len(claims.take_due(NOW, lambda _: LOW_WATER - 1)) == 1


def test_a_successor_withdraws_what_stands(desk: DispatchDesk) -> None:
    claims_after_an_empty_answer(desk).take_due(NOW, none_waiting)
    assert desk.signals.standing

    Claims(desk)

    assert desk.signals.standing == {}


@pytest.mark.parametrize("name", ["dispatcher", "spool"])
async def test_what_comes_in_as_an_actor_dies_is_sent_once(
    name: str, autojump_clock: MockClock
) -> None:
    with open_store() as store:
        async with running(make_config(), store) as gateway:
            await gateway.door.submit(letter("0"))
            await wait_for_states(gateway, sent=1)
            assert gateway.signals.standing
            gateway.supervisor.crash(name)
            await gateway.door.submit(letter("1"))
            await wait_for_states(gateway, sent=2)

            assert len(provider(gateway, "primary").received) == 2


async def test_leases_that_nobody_heard_of_are_given_back(autojump_clock: MockClock) -> None:
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
            assert (await gateway.reader.ask(lambda spool: spool.ledger())).declared_risks == 0
