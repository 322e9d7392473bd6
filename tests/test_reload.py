"""Reload: providers come, go and change while mail flows, and nothing in flight is disturbed."""

import dataclasses
from collections.abc import Callable
from typing import TypeVar

import pytest
import trio
from trio.testing import MockClock

from mailactors.config import Config, ConfigError
from mailactors.dispatch.lane import BreakerState
from mailactors.model.outcome import Deferred, Reason, Rejected, Scope
from mailactors.runtime.reply import Reply
from mailactors.spool.actor import Write
from mailactors.spool.port import CountCrash, SetPaused
from tests.gateways import (
    InlineExecutor,
    NotingJournal,
    letter,
    make_config,
    make_ports,
    open_store,
    provider,
    running,
    simulated,
    status,
    submit,
    wait_for_states,
)

T = TypeVar("T")
REVOKED = Rejected(Scope.PROVIDER, Reason("the key was revoked", 401))


async def test_an_added_provider_takes_over(autojump_clock: MockClock) -> None:
    with open_store() as store:
        async with running(make_config({"old": simulated()}), store) as gateway:
            provider(gateway, "old").behaviour.is_refusing = True
            await gateway.door.submit(letter())
            await wait_for_states(gateway, deferred=1)

            await gateway.reload(make_config({"old": simulated(), "new": simulated()}))
            await wait_for_states(gateway, sent=1)

            assert "new" == (await status(gateway, "1")).deliveries[0].provider


async def test_a_removed_provider_finishes_what_it_has_and_takes_nothing_new(
    autojump_clock: MockClock,
) -> None:
    both = make_config({"old": simulated(latency_s=30.0), "new": simulated()})
    with open_store() as store:
        async with running(both, store) as gateway:
            old = provider(gateway, "old")
            await gateway.door.submit(letter("1"))
            await trio.sleep(1)
            await gateway.reload(make_config({"new": simulated()}))
            await gateway.door.submit(letter("2"))
            await wait_for_states(gateway, sent=2)
            await trio.sleep(1)

            assert "old" == (await status(gateway, "1")).deliveries[0].provider
            assert "new" == (await status(gateway, "2")).deliveries[0].provider
            assert 1 == old.calls
            assert ["new"] == list(gateway.lanes)


async def test_a_provider_that_comes_back_before_it_is_gone_goes_on(
    autojump_clock: MockClock,
) -> None:
    both = make_config({"old": simulated(latency_s=30.0), "new": simulated()})
    with open_store() as store:
        async with running(both, store) as gateway:
            await gateway.door.submit(letter("1"))
            await trio.sleep(1)
            await gateway.reload(make_config({"new": simulated()}))
            await trio.sleep(1)
            await gateway.reload(both)
            await wait_for_states(gateway, sent=1)
            await gateway.door.submit(letter("2"))
            await wait_for_states(gateway, sent=2)

            assert "old" == (await status(gateway, "2")).deliveries[0].provider


async def test_a_disabled_provider_gets_another_chance(autojump_clock: MockClock) -> None:
    config = make_config({"primary": simulated(), "secondary": simulated()})
    with open_store() as store:
        async with running(config, store) as gateway:
            provider(gateway, "primary").behaviour.script.append(REVOKED)
            await submit(gateway, 2)
            await wait_for_states(gateway, sent=2)
            gate_before = gateway.lanes["primary"].breaker_status.value.state

            await gateway.reload(config)
            await trio.sleep(0.1)
            await gateway.door.submit(letter("again"))
            await wait_for_states(gateway, sent=3)

            gate_after = gateway.lanes["primary"].breaker_status.value.state

            assert (BreakerState.DISABLED, BreakerState.CLOSED) == (gate_before, gate_after)
            assert "primary" == (await status(gateway, "again")).deliveries[0].provider


async def test_changed_settings_take_effect_for_the_next_attempt(
    autojump_clock: MockClock,
) -> None:
    with open_store() as store:
        async with running(make_config({"only": simulated(error_rate=1.0)}), store) as gateway:
            before = provider(gateway, "only")
            await gateway.door.submit(letter())
            await wait_for_states(gateway, deferred=1)

            await gateway.reload(make_config({"only": simulated(error_rate=0.0)}))
            await wait_for_states(gateway, sent=1)

            assert before is not provider(gateway, "only")


