"""Stopping the server: what is in flight is finished, and nobody can hold it up."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
import trio

from tests.api.rig import ListJournal, Rig, Served, Waiter, read_all, read_until, serve


async def stop_by_event(served: Served) -> None:
    served.listening.shutdown.set()
    await served.listening.drained.wait()


async def stop_by_cancellation(served: Served) -> None:
    served.scope.cancel()
    await served.ended.wait()


@pytest.mark.parametrize("stop", [stop_by_event, stop_by_cancellation])
async def test_a_request_in_flight_is_answered_before_the_server_stops(
    waiter: Waiter, stop: Callable[[Served], Awaitable[None]]
) -> None:
    async with (
        serve(waiter.app, ListJournal()) as served,
        await served.connect() as stream,
        trio.open_nursery() as nursery,
    ):
        await stream.send_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await waiter.entered.wait()
        nursery.start_soon(stop, served)
        await wait_refused(served)
        waiter.leave.set()

        assert b"done" in await read_all(stream)


async def wait_refused(served: Served) -> None:
    """Return when nobody listens any more; a connection made before is closed by the server."""
    while True:
        try:
            async with await served.connect() as stream:
                await read_all(stream)
        except OSError:
            return


@pytest.mark.parametrize("stop", [stop_by_event, stop_by_cancellation])
async def test_a_request_that_does_not_end_is_cut_after_the_grace(
    waiter: Waiter, stop: Callable[[Served], Awaitable[None]]
) -> None:
    async with (
        serve(waiter.app, ListJournal(), graceful_s=0.05) as served,
        await served.connect() as stream,
        trio.open_nursery() as nursery,
    ):
        await stream.send_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await waiter.entered.wait()
        nursery.start_soon(stop, served)

        with trio.fail_after(2):
            assert await read_all(stream) == b""


async def test_a_client_that_does_not_read_cannot_hold_the_stop(waiter: Waiter) -> None:
    async with (
        serve(waiter.app, ListJournal(), graceful_s=0.05, send_s=60) as served,
        await served.connect() as stream,
    ):
        await stream.send_all(b"GET /big HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await waiter.entered.wait()

        with trio.fail_after(2):
            await stop_by_cancellation(served)


async def test_an_idle_connection_does_not_hold_the_stop(rig: Rig) -> None:
    async with (
        serve(rig.app, rig.journal, graceful_s=60, keep_alive_s=60) as served,
        await served.connect() as stream,
    ):
        await stream.send_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await read_until(stream, b'"ok"')

        with trio.fail_after(2):
            await stop_by_event(served)
