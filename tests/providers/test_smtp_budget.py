"""How long an attempt may take: before the final dot it ends in time, and is certainly not sent."""

from __future__ import annotations

import dataclasses
import math
import socket
from typing import Any

import msgspec
import pytest
import trio

from mailactors.dispatch.lane import BreakerState
from mailactors.model.outcome import (
    Accepted,
    Deferred,
    NotAttempted,
    Outcome,
    Rejected,
    Scope,
    Uncertain,
    Why,
)
from mailactors.providers.smtp.transport import FINAL_TIMEOUT_S
from tests.gateways import (
    letter,
    make_config,
    make_ports,
    open_store,
    running,
    states,
    status,
    wait_for_states,
)
from tests.providers.fake_relay import EHLO, FakeRelay, Fault, Script
from tests.providers.mails import BOB, CAT, make_mail, make_provider, open_session

ROOMY = EHLO.replace(b"SIZE 100000", b"SIZE 100000000")
ONE_BY_ONE = ROOMY.replace(b"250-PIPELINING\r\n", b"")
EIGHT_MB = 8_000_000


class PacedStream(trio.abc.Stream):
    """The client's end of a connection to a relay that reads so many octets a second."""

    def __init__(self, inner: trio.abc.Stream, octets_per_s: float) -> None:
        self.inner, self.octets_per_s = inner, octets_per_s

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await trio.sleep(len(data) / self.octets_per_s)
        await self.inner.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self.inner.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        return await self.inner.receive_some(max_bytes)

    async def aclose(self) -> None:
        await self.inner.aclose()


class Paced:
    """A connector to relays by host name, each with its own pace."""

    def __init__(self, nursery: trio.Nursery, **paces: float) -> None:
        self.relays = {name: FakeRelay(nursery, {"EHLO": ROOMY}) for name in paces}
        self.paces = paces

    async def open_tcp(self, host: str, port: int) -> trio.abc.Stream:
        name = host.partition(".")[0]
        return PacedStream(await self.relays[name].open_tcp(host, port), self.paces[name])


class Delayed:
    """A connector to a relay that answers each read so much later."""

    def __init__(self, relay: FakeRelay, answer_s: float) -> None:
        self.relay, self.answer_s = relay, answer_s

    async def open_tcp(self, host: str, port: int) -> trio.abc.Stream:
        stream = await self.relay.open_tcp(host, port)
        assert isinstance(stream, trio.StapledStream)
        receive_some = stream.receive_some

        async def receive_late(max_bytes: int | None = None) -> bytes | bytearray:
            data = await receive_some(max_bytes)
            await trio.sleep(self.answer_s)
            return data

        stream.receive_some = receive_late  # type: ignore[method-assign]
        return stream


