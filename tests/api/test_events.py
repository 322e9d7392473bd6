"""Server-sent events: each event once and in order, heartbeats, and an end that is told."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
import trio
from quart.typing import TestClientProtocol as Client
from trio.testing import MockClock, wait_all_tasks_blocked

from mailactors.api import events
from mailactors.spool.port import FeedEvent, Questions, SpoolBrokenError
from tests.api.bodies import SHORT
from tests.api.rig import WITHIN_S, Rig, problem, read_all, read_until, serve

GET = b"GET /v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n"


class Listener:
    """A client in memory that reads a stream block by block."""

    def __init__(self, chunks: trio.MemoryReceiveChannel[dict[str, Any]]) -> None:
        self._chunks = chunks
        self._text = ""
        self.status = 0
        self.headers: dict[str, str] = {}

    async def open(self) -> None:
        start = await self._chunks.receive()
        self.status = start["status"]
        self.headers = {name.decode().lower(): value.decode() for name, value in start["headers"]}

    async def block(self) -> dict[str, str]:
        """Return the fields of the next block; a comment's name is empty."""
        while "\n\n" not in self._text:
            self._text += (await self._chunks.receive())["body"].decode()
        block, _, self._text = self._text.partition("\n\n")
        fields = (line.partition(":") for line in block.split("\n"))
        return {name: value.removeprefix(" ") for name, _, value in fields}

    async def event(self) -> tuple[int, str, Any]:
        """Return the next event: its id, its kind and its data."""
        fields = await self.block()
        return int(fields["id"]), fields["event"], msgspec.json.decode(fields["data"])

    async def is_at_its_end(self) -> bool:
        """Say whether nothing but the end comes."""
        while True:
            message = await self._chunks.receive()
            if message["body"] or not message.get("more_body", False):
                return not message["body"]


@contextlib.asynccontextmanager
async def listen(
    rig: Rig, query: str = "", last: str | None = None, method: str = "GET"
) -> AsyncIterator[Listener]:
    """Call the application as a server would, with a client that hangs up at the end."""
    send, receive = trio.open_memory_channel[dict[str, Any]](0)
    headers = [] if last is None else [(b"last-event-id", last.encode())]
    scope: dict[str, Any] = {
        "type": "http",
        "asgi": {},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": "/v1/events",
        "raw_path": b"",
        "query_string": query.encode(),
        "root_path": "",
        "headers": [(b"host", b"x"), *headers],
        "client": None,
        "server": None,
        "state": {},
        "extensions": {},
    }
    is_sent, hangs_up = False, trio.Event()

    async def requested() -> dict[str, Any]:
        nonlocal is_sent
        if is_sent:
            await hangs_up.wait()
            return {"type": "http.disconnect"}
        is_sent = True
        return {"type": "http.request", "body": b"", "more_body": False}

    async with trio.open_nursery() as nursery:
        nursery.start_soon(rig.app, scope, requested, send.send)  # type: ignore[arg-type]
        listener = Listener(receive)
        with trio.fail_after(WITHIN_S):
            await listener.open()
        yield listener
        hangs_up.set()


async def accept(client: Client, name: str) -> str:
    answer = await (await client.post("/send-email", json={**SHORT, "id": name})).get_json()
    message_id: str = answer["message_id"]
    return message_id


# What comes


async def test_what_happens_from_now_on_comes_as_it_happens(
    rig: Rig, client: Client, autojump_clock: MockClock
) -> None:
    await accept(client, "before")
    async with listen(rig) as listener:
        begin = await listener.block()
        message_id = await accept(client, "after")

        seq, kind, data = await listener.event()

    assert (listener.status, listener.headers["content-type"]) == (200, "text/event-stream")
    assert listener.headers["cache-control"] == "no-store"
    assert begin == {"retry": "1000", "id": "1"}
    assert (seq, kind) == (2, "accepted")
    assert data == {
        "id": message_id,
        "client_id": "after",
        "rfc_message_id": f"{message_id}@mail.example",
        "stream": "transactional",
        "at": data["at"],
        "facts": data["facts"],
    }
    assert data["at"].endswith("Z")


