"""Messages coming in one by one: their bodies, their keys, and what is wrong with them."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
import trio
from quart.typing import TestClientProtocol as Client

from tests.api.bodies import FULL, RAW, SHORT
from tests.api.rig import Rig, problem

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
        "rfc_message_id": f"{answer['message_id']}@mail.example",
        "status_url": f"/v1/messages/{answer['message_id']}",
        "replayed": False,
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
    assert await again.get_json() == await first.get_json() | {"replayed": True}
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


async def test_each_missing_field_is_pointed_at(client: Client) -> None:
    response = await client.post("/send-email", json={"id": "a"})

    errors = (await response.get_json())["errors"]
    assert errors == [
        {"detail": "is required", "pointer": pointer} for pointer in ("/to", "/subject", "/body")
    ]


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


async def test_the_content_may_be_the_key_and_the_answer_says_so(client: Client) -> None:
    body = {**FULL, "key": "content"}
    first = await client.post("/v1/messages", json=body)

    again = await client.post("/v1/messages", json=body)

    answer = await first.get_json()
    assert (first.status_code, again.status_code) == (202, 200)
    assert answer["idempotency"] == {"by": "fingerprint", "window_s": 60.0}
    assert await again.get_json() == answer | {"replayed": True}


async def test_without_a_key_a_message_is_new_and_the_answer_says_so(client: Client) -> None:
    first, again = [await client.post("/v1/messages", json=FULL) for _ in range(2)]

    answer, other = await first.get_json(), await again.get_json()
    assert (first.status_code, again.status_code) == (202, 202)
    assert answer["idempotency"] == other["idempotency"] == {"by": "none", "window_s": 0.0}
    assert answer["id"] != other["id"]


@pytest.mark.parametrize(("path", "body"), [("/send-email", SHORT), ("/v1/messages", FULL)])
async def test_a_key_beside_the_content_is_refused(
    client: Client, path: str, body: dict[str, Any]
) -> None:
    by_content = {**body, "key": "content"}
    faulty = await client.post(path, json={**body, "key": "mine"})
    both = await client.post(path, json=by_content, headers={"Idempotency-Key": '"k"'})
    batch = [{**FULL, "key": "content", "idempotency_key": "k"}]
    (result,) = (await (await client.post("/v1/messages/batch", json=batch)).get_json())["results"]

    assert [each["pointer"] for each in (await faulty.get_json())["errors"]] == ["/key"]
    assert (400, problem("idempotency-key-mismatch")) == (
        both.status_code,
        (await both.get_json())["type"],
    )
    assert (400, problem("idempotency-key-mismatch")) == (
        result["status"],
        result["problem"]["type"],
    )


# POST /v1/messages


async def test_a_full_message_is_stored_as_given(rig: Rig, client: Client) -> None:
    response = await client.post("/v1/messages", json=FULL)

    answer = await response.get_json()
    view = await (await client.get(answer["status_url"])).get_json()
    assert response.status_code == 202
    assert answer["rfc_message_id"] == f"{answer['id']}@example.com" == view["rfc_message_id"]
    assert answer["client_id"] is view["client_id"] is None
    assert (view["tags"], view["metadata"]) == (["receipt"], {"order": "17"})
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
