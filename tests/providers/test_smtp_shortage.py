"""Our own shortage is no provider's failure: it is said, it is waited for, and nothing is lost."""

from __future__ import annotations

import dataclasses
import errno
import os
import socket
from typing import Any

import pytest
import trio

from mailactors.dispatch.lane import BreakerState
from mailactors.model.mime import LARGE_OCTETS
from mailactors.model.outcome import Accepted, Deferred, NotAttempted, Why
from mailactors.observe.alarms import AlarmKind
from mailactors.observe.metrics import expose
from mailactors.wiring import Gateway
from tests.descriptors import without_descriptors
from tests.gateways import (
    NotingJournal,
    letter,
    make_config,
    make_ports,
    open_store,
    running,
    status,
    wait_for_states,
)
from tests.providers.fake_relay import FakeRelay
from tests.providers.mails import make_mail, make_provider, open_session

TOKEN = {"host": "localhost", "username": "ann", "token_command": ["printf", "tok"]}
NUMBERS = [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EAGAIN]


class Short:
    """A connector for want of something, until a time."""

    def __init__(self, inner: FakeRelay, number: int, until_s: float = float("inf")) -> None:
        self.inner, self.number, self.until_s = inner, number, until_s
        self.tries = 0

    async def open_tcp(self, host: str, port: int) -> trio.abc.Stream:
        self.tries += 1
        if trio.current_time() < self.until_s:
            await trio.lowlevel.checkpoint()
            raise OSError(self.number, os.strerror(self.number))
        return await self.inner.open_tcp(host, port)


class BreaksWith:
    """A connector whose streams fail at the second write, as a system without memory does."""

    def __init__(self, inner: FakeRelay, after: bytes) -> None:
        self.inner, self.after = inner, after

    async def open_tcp(self, host: str, port: int) -> trio.abc.Stream:
        stream = await self.inner.open_tcp(host, port)
        assert isinstance(stream, trio.StapledStream)
        send_all = stream.send_all

        async def fail(data: bytes | bytearray | memoryview) -> None:
            if self.after in bytes(data):
                error = OSError(errno.ENOBUFS, os.strerror(errno.ENOBUFS))
                raise trio.BrokenResourceError("broken") from error
            await send_all(data)

        stream.send_all = fail  # type: ignore[method-assign]
        return stream


@pytest.mark.parametrize("number", NUMBERS)
async def test_shortage_at_connect_is_no_attempt(nursery: trio.Nursery, number: int) -> None:
    refusal = await make_provider(Short(FakeRelay(nursery), number)).connect()

    words = os.strerror(number)
    assert NotAttempted(Why.RESOURCES, text=f"connect: {words[0].lower()}{words[1:]}") == refusal


async def test_no_descriptor_for_the_token_command_is_no_refused_login(
    nursery: trio.Nursery,
) -> None:
    relay = FakeRelay(nursery, {"EHLO": b"250-relay\r\n250 AUTH XOAUTH2\r\n"})

    with without_descriptors():
        refusal = await make_provider(relay, **TOKEN).connect()

    assert isinstance(refusal, NotAttempted)
    assert refusal.why is Why.RESOURCES
    assert "Too many open files" in refusal.text


async def test_shortage_while_the_envelope_is_said_is_no_attempt(nursery: trio.Nursery) -> None:
    session = await open_session(make_provider(BreaksWith(FakeRelay(nursery), b"MAIL")))

    outcome = await session.send(make_mail())

    assert isinstance(outcome, NotAttempted)
    assert "no buffer space available" in outcome.text


async def test_shortage_at_the_dot_is_as_uncertain_as_any_loss(
    nursery: trio.Nursery, autojump_clock: object
) -> None:
    class AtTheDot(BreaksWith):
        pass

    relay = FakeRelay(nursery)
    connector = AtTheDot(relay, b"\r\n.\r\n")
    session = await open_session(make_provider(connector))
    connector.after = b".\r\n"

    outcome = await session.send(make_mail(text="no dot here\n"))

    assert type(outcome).__name__ == "Uncertain"


async def test_no_memory_to_render_is_no_attempt(nursery: trio.Nursery) -> None:
    class Poor:
        async def run(self, work: Any) -> Any:
            raise MemoryError

        def close(self) -> None:
            """Nothing to give back."""

    relay = FakeRelay(nursery, {"EHLO": b"250 relay.example\r\n"})
    provider = make_provider(relay)
    provider.executor = Poor()

    outcome = await (await open_session(provider)).send(make_mail(text="x" * LARGE_OCTETS))
    provider.executor = None
    after = await (await open_session(provider)).send(make_mail())

    assert isinstance(outcome, NotAttempted)
    assert outcome.why is Why.RESOURCES
    assert isinstance(after, Accepted)
    assert 1 == relay.connections_count


