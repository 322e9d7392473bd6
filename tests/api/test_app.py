"""The routes, on a real door, registry and spool, through the application's own test client."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
import trio
from quart.typing import TestClientProtocol as Client

from mailactors.api.views import rfc3339
from mailactors.dispatch.lane import Gate, Health, Pace
from mailactors.intake.submission import OverloadedError
from mailactors.model.lifecycle import State
from mailactors.spool.port import Claim, Intend, Progress, Settle, SpoolBrokenError, Step
from tests.api.rig import Rig, open_rig

SHORT = {"id": "order-1", "to": "ann@example.org", "subject": "Hello", "body": "Hello, Ann"}
FULL: dict[str, Any] = {
    "from": "Shop <shop@example.com>",
    "to": ["Ann <ann@example.org>", {"address": "bob@example.org", "name": "Bob"}],
    "cc": "carol@example.org",
    "bcc": ["dave@example.org"],
    "reply_to": "help@example.com",
    "subject": "Your receipt",
    "text": "Thank you",
    "html": "<p>Thank you</p>",
    "headers": {"X-Order": "17"},
    "attachments": [
        {"filename": "a.txt", "content": "YWJj", "content_type": "text/plain", "content_id": ""}
    ],
    "stream": "bulk",
    "expires_in_s": 30,
    "tags": ["receipt"],
    "metadata": {"order": "17"},
}
RAW = b"From: shop@example.com\r\nSubject: raw\r\n\r\nHello\r\n"


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    async with open_rig() as rig:
        yield rig


@pytest.fixture
def client(rig: Rig) -> Client:
    return rig.app.test_client()


def problem(slug: str) -> str:
    return f"urn:mailactors:problem:{slug}"


# POST /send-email


async def test_a_short_message_is_accepted_and_told_where_to_ask(
    client: Client,
) -> None:
    response = await client.post("/send-email", json=SHORT)

    answer = await response.get_json()
    assert response.status_code == 202
    assert answer == {
        "message": "Email process initiated.",
        "id": "order-1",
        "message_id": answer["message_id"],
        "status_url": f"/v1/messages/{answer['message_id']}",
    }
    assert response.headers["Location"] == answer["status_url"]
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert (await client.get(answer["status_url"])).status_code == 200


async def test_the_same_short_message_again_is_a_replay_of_the_same_answer(
    client: Client,
) -> None:
    first = await client.post("/send-email", json=SHORT)

    again = await client.post("/send-email", json=SHORT)

    assert (first.status_code, again.status_code) == (202, 200)
    assert await again.get_data() == await first.get_data()
    assert again.headers["Idempotent-Replayed"] == "true"
    assert "Idempotent-Replayed" not in first.headers


async def test_other_content_under_the_same_id_is_refused(client: Client) -> None:
    await client.post("/send-email", json=SHORT)

    response = await client.post("/send-email", json={**SHORT, "body": "other"})

    assert response.status_code == 422
    assert response.content_type == "application/problem+json"
    assert (await response.get_json())["type"] == problem("idempotency-key-reused")


async def test_many_posts_at_once_of_one_message_are_one_message(
    client: Client,
) -> None:
    codes: list[int] = []

    async def post() -> None:
        codes.append((await client.post("/send-email", json=SHORT)).status_code)

    async with trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(post)

    statuses = (await (await client.get("/statuses")).get_json())["statuses"]
    assert sorted(codes) == [200] * 9 + [202]
    assert len(statuses) == 1


async def test_a_short_message_may_have_several_recipients(client: Client) -> None:
    to = ["ann@example.org", "Bob <bob@example.org>"]

    response = await client.post("/send-email", json={**SHORT, "to": to})

    assert response.status_code == 202
    (status,) = (await (await client.get("/statuses?id=order-1")).get_json())["statuses"]
    assert status["to"] == ["ann@example.org", "bob@example.org"]


@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        ({"id": 17}, "/id"),
        ({"id": ""}, "/id"),
        ({"id": None}, "/id"),
        ({"id": "x" * 257}, "/id"),
        ({"id": "a\nb"}, "/id"),
        ({"to": "nobody"}, "/to"),
        ({"to": "Ann ann@example.org>"}, "/to"),
        ({"to": "Ann <ann@example.org>, bob@example.org"}, "/to"),
        ({"to": ["ann@example.org", "b@"]}, "/to/1"),
        ({"to": ["ann@example.org", 3]}, "/to/1"),
        ({"to": []}, "/to"),
        ({"to": ["a@example.org"] * 51}, "/to"),
        ({"to": ["a@example.org"] * 101}, "/to"),
        ({"to": {"address": "a@example.org"}}, "/to"),
        ({"subject": "a\r\nBcc: x@example.org"}, "/subject"),
        ({"body": 3}, "/body"),
        ({"body": None}, "/body"),
        ({"sender": "x"}, "/sender"),
        ({"a/b~": "x"}, "/a~1b~0"),
    ],
)
async def test_a_fault_in_a_short_message_is_pointed_at(
    client: Client, change: dict[str, Any], pointer: str
) -> None:
    response = await client.post("/send-email", json={**SHORT, **change})

    answer = await response.get_json()
    assert (response.status_code, answer["type"]) == (422, problem("validation"))
    assert [error["pointer"] for error in answer["errors"]] == [pointer]


async def test_a_missing_field_is_pointed_at(client: Client) -> None:
    response = await client.post("/send-email", json={"id": "a"})

    (error,) = (await response.get_json())["errors"]
    assert error == {"detail": "is required", "pointer": "/to"}


async def test_every_fault_is_told_at_once(client: Client) -> None:
    body = {**FULL, "to": ["a@", "b@"], "stream": "none", "headers": {"Bcc": "1"}, "tags": ["\x00"]}

    response = await client.post("/v1/messages", json=body)

    errors = (await response.get_json())["errors"]
    pointers = [error["pointer"] for error in errors]
    assert pointers == ["/to/0", "/to/1", "/headers/Bcc", "/stream", "/tags/0"]


# Bodies


@pytest.mark.parametrize(
    ("body", "status", "slug"),
    [
        (b"", 400, "malformed-json"),
        (b"{", 400, "malformed-json"),
        (b"\xff", 400, "malformed-json"),
        (b'{"id": "\xff"}', 400, "malformed-json"),
        (b'{"id": "\\ud800"}', 400, "malformed-json"),
        (b"\xef\xbb\xbf{}", 400, "malformed-json"),
        (b'{"id": NaN}', 400, "malformed-json"),
        (b'{"id":"a","to":"a@b.example","subject":"","body":"","body":"x"}', 400, "malformed-json"),
        (b"[]", 422, "validation"),
        (b"null", 422, "validation"),
        (b"[" * 100_000, 422, "validation"),
        (b'{"id":' + b"[" * 100_000, 422, "validation"),
        (b'{"id":' + b"9" * 10_000 + b"}", 422, "validation"),
    ],
)
async def test_a_body_that_is_no_message_is_refused_cleanly(
    client: Client, body: bytes, status: int, slug: str
) -> None:
    headers = {"Content-Type": "application/json"}

    response = await client.post("/send-email", data=body, headers=headers)

    answer = await response.get_json()
    assert (response.status_code, answer["type"]) == (status, problem(slug))


@pytest.mark.parametrize(
    "content_type",
    [None, "application/x-www-form-urlencoded", "text/json", "application/json; charset=latin-1"],
)
async def test_a_body_of_another_type_is_refused_with_the_header_to_add(
    client: Client, content_type: str | None
) -> None:
    headers = {"Content-Type": content_type} if content_type else {}

    response = await client.post("/send-email", data=json.dumps(SHORT).encode(), headers=headers)

    answer = await response.get_json()
    assert (response.status_code, answer["type"]) == (415, problem("unsupported-media-type"))
    assert "'Content-Type: application/json'" in answer["detail"]


async def test_json_with_a_charset_of_utf_8_is_json(client: Client) -> None:
    headers = {"Content-Type": 'application/json; charset="UTF-8"'}

    response = await client.post("/send-email", data=json.dumps(SHORT).encode(), headers=headers)

    assert response.status_code == 202


async def test_an_unknown_field_is_named_with_the_nearest_known_one(
    client: Client,
) -> None:
    for field, near in (("sujbect", "subject"), ("form", "from"), ("attachment", "attachments")):
        response = await client.post("/v1/messages", json={**FULL, field: "x"})

        (error,) = (await response.get_json())["errors"]
        assert error["pointer"] == f"/{field}"
        assert f"did you mean {near!r}?" in error["detail"]


# Idempotency keys


@pytest.mark.parametrize(("header", "key"), [('"a b"', "a b"), ("8e03978e-40d5", "8e03978e-40d5")])
async def test_the_header_is_the_key(client: Client, header: str, key: str) -> None:
    headers = {"Idempotency-Key": header}
    first = await client.post("/v1/messages", json=FULL, headers=headers)

    same = await client.post("/v1/messages", json={**FULL, "id": key}, headers=headers)
    other = await client.post("/v1/messages", json={**FULL, "text": "x"}, headers=headers)

    answer = await first.get_json()
    assert [r.status_code for r in (first, same, other)] == [202, 200, 422]
    assert answer["idempotency"] == {"by": "key", "window_s": 86400.0}


@pytest.mark.parametrize(
    "header", ["", '""', '"a', 'a"', "a b", '"a";b=1', "a, b", '"\\a"', "é", "x" * 257]
)
async def test_a_header_that_is_no_key_is_refused(client: Client, header: str) -> None:
    headers = {"Idempotency-Key": header}

    response = await client.post("/v1/messages", json=FULL, headers=headers)

    answer = await response.get_json()
    assert (response.status_code, answer["type"]) == (400, problem("idempotency-key-invalid"))


@pytest.mark.parametrize(("path", "body"), [("/send-email", SHORT), ("/v1/messages", FULL)])
async def test_a_header_and_an_id_that_differ_are_refused(
    client: Client, path: str, body: dict[str, Any]
) -> None:
    body = {**body, "id": "one"}

    response = await client.post(path, json=body, headers={"Idempotency-Key": '"two"'})

    answer = await response.get_json()
    assert (response.status_code, answer["type"]) == (400, problem("idempotency-key-mismatch"))


async def test_without_a_key_the_content_is_the_key_and_the_answer_says_so(
    client: Client,
) -> None:
    first = await client.post("/v1/messages", json=FULL)

    again = await client.post("/v1/messages", json=FULL)

    answer = await first.get_json()
    assert (first.status_code, again.status_code) == (202, 200)
    assert answer["idempotency"] == {"by": "fingerprint", "window_s": 60.0}
    assert await again.get_json() == answer


# POST /v1/messages


async def test_a_full_message_is_stored_as_given(rig: Rig, client: Client) -> None:
    response = await client.post("/v1/messages", json=FULL)

    answer = await response.get_json()
    view = await (await client.get(answer["status_url"])).get_json()
    assert response.status_code == 202
    assert answer["message_id"] == f"{answer['id']}@example.com" == view["message_id"]
    assert answer["status"] == "accepted"
    assert (view["from"], view["stream"]) == ("shop@example.com", "bulk")
    recipients = [delivery["recipient"] for delivery in view["deliveries"]]
    assert recipients == [f"{name}@example.org" for name in ("ann", "bob", "carol", "dave")]
    assert [entry["kind"] for entry in view["timeline"]] == ["accepted"]


async def test_a_raw_message_goes_to_the_recipients_beside_it(client: Client) -> None:
    body = {"from": "s@example.com", "to": "a@example.org", "raw": base64.b64encode(RAW).decode()}

    accepted = await client.post("/v1/messages", json=body)
    mixed = await client.post("/v1/messages", json={**body, "subject": "x", "text": "y"})

    errors = (await mixed.get_json())["errors"]
    assert accepted.status_code == 202
    assert [error["pointer"] for error in errors] == ["/subject", "/text"]


@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        ({"from": "nobody"}, "/from"),
        ({"from": {"address": "nobody"}}, "/from"),
        ({"from": {"address": "a@b.example", "name": "x\ny"}}, "/from/name"),
        ({"from": "x\ny <a@b.example>"}, "/from"),
        ({"to": [{"address": "a@b.example", "name": "x\ny"}]}, "/to/0/name"),
        ({"to": {"address": "a@b.example", "name": "x\ny"}}, "/to/name"),
        ({"to": [{"adress": "a@b.example"}]}, "/to/0/adress"),
        ({"cc": "x"}, "/cc"),
        ({"reply_to": ["x"]}, "/reply_to/0"),
        ({"headers": {"X-Good": "1", "Bcc": "x@example.org"}}, "/headers/Bcc"),
        ({"headers": {"X-Good": "1", "X-Bad": "a\r\nb"}}, "/headers/X-Bad"),
        ({"attachments": [{"filename": "a", "content": "a b"}]}, "/attachments/0/content"),
        ({"attachments": [{"filename": "a"}]}, "/attachments/0/content"),
        (
            {"attachments": [{"filename": "a", "content": "", "content_type": "x"}]},
            "/attachments/0/content_type",
        ),
        ({"raw": "YQ"}, "/raw"),
        ({"stream": "none"}, "/stream"),
        ({"expires_in_s": 0}, "/expires_in_s"),
        ({"send_at": "2030-01-01T00:00:00"}, "/send_at"),
        ({"send_at": "9999-12-31T23:59:59-14:00"}, "/send_at"),
        ({"tags": ["x" * 257]}, "/tags/0"),
        ({"metadata": {"a": 3}}, "/metadata"),
        ({"metadata": {"a/b": "x" * 257}}, "/metadata/a~1b"),
    ],
)
async def test_a_fault_in_a_message_is_pointed_at(
    client: Client, change: dict[str, Any], pointer: str
) -> None:
    response = await client.post("/v1/messages", json={**FULL, **change})

    answer = await response.get_json()
    assert response.status_code == 422
    assert [error["pointer"] for error in answer["errors"]] == [pointer]


async def test_send_at_and_expiry_are_kept(client: Client) -> None:
    body = {**FULL, "send_at": "2001-11-09T02:08:47+01:00", "expires_in_s": 12.5}

    answer = await (await client.post("/v1/messages", json=body)).get_json()

    view = await (await client.get(answer["status_url"])).get_json()
    assert view["not_before"] == view["accepted_at"]  # a time that has passed means now


# GET /statuses, GET /v1/messages/{id}


async def test_statuses_come_newest_first_by_pages(client: Client) -> None:
    for number in range(5):
        await client.post("/send-email", json={**SHORT, "id": str(number)})

    seen, query = [], "/statuses?limit=2"
    while query:
        page = await (await client.get(query)).get_json()
        seen.append([status["id"] for status in page["statuses"]])
        query = f"/statuses?limit=2&cursor={page['next']}" if page["next"] else ""

    assert seen == [["4", "3"], ["2", "1"], ["0"]]


async def test_a_status_has_exactly_the_promised_fields(client: Client) -> None:
    receipt = await (await client.post("/send-email", json=SHORT)).get_json()

    answer = await (await client.get(f"/statuses?id={receipt['message_id']}")).get_json()

    (status,) = answer["statuses"]
    assert answer["next"] is None
    assert status == {
        "id": "order-1",
        "message_id": receipt["message_id"],
        "to": ["ann@example.org"],
        "status": "ready",
        "provider": None,
        "attempts": 0,
        "updated_at": status["updated_at"],
        "error": None,
        "deliveries": [
            {
                "recipient": "ann@example.org",
                "status": "ready",
                "provider": None,
                "attempts": 0,
                "error": None,
                "updated_at": status["updated_at"],
            }
        ],
    }
    assert status["updated_at"].endswith("Z")


async def test_a_status_of_an_unknown_id_is_an_empty_list(client: Client) -> None:
    await client.post("/send-email", json=SHORT)

    for name in ("unknown", "null", ""):
        response = await client.get(f"/statuses?id={name}")

        assert await response.get_json() == {"statuses": [], "next": None}


@pytest.mark.parametrize(
    ("query", "parameter"),
    [
        ("limit=0", "limit"),
        ("limit=1001", "limit"),
        ("limit=x", "limit"),
        ("cursor=0", "cursor"),
        ("cursor=null", "cursor"),
        ("cursor=99999999999999999999", "cursor"),
        ("id=a&id=b", "id"),
        ("limt=3", "limt"),
    ],
)
async def test_a_bad_query_is_refused_by_its_parameter(
    client: Client, query: str, parameter: str
) -> None:
    response = await client.get(f"/statuses?{query}")

    answer = await response.get_json()
    assert (response.status_code, answer["type"]) == (400, problem("invalid-parameter"))
    assert [error["parameter"] for error in answer["errors"]] == [parameter]


async def test_the_timeline_tells_rule_inputs_and_next_step(rig: Rig, client: Client) -> None:
    receipt = await (await client.post("/send-email", json=SHORT)).get_json()
    now = time.time() + 100
    fail_once(rig, now)

    view = await (await client.get(receipt["status_url"])).get_json()

    (delivery,) = view["deliveries"]
    assert (view["status"], delivery["provider"]) == ("deferred", "primary")
    assert delivery["next_at"] == rfc3339(now + 30)
    assert view["timeline"][-1] == {
        "at": rfc3339(now),
        "kind": "attempt",
        "rule": "recipient deferred: wait",
        "provider": "primary",
        "outcome": "deferred",
        "reason": "450 busy",
        "next": [
            {
                "recipient": "ann@example.org",
                "status": "deferred",
                "due_at": rfc3339(now + 30),
            }
        ],
        "facts": {"round": 1, "attempt_id": "attempt-1"},
    }


def fail_once(rig: Rig, now: float) -> None:
    """Play the dispatcher: claim the message, try it, and defer it."""
    (claimed,) = rig.store.apply([Claim("transactional", 1, "node")], now)
    (lease,) = claimed.leases  # type: ignore[union-attr]
    rig.store.apply([Intend("attempt-1", lease.seq, (0,), lease.epoch, "primary")], now)
    facts = {
        "rule": "recipient deferred: wait",
        "reason": "450 busy",
        "round": 1,
        "next": {"0": "deferred", "0.due_at": now + 30},
    }
    steps = (Step(0, State.DEFERRED, now + 30, "450 busy"),)
    settle = Settle(
        "attempt-1", lease.seq, lease.epoch, "primary", steps, Progress(), "deferred", facts
    )
    rig.store.apply([settle], now)


async def test_a_message_is_found_by_either_id_or_not_at_all(client: Client) -> None:
    await client.post("/send-email", json=SHORT)

    by_client_id = await client.get("/v1/messages/order-1")
    unknown = await client.get("/v1/messages/order-2")

    assert by_client_id.status_code == 200
    assert (unknown.status_code, (await unknown.get_json())["type"]) == (404, problem("not-found"))


# Providers, probes, the rest


async def test_providers_are_shown_as_they_are_now(rig: Rig, client: Client) -> None:
    lane, now_s = rig.lanes["primary"], trio.current_time()
    lane.health.publish(Health(Gate.OPEN, until_s=now_s + 100, opened_count=2))
    lane.pace.publish(Pace(next_permit_s=now_s + 50, permits=3, is_paused=True))

    (provider,) = (await (await client.get("/v1/providers")).get_json())["providers"]

    assert 99 < provider.pop("gate_opens_in_s") <= 100
    assert 49 < provider.pop("next_permit_in_s") <= 50
    assert provider == {
        "name": "primary",
        "gate": "open",
        "probes_free": 0,
        "opened_count": 2,
        "last_success_s_ago": None,
        "paused": True,
        "permits": 3,
        "in_flight": 0,
        "slots_free": 4,
        "concurrency_max": 4,
    }


async def test_a_service_that_is_well_is_alive_and_ready(client: Client) -> None:
    assert (await client.get("/healthz")).status_code == 200
    assert (await client.get("/readyz")).status_code == 200


async def test_a_service_that_stops_is_alive_but_not_ready(rig: Rig, client: Client) -> None:
    rig.stopping.set()
    rig.door.close()

    alive, ready = await client.get("/healthz"), await client.get("/readyz")
    post = await client.post("/send-email", json=SHORT)

    assert [r.status_code for r in (alive, ready, post)] == [200, 503, 503]
    assert (await ready.get_json())["type"] == problem("stopping")
    assert (await post.get_json())["type"] == problem("stopping")
    assert post.headers["Retry-After"] == "5"


async def test_a_full_disk_is_not_ready_and_refuses_with_a_time_to_return(
    rig: Rig, client: Client
) -> None:
    rig.signals.full_until_s.publish(trio.current_time() + 0.4)

    ready, post = await client.get("/readyz"), await client.post("/send-email", json=SHORT)

    assert (ready.status_code, post.status_code) == (503, 503)
    assert (await ready.get_json())["type"] == problem("not-ready")
    assert (await post.get_json())["type"] == problem("overloaded")
    assert post.headers["Retry-After"] == "1"


async def test_a_broken_spool_is_503_on_every_question(
    rig: Rig, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(_question: object) -> None:
        raise SpoolBrokenError("disk I/O error")

    monkeypatch.setattr(rig.reader, "ask", broken)

    for path in ("/readyz", "/statuses", "/v1/messages/x"):
        response = await client.get(path)

        answer = await response.get_json()
        assert (response.status_code, answer["type"]) == (503, problem("spool-unavailable"))
        assert "disk I/O" not in await response.get_data(as_text=True)


async def test_an_overloaded_door_says_when_to_return(
    rig: Rig, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def overloaded(_submission: object) -> None:
        raise OverloadedError("too many submissions at once", 1.2)

    monkeypatch.setattr(rig.door, "submit", overloaded)

    response = await client.post("/send-email", json=SHORT)

    assert (response.status_code, response.headers["Retry-After"]) == (503, "2")


async def test_a_fault_of_ours_shows_nothing_and_is_noted_without_its_words(
    rig: Rig, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def bug(_submission: object) -> None:
        raise RuntimeError("secret of ann@example.org")

    monkeypatch.setattr(rig.door, "submit", bug)

    response = await client.post("/send-email", json=SHORT)

    ((event, facts),) = rig.journal.notes
    assert response.status_code == 500
    assert "secret" not in await response.get_data(as_text=True)
    assert (event, facts["error"], facts["route"]) == ("api.fault", "RuntimeError", "/send-email")
    assert "ann" not in str(facts)
    assert facts["at"].startswith("test_app.py:")


async def test_a_group_of_faults_is_a_fault_of_ours_too(
    rig: Rig, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def bug(_submission: object) -> None:
        raise ExceptionGroup("bugs", [RuntimeError("one"), ValueError("two")])

    monkeypatch.setattr(rig.door, "submit", bug)

    response = await client.post("/send-email", json=SHORT)

    assert response.status_code == 500
    assert response.content_type == "application/problem+json"


@pytest.mark.parametrize(
    ("method", "path", "status", "slug"),
    [
        ("GET", "/nowhere", 404, "not-found"),
        ("GET", "/v1/messages/a/b", 404, "not-found"),
        ("GET", "/send-email", 405, "method-not-allowed"),
        ("DELETE", "/statuses", 405, "method-not-allowed"),
        ("BREW", "/statuses", 405, "method-not-allowed"),
    ],
)
async def test_what_is_not_there_is_a_problem_too(
    client: Client, method: str, path: str, status: int, slug: str
) -> None:
    response = await client.open(path, method=method, json=None)

    answer = await response.get_json()
    assert (response.status_code, answer["type"]) == (status, problem(slug))
    assert response.content_type == "application/problem+json"
    assert ("Allow" in response.headers) == (status == 405)


async def test_a_body_over_the_limit_is_refused_and_the_connection_closed(
    client: Client,
) -> None:
    headers = {"Content-Type": "application/json", "Content-Length": str(17 * 1024 * 1024)}

    response = await client.post("/send-email", data=b"{", headers=headers)

    assert (response.status_code, (await response.get_json())["type"]) == (
        413,
        problem("too-large"),
    )
    assert response.headers["Connection"] == "close"


async def test_the_index_lists_the_routes(client: Client) -> None:
    answer = await (await client.get("/")).get_json()

    assert answer["service"] == "mailactors"
    assert "POST /send-email" in answer["routes"]
