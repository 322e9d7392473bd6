"""Bodies in flight: what has no room is refused before it is read, and nothing stays counted."""

from __future__ import annotations

import json
from typing import Any

import pytest
import trio

from mailactors.api import budget, decoding, exchange
from mailactors.api.budget import LARGE_BYTES_MAX, SMALL_BYTES, SMALL_BYTES_MAX
from mailactors.api.exchange import BATCH_BYTES_MAX, BODY_BYTES_MAX
from tests.api.rig import Rig, Served, assert_serving, read_all, read_until, serve

POST = b"POST /send-email HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
BATCH = POST.replace(b"/send-email", b"/v1/messages/batch")
LARGE = 8 * 1024 * 1024
BODY = b'{"id":"a","to":"a@example.org","subject":"s","body":"b"}'


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[budget.BodyBudget]:
    """Return the budgets that are made."""
    made: list[budget.BodyBudget] = []
    create = budget.BodyBudget.__init__

    def note(self: budget.BodyBudget) -> None:
        create(self)
        made.append(self)

    monkeypatch.setattr(budget.BodyBudget, "__init__", note)
    return made


def of_length(length: int, head: bytes = POST) -> bytes:
    return head + b"Content-Length: %d\r\n\r\n" % length


def problem_in(answer: bytes) -> dict[str, Any]:
    problem: dict[str, Any] = json.loads(answer.partition(b"\r\n\r\n")[2])
    return problem


async def begun(served: Served, request: bytes) -> trio.SocketStream:
    """Send the beginning of a request."""
    stream = await served.connect()
    await stream.send_all(request)
    return stream


async def wait_for(counted: list[budget.BodyBudget], large: int, small: int = 0) -> None:
    with trio.fail_after(5):
        while True:
            if (counted[-1].large_bytes, counted[-1].small_bytes) == (large, small):
                return
            await trio.lowlevel.checkpoint()


async def test_a_large_body_too_many_is_told_to_come_again_before_it_is_read(
    rig: Rig, counted: list[budget.BodyBudget]
) -> None:
    async with serve(rig.app, rig.journal) as served:
        held = [await begun(served, of_length(LARGE) + b"x" * 1000) for _ in range(2)]
        await wait_for(counted, 2 * LARGE)

        refused = await served.ask(of_length(LARGE))
        closing = POST + b"Connection: close\r\n"
        small = await served.ask(of_length(len(BODY), closing) + BODY)

        assert refused.startswith(b"HTTP/1.1 503")
        assert b"retry-after: 1\r\n" in refused.lower()
        assert b"connection: close" in refused.lower()
        assert problem_in(refused)["type"] == "urn:mailactors:problem:overloaded"
        assert small.startswith(b"HTTP/1.1 202")
        for stream in held:
            await stream.aclose()
        await wait_for(counted, 0)
        async with await begun(served, of_length(LARGE)) as stream:
            await wait_for(counted, LARGE)
            assert stream is not None
        await wait_for(counted, 0)


async def test_a_client_that_sends_all_before_it_reads_gets_the_answer(
    rig: Rig, counted: list[budget.BodyBudget]
) -> None:
    async with serve(rig.app, rig.journal) as served:
        held = [await begun(served, of_length(LARGE)) for _ in range(2)]
        await wait_for(counted, 2 * LARGE)
        async with await served.connect() as stream:
            await stream.send_all(of_length(LARGE) + b"x" * LARGE)
            answer = await read_all(stream)
        async with await served.connect() as stream:
            await stream.send_all(
                of_length(LARGE).replace(b"localhost", b"evil.example") + b"x" * LARGE
            )
            misdirected = await read_all(stream)
        for each in held:
            await each.aclose()

        assert answer.startswith(b"HTTP/1.1 503")
        assert misdirected.startswith(b"HTTP/1.1 421")
        await assert_serving(served)


