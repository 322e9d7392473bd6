"""The client, on both event loops and on none: what it sends, and what it makes of odd gateways."""

from __future__ import annotations

import base64
import gc
import json
import ssl
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Awaitable, Callable, Iterator
from contextlib import aclosing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import anyio
import anyio.lowlevel
import pytest
import trustme

from mailactors.client import (
    Backoff,
    Client,
    ClientError,
    Event,
    Key,
    KeyConflictError,
    NotAGatewayError,
    NotDoneError,
    NotFoundError,
    Problem,
    RejectedError,
    Sent,
    UnavailableError,
)
from mailactors.client.wire import Item as WireItem
from mailactors.client.wire import chunked, read_problem
from tests.awaited import AwaitedClient
from tests.peers_http import Answer, Request, cutting, reply, scripted, stream
from tests.servers import Served, serving

T = TypeVar("T")
Run = Callable[[Callable[[], Awaitable[T]]], T]

CONFIG = """
[service]
listen = "127.0.0.1:0"
spool = "spool.db"

[idempotency]
fingerprint_window_s = 0.001

[providers.quick]
kind = "simulated"
latency_s = 0.01
"""
CANARY = "canary-7f3a"
QUICK = Backoff(base_s=0.001, cap_s=0.01)
ACCEPTED = reply(202, {"id": "m1", "rfc_message_id": "m1@mail.example", "status": "accepted"})
REPLAYED = reply(200, {"id": "m1", "rfc_message_id": "m1@mail.example", "status": "accepted"})
PROBLEM = "urn:mailactors:problem:"
FULL = {"type": PROBLEM + "overloaded", "title": "There is no room just now", "status": 503}
FAULTY = {
    "type": PROBLEM + "validation",
    "title": "The message is not valid",
    "status": 422,
    "detail": "/to: there is no recipient",
    "errors": [{"detail": "there is no recipient", "pointer": "/to"}],
}
CUT_EARLY = Answer(is_early=True)
CUT_LATE = Answer()
CUT_SHORT = Answer(ACCEPTED.content[:-5])


@pytest.fixture(params=["asyncio", "trio", "sync"])
def run(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Run[Any]:
    """Run an async function with the client of one of the loops, or with the sync client."""
    if request.param == "sync":
        monkeypatch.setattr(sys.modules[__name__], "Client", AwaitedClient)
        return on_loop("asyncio")
    return on_loop(request.param)


@pytest.fixture(params=["asyncio", "trio"])
def run_loop(request: pytest.FixtureRequest) -> Run[Any]:
    """Run an async function on one of the loops."""
    return on_loop(request.param)


def on_loop(name: str) -> Run[Any]:
    def run_(main: Callable[[], Awaitable[T]]) -> T:
        return anyio.run(main, backend=name)

    return run_


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("gateway"), CONFIG) as served:
        yield served


def quick(url: str, **options: Any) -> Client:
    return Client(url, **{"backoff": QUICK, "retry_for_s": 5.0, **options})


def send(url: str, **options: Any) -> Callable[[], Awaitable[Sent]]:
    """Return a main function that sends one mail."""

    async def main() -> Sent:
        async with quick(url, **options) as client:
            return await client.send(to="bob@example.com", text=CANARY)

    return main


def messages_to(served: Served, recipient: str) -> list[Any]:
    _, page = served.call("GET", "/statuses?limit=1000")
    return [each for each in page["statuses"] if recipient in each["to"]]


@pytest.mark.slow
def test_a_message_is_sent_and_waited_for(gateway: Served, run: Run[Any]) -> None:
    async def main() -> None:
        async with Client(gateway.url) as client:
            sent = await client.send(
                to=["bob@example.com", {"address": "ann@example.com", "name": "Ann"}],
                sender="Me <me@example.com>",
                subject="Hello",
                text="Hi",
                html="<p>Hi",
                attachments=[{"filename": "a.bin", "content": b"\x00\xff"}],
                metadata={"n": str(time.time_ns())},
            )
            assert not sent.is_replay
            status = await client.wait(sent.id, timeout_s=10)

        assert (status.id, status.status, status.is_final) == (sent.id, "sent", True)
        assert [each.recipient for each in status.deliveries] == [
            "bob@example.com",
            "ann@example.com",
        ]

    run(main)


