"""What h11 would let pass: refused, the connection closed, and nothing after it is read."""

from __future__ import annotations

import pytest

from tests.api.rig import GET, Rig, Served, assert_serving

HEAD = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n"
POST = b"POST /send-email HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n"
BODY = b'{"id":"a","to":"a@example.org","subject":"s","body":"b"}'
ONE_CHUNK = b"%x\r\n%b\r\n" % (len(BODY), BODY)

REFUSED = {
    "all-lf": (400, b"GET /healthz HTTP/1.1\nHost: localhost\n\n"),
    "request-line-lf": (400, b"GET /healthz HTTP/1.1\nHost: localhost\r\n\r\n"),
    "header-lf": (400, HEAD + b"X: 1\nY: 2\r\n\r\n"),
    "last-line-lf": (400, HEAD + b"X: 1\r\n\n"),
    "header-end-lf": (400, HEAD + b"X: 1\n\r\n"),
    "leading-lf": (400, b"\n" + HEAD + b"\r\n"),
    "bare-cr": (400, HEAD + b"X: 1\rY: 2\r\n\r\n"),
    "trailer-lf": (None, CHUNKED + b"\r\n" + ONE_CHUNK + b"0\r\nX: 1\n\r\n"),
    "end-lf": (None, CHUNKED + b"\r\n" + ONE_CHUNK + b"0\r\n\n"),
    "chunk-size-lf": (None, CHUNKED + b"\r\n" + b"%x\n%b\r\n0\r\n\r\n" % (len(BODY), BODY)),
    "chunk-extension-cr": (
        None,
        CHUNKED + b"\r\n" + b"%x;a\rb\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY),
    ),
    "http-3.7": (505, b"GET /healthz HTTP/3.7\r\nHost: localhost\r\n\r\n"),
    "http-2.0": (505, b"GET /healthz HTTP/2.0\r\nHost: localhost\r\n\r\n"),
    "http-1.2": (505, b"GET /healthz HTTP/1.2\r\nHost: localhost\r\n\r\n"),
    "http-0.9": (505, b"GET /healthz HTTP/0.9\r\n\r\n"),
    "h2c-prior-knowledge": (
        505,
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00",
    ),
    "lower-case": (501, b"get /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"),
    "mixed-case": (
        501,
        b"Post /send-email HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n",
    ),
    "length-and-chunked": (400, CHUNKED + b"Content-Length: 5\r\n\r\n" + ONE_CHUNK + b"0\r\n\r\n"),
    "chunked-and-length": (
        400,
        POST
        + b"Content-Length: 5\r\nTransfer-Encoding: Chunked\r\n\r\n"
        + ONE_CHUNK
        + b"0\r\n\r\n",
    ),
    "http-1.0-chunked": (
        400,
        CHUNKED.replace(b"HTTP/1.1", b"HTTP/1.0") + b"\r\n" + ONE_CHUNK + b"0\r\n\r\n",
    ),
    "two-lengths": (400, POST + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n" + BODY),
    "two-codings": (501, CHUNKED + b"Transfer-Encoding: identity\r\n\r\n"),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_what_two_readers_may_take_differently_is_refused(
    rig: Rig, served: Served, name: str
) -> None:
    status, request = REFUSED[name]

    answer = await served.ask(request + GET)

    refusals = {400, 501, 505} if status is None else {status}
    assert int(answer.split()[1]) in refusals if answer else status is None, answer
    assert answer.count(b"HTTP/1.1 ") <= 1, "what came after it was read"
    assert rig.parts.door.results.counts == {}
    await assert_serving(served)


async def test_what_keeps_to_the_grammar_passes(served: Served) -> None:
    last = b"Connection: close\r\n\r\n"
    length = b"Content-Length: %d\r\n" % len(BODY)
    for request in (
        HEAD + last,
        b"GET /healthz HTTP/1.0\r\n\r\n",
        POST + length + last + BODY,
        CHUNKED + last + ONE_CHUNK + b"0\r\n\r\n",
        CHUNKED + last + b"%x;a=b\r\n%b\r\n0\r\nX: 1\r\n\r\n" % (len(BODY), BODY),
        HEAD + b"X-Long: " + b"y" * 10_000 + b"\r\n" + last,
    ):
        assert (await served.ask(request)).split()[1] in {b"200", b"202"}, request


UPGRADES = {
    "h2c": HEAD + b"Connection: Upgrade, HTTP2-Settings, close\r\nUpgrade: h2c\r\n"
    b"HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n\r\n",
    "websocket": HEAD + b"Connection: Upgrade, close\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
    "several": HEAD + b"Connection: Upgrade, close\r\nUpgrade: h2c\r\nUpgrade: websocket\r\n\r\n",
}


@pytest.mark.parametrize("name", UPGRADES)
@pytest.mark.parametrize("more", [b"", b"x", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"])
async def test_an_upgrade_is_not_taken_up(served: Served, name: str, more: bytes) -> None:
    answer = await served.ask(UPGRADES[name] + more)

    assert answer.startswith(b"HTTP/1.1 200")
    assert b"101" not in answer.partition(b"\r\n\r\n")[0]
    assert b'"ok"' in answer
    await assert_serving(served)


async def test_a_body_is_read_although_its_request_asks_for_an_upgrade(
    rig: Rig, served: Served
) -> None:
    wants = b"Connection: Upgrade, close\r\nUpgrade: h2c\r\nContent-Length: %d\r\n\r\n" % len(BODY)

    answer = await served.ask(POST + wants + BODY)

    assert answer.startswith(b"HTTP/1.1 202")