async def test_a_body_without_a_length_is_counted_as_it_comes(
    rig: Rig, counted: list[budget.BodyBudget]
) -> None:
    chunk = b"%x\r\n%b\r\n" % (1 << 20, b"x" * (1 << 20))
    async with serve(rig.app, rig.journal) as served:
        held = await begun(served, of_length(LARGE))
        other = await begun(served, POST + b"Transfer-Encoding: chunked\r\n\r\n" + 8 * chunk)
        await wait_for(counted, 2 * LARGE)

        await other.send_all(5 * chunk)
        answer = await read_until(other, b"}")

        assert answer.startswith(b"HTTP/1.1 503")
        assert counted[-1].large_bytes == LARGE
        await held.aclose()
        await other.aclose()
        await wait_for(counted, 0)


async def test_the_largest_batch_fits_if_it_is_alone_among_small_ones(
    rig: Rig, counted: list[budget.BodyBudget]
) -> None:
    async with serve(rig.app, rig.journal) as served:
        small = await begun(served, of_length(SMALL_BYTES))
        await wait_for(counted, 0, SMALL_BYTES)
        large = await begun(served, of_length(BATCH_BYTES_MAX, BATCH))
        await wait_for(counted, BATCH_BYTES_MAX, SMALL_BYTES)

        refused = await served.ask(of_length(SMALL_BYTES + 1))

        assert refused.startswith(b"HTTP/1.1 503")
        await small.aclose()
        await large.aclose()
        await wait_for(counted, 0)


async def test_small_bodies_have_a_bound_too(rig: Rig, counted: list[budget.BodyBudget]) -> None:
    async with serve(rig.app, rig.journal) as served:
        number = SMALL_BYTES_MAX // SMALL_BYTES
        held = [await begun(served, of_length(SMALL_BYTES)) for _ in range(number)]
        await wait_for(counted, 0, SMALL_BYTES_MAX)

        assert (await served.ask(of_length(1) + b"x")).startswith(b"HTTP/1.1 503")
        for stream in held:
            await stream.aclose()


@pytest.mark.parametrize(
    "request_",
    [
        of_length(LARGE, POST.replace(b"application/json", b"text/plain")),
        of_length(LARGE, POST.replace(b"/send-email", b"/nowhere")),
        of_length(BODY_BYTES_MAX + 1),
        of_length(LARGE, POST.replace(b"POST", b"GET")),
        of_length(LARGE) + b"x",
        of_length(len(BODY)) + BODY,
    ],
)
async def test_nothing_stays_counted_however_a_request_ends(
    rig: Rig, counted: list[budget.BodyBudget], request_: bytes
) -> None:
    async with serve(rig.app, rig.journal, read_s=0.05, keep_alive_s=0.2) as served:
        async with await served.connect() as stream:
            await stream.send_all(request_)
            await read_all(stream)
        await wait_for(counted, 0)

        await assert_serving(served)


async def test_large_bodies_are_decoded_off_the_loop(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[bool] = []

    def where(body: bytes, decoder: Any) -> Any:
        try:
            trio.lowlevel.current_task()
            threads.append(False)
        except RuntimeError:
            threads.append(True)
        return decode(body, decoder)

    decode = decoding.decode_body
    monkeypatch.setattr(exchange, "decode_body", where)
    client = rig.app.test_client()

    for length in (10, 2_000_000):
        body = {"id": str(length), "to": "a@example.org", "subject": "s", "body": "b" * length}
        assert (await client.post("/send-email", json=body)).status_code == 202

    assert threads == [False, True]


async def test_very_large_bodies_take_turns(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    client, most, now = rig.app.test_client(), 0, 0
    submit = rig.door.submit

    async def count(submission: Any) -> Any:
        nonlocal most, now
        now += 1
        most = max(most, now)
        receipt = await submit(submission)
        now -= 1
        return receipt

    monkeypatch.setattr(rig.door, "submit", count)

    async def send(name: str) -> None:
        body = {"id": name, "to": "a@example.org", "subject": "s", "body": "b" * 1_100_000}
        assert (await client.post("/send-email", json=body)).status_code == 202

    async with trio.open_nursery() as nursery:
        for name in "abcd":
            nursery.start_soon(send, name)

    assert most == 1


def test_the_budget_is_below_what_memory_allows() -> None:
    assert LARGE_BYTES_MAX + SMALL_BYTES_MAX <= BATCH_BYTES_MAX
