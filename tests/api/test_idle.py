"""A thousand connections of each kind that keep the server waiting: none shuts the door."""

from __future__ import annotations

import contextlib
import resource
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Iterator

import pytest
import trio
import trustme

from mailactors.api.events import STREAMS_MAX
from mailactors.api.server import Listening, Timeouts, notice_dead_peer
from tests.api.rig import GET, ListJournal, Rig, Served, Waiter, assert_serving, read_until, serve

COUNT = 1000
WITHIN_S = 30.0
DESCRIPTORS = 3 * COUNT
HEAD = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n"
POST = b"POST /send-email HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
EVENTS = b"GET /v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n"
KINDS = {
    "nothing": b"",
    "half-a-request-line": b"GET /heal",
    "half-the-headers": HEAD + b"X: ",
    "half-a-body": POST + b'Content-Length: 100\r\n\r\n{"id":',
    "half-a-chunk": POST + b'Transfer-Encoding: chunked\r\n\r\n64\r\n{"id":',
    "a-body-that-is-asked-for": POST + b"Expect: 100-continue\r\nContent-Length: 9\r\n\r\n",
    "a-body-that-nobody-reads": HEAD + b"Content-Length: 100\r\n\r\n",
    "keep-alive": HEAD + b"\r\n",
    "keep-alive-and-half-a-request": HEAD + b"\r\n" + HEAD,
    "refused": b"GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n",
    "http2-preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00",
    "http2-by-upgrade": HEAD + b"Connection: Upgrade\r\nUpgrade: h2c\r\nHTTP2-Settings: \r\n\r\n",
    "websocket": HEAD + b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
}
pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def descriptors() -> Iterator[None]:
    """Both ends of each connection are in this process."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert before[1] == resource.RLIM_INFINITY or before[1] >= DESCRIPTORS, "raise ulimit -Hn"
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(before[0], DESCRIPTORS), before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@contextlib.asynccontextmanager
async def opened(served: Served, said: bytes) -> AsyncIterator[list[trio.SocketStream]]:
    """Open a thousand connections that say something, and then nothing."""
    streams: list[trio.SocketStream] = []
    try:
        for _ in range(COUNT):
            streams.append(await served.connect())
            with contextlib.suppress(trio.BrokenResourceError):
                await streams[-1].send_all(said)
        yield streams
    finally:
        for stream in streams:
            await trio.aclose_forcefully(stream)


async def wait_all_closed(streams: list[trio.SocketStream]) -> None:
    with trio.fail_after(WITHIN_S):
        for stream in streams:
            with contextlib.suppress(trio.BrokenResourceError):
                while await stream.receive_some():
                    pass


@pytest.mark.parametrize("kind", KINDS)
async def test_a_thousand_that_wait_shut_nobody_out_and_end(rig: Rig, kind: str) -> None:
    listening = Listening("127.0.0.1", 0, connections_max=COUNT // 4)
    async with (
        serve(rig.app, rig.journal, listening, keep_alive_s=1.0, read_s=1.0) as served,
        opened(served, KINDS[kind]) as streams,
    ):
        await assert_serving(served)
        await wait_all_closed(streams)

        await assert_serving(served)
    assert "api.connection" not in rig.journal.events()
    assert "api.fault" not in rig.journal.events()


async def test_a_thousand_halves_of_a_handshake_shut_nobody_out_and_end(rig: Rig) -> None:
    authority, context = trustme.CA(), ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(context)
    listening = Listening("127.0.0.1", 0, tls=context)
    hello = bytes.fromhex("16030100c8010000c40303")
    async with (
        serve(rig.app, rig.journal, listening, keep_alive_s=1.0) as served,
        opened(served, hello) as streams,
    ):
        await wait_all_closed(streams)
        assert len(served.server._live) == 0
    assert "api.connection" not in rig.journal.events()


async def test_a_thousand_event_streams_are_a_few_and_go_with_their_peers(rig: Rig) -> None:
    async with serve(rig.app, rig.journal, keep_alive_s=1.0) as served:
        async with opened(served, EVENTS) as streams:
            await assert_serving(served)
            assert len(rig.parts.streams) == STREAMS_MAX
            for stream in streams:  # they vanish with a reset, as a process that is killed
                stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        with trio.fail_after(WITHIN_S):
            while True:
                await trio.lowlevel.checkpoint()
                if not rig.parts.streams:
                    break

        async with await served.connect() as stream:
            await stream.send_all(EVENTS)
            assert b"200" in await read_until(stream, b"id: ")


async def test_the_one_that_was_silent_for_longest_makes_room(waiter: Waiter) -> None:
    listening = Listening("127.0.0.1", 0, connections_max=3)
    async with serve(waiter.app, ListJournal(), listening) as served:
        busy, first, second = [await served.connect() for _ in range(3)]
        await busy.send_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await waiter.entered.wait()
        await first.send_all(b"GET /big")
        await trio.testing.wait_all_tasks_blocked()
        async with await served.connect() as third:
            with trio.fail_after(WITHIN_S):
                assert await second.receive_some() == b""
            assert (served.server.cut_count, served.server.refused_count) == (1, 0)
            await third.send_all(GET)
            assert b"404" in await read_until(third, b"\r\n\r\n")
        waiter.leave.set()
        assert b"done" in await read_until(busy, b"done")
        for stream in (busy, first, second):
            await trio.aclose_forcefully(stream)


async def test_a_peer_whose_machine_is_gone_is_noticed_by_the_system() -> None:
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listener, await trio.testing.open_stream_to_socket_listener(listener) as client:
        async with await listener.accept() as stream:
            notice_dead_peer(stream, Timeouts().dead_s)

            def option(name: str) -> int:
                value = stream.getsockopt(socket.IPPROTO_TCP, getattr(socket, name))
                assert isinstance(value, int)
                return value

            assert stream.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
            assert option("TCP_USER_TIMEOUT") == 10_000
            silent_s = option("TCP_KEEPIDLE") + option("TCP_KEEPINTVL") * option("TCP_KEEPCNT")
            assert silent_s <= 10
        assert client.socket.fileno() != -1


def test_no_connection_may_wait_for_a_minute() -> None:
    timeouts = Timeouts()

    assert max(timeouts.read_s, timeouts.keep_alive_s, timeouts.send_s, timeouts.dead_s) <= 10
