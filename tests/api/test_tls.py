"""The API over TLS, and what else may come to a port that expects it."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator

import pytest
import trio
import trustme

from mailactors.api.server import Listening
from tests.api.rig import GET, WITHIN_S, Rig, Served, read_all, serve

HELLO_THAT_STOPS = bytes.fromhex("16030100c8010000c40303")
"""The first bytes of a TLS handshake, and then nothing."""


@pytest.fixture
def client_side() -> ssl.SSLContext:
    return ssl.create_default_context()


@pytest.fixture
async def secured(rig: Rig, client_side: ssl.SSLContext) -> AsyncIterator[Served]:
    authority = trustme.CA()
    server_side = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server_side.set_alpn_protocols(["http/1.1"])
    authority.issue_cert("localhost").configure_cert(server_side)
    authority.configure_trust(client_side)
    listening = Listening("127.0.0.1", 0, tls=server_side)
    async with serve(rig.app, rig.journal, listening, keep_alive_s=0.3) as served:
        yield served


async def ask_securely(
    served: Served, client_side: ssl.SSLContext, request: bytes
) -> tuple[bytes, str | None]:
    """Return the answer, and the protocol that both sides agreed on."""
    tcp = await served.connect()
    async with trio.SSLStream(
        tcp, client_side, server_hostname="localhost", https_compatible=True
    ) as stream:
        await stream.send_all(request)
        answer = await read_all(stream)
        return answer, stream.selected_alpn_protocol()


async def assert_secure(served: Served, client_side: ssl.SSLContext) -> None:
    answer, _ = await ask_securely(served, client_side, GET)
    assert answer.startswith(b"HTTP/1.1 200"), answer


async def test_it_serves_over_tls_and_says_so(secured: Served, client_side: ssl.SSLContext) -> None:
    answer, protocol = await ask_securely(secured, client_side, GET)

    assert answer.startswith(b"HTTP/1.1 200")
    assert protocol is None  # a client that offers none gets HTTP/1.1
    assert secured.listening.bound.value == (f"https://127.0.0.1:{secured.port}",)


@pytest.mark.parametrize("offered", [["http/1.1"], ["h2", "http/1.1"]])
async def test_a_client_that_offers_protocols_gets_http_1_1(
    secured: Served, client_side: ssl.SSLContext, offered: list[str]
) -> None:
    client_side.set_alpn_protocols(offered)

    answer, protocol = await ask_securely(secured, client_side, GET)

    assert (answer[:12], protocol) == (b"HTTP/1.1 200", "http/1.1")


async def test_a_message_comes_in_over_tls(secured: Served, client_side: ssl.SSLContext) -> None:
    body = b'{"id": "a", "to": "a@example.org", "subject": "s", "body": "b"}'
    head = b"POST /send-email HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    length = f"Connection: close\r\nContent-Length: {len(body)}\r\n\r\n".encode()

    answer, _ = await ask_securely(secured, client_side, head + length + body)

    assert answer.startswith(b"HTTP/1.1 202")


@pytest.mark.parametrize(
    "garbage", [GET, b"\x00" * 100, b"", HELLO_THAT_STOPS], ids=["http", "zeros", "none", "half"]
)
async def test_what_is_no_tls_is_cut_off_and_harms_nobody(
    secured: Served, client_side: ssl.SSLContext, rig: Rig, garbage: bytes
) -> None:
    async with await secured.connect() as stream:
        if garbage:
            await stream.send_all(garbage)
        answer = await read_all(stream)

    assert not answer.startswith(b"HTTP")
    assert "api.fault" not in rig.journal.events()
    await assert_secure(secured, client_side)


async def test_a_client_that_does_not_trust_us_harms_nobody(
    secured: Served, client_side: ssl.SSLContext
) -> None:
    stranger = ssl.create_default_context()
    tcp = await secured.connect()
    with pytest.raises(trio.BrokenResourceError):
        async with trio.SSLStream(tcp, stranger, server_hostname="localhost") as stream:
            await stream.do_handshake()

    await assert_secure(secured, client_side)


async def test_an_idle_tls_connection_does_not_hold_the_stop(
    secured: Served, client_side: ssl.SSLContext
) -> None:
    tcp = await secured.connect()
    async with trio.SSLStream(
        tcp, client_side, server_hostname="localhost", https_compatible=True
    ) as stream:
        await stream.do_handshake()
        secured.listening.shutdown.set()

        with trio.fail_after(WITHIN_S):
            await secured.listening.drained.wait()
