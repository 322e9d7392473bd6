"""Many messages in one request: a result for each, in order, and one commit."""

from __future__ import annotations

import json
from typing import Any

import pytest
import trio
from quart.typing import TestClientProtocol as Client

from mailactors.api import bodies, exchange, parts
from mailactors.api.batch import ADDRESSES_MAX
from mailactors.api.schemas import BATCH_MAX
from mailactors.intake.submission import OverloadedError
from tests.api.bodies import FULL
from tests.api.rig import JSON, WITHIN_S, Rig, Served, problem, serve

PATH = "/v1/messages/batch"
NDJSON = {"Content-Type": "application/x-ndjson"}


def message(name: str, **changes: Any) -> dict[str, Any]:
    return {"from": "s@example.com", "to": "a@example.org", "text": "x", "id": name, **changes}


async def results_of(client: Client, messages: list[Any]) -> list[dict[str, Any]]:
    response = await client.post(PATH, json=messages)
    answer = await response.get_json()
    assert response.status_code == 200, answer
    results: list[dict[str, Any]] = answer["results"]
    return results


def as_lines(*lines: Any) -> bytes:
    return b"".join(json.dumps(line).encode() + b"\n" for line in lines)


async def test_each_message_has_its_receipt_in_order(client: Client) -> None:
    results = await results_of(client, [message("one"), {**FULL, "id": "two"}])

    for name, result in zip(("one", "two"), results, strict=True):
        view = await (await client.get(result["status_url"])).get_json()
        assert view["client_id"] == name
        assert result == {
            "status": 202,
            "id": view["id"],
            "client_id": view["client_id"],
            "rfc_message_id": view["rfc_message_id"],
            "status_url": f"/v1/messages/{view['id']}",
        }


async def test_a_batch_is_one_commit(rig: Rig, client: Client) -> None:
    await results_of(client, [message(str(number)) for number in range(100)])

    assert sum(rig.signals.commits.counts) == 1


async def test_lines_and_an_array_are_the_same_batch(client: Client) -> None:
    messages = [message("one"), message("two")]
    first = await results_of(client, messages)

    response = await client.post(PATH, data=as_lines(*messages), headers=NDJSON)

    again = (await response.get_json())["results"]
    assert again == [{**result, "status": 200, "replayed": True} for result in first]


async def test_a_faulty_message_does_not_hold_up_the_others(client: Client) -> None:
    await results_of(client, [message("taken")])
    batch: list[Any] = [
        message("good"),
        message("bad", to=["a@example.org", "b@"], stream="none"),
        message("taken", text="other"),
        17,
        {"form": "a@example.org"},
        message("one", idempotency_key="two"),
        message("also good"),
    ]

    results = await results_of(client, batch)

    assert [r["status"] for r in results] == [202, 422, 422, 422, 422, 400, 202]
    pointers = [[e.get("pointer") for e in r.get("problem", {}).get("errors", [])] for r in results]
    assert pointers == [[], ["/1/to/1", "/1/stream"], [], ["/3"], ["/4/form"], [], []]
    types = [result["problem"]["type"] for result in results if "problem" in result]
    assert types == [
        problem("validation"),
        problem("idempotency-key-reused"),
        *[problem("validation")] * 2,
        problem("idempotency-key-mismatch"),
    ]


async def test_a_problem_in_a_batch_is_the_problem_of_a_request_of_its_own(client: Client) -> None:
    alone = await (await client.post("/v1/messages", json=message("a", to="x"))).get_json()

    (result,) = await results_of(client, [message("a", to="x")])

    (error,) = alone.pop("errors")
    (moved,) = result["problem"].pop("errors")
    assert moved == {**error, "pointer": "/0/to"}
    assert (result["problem"], result["status"]) == (alone, alone["status"])