async def test_a_lower_quota_counts_what_was_sent_before(autojump_clock: MockClock) -> None:
    limited = make_config({"only": simulated(quota={"per_minute": 3})})
    with open_store() as store:
        async with running(make_config({"only": simulated()}), store) as gateway:
            await submit(gateway, 3)
            await wait_for_states(gateway, sent=3)

            await gateway.reload(limited)
            await gateway.door.submit(letter("one more"))
            await trio.sleep(50)
            calls_within_the_minute = provider(gateway, "only").calls
            await wait_for_states(gateway, sent=4)

            assert 3 == calls_within_the_minute


async def test_a_route_may_change_under_waiting_messages(autojump_clock: MockClock) -> None:
    providers = {"a": simulated(quota={"per_minute": 1}), "b": simulated()}
    first = make_config(providers, streams={"mail": {"route": ["a"]}})
    second = make_config(providers, streams={"mail": {"route": ["b"]}})
    with open_store() as store:
        async with running(first, store) as gateway:
            await submit(gateway, 5)
            await wait_for_states(gateway, sent=1, leased=4)

            await gateway.reload(second)
            await wait_for_states(gateway, within_s=5, sent=5)

            assert 4 == provider(gateway, "b").calls


async def test_messages_of_a_stream_that_is_gone_are_still_sent(
    autojump_clock: MockClock,
) -> None:
    providers = {"only": simulated(quota={"per_minute": 1})}
    with open_store() as store:
        async with running(make_config(providers, streams={"old": {}}), store) as gateway:
            await submit(gateway, 2)
            await wait_for_states(gateway, sent=1, leased=1)
        async with running(make_config(streams={"new": {}}), store) as gateway:
            await wait_for_states(gateway, sent=2)

            assert "old" == (await status(gateway, "1")).stream


async def test_reloads_and_retirements_do_not_fight(autojump_clock: MockClock) -> None:
    both = make_config({"old": simulated(latency_s=30.0), "new": simulated()})
    without = make_config({"new": simulated()})
    with open_store() as store:
        async with running(both, store) as gateway:
            await gateway.door.submit(letter("1"))
            await trio.sleep(1)
            for config in (without, without, both, without, both):
                await gateway.reload(config)
            await wait_for_states(gateway, sent=1)
            await gateway.door.submit(letter("2"))
            await wait_for_states(gateway, sent=2)

            assert {"old", "new"} == set(gateway.lanes)


async def test_a_crash_in_a_retiring_lane_ends_nothing(autojump_clock: MockClock) -> None:
    both = make_config({"old": simulated(latency_s=30.0), "new": simulated()})
    with open_store() as store:
        async with running(both, store) as gateway:
            await gateway.door.submit(letter("1"))
            await trio.sleep(1)
            await gateway.reload(make_config({"new": simulated()}))
            for kind in ("breaker", "limiter"):
                gateway.supervisor.crash(f"{kind}:old")
            await wait_for_states(gateway, sent=1)
            await trio.sleep(1)

            assert ["new"] == list(gateway.lanes)


async def test_a_raised_quota_takes_effect_at_once(autojump_clock: MockClock) -> None:
    def limited(per_hour: int) -> Config:
        return make_config({"only": simulated(quota={"per_hour": per_hour})})

    with open_store() as store:
        async with running(limited(1), store) as gateway:
            await submit(gateway, 3)
            await wait_for_states(gateway, sent=1, leased=2)
            await gateway.reload(limited(1000))
            await wait_for_states(gateway, within_s=10, sent=3)

            assert 3 == provider(gateway, "only").calls


async def test_a_provider_that_cannot_be_made_changes_nothing(autojump_clock: MockClock) -> None:
    relay = {"kind": "smtp", "host": "127.0.0.1", "ca_file": "/nowhere.pem"}
    with open_store() as store:
        async with running(make_config({"old": simulated()}), store) as gateway:
            with pytest.raises(ConfigError, match=r"providers\.new\.ca_file"):
                await gateway.reload(make_config({"old": simulated(), "new": relay}))
            await gateway.door.submit(letter("1"))
            await wait_for_states(gateway, sent=1)

            assert ["old"] == list(gateway.lanes)