@pytest.mark.slow
@pytest.mark.parametrize("after_answer", [True, False], ids=["answered", "forwarded"])
def test_a_dropped_connection_never_makes_two_messages(
    after_answer: bool, gateway: Served, run: Run[Any]
) -> None:
    recipient = f"cut-{time.time_ns()}@example.com"

    async def main(url: str) -> Sent:
        async with quick(url) as client:
            return await client.send(to=recipient, text="Once.", key=Key.FRESH)

    with cutting(gateway.url, 3, after_answer=after_answer) as proxy:
        sent = run(lambda: main(proxy.url))

    assert 4 == len(proxy.requests)
    (message,) = messages_to(gateway, recipient)
    assert message["id"] == sent.id
    assert sent.is_replay


@pytest.mark.slow
def test_many_messages_through_cut_connections_are_each_sent_once(
    gateway: Served, run: Run[Any]
) -> None:
    run_id = time.time_ns()
    to = [f"many-{run_id}-{n}@example.com" for n in range(20)]

    async def main(url: str) -> list[Sent | ClientError]:
        async with quick(url) as client:
            mails: list[Any] = [{"to": each, "subject": "Hello", "text": "Hi"} for each in to]
            return await client.send_many([*mails, {"to": "nobody", "text": "Hi"}])

    with cutting(gateway.url, 3, after_answer=True) as proxy:
        *sent, refused = run(lambda: main(proxy.url))

    ids = [messages_to(gateway, each)[0]["id"] for each in to]
    assert [1] * 20 == [len(messages_to(gateway, each)) for each in to]
    assert ids == [each.id for each in sent]
    assert isinstance(refused, RejectedError)
    assert refused.problem.faults[0].pointer == "/to"


@pytest.mark.slow
def test_each_call_without_a_key_is_a_message_of_its_own(gateway: Served, run: Run[Any]) -> None:
    async def main() -> list[Sent]:
        text = str(time.time_ns())
        async with Client(gateway.url) as client:
            return [
                await client.send(to="bob@example.com", text=text),
                await client.send(to="bob@example.com", text=text),
                await client.send(to="bob@example.com", text=text, key=Key.FRESH),
            ]

    sent = run(main)

    assert [False] * 3 == [each.is_replay for each in sent]
    assert 3 == len({each.id for each in sent}) == len({each.key for each in sent})


@pytest.mark.slow
@pytest.mark.parametrize("field", ["id", "idempotency_key"])
def test_a_key_that_was_used_with_other_content_is_an_error_of_its_own(
    field: str, gateway: Served, run: Run[Any]
) -> None:
    name = f'a "quoted\\" {field} {time.time_ns()}'

    async def main() -> None:
        async with Client(gateway.url) as client:
            mail: Any = {"to": "bob@example.com", field: name}
            first = await client.send(**mail, text="One")
            assert first == await client.send(**mail, text="One") or first.key == name
            with pytest.raises(KeyConflictError):
                await client.send(**mail, text="Another")

    run(main)


@pytest.mark.slow
def test_a_message_is_found_by_a_name_that_no_path_could_hold(
    gateway: Served, run: Run[Any]
) -> None:
    async def main() -> None:
        name = f"a/b?c#d é {time.time_ns()}"
        async with Client(gateway.url) as client:
            sent = await client.send(to="bob@example.com", text="Hi", id=name)
            assert (await client.status(name)).id == sent.id
            assert (await client.status(sent.id)).client_id == name
            with pytest.raises(NotFoundError):
                await client.status("nobody")

    run(main)


