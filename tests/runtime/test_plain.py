"""A plain socket's own count of what it took."""

import socket
from collections.abc import AsyncIterator

import pytest
import trio
import trio.testing

from mailactors.runtime.plain import PlainSocket

Pair = tuple[PlainSocket, trio.SocketStream, trio.SocketStream]


@pytest.fixture
async def pair() -> AsyncIterator[Pair]:
    """A plain socket with a small buffer, the stream over it, and the other end."""
    near, far = trio.socket.socketpair()
    near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    stream = trio.SocketStream(near)
    plain = PlainSocket.under(stream)
    assert plain is not None
    other = trio.SocketStream(far)
    yield plain, stream, other
    await stream.aclose()
    await other.aclose()


async def test_what_the_kernel_took_is_what_arrives(pair: Pair) -> None:
    plain, near, far = pair
    data = bytes(range(256)) * 4096

    taken = plain.write_now(data)
    refused = plain.write_now(data[taken:])

    assert 0 < taken < len(data)
    assert 0 == refused
    await near.aclose()
    assert data[:taken] == b"".join([each async for each in far])


async def test_a_write_that_waits_loses_nothing(pair: Pair) -> None:
    plain, near, far = pair
    data = bytes(range(256)) * 4096
    arrived = bytearray()

    async def read() -> None:
        async for each in far:
            arrived.extend(each)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        await plain.write(data)
        await near.aclose()

    assert data == arrived


async def test_a_look_waits_for_nothing(pair: Pair) -> None:
    plain, _near, far = pair

    nothing = plain.read_now()
    await far.send_all(b"later")
    something = await plain.read()
    await far.aclose()

    assert (None, b"later", b"") == (nothing, something, await plain.read())


async def test_a_broken_socket_takes_nothing(pair: Pair) -> None:
    plain, _near, far = pair
    await far.aclose()

    with pytest.raises(trio.BrokenResourceError, match="socket connection broken"):
        plain.write_now(b"x")


async def test_closing_the_stream_ends_a_wait(pair: Pair) -> None:
    plain, near, _far = pair

    async with trio.open_nursery() as nursery:
        nursery.start_soon(near.aclose)
        with pytest.raises(trio.ClosedResourceError):
            await plain.read()


async def test_only_a_plain_socket_says_how_much_it_took() -> None:
    near, _far = trio.testing.memory_stream_pair()

    assert PlainSocket.under(near) is None
