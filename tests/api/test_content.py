"""What a message is made of, over HTTP: other forms, whole messages, headers, and their faults."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from quart.typing import TestClientProtocol as Client

from tests.api.bodies import FULL
from tests.api.rig import problem

INVITATION = {"content_type": "text/calendar; method=REQUEST", "content": "BEGIN:VCALENDAR\n"}
RAW = b"From: ann@example.com\r\nMessage-ID: <1@example.com>\r\n\r\nHi\r\n"


def raw_body(raw: bytes) -> dict[str, Any]:
    """Return the body that submits a whole message."""
    return {"to": "bob@example.org", "raw": base64.b64encode(raw).decode()}


async def faults_of(client: Client, body: dict[str, Any]) -> list[tuple[str, str]]:
    """Return where and why a message is refused."""
    response = await client.post("/v1/messages", json=body)
    assert response.status_code == 422
    errors = (await response.get_json())["errors"]
    return [(error["pointer"], error["detail"]) for error in errors]


async def test_alternatives_are_part_of_what_is_submitted(client: Client) -> None:
    body = {"to": "bob@example.org", "id": "1", "alternatives": [INVITATION]}
    other = {**body, "alternatives": [{**INVITATION, "content": "BEGIN:VCALENDAR\nX"}]}

    codes = [(await client.post("/v1/messages", json=each)).status_code for each in (body, body)]
    conflict = await client.post("/v1/messages", json=other)

    assert codes == [202, 200]
    assert (await conflict.get_json())["type"] == problem("idempotency-key-reused")


@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        ({"alternatives": [INVITATION] * 11}, "/alternatives"),
        ({"alternatives": [{"content_type": "text/calendar"}]}, "/alternatives/0/content"),
        (
            {"alternatives": [INVITATION, {"content_type": "text/html", "content": ""}]},
            "/alternatives/1/content_type",
        ),
        ({"headers": {"List-Id": "Bücher <bücher.example>"}}, "/headers/List-Id"),
        ({"headers": {"X-A": "1", "References": "=?utf-8?q?x?="}}, "/headers/References"),
        ({"headers": {"References": "<a@b>", "references": "<c@d>"}}, "/headers/references"),
        ({"headers": {"X-A": "x" * 40_000}}, "/headers/X-A"),
        ({"headers": {f"X-{n}": "x " * 15_000 for n in range(5)}}, "/headers"),
        ({"headers": {"X-" + "a" * 7_000_000: "1"}}, "/headers"),
        ({"from": f'"{"x" * 7_000_000}" <a@example.com>'}, "/from"),
        ({"from": {"address": "a@example.com", "name": "x" * 513}}, "/from/name"),
        ({"to": "\\" * 7_000_000 + "<a@example.com>"}, "/to"),
        ({"cc": ['"' + "\\x" * 3_000_000 + '" <a@example.com>']}, "/cc/0"),
        ({"to": "bob@x.test"}, "/to"),
        ({"text": None, "html": None}, "/text"),
    ],
)
async def test_a_fault_in_what_a_message_is_made_of_is_pointed_at(
    client: Client, change: dict[str, Any], pointer: str
) -> None:
    found = await faults_of(client, {**FULL, **change})

    assert [where for where, _ in found] == [pointer]
    assert len(json.dumps(found)) < 1000


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"From ann@example.com Fri Nov  9\r\n" + RAW, "line 1 begins an mbox"),
        (RAW.replace(b"\r\n\r\n", b"\r\nX-SES-CONFIGURATION-SET: x\r\n\r\n"), "line 3 is X-SES-"),
        (RAW[:-2], "must end its last line"),
    ],
)
async def test_a_whole_message_is_refused_with_its_line(
    client: Client, raw: bytes, words: str
) -> None:
    ((pointer, detail),) = await faults_of(client, raw_body(raw))

    assert pointer == "/raw"
    assert detail.startswith(words)


async def test_alternatives_are_part_of_a_whole_message(client: Client) -> None:
    found = await faults_of(client, {**raw_body(RAW), "alternatives": [INVITATION]})

    assert [where for where, _ in found] == ["/alternatives"]


@pytest.mark.parametrize(
    ("raw", "expected"),
    [(RAW, "1@example.com"), (RAW.replace(b"Message-ID", b"X-Message-ID"), "")],
)
async def test_the_receipt_of_a_whole_message_names_the_message_id_in_it(
    client: Client, raw: bytes, expected: str
) -> None:
    response = await client.post("/v1/messages", json=raw_body(raw))

    answer = await response.get_json()
    assert answer["rfc_message_id"] == expected
    view = await (await client.get(answer["status_url"])).get_json()
    assert view["rfc_message_id"] == expected


async def test_who_is_nowhere_on_the_net_can_be_looked_for_and_suppressed(client: Client) -> None:
    listed = await client.get("/v1/messages?recipient=bob@x.test")
    suppressed = await client.post(
        "/v1/suppressions", json={"address": "bob@localhost", "reason": "x"}
    )

    assert (listed.status_code, suppressed.status_code) == (200, 200)
