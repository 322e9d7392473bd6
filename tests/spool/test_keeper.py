"""The keeper: retention and room, in a whole gateway in virtual time."""

import collections
import shutil
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from mailactors.intake.submission import OverloadedError
from mailactors.model.message import Address
from mailactors.spool.actor import SpoolSpace
from mailactors.wiring import Gateway
from tests.gateways import (
    NotingJournal,
    letter,
    make_config,
    open_store,
    provider,
    running,
    simulated,
    submit,
    wait_for_states,
)

Usage = collections.namedtuple("Usage", "total used free")
SHORT = {"final_after_s": 600.0, "bodies_after_s": 120.0}


async def test_bodies_go_first_and_messages_later_and_the_ledger_still_balances(
    autojump_clock: MockClock,
) -> None:
    config = make_config(retention=SHORT, idempotency={"window_s": 60.0})
    with open_store() as store:
        async with running(config, store) as gateway:
            await submit(gateway, 5)
            await wait_for_states(gateway, sent=5)
            await trio.sleep(300)
            kept = await gateway.spool.read(lambda spool: spool.statuses(10, None))
            await trio.sleep(500)
            left = await gateway.spool.read(lambda spool: spool.statuses(10, None))
            ledger = await gateway.spool.read(lambda spool: spool.ledger())
            journal = gateway.ports.journal

            assert (5, 0) == (len(kept), len(left))
            assert (5, 5, True) == (ledger.accepted, ledger.purged, ledger.is_balanced)
            assert isinstance(journal, NotingJournal)
            purged = journal.named("spool.purged")
            assert [(0, 5), (5, 0)] == [(each["messages"], each["bodies"]) for each in purged]


async def test_what_is_not_final_is_never_forgotten(autojump_clock: MockClock) -> None:
    with open_store() as store:
        async with running(make_config(retention=SHORT), store) as gateway:
            for lane in gateway.lanes.values():
                lane.pause()
            await submit(gateway, 2)
            await trio.sleep(3000)
            for lane in gateway.lanes.values():
                lane.resume()
            await wait_for_states(gateway, sent=2)

            assert 2 == sum(len(provider(gateway, name).received) for name in gateway.lanes)


async def test_the_backlog_closes_the_door_until_it_is_smaller(autojump_clock: MockClock) -> None:
    config = make_config({"only": simulated()}, service={"backlog_max": 3})
    with open_store() as store:
        async with running(config, store) as gateway:
            gateway.lanes["only"].pause()
            await submit(gateway, 3)
            await trio.sleep(6)
            with pytest.raises(OverloadedError, match="too many messages are on their way"):
                await gateway.door.submit(letter("one more"))
            gateway.lanes["only"].resume()
            await trio.sleep(6)
            await gateway.door.submit(letter("one more"))
            await wait_for_states(gateway, sent=4)

            assert 0 == (await pending(gateway))


async def pending(gateway: Gateway) -> int:
    """Return the backlog that the keeper publishes once it has looked again."""
    await trio.sleep(6)
    return gateway.spool.signals.room.value.backlog


async def test_a_nearly_full_disk_closes_the_door(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    free_bytes = [10**12]
    monkeypatch.setattr(shutil, "disk_usage", lambda _folder: Usage(0, 0, free_bytes[0]))
    path = tmp_path / "spool.db"
    config = make_config(service={"spool": str(path)})
    with open_store(path) as store:
        async with running(config, store) as gateway:
            await gateway.door.submit(letter("1", to=(Address("a@example.com"),)))
            free_bytes[0] = 10**6
            await trio.sleep(6)
            with pytest.raises(OverloadedError, match="nearly full") as refused:
                await gateway.door.submit(letter("2"))
            free_bytes[0] = 10**12
            await trio.sleep(6)
            await gateway.door.submit(letter("2"))
            await wait_for_states(gateway, sent=2)

            assert refused.value.retry_after_s > 0
            assert SpoolSpace(0, 10**12) == gateway.spool.signals.room.value
