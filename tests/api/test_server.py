"""The server on real loopback sockets: what strangers send, slow peers, and stopping."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import socket
from typing import Any

import h2.config
import h2.connection
import pytest
import trio

from mailactors.api import strict
from mailactors.api.server import (
    ACCEPT_AGAIN_S,
    LOGGER_NAME,
    Listening,
    PatientListener,
    Timeouts,
    format_host,
)
from mailactors.runtime.ports import SystemClock
from mailactors.runtime.shortage import Shortages
from tests.api.rig import (
    GET,
    ListJournal,
    Rig,
    Served,
    Waiter,
    assert_serving,
    read_all,
    read_until,
    serve,
)

POST = b"POST /send-email HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
UPGRADE = (
    b"GET /ws HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
SILENCE_S = 0.15


# Requests that end an uncontained hypercorn 0.18, and what ends a connection here


async def test_a_websocket_upgrade_with_one_more_byte_is_a_plain_request(
    rig: Rig, served: Served
) -> None:
    async with await served.connect() as stream:
        await stream.send_all(UPGRADE + b"x")
        answer = await read_until(stream, b"}")

    assert answer.startswith(b"HTTP/1.1 404")
    await assert_serving(served)
    assert rig.journal.events() == ["api.listening"]


async def test_http2_is_refused_before_its_first_frame(rig: Rig, served: Served) -> None:
    client = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
    client.initiate_connection()
    client.send_headers(1, h2_headers("POST", "/nowhere"))

    answer = await served.ask(client.data_to_send())

    assert answer.startswith(b"HTTP/1.1 505")
    assert b"connection: close" in answer.lower()
    assert rig.journal.events() == ["api.listening"]


async def test_a_fault_of_a_connection_ends_only_itself(
    rig: Rig, served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    def faulty(_request: object) -> None:
        raise RuntimeError("a bug")

    with monkeypatch.context() as patch:
        patch.setattr(strict, "refuse", faulty)
        assert await served.ask(GET) == b""

    assert "api.connection" in rig.journal.events()
    await assert_serving(served)


def h2_headers(method: str, path: str) -> list[tuple[str, str]]:
    return [(":method", method), (":path", path), (":scheme", "http"), (":authority", "localhost")]


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x00\x01\x02\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX: a\x00b\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 20_000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: h2c\r\nHTTP2-Settings: !\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 100,
        b"CONNECT example.org:443 HTTP/1.1\r\nHost: example.org:443\r\n\r\n",
        b"GET //statuses HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        b"GET /statuses?id=%ff%00 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        b"GET /v1/messages/%ff%00 HTTP/1.1\r\nHost: \xff\r\nConnection: close\r\n\r\n",
        b"GET http://[ HTTP/1.1\r\nHost: [\r\nConnection: close\r\n\r\n",
        b"OPTIONS * HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
    ],
)
async def test_garbage_is_answered_or_cut_off_and_harms_nobody(
    rig: Rig, served: Served, garbage: bytes
) -> None:
    async with await served.connect() as stream:
        await stream.send_all(garbage)
        await stream.send_eof()
        answer = await read_all(stream)

    assert b"HTTP/1.1 500" not in answer
    assert "api.fault" not in rig.journal.events()
    await assert_serving(served)


async def test_connect_is_refused(served: Served) -> None:
    answer = await served.ask(b"CONNECT example.org:443 HTTP/1.1\r\nHost: example.org:443\r\n\r\n")

    assert answer.startswith(b"HTTP/1.1 405")
    assert b"application/problem+json" in answer


async def test_hypercorn_writes_neither_an_access_log_nor_a_banner(
    served: Served, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    with caplog.at_level(logging.DEBUG):
        answer = await served.ask(GET)

    assert b"server:" not in answer.lower()
    assert [record.name for record in caplog.records if "hypercorn" in record.name] == []
    assert not logging.getLogger(LOGGER_NAME).handlers
    assert capfd.readouterr() == ("", "")


# Bodies that are too large, and peers that are too slow


CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
BATCH = CHUNKED.replace(b"/send-email", b"/v1/messages/batch")
MIB_CHUNK = b"100000\r\n" + b"x" * 0x100000 + b"\r\n"


@pytest.mark.parametrize(
    "request_",
    [
        POST + b"Content-Length: 17000000\r\n\r\n",
        CHUNKED + b"1036640\r\n" + b"x" * 0x1036640 + b"\r\n",
        CHUNKED + MIB_CHUNK * 17,
        BATCH + MIB_CHUNK * 33,
        CHUNKED + MIB_CHUNK * 17 + b"0\r\n\r\n",
    ],
    ids=["content-length", "chunked", "many-chunks", "batch", "ended"],
)
async def test_a_body_over_the_limit_gets_its_answer_and_the_connection_is_closed(
    served: Served, request_: bytes
) -> None:
    async with await served.connect() as stream, trio.open_nursery() as nursery:
        nursery.start_soon(send_what_is_taken, stream, request_)
        answer = await read_all(stream)

    assert answer.startswith(b"HTTP/1.1 413")
    assert b"connection: close" in answer.lower()
    await assert_serving(served)


async def send_what_is_taken(stream: trio.SocketStream, data: bytes) -> None:
    with contextlib.suppress(trio.BrokenResourceError):
        await stream.send_all(data)


async def test_a_body_that_stalls_is_cut_off(rig: Rig) -> None:
    async with serve(rig.app, rig.journal, read_s=0.05) as served:
        answer = await served.ask(POST + b'Content-Length: 100\r\n\r\n{"id":')

        assert answer == b""
        await assert_serving(served)


async def test_a_body_that_trickles_gets_408_in_the_end(rig: Rig) -> None:
    rig.app.config["BODY_TIMEOUT"] = 0.05
    async with serve(rig.app, rig.journal) as served:
        answer = await served.ask(POST + b'Content-Length: 100\r\n\r\n{"id":')

        assert answer.startswith(b"HTTP/1.1 408")
        assert b"urn:mailactors:problem:request-timeout" in answer
        await assert_serving(served)


async def test_headers_that_never_end_are_cut_off(rig: Rig) -> None:
    async with serve(rig.app, rig.journal, keep_alive_s=0.05) as served:
        assert await served.ask(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n") == b""
        assert await served.ask(b"") == b""
        await assert_serving(served)


async def test_a_client_that_waits_for_its_answer_is_not_slow(waiter: Waiter) -> None:
    async with (
        serve(waiter.app, ListJournal(), read_s=0.02) as served,
        await served.connect() as stream,
    ):
        await stream.send_all(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n\r\n1")
        with trio.move_on_after(SILENCE_S) as silence:
            await stream.receive_some()
        waiter.leave.set()

        assert silence.cancelled_caught
        assert b"done" in await read_until(stream, b"done")


async def test_a_client_that_does_not_read_is_given_up(waiter: Waiter) -> None:
    async with (
        serve(waiter.app, ListJournal(), send_s=0.05) as served,
        await served.connect() as stream,
    ):
        await stream.send_all(b"GET /big HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await waiter.entered.wait()

        with trio.fail_after(2):
            await waiter.cancelled.wait()


async def test_a_client_that_hangs_up_cancels_its_handler(waiter: Waiter) -> None:
    async with serve(waiter.app, ListJournal()) as served:
        async with await served.connect() as stream:
            await stream.send_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            await waiter.entered.wait()

        with trio.fail_after(2):
            await waiter.cancelled.wait()


async def test_a_connection_too_many_is_closed_at_once(waiter: Waiter) -> None:
    listening = Listening("127.0.0.1", 0, connections_max=1)
    async with (
        serve(waiter.app, ListJournal(), listening) as served,
        await served.connect() as stream,
    ):
        await stream.send_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await waiter.entered.wait()

        assert await served.ask(b"") == b""
        assert served.server.refused_count == 1


# Binding


async def test_a_restarted_server_takes_the_same_port_again(rig: Rig) -> None:
    listening = Listening("127.0.0.1", 0)
    async with serve(rig.app, rig.journal, listening) as served:
        first = listening.bound.value
        await assert_serving(served)

    async with serve(rig.app, rig.journal, listening) as served:
        assert listening.bound.value == first == (f"http://127.0.0.1:{served.port}",)
        await assert_serving(served)


async def test_an_address_in_use_is_an_error_at_the_start(rig: Rig) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        listening = Listening("127.0.0.1", taken.getsockname()[1])

        with pytest.RaisesGroup(OSError, flatten_subgroups=True):
            async with serve(rig.app, rig.journal, listening):
                pass


def test_an_ipv6_host_is_bracketed_in_a_url() -> None:
    assert format_host("::1") == "[::1]"


def test_the_server_gives_a_submission_longer_than_the_door_does() -> None:
    from mailactors.intake.door import ACCEPT_WITHIN_S

    assert Timeouts().graceful_s <= ACCEPT_WITHIN_S


@pytest.mark.parametrize("said", [b"", b"GET /health", GET])
async def test_a_connection_that_its_client_has_closed_is_closed_at_once(
    rig: Rig, said: bytes
) -> None:
    async with (
        serve(rig.app, rig.journal, keep_alive_s=3600, read_s=3600) as served,
        await served.connect() as stream,
    ):
        await stream.send_all(said)
        if said == GET:
            await read_until(stream, b"\r\n\r\n")
        await stream.send_eof()
        await read_all(stream)


# Our own shortage


class Exhausted:
    """A listener that fails so often before it accepts."""

    def __init__(self, number: int, times: int) -> None:
        self.number, self.times = number, times

    async def accept(self) -> str:
        await trio.lowlevel.checkpoint()
        if self.times:
            self.times -= 1
            raise OSError(self.number, os.strerror(self.number))
        return "stream"


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM])
async def test_a_listener_waits_for_descriptors_and_says_so(
    autojump_clock: object, number: int
) -> None:
    shortages, inner = Shortages(SystemClock()), Exhausted(number, 20)
    listener: Any = PatientListener(inner, shortages)  # type: ignore[arg-type]

    assert "stream" == await listener.accept()

    assert 20 * ACCEPT_AGAIN_S == pytest.approx(trio.current_time())
    assert {("api",): 20} == shortages.counts.counts


async def test_a_listener_that_is_broken_is_not_waited_for(autojump_clock: object) -> None:
    listener: Any = PatientListener(Exhausted(errno.EINVAL, 1), None)  # type: ignore[arg-type]

    with pytest.raises(OSError, match="Invalid argument"):
        await listener.accept()