async def send_paced(
    nursery: trio.Nursery, octets_per_s: float, octets: int, deadline_s: float = math.inf
) -> tuple[Outcome, float, list[bytes]]:
    """Send so many octets to a relay of this pace; return outcome, seconds and what it read."""
    connector = Paced(nursery, relay=octets_per_s)
    session = await open_session(make_provider(connector))
    mail = msgspec.structs.replace(make_mail(text="x" * 76 * 10 + "\n"), deadline_s=deadline_s)
    text = ("x" * 77 + "\n") * (octets // 79)
    mail = msgspec.structs.replace(
        mail, content=msgspec.structs.replace(mail.content, text=text), deadline_s=deadline_s
    )
    began_s = trio.current_time()
    outcome = await session.send(mail)
    return outcome, trio.current_time() - began_s, connector.relays["relay"].messages


@pytest.mark.parametrize("octets_per_s", [100, 3000, 3072, 8000])
async def test_relay_that_reads_too_slowly_is_given_up_before_the_dot(
    nursery: trio.Nursery, autojump_clock: object, octets_per_s: float
) -> None:
    outcome, took_s, messages = await send_paced(nursery, octets_per_s, EIGHT_MB)

    assert isinstance(outcome, Deferred)
    assert outcome.scope is Scope.PROVIDER
    assert outcome.reason.text.startswith("body: ")
    assert took_s < 65.0
    assert [] == messages


@pytest.mark.parametrize(("octets_per_s", "octets"), [(10_000, EIGHT_MB), (1000, 50_000)])
async def test_relay_that_is_only_slow_gets_the_message(
    nursery: trio.Nursery, autojump_clock: object, octets_per_s: float, octets: int
) -> None:
    outcome, took_s, messages = await send_paced(nursery, octets_per_s, octets)

    assert isinstance(outcome, Accepted)
    assert took_s == pytest.approx(len(messages[0]) / octets_per_s, rel=0.05)


async def test_message_that_would_be_late_at_this_pace_is_given_up_early(
    nursery: trio.Nursery, autojump_clock: object
) -> None:
    outcome, took_s, messages = await send_paced(nursery, 20_000, EIGHT_MB, deadline_s=300.0)

    assert isinstance(outcome, Deferred)
    assert took_s < 60.0
    assert [] == messages


async def test_answers_that_are_each_in_time_do_not_exceed_the_budget(
    nursery: trio.Nursery, autojump_clock: object
) -> None:
    script: Script = {"EHLO": ONE_BY_ONE, f"RCPT TO:<{CAT}>": b"550 5.1.1 no such user\r\n"}
    connector = Delayed(FakeRelay(nursery, script), 50.0)
    session = await open_session(make_provider(connector, connect_timeout_s=60))
    many = [f"r{n}@y.example" for n in range(50)]
    began_s = trio.current_time()

    outcome = await session.send(make_mail(CAT, *many))

    assert isinstance(outcome, Deferred)
    assert outcome.scope is Scope.PROVIDER
    assert "within 300 s" in outcome.reason.text
    assert isinstance(outcome.refused[CAT], Rejected)
    assert trio.current_time() - began_s == pytest.approx(200.0, abs=1.0)  # 100 s went to connect
    nursery.cancel_scope.cancel()


async def test_connection_that_is_never_ready_does_not_exceed_the_budget(
    nursery: trio.Nursery, autojump_clock: object
) -> None:
    connector = Delayed(FakeRelay(nursery), 25.0)
    provider = make_provider(connector, attempt_timeout_s=40)

    refusal = await provider.connect()

    assert isinstance(refusal, Deferred)
    assert refusal.scope is Scope.PROVIDER
    assert refusal.reason.text == "hello: the relay was not ready for mail within 40 s"
    assert trio.current_time() == pytest.approx(40.0)
    nursery.cancel_scope.cancel()


async def test_handshake_obeys_the_connect_timeout(
    nursery: trio.Nursery, autojump_clock: object
) -> None:
    relay = FakeRelay(nursery, {"greeting": Fault.KEEP_SILENT})
    refusal = await make_provider(relay, tls="implicit", connect_timeout_s=7).connect()

    assert isinstance(refusal, Deferred)
    assert refusal.reason.text == "tls: no TLS handshake within 7 s"
    assert trio.current_time() == pytest.approx(7.0)
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize("verb", ["MAIL", "RCPT", "DATA"])
async def test_deadline_ends_an_attempt_before_the_dot(
    nursery: trio.Nursery, autojump_clock: object, verb: str
) -> None:
    provider = make_provider(FakeRelay(nursery, {verb: Fault.KEEP_SILENT}))
    session = await open_session(provider)

    outcome = await session.send(msgspec.structs.replace(make_mail(), deadline_s=20.0))

    assert isinstance(outcome, NotAttempted)
    assert outcome.why is Why.EXPIRED
    assert trio.current_time() == pytest.approx(20.0)
    nursery.cancel_scope.cancel()


async def test_deadline_in_the_body_leaves_what_is_known_of_recipients(
    nursery: trio.Nursery, autojump_clock: object
) -> None:
    relay = FakeRelay(nursery, {"EHLO": ROOMY, f"RCPT TO:<{CAT}>": b"550 5.1.1 no such user\r\n"})

    class Slow(Paced):
        def __init__(self) -> None:
            self.relays, self.paces = {"relay": relay}, {"relay": 100.0}

    session = await open_session(make_provider(Slow()))
    mail = msgspec.structs.replace(make_mail(BOB, CAT, text="x\n" * 5000), deadline_s=20.0)

    outcome = await session.send(mail)

    assert isinstance(outcome, Deferred)
    assert outcome.scope is Scope.MESSAGE
    assert [CAT] == list(outcome.refused)
    assert trio.current_time() == pytest.approx(20.0)
    assert [] == relay.messages


async def test_deadline_after_the_dot_changes_nothing(
    nursery: trio.Nursery, autojump_clock: object
) -> None:
    session = await open_session(make_provider(FakeRelay(nursery, {".": Fault.KEEP_SILENT})))

    outcome = await session.send(msgspec.structs.replace(make_mail(), deadline_s=20.0))

    assert isinstance(outcome, Uncertain)
    assert trio.current_time() == pytest.approx(FINAL_TIMEOUT_S)
    nursery.cancel_scope.cancel()


async def test_connection_that_was_given_up_is_not_used_again(
    nursery: trio.Nursery, autojump_clock: object
) -> None:
    relay = FakeRelay(nursery, {"RCPT": [Fault.KEEP_SILENT, b"250 ok\r\n"]})
    provider = make_provider(relay)
    await (await open_session(provider)).send(msgspec.structs.replace(make_mail(), deadline_s=20.0))

    outcome = await (await open_session(provider)).send(make_mail())

    assert isinstance(outcome, Accepted)
    assert 2 == relay.connections_count
    nursery.cancel_scope.cancel()


async def test_reused_connection_is_given_up_in_time_as_well(
    nursery: trio.Nursery, autojump_clock: object
) -> None:
    relay = FakeRelay(nursery, {"MAIL": [b"250 ok\r\n", Fault.KEEP_SILENT]})
    provider = make_provider(relay)
    await (await open_session(provider)).send(make_mail())

    outcome = await (await open_session(provider)).send(
        msgspec.structs.replace(make_mail(), deadline_s=trio.current_time() + 20.0)
    )

    assert isinstance(outcome, NotAttempted)
    assert trio.current_time() == pytest.approx(20.0)
    nursery.cancel_scope.cancel()


async def test_socket_that_nobody_reads_gets_no_dot(autojump_clock: object) -> None:
    """The system's buffers do not hide the pace: the dot is not among what they hold."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        provider = make_provider(host="127.0.0.1", port=listener.getsockname()[1])
        outcomes: list[Outcome] = []

        async def send() -> None:
            session = await open_session(provider)
            outcomes.append(await session.send(make_mail(text=("x" * 77 + "\n") * 40_000)))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            peer, _ = await trio.socket.from_stdlib_socket(listener).accept()
            await peer.send(b"220 ready\r\n")
            await peer.recv(1000)
            await peer.send(ROOMY)
            await peer.recv(1000)
            await peer.send(b"250 ok\r\n250 ok\r\n354 go ahead\r\n")
        peer.close()

    (outcome,) = outcomes
    assert isinstance(outcome, Deferred), outcome
    assert outcome.reason.text.startswith("body: ")


# The whole gateway


def two_relays() -> dict[str, dict[str, Any]]:
    plain = {"kind": "smtp", "tls": "none", "hello_name": "[127.0.0.1]"}
    return {name: {**plain, "host": f"{name}.example"} for name in ("primary", "secondary")}


@pytest.mark.parametrize("octets_per_s", [3000, 15_000])
async def test_large_message_goes_to_the_idle_lane_before_its_deadline(
    nursery: trio.Nursery, autojump_clock: object, octets_per_s: float
) -> None:
    relays = Paced(nursery, primary=octets_per_s, secondary=10e6)
    ports = dataclasses.replace(make_ports(), connector=relays)
    config = make_config(two_relays(), streams={"otp": {"expires_after_s": 400.0}})
    with open_store() as store:
        async with running(config, store, ports) as gateway:
            text = ("x" * 77 + "\n") * (EIGHT_MB // 79)
            await gateway.door.submit(letter("1", text=text, stream="otp"))
            await wait_for_states(gateway, sent=1)

            assert trio.current_time() < 100.0
    assert [] == relays.relays["primary"].messages
    assert 1 == len(relays.relays["secondary"].messages)
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize("verb", ["greeting", "MAIL", "RCPT", "DATA"])
async def test_message_expires_at_its_deadline_whatever_its_relay_does(
    nursery: trio.Nursery, autojump_clock: object, verb: str
) -> None:
    relay = FakeRelay(nursery, {verb: Fault.KEEP_SILENT})
    ports = dataclasses.replace(make_ports(), connector=relay)
    providers = {"only": two_relays()["primary"]}
    config = make_config(providers, streams={"otp": {"expires_after_s": 10.0}})
    with open_store() as store:
        async with running(config, store, ports) as gateway:
            await gateway.door.submit(letter("1", stream="otp"))
            await wait_for_states(gateway, expired=1)

            assert trio.current_time() < 14.0
            await trio.sleep(1.0)
            assert {} == gateway.lanes["only"].in_flight
            assert ["expired"] == states(await status(gateway, "1"))
    nursery.cancel_scope.cancel()


async def test_messages_that_expire_on_the_way_say_nothing_of_the_relay(
    nursery: trio.Nursery, autojump_clock: object
) -> None:
    connector = Delayed(FakeRelay(nursery, {"EHLO": ONE_BY_ONE}), 1.0)
    ports = dataclasses.replace(make_ports(), connector=connector)
    config = make_config(
        {"only": two_relays()["primary"]}, streams={"otp": {"expires_after_s": 4.5}}
    )
    with open_store() as store:
        async with running(config, store, ports) as gateway:
            for number in range(20):
                await gateway.door.submit(letter(str(number), stream="otp"))
            await wait_for_states(gateway, expired=20)

            assert BreakerState.CLOSED is gateway.lanes["only"].breaker_status.value.state
    nursery.cancel_scope.cancel()