@pytest.mark.parametrize(
    "faults",
    [
        [CUT_EARLY, CUT_LATE, CUT_SHORT],
        [Answer(b"\x00\xff garbage\r\n\r\n"), Answer(b"HTTP/1.1 200 OK\r\nContent-Le")],
        [reply(503, FULL), reply(500), reply(502), reply(504), reply(429), reply(408)],
    ],
    ids=["cut", "garbage", "statuses"],
)
def test_what_may_pass_is_tried_again_under_the_same_key(
    faults: list[Answer], run: Run[Any]
) -> None:
    with scripted(*faults, REPLAYED) as peer:
        sent = run(send(peer.url))

    assert (sent.id, sent.is_replay) == ("m1", True)
    assert {f'"{sent.key}"'} == {each.headers["Idempotency-Key"] for each in peer.requests}
    assert 1 == len({each.body for each in peer.requests})


@pytest.mark.parametrize("is_batch", [False, True], ids=["alone", "batch"])
def test_what_goes_by_content_is_not_tried_beyond_the_gateways_window(
    is_batch: bool, run: Run[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s = [0.0]

    async def sleep(pause_s: float) -> None:
        now_s[0] += pause_s
        await anyio.lowlevel.checkpoint()

    def sleep_now(pause_s: float) -> None:
        now_s[0] += pause_s

    async def main(url: str, key: Key) -> object:
        backoff = Backoff(base_s=3.0, cap_s=3.0, draw=lambda: 1.0)
        async with quick(url, retry_for_s=600.0, backoff=backoff) as client:
            client_calls = getattr(client, "_client", client)._calls
            client_calls.now_s = lambda: now_s[0]
            if is_batch:
                (result,) = await client.send_many([{"to": "a@example.com"}], key=key)
                return result
            try:
                return await client.send(to="a@example.com", key=key)
            except UnavailableError as error:
                return error

    monkeypatch.setattr("mailactors.client.client.anyio.sleep", sleep)
    monkeypatch.setattr("mailactors.client.sync.time.sleep", sleep_now)
    good = batch_of({"status": 202, "id": "m1"}) if is_batch else ACCEPTED
    faults = [batch_of(FULL) if is_batch else reply(500)] * 40
    with scripted(*faults, good) as peer:
        given_up = run(lambda: main(peer.url, Key.CONTENT))
        last_s, count = now_s[0], len(peer.requests)
        sent = run(lambda: main(peer.url, Key.FRESH))

    assert isinstance(given_up, UnavailableError)
    assert 45.0 <= last_s <= 50.0
    assert all(b'"key":"content"' in each.body for each in peer.requests[:count])
    assert not any("Idempotency-Key" in each.headers for each in peer.requests[:count])
    assert isinstance(sent, Sent)


def test_a_gateway_that_does_not_answer_in_time_is_asked_again(run: Run[Any]) -> None:
    hold = threading.Event()
    with scripted(Answer(hold=hold), ACCEPTED) as peer:
        sent = run(send(peer.url, timeout_s=0.1))
        hold.set()

    assert "m1" == sent.id
    assert 2 == len(peer.requests)


def test_a_gateway_that_asks_for_time_gets_it(
    run: Run[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []

    async def sleep(pause_s: float) -> None:
        pauses.append(pause_s)
        await anyio.lowlevel.checkpoint()

    monkeypatch.setattr("mailactors.client.client.anyio.sleep", sleep)
    monkeypatch.setattr("mailactors.client.sync.time.sleep", pauses.append)
    with scripted(reply(503, FULL, Retry_After="3"), reply(429, Retry_After="1"), ACCEPTED) as peer:
        run(send(peer.url))

    assert [3.0, 1.0] == pytest.approx(pauses, abs=0.002)


def test_a_gateway_that_asks_for_more_time_than_there_is_ends_the_call(run: Run[Any]) -> None:
    with (
        scripted(reply(503, FULL, Retry_After="60")) as peer,
        pytest.raises(UnavailableError, match="no room") as caught,
    ):
        run(send(peer.url))

    assert caught.value.retry_after_s == 60.0
    assert caught.value.problem is not None
    assert 1 == len(peer.requests)


def test_trying_again_ends_in_time(run: Run[Any]) -> None:
    began_s = time.monotonic()
    with scripted(CUT_EARLY) as peer, pytest.raises(UnavailableError):
        run(send(peer.url, retry_for_s=0.2))

    assert 0.2 <= time.monotonic() - began_s < 2.0


def test_one_try_may_be_all(run: Run[Any]) -> None:
    with scripted(reply(500), ACCEPTED) as peer, pytest.raises(UnavailableError):
        run(send(peer.url, retry_for_s=0))

    assert 1 == len(peer.requests)


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (reply(422, FAULTY), RejectedError),
        (reply(422, FAULTY | {"type": PROBLEM + "idempotency-key-reused"}), KeyConflictError),
        (reply(404), NotFoundError),
        (reply(302, Location="http://127.0.0.1:1/"), RejectedError),
        (reply(200, "Welcome"), NotAGatewayError),
        (reply(200, {"id": 1}), NotAGatewayError),
        (Answer(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n<html>"), NotAGatewayError),
    ],
)
def test_what_no_repetition_would_mend_is_raised_at_once(
    answer: Answer, kind: type[ClientError], run: Run[Any]
) -> None:
    with scripted(answer) as peer, pytest.raises(kind) as caught:
        run(send(peer.url))

    assert kind is type(caught.value)
    assert 1 == len(peer.requests)


@pytest.mark.parametrize("url", ["nothing", "127.0.0.1:8625", "http://127.0.0.1:abc", "ftp://x"])
def test_an_address_that_is_none_is_told_at_once(url: str, run: Run[Any]) -> None:
    with pytest.raises(UnavailableError):
        run(send(url, retry_for_s=60))


def test_the_address_may_be_in_the_environment(
    run: Run[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    with scripted(ACCEPTED) as peer:
        monkeypatch.setenv("MAILACTORS_URL", peer.url + "/")
        run(send(None))  # type: ignore[arg-type]  # None is a Client's default

    assert "/v1/messages" == peer.requests[0].path


def test_only_whom_one_trusts_is_spoken_to(run: Run[Any], tmp_path: Path) -> None:
    authority = trustme.CA()
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(tls)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))

    with scripted(ACCEPTED, tls=tls) as peer:
        sent = run(send(peer.url, ca_file=tmp_path / "ca.pem"))
        with pytest.raises(UnavailableError, match="certificate"):
            run(send(peer.url, retry_for_s=0))

    assert "m1" == sent.id
    assert 1 == len(peer.requests)


@pytest.mark.parametrize(
    "answer", [reply(422, FAULTY), CUT_LATE, reply(503, FULL), reply(200, "Welcome")]
)
def test_an_error_shows_neither_the_message_nor_a_password(answer: Answer, run: Run[Any]) -> None:
    with scripted(answer) as peer, pytest.raises(ClientError) as caught:
        run(send(peer.url.replace("//", "//user:" + CANARY + "@"), retry_for_s=0))

    error = caught.value
    assert CANARY not in "".join(traceback.format_exception(error)).replace("text=CANARY", "")
    assert CANARY not in repr(vars(error))
    assert not hasattr(error.__cause__ or error.__context__, "request")


def test_a_mail_is_written_as_the_gateway_reads_it(run: Run[Any]) -> None:
    async def main(url: str) -> None:
        async with quick(url) as client:
            await client.send(
                to="bob@example.com",
                sender="me@example.com",
                raw=b"\xff\x00",
                send_at=datetime(2030, 1, 2, tzinfo=UTC),
                stream=None,
                id="seventeen",
            )

    with scripted(ACCEPTED) as peer:
        run(lambda: main(peer.url))

    (request,) = peer.requests
    assert "Idempotency-Key" not in request.headers  # the body's id is the key
    assert json.loads(request.body) == {
        "to": "bob@example.com",
        "from": "me@example.com",
        "raw": base64.b64encode(b"\xff\x00").decode(),
        "send_at": "2030-01-02T00:00:00Z",
        "id": "seventeen",
    }


def test_a_key_that_no_header_can_hold_is_refused_before_anything_is_sent(run: Run[Any]) -> None:
    async def main(url: str) -> None:
        async with quick(url) as client:
            await client.send(to="bob@example.com", idempotency_key="é")

    with scripted(ACCEPTED) as peer, pytest.raises(ValueError, match="printable ASCII"):
        run(lambda: main(peer.url))

    assert [] == peer.requests


def batch_of(*entries: Any) -> Answer:
    return reply(200, {"results": list(entries)})


def send_three(url: str) -> Callable[[], Awaitable[list[Sent | ClientError]]]:
    async def main() -> list[Sent | ClientError]:
        async with quick(url, retry_for_s=0.2) as client:
            return await client.send_many(
                [
                    {"to": "a@example.com", "id": "one"},
                    {"to": "b@example.com", "idempotency_key": "two"},
                    {"to": "c@example.com"},
                ]
            )

    return main


def test_a_batch_has_a_result_for_each_message_in_order(run: Run[Any]) -> None:
    faulty = FAULTY | {"errors": [{"detail": "there is no recipient", "pointer": "/1/to"}]}
    refused = {"status": 422, "problem": faulty}
    answer = batch_of({"status": 202, "id": "m1"}, refused, {"status": 200, "id": "m3"})
    with scripted(answer) as peer:
        first, second, third = run(send_three(peer.url))

    (request,) = peer.requests
    assert ("POST", "/v1/messages/batch") == (request.method, request.path)
    one, two, three = json.loads(request.body)
    assert (one, two["idempotency_key"]) == ({"to": "a@example.com", "id": "one"}, "two")
    assert three["idempotency_key"].startswith("fresh-")
    assert ("m1", False, "one") == (first.id, first.is_replay, first.key)
    assert "/to" == second.problem.faults[0].pointer
    assert ("m3", True) == (third.id, third.is_replay)


def test_only_the_messages_without_room_are_submitted_again(run: Run[Any]) -> None:
    sent = {"status": 202, "id": "m"}
    with scripted(batch_of(sent, FULL, FULL), CUT_LATE, batch_of(FAULTY, sent)) as peer:
        first, second, third = run(send_three(peer.url))

    assert isinstance(first, Sent)
    assert isinstance(second, RejectedError)
    assert isinstance(third, Sent)
    assert [3, 2, 2] == [len(json.loads(each.body)) for each in peer.requests]
    assert json.loads(peer.requests[0].body)[1:] == json.loads(peer.requests[2].body)


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (reply(413), RejectedError),
        (batch_of({"status": 202, "id": "m"}), NotAGatewayError),
        (batch_of({"status": 202}, {}, {"status": "x"}), NotAGatewayError),
        (reply(503, Retry_After="60"), UnavailableError),
        (batch_of(FULL, FULL, FULL), UnavailableError),
    ],
)
def test_a_batch_that_fails_is_told_for_each_message(
    answer: Answer, kind: type[ClientError], run: Run[Any]
) -> None:
    with scripted(answer) as peer:
        results = run(send_three(peer.url))

    assert [kind] * 3 == list(map(type, results))


@pytest.mark.parametrize("status", [404, 405])
def test_a_gateway_without_batches_gets_one_message_after_another(
    status: int, run: Run[Any]
) -> None:
    with scripted(reply(status), ACCEPTED, reply(422, FAULTY), ACCEPTED) as peer:
        results = run(send_three(peer.url))

    assert [Sent, RejectedError, Sent] == list(map(type, results))
    assert ["/v1/messages/batch"] + ["/v1/messages"] * 3 == [each.path for each in peer.requests]
    assert '"two"' == peer.requests[2].headers["Idempotency-Key"]


def test_once_the_gateway_is_gone_the_other_messages_are_not_tried(run: Run[Any]) -> None:
    with scripted(reply(404), ACCEPTED, reply(503, Retry_After="60")) as peer:
        results = run(send_three(peer.url))

    assert [Sent, UnavailableError, UnavailableError] == list(map(type, results))
    assert 3 == len(peer.requests)


def test_a_batch_is_cut_by_count_and_by_size() -> None:
    small = WireItem({"to": "a@example.com"}, Key.CONTENT)
    large = WireItem({"to": "a@example.com", "text": "x" * 5_000_000}, Key.CONTENT)

    assert [1000, 1000, 1] == list(map(len, chunked([small] * 2001)))
    assert [2, 2, 1] == list(map(len, chunked([small, large, large, small, large])))
    assert [] == list(chunked([]))


def status_page(*states: str) -> Answer:
    deliveries = [{"recipient": "a@example.com", "status": state} for state in states]
    status = {"id": "m1", "client_id": "one", "status": states[0], "attempts": 1}
    return reply(200, {"statuses": [status | {"deliveries": deliveries}], "next": None})


def wait(url: str, timeout_s: float = 5.0) -> Callable[[], Awaitable[Any]]:
    async def main() -> Any:
        async with quick(url) as client:
            return await client.wait("one", timeout_s=timeout_s)

    return main


@pytest.mark.parametrize(
    ("states", "is_final"),
    [(("sent", "bounced"), True), (("held",), False), (("held", "sent"), False)],
)
def test_waiting_ends_when_nothing_more_happens_by_itself(
    states: tuple[str, ...], is_final: bool, run: Run[Any]
) -> None:
    busy = [status_page("queued"), CUT_LATE, status_page("held", "deferred"), status_page("new")]
    with scripted(*busy, status_page(*states)) as peer:
        status = run(wait(peer.url))

    assert (status.is_final, status.is_done) == (is_final, True)
    assert 5 == len(peer.requests)


def test_waiting_has_an_end(run: Run[Any]) -> None:
    with (
        scripted(status_page("processing")) as peer,
        pytest.raises(NotDoneError, match="'one' is still processing") as caught,
    ):
        run(wait(peer.url, 0.1))

    assert caught.value.status is not None


def test_waiting_for_a_gateway_that_is_gone_has_an_end_too(run: Run[Any]) -> None:
    with scripted(CUT_EARLY) as peer, pytest.raises(NotDoneError, match="unknown"):
        run(wait(peer.url, 0.1))


def events_of(url: str, count: int, after: int | None = None) -> Callable[[], Awaitable[Any]]:
    """Return a main function that takes so many events, and leaves the stream as it is."""

    async def main() -> list[Event]:
        found: list[Event] = []
        async with quick(url) as client:
            async for event in client.events(after):
                found.append(event)
                if len(found) == count:
                    break
        gc.collect()  # what was abandoned would be warned of here
        return found

    return main


def test_events_go_on_after_a_lost_connection_each_once(run: Run[Any]) -> None:
    hold = threading.Event()
    script = (
        stream(': hello\n\nid: 4\nevent: accepted\ndata: {"a": 1}\n\nid: 5\nevent: half'),
        reply(503, FULL),
        CUT_EARLY,
        stream('id: 4\nevent: accepted\ndata: {"a": 1}\n\nid: 5\r\nevent: sent\r\ndata: {\r\n'),
        stream('id:5\nevent:sent\ndata:{"b":\ndata: "\u2028é"}\n\nid: 6\ndata: 1\n\n', hold),
    )
    with scripted(*script) as peer:
        events = run(events_of(peer.url, 3, after=3))
        hold.set()

    assert events == [
        Event(4, "accepted", {"a": 1}),
        Event(5, "sent", {"b": "\u2028é"}),
        Event(6, "message", 1),
    ]
    asked = [(each.path, each.headers.get("Last-Event-ID")) for each in peer.requests]
    assert ("/v1/events?after=3", "3") == asked[0]
    assert {("/v1/events?after=4", "4")} == set(asked[1:])


def test_a_place_that_is_ahead_of_the_spool_goes_on_from_its_end(run: Run[Any]) -> None:
    ahead = 'id: 2\nevent: ahead\ndata: {"asked": 9, "latest": 2}\n\n'
    with scripted(stream(ahead + "id: 3\nevent: sent\ndata: 1\n\n")) as peer:
        events = run(events_of(peer.url, 2, after=9))

    assert events == [Event(2, "ahead", {"asked": 9, "latest": 2}), Event(3, "sent", 1)]


def test_a_place_without_an_event_is_remembered(run: Run[Any]) -> None:
    with scripted(stream("id: 7\n\n"), stream("id: 8\ndata: 1\n\n")) as peer:
        run(events_of(peer.url, 1))

    assert ["/v1/events", "/v1/events?after=7"] == [each.path for each in peer.requests]


def test_a_stream_of_events_may_be_closed_before_its_client(run: Run[Any]) -> None:
    hold = threading.Event()

    async def main(url: str) -> None:
        async with quick(url) as client:
            events = client.events()
            async with aclosing(events):
                assert 1 == (await anext(events)).seq
            hold.set()
            assert [] == [event async for event in events]

    with scripted(stream("id: 1\ndata: 1\n\nid: 2\ndat", hold)) as peer:
        run(lambda: main(peer.url))


def test_reading_events_can_be_cancelled_and_goes_on_where_it_was(run_loop: Run[Any]) -> None:
    hold = threading.Event()

    async def main(url: str) -> list[int]:
        async with quick(url) as client:
            events = client.events()
            first = await anext(events)
            with anyio.move_on_after(0.05):
                await anext(events)
            hold.set()
            return [first.seq, (await anext(events)).seq]

    with scripted(
        stream("id: 1\ndata: 1\n\n", hold), stream("id: 1\ndata: 1\n\nid: 2\ndata: 2\n\n")
    ) as peer:
        assert [1, 2] == run_loop(lambda: main(peer.url))


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (reply(404), NotFoundError),
        (reply(200, "Welcome"), NotAGatewayError),
        (stream("id: x\ndata: 1\n\n"), NotAGatewayError),
        (stream("id: 1\ndata: {\n\n"), NotAGatewayError),
        (stream("id: 1\ndata: " + "x" * 2_000_000), NotAGatewayError),
        (reply(503, FULL, Retry_After="60"), UnavailableError),
    ],
)
def test_a_stream_that_is_none_is_told(
    answer: Answer, kind: type[ClientError], run: Run[Any]
) -> None:
    with scripted(answer) as peer, pytest.raises(kind):
        run(events_of(peer.url, 1))