class Disk:
    """The writer's thread does nothing until the disk goes on."""

    def __init__(self) -> None:
        self.goes_on = trio.Event()
        self.goes_on.set()

    def executor(self, name: str) -> "DiskExecutor":
        return DiskExecutor(name, self)


class DiskExecutor(InlineExecutor):
    def __init__(self, name: str, disk: Disk) -> None:
        super().__init__(name)
        self._disk = disk

    async def run(self, work: Callable[[], T]) -> T:
        if self.name == "spool":
            await self._disk.goes_on.wait()
        return await super().run(work)


async def test_a_reload_while_the_dispatcher_waits_for_the_spool(
    autojump_clock: MockClock,
) -> None:
    disk = Disk()
    ports = dataclasses.replace(make_ports(), executor=disk.executor)
    former = {"slow": simulated(latency_s=5.0), "next": simulated()}
    with open_store() as store:
        async with running(make_config(former), store, ports) as gateway:
            busy = Deferred(Scope.PROVIDER, Reason("busy", 503))
            provider(gateway, "slow").behaviour.script.append(busy)
            await gateway.door.submit(letter())
            await wait_for_states(gateway, sending=1)
            disk.goes_on = trio.Event()
            await trio.sleep(2)  # the dispatcher's own questions are with the writer by now
            while gateway.spool.mailbox.waiting < gateway.spool.mailbox.capacity:
                gateway.spool.mailbox.put_nowait(Write(CountCrash(9, 0), Reply()))
            await trio.sleep(10)
            assert gateway.dispatcher.mailbox.under_cursor
            await gateway.reload(make_config({"new": simulated(), **former}))
            disk.goes_on.set()
            await wait_for_states(gateway, sent=1)

            assert isinstance(gateway.ports.journal, NotingJournal)
            assert [] == gateway.ports.journal.named("actor.crashed")


async def test_a_lane_that_came_back_for_a_moment_keeps_what_it_has(
    autojump_clock: MockClock,
) -> None:
    """It was emptied, taken back, used and retired again before its end could be carried out."""
    both = make_config({"old": simulated(latency_s=5.0), "new": simulated()})
    with open_store() as store:
        async with running(both, store) as gateway:
            await gateway.door.submit(letter("1"))
            await wait_for_states(gateway, sending=1)
            await gateway.reload(make_config({"new": simulated()}))
            lane = gateway.lanes["old"]
            (attempt,) = lane.in_flight.values()
            async with gateway.lanes.changing:
                await wait_for_states(gateway, sent=1)
                await trio.sleep(1)
                lane.unretire()
                lane.in_flight[attempt.id] = attempt
                lane.retire()
            await trio.sleep(1)
            was_kept = gateway.lanes.get("old") is lane
            lane.end(attempt)
            await trio.sleep(1)

            assert was_kept
            assert ["new"] == list(gateway.lanes)


async def test_a_pause_survives_a_restart_and_a_provider_that_comes_back(
    autojump_clock: MockClock,
) -> None:
    both = make_config({"old": simulated(), "new": simulated()})
    with open_store() as store:
        async with running(both, store) as gateway:
            for reply in gateway.lanes["old"].pause():
                await reply.wait(5.0)
            await gateway.spool.ask(SetPaused("old", is_paused=True))
        async with running(both, store) as gateway:
            await submit(gateway, 1)
            await wait_for_states(gateway, sent=1)
            paused = {name: lane.is_paused for name, lane in gateway.lanes.items()}
            in_limiter = gateway.lanes["old"].limiter_status.value.is_paused
            await gateway.reload(make_config({"new": simulated()}))
            await trio.sleep(60)
            await gateway.reload(both)

            assert ({"old": True, "new": False}, True) == (paused, in_limiter)
            assert gateway.lanes["old"].is_paused
            assert "new" == store.statuses(1, None)[0].deliveries[0].provider