async def test_a_line_that_is_no_json_is_its_own_fault(client: Client) -> None:
    lines = [
        json.dumps(message("one")).encode() + b"\r",
        b"{",
        b"",
        b'{"id": "\xff"}',
        b'{"to": "a@b.example", "to": "c@d.example"}',
        b"[" * 100_000,
        json.dumps(message("two")).encode(),
    ]

    response = await client.post(PATH, data=b"\n".join(lines), headers=NDJSON)

    results = (await response.get_json())["results"]
    assert [result["status"] for result in results] == [202, 400, 400, 400, 422, 202]
    assert results[1]["problem"]["type"] == problem("malformed-json")


@pytest.mark.parametrize(
    ("body", "status", "slug"),
    [
        (b"", 400, "malformed-json"),
        (b"[{}", 400, "malformed-json"),
        (b'[{"id": tru}]', 400, "malformed-json"),
        (b"[{}] x", 400, "malformed-json"),
        (b"[" * 100_000, 400, "malformed-json"),
        (b"\xef\xbb\xbf[]", 400, "malformed-json"),
        (b"{}", 422, "validation"),
        (b"null", 422, "validation"),
        (b'"x"', 422, "validation"),
    ],
)
async def test_what_is_no_array_is_refused_as_a_whole(
    client: Client, body: bytes, status: int, slug: str
) -> None:
    response = await client.post(PATH, data=body, headers=JSON)

    answer = await response.get_json()
    assert (response.status_code, answer["type"]) == (status, problem(slug))


async def test_an_empty_batch_has_no_results(client: Client) -> None:
    assert await results_of(client, []) == []
    response = await client.post(PATH, data=b"\n \n", headers=NDJSON)
    assert await response.get_json() == {"results": []}


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (b"[" + b"0," * BATCH_MAX + b"0]", JSON),
        (b"0\n" * (BATCH_MAX + 1), NDJSON),
        (b"\n" * (3 * BATCH_MAX), NDJSON),
    ],
)
async def test_more_than_a_thousand_are_refused_as_a_whole(
    client: Client, body: bytes, headers: dict[str, str]
) -> None:
    response = await client.post(PATH, data=body, headers=headers)

    answer = await response.get_json()
    assert (response.status_code, answer["type"]) == (422, problem("validation"))
    assert "more than 1000" in answer["detail"]


async def test_a_thousand_are_taken(client: Client) -> None:
    response = await client.post(PATH, data=b"[" + b"0," * (BATCH_MAX - 1) + b"0]", headers=JSON)

    assert len((await response.get_json())["results"]) == BATCH_MAX


# Keys


async def test_the_same_key_twice_in_one_batch_is_one_message(client: Client) -> None:
    results = await results_of(client, [message("a"), message("a"), message("a", text="y")])

    assert [result["status"] for result in results] == [202, 200, 422]
    assert results[0]["id"] == results[1]["id"]


async def test_a_key_of_its_own_is_no_name(client: Client) -> None:
    keyed = {**message("x"), "idempotency_key": "k" * 256}
    del keyed["id"]
    (first,) = await results_of(client, [keyed])

    again = await client.post(
        "/v1/messages",
        json={k: v for k, v in keyed.items() if k != "idempotency_key"},
        headers={"Idempotency-Key": "k" * 256},
    )

    view = await (await client.get(first["status_url"])).get_json()
    assert (again.status_code, (await again.get_json())["id"]) == (200, first["id"])
    assert view["client_id"] is None


async def test_a_faulty_key_is_pointed_at_where_it_was_given(client: Client) -> None:
    results = await results_of(
        client,
        [{**FULL, "idempotency_key": "a\nb"}, {**FULL, "id": "a\nb"}, {**FULL, "id": ""}],
    )

    pointers = [result["problem"]["errors"][-1]["pointer"] for result in results]
    assert pointers == ["/0/idempotency_key", "/1/id", "/2/id"]


async def test_a_key_for_the_whole_batch_is_refused(client: Client) -> None:
    response = await client.post(PATH, json=[message("a")], headers={"Idempotency-Key": "a"})

    answer = await response.get_json()
    assert (response.status_code, answer["type"]) == (400, problem("idempotency-key-invalid"))


