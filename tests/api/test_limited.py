"""A body and its limit, by either of the ways in which Quart gives it its parts."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
import trio
from werkzeug.exceptions import RequestEntityTooLarge

from mailactors.api.exchange import LimitedRequest
from mailactors.api.limited import LimitedBody

Feed = Callable[[LimitedBody, bytes], Awaitable[None]]


async def append(body: LimitedBody, data: bytes) -> None:
    body.append(data)  # Quart 0.22


async def put(body: LimitedBody, data: bytes) -> None:
    await body.put(data)  # Quart 0.23


feeds = pytest.mark.parametrize("feed", [append, put])


def test_every_request_has_such_a_body() -> None:
    assert LimitedRequest.body_class is LimitedBody


@feeds
async def test_parts_up_to_the_limit_are_one_body(feed: Feed) -> None:
    body = LimitedBody(None, 10)
    for part in (b"12345", b"", b"67890"):
        await feed(body, part)
    body.set_complete()

    assert b"1234567890" == await body


@feeds
async def test_a_body_without_end_is_refused_at_the_first_byte_too_many(
    feed: Feed, autojump_clock: trio.testing.MockClock
) -> None:
    body = LimitedBody(None, 10)

    async def feed_without_end() -> None:
        while True:
            await feed(body, b"12345")
            await trio.sleep(1)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(feed_without_end)
        with pytest.raises(RequestEntityTooLarge):
            await body
        assert trio.current_time() == pytest.approx(2)
        await trio.sleep(10)
        nursery.cancel_scope.cancel()

    assert len(body) == 0


@feeds
async def test_what_no_handler_reads_is_not_kept_without_limit(feed: Feed) -> None:
    body = LimitedBody(None, 10)

    for _ in range(100):
        await feed(body, b"1234567")

    assert len(body) == 0


async def test_a_length_over_the_limit_is_refused_before_a_byte_has_come() -> None:
    with pytest.raises(RequestEntityTooLarge):
        await LimitedBody(11, 10)


async def test_without_a_limit_all_is_taken() -> None:
    body = LimitedBody(None, None)
    body.append(b"x" * 1000)
    body.set_complete()

    assert 1000 == len(await body)