def test_one_client_serves_many_tasks(run: Run[Any]) -> None:
    def echo(request: Request) -> Answer:
        return reply(202, {"id": json.loads(request.body)["subject"]})

    async def main(url: str) -> dict[int, str]:
        found: dict[int, str] = {}

        async def one(n: int) -> None:
            found[n] = (await client.send(to="a@example.com", subject=str(n))).id

        async with quick(url) as client, anyio.create_task_group() as tasks:
            for n in range(20):
                tasks.start_soon(one, n)
        return found

    with scripted(echo) as peer:
        assert {n: str(n) for n in range(20)} == run(lambda: main(peer.url))


@pytest.mark.parametrize("draw", [0.0, 0.5, 1.0])
def test_pauses_grow_within_bounds_and_never_overflow(draw: float) -> None:
    backoff = Backoff(base_s=0.2, cap_s=10.0, draw=lambda: draw)

    pauses = [backoff.pause_s(attempt) for attempt in range(10_000)]

    assert pauses == sorted(pauses)
    assert 0.1 <= pauses[0] <= 0.2
    assert 5.0 <= pauses[-1] <= 10.0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"title": "Full"}', "Full"),
        ('{"title": "Full", "detail": "no room"}', "Full: no room"),
        (
            '{"title": "Faulty", "errors": [{"pointer": "/to", "detail": "is none"}]}',
            "Faulty\n  /to: is none",
        ),
        ("[]", "the gateway answered 503"),
        ("<html>", "the gateway answered 503"),
        ("[" * 100_000, "the gateway answered 503"),
        ('{"title": "Faulty", "errors": [1]}', "the gateway answered 503"),
    ],
)
def test_a_problem_is_told_in_its_words_or_by_its_number(text: str, expected: str) -> None:
    problem = read_problem(503, text)

    assert expected == str(problem)
    assert isinstance(problem, Problem)


@pytest.mark.parametrize("name", ["mailactors.client", "mailactors.client.sync"])
def test_the_client_needs_nothing_of_the_gateway(name: str) -> None:
    code = f"import sys, {name}; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout

    assert {"client", ""} == {
        name.partition(".")[2].partition(".")[0]
        for name in loaded.split()
        if name.partition(".")[0] == "mailactors"
    }