# Limits


async def test_another_content_type_is_refused_with_both_that_are_known(client: Client) -> None:
    response = await client.post(PATH, data=b"[]", headers={"Content-Type": "text/plain"})

    answer = await response.get_json()
    assert (response.status_code, answer["type"]) == (415, problem("unsupported-media-type"))
    assert "application/json" in answer["detail"]
    assert "application/x-ndjson" in answer["detail"]


async def test_a_batch_may_be_larger_than_a_message_but_not_without_end(
    rig: Rig, client: Client
) -> None:
    over = exchange.BODY_BYTES_MAX + 1
    large = b"[" + b" " * over + b"]"
    too_large = {**JSON, "Content-Length": str(exchange.BATCH_BYTES_MAX + 1)}

    taken = await client.post(PATH, data=large, headers=JSON)
    refused = await client.post(PATH + "/", data=b"[", headers=too_large)

    assert taken.status_code == 200
    assert (refused.status_code, refused.headers["Connection"]) == (413, "close")
    assert str(exchange.BATCH_BYTES_MAX) in (await refused.get_json())["detail"]


async def test_batches_too_many_at_once_are_told_to_come_again(rig: Rig) -> None:
    head = (
        b"POST /v1/messages/batch HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b"Content-Length: 2\r\nConnection: close\r\n\r\n"
    )

    async def ask_until(served: Served, status: bytes) -> bytes:
        with trio.fail_after(WITHIN_S):
            while not (answer := await served.ask(head + b"[]")).startswith(status):
                pass
        return answer

    async with serve(rig.app, rig.journal) as served:
        streams = [await served.connect() for _ in range(parts.BATCHES_MAX)]
        for stream in streams:
            await stream.send_all(head + b"[")
        refused = await ask_until(served, b"HTTP/1.1 503")  # once all of them have begun
        for stream in streams:
            await stream.aclose()
        await ask_until(served, b"HTTP/1.1 200")  # once they have been let go

    assert b"retry-after: 1" in refused.lower()


async def test_an_overloaded_door_refuses_the_whole_batch(
    rig: Rig, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def overloaded(_submissions: object) -> None:
        raise OverloadedError("the spool is behind", 1.2)

    monkeypatch.setattr(rig.door, "submit_many", overloaded)

    response = await client.post(PATH, json=[message("a")])

    assert (response.status_code, response.headers["Retry-After"]) == (503, "2")
    assert (await response.get_json())["type"] == problem("overloaded")


async def test_a_closed_door_refuses_the_whole_batch(rig: Rig, client: Client) -> None:
    rig.door.close()

    response = await client.post(PATH, json=[message("a")])

    assert (response.status_code, (await response.get_json())["type"]) == (503, problem("stopping"))


async def test_a_batch_has_so_many_addresses_and_no_more(rig: Rig, client: Client) -> None:
    fifty = [f"{n}@example.org" for n in range(50)]
    full = [message(f"m{n}", to=fifty) for n in range(ADDRESSES_MAX // 50)]

    refused = await client.post(PATH, json=[*full, message("one more")])

    answer = await refused.get_json()
    assert (refused.status_code, answer["type"]) == (422, problem("validation"))
    assert "more than 10000 addresses" in answer["detail"]
    assert rig.door.results.counts == {}


@pytest.mark.parametrize("field", ["to", "cc", "bcc", "reply_to"])
async def test_a_hundred_thousand_bad_addresses_are_not_looked_at(
    client: Client, monkeypatch: pytest.MonkeyPatch, field: str
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(bodies, "parse_mailbox", asked.append)
    bad = [message(f"m{n}", **{field: [f"bad {n} {m}" for m in range(100)]}) for n in range(1000)]

    refused = await client.post(PATH, json=bad)

    assert refused.status_code == 422
    assert len(asked) <= ADDRESSES_MAX + 1000