async def test_a_client_that_comes_again_misses_nothing_and_sees_nothing_twice(
    rig: Rig, client: Client, autojump_clock: MockClock
) -> None:
    ids = [await accept(client, name) for name in "abcd"]

    async with listen(rig, "after=1") as listener:
        await listener.block()
        by_query = [await listener.event() for _ in range(3)]
    async with listen(rig, "after=0", last="3") as listener:
        await listener.block()
        by_header = await listener.event()

    assert [(seq, data["id"]) for seq, _, data in by_query] == list(
        zip((2, 3, 4), ids[1:], strict=True)
    )
    assert by_header == by_query[-1]


async def test_more_than_a_page_comes_without_waiting(
    rig: Rig, client: Client, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    monkeypatch.setattr(events, "PAGE", 2)
    for name in "abcde":
        await accept(client, name)
    began_s = trio.current_time()

    async with listen(rig, "after=0") as listener:
        await listener.block()
        seqs = [(await listener.event())[0] for _ in range(5)]

    assert seqs == [1, 2, 3, 4, 5]
    assert trio.current_time() == began_s


async def test_the_spool_is_asked_only_after_a_commit(
    rig: Rig, client: Client, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    questions = 0
    ask = rig.reader.read

    async def counted(question: Any) -> Any:
        nonlocal questions
        questions += 1
        return await ask(question)

    async with listen(rig) as listener:
        await listener.block()
        await trio.sleep(1)
        monkeypatch.setattr(rig.reader, "read", counted)
        await trio.sleep(10)
        idle = questions
        await accept(client, "a")
        await listener.event()

    assert (idle, questions) == (0, 1)


async def test_a_quiet_stream_has_a_heartbeat(rig: Rig, autojump_clock: MockClock) -> None:
    async with listen(rig) as listener:
        await listener.block()
        began_s = trio.current_time()

        beats = [await listener.block() for _ in range(2)]

    assert beats == [{"": ""}, {"": ""}]
    assert 2 * events.HEARTBEAT_S <= trio.current_time() - began_s < 2 * events.HEARTBEAT_S + 2


async def test_a_spool_that_cannot_tell_is_asked_again(
    rig: Rig, client: Client, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    failures = 2
    ask = rig.reader.read

    async def broken(question: Any) -> Any:
        nonlocal failures
        if failures:
            failures -= 1
            raise SpoolBrokenError("disk I/O error")
        return await ask(question)

    async with listen(rig) as listener:
        await listener.block()
        await accept(client, "a")
        monkeypatch.setattr(rig.reader, "read", broken)

        seq, _, _ = await listener.event()

    assert (seq, failures) == (1, 0)


def test_an_event_is_one_block_whatever_is_in_it() -> None:
    facts = {"reason": "a\r\n\nid: 8", "next": {"0": "leased", "1": "ready"}}
    event = FeedEvent(7, 1005268127.9, "attempt", facts, "m", "bulk", "order-1", "m@mail.example")

    text = events.encode_event(event).decode()

    head, data, *rest = text.split("\ndata: ")
    assert (head, rest, data[-2:]) == ("id: 7\nevent: attempt", [], "\n\n")
    assert "\n" not in data[:-2]
    assert "\r" not in data
    assert msgspec.json.decode(data) == {
        "id": "m",
        "client_id": "order-1",
        "rfc_message_id": "m@mail.example",
        "stream": "bulk",
        "at": "2001-11-09T01:08:47.900Z",
        "facts": {"reason": "a\r\n\nid: 8", "next": {"0": "queued", "1": "queued"}},
    }


@pytest.mark.parametrize(("query", "last"), [("after=9", None), ("", "9"), ("after=0", "9")])
async def test_a_place_ahead_of_the_spool_starts_at_its_end_and_says_so(
    rig: Rig, client: Client, autojump_clock: MockClock, query: str, last: str | None
) -> None:
    await accept(client, "a")

    async with listen(rig, query, last) as listener:
        first = await listener.event()
        new = await accept(client, "b")
        following = await listener.event()

    assert first == (1, "ahead", {"asked": 9, "latest": 1})
    assert (following[0], following[2]["id"]) == (2, new)


# Who may not listen


@pytest.mark.parametrize(
    ("query", "last"),
    [
        ("after=-1", None),
        ("after=x", None),
        ("afer=0", None),
        ("", "x"),
        ("", "-1"),
        ("", "²"),
        ("", "9" * 5000),
    ],
)
async def test_a_place_that_is_none_is_refused(
    client: Client, query: str, last: str | None
) -> None:
    headers = {} if last is None else {"Last-Event-ID": last}

    response = await client.get(f"/v1/events?{query}", headers=headers)

    answer = await response.get_json()
    assert (response.status_code, answer["type"]) == (400, problem("invalid-parameter"))


async def test_one_listener_too_many_is_told_to_come_again_until_one_leaves(
    rig: Rig, client: Client, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    monkeypatch.setattr(events, "STREAMS_MAX", 2)
    async with listen(rig):
        async with listen(rig):
            refused = await client.get("/v1/events")
        async with listen(rig) as listener:
            taken = listener.status

    answer = await refused.get_json()
    assert (refused.status_code, answer["type"]) == (503, problem("overloaded"))
    assert refused.headers["Retry-After"] == "5"
    assert taken == 200


async def test_a_listener_that_hangs_up_before_the_first_byte_holds_no_place(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    monkeypatch.setattr(events, "STREAMS_MAX", 1)

    for _ in range(3):
        async with listen(rig) as listener:
            assert listener.status == 200


async def test_a_spool_that_is_broken_is_503_before_a_stream_begins(
    rig: Rig, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_spool: Questions) -> int:
        raise SpoolBrokenError("disk I/O error")

    monkeypatch.setattr(type(rig.store.reader()), "latest_event_seq", broken)

    response = await client.get("/v1/events")

    assert (response.status_code, (await response.get_json())["type"]) == (
        503,
        problem("spool-unavailable"),
    )


async def test_a_head_request_ends(rig: Rig) -> None:
    async with listen(rig, method="HEAD") as listener:
        assert await listener.is_at_its_end()

    assert listener.headers["content-type"] == "text/event-stream"


# The end


async def test_a_service_that_stops_says_so_and_ends_the_stream(rig: Rig) -> None:
    async with listen(rig) as listener:
        await listener.block()
        await wait_all_tasks_blocked()
        rig.stopping.set()

        last = await listener.block()

        assert last == {"event": "stopping", "data": "{}"}
        assert await listener.is_at_its_end()


async def test_over_a_socket_a_stream_outlives_every_timeout_and_ends_with_the_server(
    rig: Rig,
) -> None:
    async with (
        serve(rig.app, rig.journal, read_s=0.02, keep_alive_s=0.02, graceful_s=60) as served,
        await served.connect() as stream,
    ):
        await stream.send_all(GET)
        await read_until(stream, b"id: 0\n\n")
        with trio.move_on_after(0.1) as silence:
            await stream.receive_some()
        rig.stopping.set()
        served.listening.shutdown.set()

        rest = await read_all(stream)
        with trio.fail_after(WITHIN_S):
            await served.listening.drained.wait()

    assert silence.cancelled_caught
    assert b"event: stopping" in rest
    assert "api.connection" not in rig.journal.events()


async def test_over_a_socket_a_client_that_hangs_up_frees_its_place(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "STREAMS_MAX", 1)
    async with serve(rig.app, rig.journal) as served:
        async with await served.connect() as stream:
            await stream.send_all(GET)
            await read_until(stream, b"id: 0\n\n")
        with trio.fail_after(WITHIN_S):
            head = b""
            while not head.startswith(b"HTTP/1.1 200"):
                async with await served.connect() as stream:
                    await stream.send_all(GET)
                    head = await read_until(stream, b"\r\n\r\n")

    assert "api.fault" not in rig.journal.events()


async def test_what_is_committed_while_a_page_is_read_comes_as_well(
    rig: Rig, client: Client, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    ask, others = rig.reader.read, iter(["b", "c"])

    async def slow(question: Any) -> Any:
        page = await ask(question)
        if (name := next(others, None)) is not None:
            await accept(client, name)
        return page

    async with listen(rig) as listener:
        await listener.block()
        await trio.sleep(1)
        monkeypatch.setattr(rig.reader, "read", slow)
        await accept(client, "a")

        seqs = [(await listener.event())[0] for _ in range(3)]

    assert [1, 2, 3] == seqs