async def test_the_operating_systems_words_are_in_the_outcome() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

    refusal = await make_provider(host="127.0.0.1", port=port).connect()

    assert isinstance(refusal, Deferred)
    assert "connect: connection refused" == refusal.reason.text


# The whole gateway

PLAIN = {"kind": "smtp", "tls": "none", "hello_name": "[127.0.0.1]"}
TWO = {name: {**PLAIN, "host": f"{name}.example"} for name in ("primary", "secondary")}


def breakers(gateway: Gateway) -> list[BreakerState]:
    return [lane.breaker_status.value.state for lane in gateway.lanes.values()]


@pytest.mark.parametrize("quota", [{}, {"per_s": 50, "per_minute": 1000}], ids=["none", "quota"])
async def test_breakers_stay_closed_and_everything_goes_out_afterwards(
    nursery: trio.Nursery, autojump_clock: object, quota: dict[str, int]
) -> None:
    connector = Short(FakeRelay(nursery), errno.EMFILE, until_s=60.0)
    ports = dataclasses.replace(make_ports(), connector=connector)
    config = make_config({name: {**each, "quota": quota} for name, each in TWO.items()})
    with open_store() as store:
        async with running(config, store, ports) as gateway:
            for number in range(40):
                await gateway.door.submit(letter(str(number)))
            await trio.sleep(30.0)

            assert [BreakerState.CLOSED] * 2 == breakers(gateway)
            alarms = gateway.watch.alarms()
            assert {AlarmKind.RESOURCES_SHORT} == {each.fault.kind for each in alarms}
            details = {each.fault.detail for each in alarms}
            assert details >= {"primary: connect: too many open files"}
            assert b'mailactors_shortages_total{where="primary"}' in await expose(gateway)
            assert connector.tries <= 30 * 2 * 40  # a lane rests in between, whatever its quota
            await trio.sleep(32.0)
            assert [BreakerState.CLOSED] * 2 == breakers(gateway)
            await wait_for_states(gateway, sent=40)
            assert 1 == (await status(gateway, "0")).deliveries[0].attempts
            await trio.sleep(30.0)
            assert [] == gateway.watch.alarms()
    assert isinstance(ports.journal, NotingJournal)
    assert 2 == len(ports.journal.named("resources.short"))
    nursery.cancel_scope.cancel()


async def test_a_lane_without_shortage_takes_the_mail(
    nursery: trio.Nursery, autojump_clock: object
) -> None:
    class OnlyPrimary(Short):
        async def open_tcp(self, host: str, port: int) -> trio.abc.Stream:
            if host.startswith("secondary"):
                return await self.inner.open_tcp(host, port)
            return await super().open_tcp(host, port)

    connector = OnlyPrimary(FakeRelay(nursery), errno.ENOBUFS)
    ports = dataclasses.replace(make_ports(), connector=connector)
    with open_store() as store:
        async with running(make_config(TWO), store, ports) as gateway:
            for number in range(20):
                await gateway.door.submit(letter(str(number)))
            await wait_for_states(gateway, sent=20)

            assert trio.current_time() < 2.0
            assert [BreakerState.CLOSED] * 2 == breakers(gateway)
    nursery.cancel_scope.cancel()


async def test_a_message_expires_during_a_shortage(
    nursery: trio.Nursery, autojump_clock: object
) -> None:
    ports = dataclasses.replace(make_ports(), connector=Short(FakeRelay(nursery), errno.EMFILE))
    config = make_config(TWO, streams={"otp": {"expires_after_s": 10.0}})
    with open_store() as store:
        async with running(config, store, ports) as gateway:
            await gateway.door.submit(letter("1", stream="otp"))
            await wait_for_states(gateway, expired=1)

            assert trio.current_time() < 14.0
    nursery.cancel_scope.cancel()


async def test_idle_connections_are_given_up_where_something_else_is_short(
    nursery: trio.Nursery, autojump_clock: object
) -> None:
    ports = dataclasses.replace(make_ports(), connector=FakeRelay(nursery))
    with open_store() as store:
        async with running(make_config(TWO), store, ports) as gateway:
            await gateway.door.submit(letter("1"))
            await wait_for_states(gateway, sent=1)
            pool: Any = gateway.lanes["primary"].provider
            assert {"idle_connections_count": 1} == pool.statistics()

            gateway.lanes.shortages.note("api", "too many open files")
            await trio.sleep(0.1)

            assert {"idle_connections_count": 0} == pool.statistics()
            await gateway.door.submit(letter("2"))
            await wait_for_states(gateway, sent=2)
    nursery.cancel_scope.cancel()
