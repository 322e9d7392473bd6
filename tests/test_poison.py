"""Messages on which actors and processes die: given up after three, and no neighbour with them."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from mailactors.config import Config, ProviderSettings
from mailactors.model.outcome import Outcome
from mailactors.providers.port import Mail
from mailactors.providers.simulated import SimulatedProvider
from mailactors.runtime.ports import Ports
from mailactors.spool.sqlite import SqliteStore
from mailactors.wiring import Gateway, build
from tests.gateways import (
    CrashPlan,
    letter,
    make_config,
    make_ports,
    open_store,
    running,
    simulated,
    status,
    submit,
    wait_for_states,
)

POISON = "poison"
CONFIG = make_config(
    {"only": simulated(latency_s=0.2, concurrency_max=100)},
    streams={"mail": {"uncertain_wait_s": 1}},
)


class DeadlyProvider(SimulatedProvider):
    """Ends the process when it is given the poison."""

    async def answer(self, mail: Mail) -> Outcome:
        if mail.content.subject == POISON:
            await trio.sleep(0.05)  # its neighbours are in flight by then
            self.deadly.cancel()
            await trio.sleep_forever()
        return await super().answer(mail)

    deadly = trio.CancelScope()


@contextlib.asynccontextmanager
async def process(
    path: Path, config: Config = CONFIG, faults: CrashPlan | None = None
) -> AsyncIterator[tuple[Gateway, trio.CancelScope]]:
    """Run a gateway that dies, as a process does, when the scope is cancelled."""
    scope = trio.CancelScope()

    def make(name: str, settings: ProviderSettings, ports: Ports) -> SimulatedProvider:
        assert settings.kind == "simulated"
        provider = DeadlyProvider(name, settings, ports.clock, ports.entropy)
        provider.deadly = scope
        return provider

    with open_store(path) as store:
        gateway = build(config, make_ports(faults), store, make)
        with scope:
            async with trio.open_nursery() as nursery:
                await nursery.start(lambda task_status: gateway.run(task_status=task_status))
                yield gateway, scope
                nursery.cancel_scope.cancel()


def crash_counts(store: SqliteStore) -> list[int]:
    return [row[0] for row in store._db.execute("SELECT crash_count FROM messages ORDER BY seq")]


@pytest.mark.slow
async def test_a_message_that_ends_the_process_is_held_and_its_neighbours_are_sent(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    path, starts = tmp_path / "spool.db", 1
    async with process(path) as (gateway, _):
        await gateway.door.submit(letter(POISON, subject=POISON))
        await submit(gateway, 50)
        await trio.sleep(30)
    is_over: list[bool] = []
    while not is_over and starts < 9:
        starts += 1
        async with process(path) as (gateway, _):
            await wait_for_states(gateway, within_s=60, held=1, sent=50)
            is_over.append(True)
    with open_store(path) as store:
        counts = crash_counts(store)

    assert (3 + 1, 3) == (starts, counts[0])


@pytest.mark.slow
async def test_three_kills_fail_no_message(tmp_path: Path, autojump_clock: MockClock) -> None:
    path = tmp_path / "spool.db"
    slow = simulated(latency_s=0.5, concurrency_max=100)
    config = make_config({"one": slow, "two": slow, "three": slow})
    async with process(path, config) as (gateway, scope):
        await submit(gateway, 300)
        await trio.sleep(0.1)
        scope.cancel()
    for _ in range(2):
        async with process(path, config) as (gateway, scope):
            await trio.sleep(0.1)  # what was in flight is in flight again
            scope.cancel()
    with open_store(path) as store:
        assert 1 < max(crash_counts(store)) < 3
    async with process(path, config) as (gateway, _):
        # A message alone in flight at the third kill may be its cause.
        await wait_for_states(gateway, within_s=200, sent=299, held=1)


async def test_a_message_in_two_deaths_goes_alone(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    with open_store(tmp_path / "spool.db") as store:
        gateway = build(make_config(), make_ports(), store)
        async with trio.open_nursery() as nursery:
            await nursery.start(lambda task_status: gateway.run(task_status=task_status))
            gateway.lanes["primary"].pause()
            for name in ("secondary", "tertiary"):
                gateway.lanes[name].pause()
            await trio.sleep(0.1)
            await submit(gateway, 10)
            await trio.sleep(0.1)
            nursery.cancel_scope.cancel()
        store._db.execute("UPDATE messages SET crash_count = 2 WHERE seq <= 5")
        at_once = [(0, 0)]
        async with running(make_config(), store) as gateway:
            while await ledger_of(gateway) != {"sent": 10}:
                flying = [a for lane in gateway.lanes.values() for a in lane.in_flight.values()]
                at_once.append((sum(a.lease.crashes == 2 for a in flying), len(flying)))
                await trio.sleep(0.001)

    assert max(suspects for suspects, _ in at_once) == 1
    assert max(count for _, count in at_once) > 1  # others do not wait for them


async def ledger_of(gateway: Gateway) -> dict[str, int]:
    ledger = await gateway.spool.read(lambda spool: spool.ledger())
    return {state: count for state, count in ledger.states.items() if count}


async def test_a_graceful_stop_blames_no_message(tmp_path: Path, autojump_clock: MockClock) -> None:
    config = make_config(
        {"only": simulated(latency_s=60.0)}, service={"drain_s": 1}, streams={"mail": {}}
    )
    path = tmp_path / "spool.db"
    with open_store(path) as store:
        async with running(config, store) as gateway:
            await gateway.door.submit(letter())
            await trio.sleep(1)
        assert [0] == crash_counts(store)
        assert ["uncertain"] == [d.state.value for d in store.status("1")[0].deliveries]


@pytest.mark.parametrize("point", ["limiter__attempt", "breaker__attempt", "provider__attempt"])
async def test_an_actor_that_dies_three_times_on_a_message_lets_it_fail(
    point: str, tmp_path: Path, autojump_clock: MockClock
) -> None:
    path = tmp_path / "spool.db"
    with open_store(path) as store:
        async with running(make_config(), store, make_ports(CrashPlan(**{point: 3}))) as gateway:
            await gateway.door.submit(letter())
            await wait_for_states(gateway, within_s=30, failed=1)

            assert "died on it 3 times" in (await status(gateway, "1")).deliveries[0].error


async def test_the_count_survives_the_process(tmp_path: Path, autojump_clock: MockClock) -> None:
    path = tmp_path / "spool.db"
    config = make_config({"only": simulated(latency_s=30.0)})
    async with process(path, config, CrashPlan(limiter__attempt=2)) as (gateway, scope):
        await gateway.door.submit(letter())
        await wait_for_states(gateway, sending=1)
        scope.cancel()
    with open_store(path) as store:
        assert crash_counts(store) == [2]
    async with process(path, config) as (gateway, _):
        await wait_for_states(gateway, within_s=1, held=1)


async def test_a_dispatcher_that_dies_of_an_outcome_three_times_holds_it(
    autojump_clock: MockClock,
) -> None:
    with open_store() as store:
        ports = make_ports(CrashPlan(dispatcher__outcome=3))
        config = make_config(streams={"mail": {"uncertain_wait_s": 20}})
        async with running(config, store, ports) as gateway:
            await gateway.door.submit(letter())
            await wait_for_states(gateway, within_s=100, held=1)

            assert [3] == crash_counts(store)
            assert 2 == (await status(gateway, "1")).declared_risks
