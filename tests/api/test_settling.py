"""Settling by hand what nobody else could."""

from __future__ import annotations

from typing import Any

import pytest
from quart.typing import TestClientProtocol as Client

from mailactors.model.lifecycle import State
from tests.api.rig import Rig, problem
from tests.api.test_openapi import JSON_TYPE, PROBLEM, fits
from tests.api.test_operating import accept, settle

PATH = "/v1/messages/{name}/settle"


async def post(client: Client, name: str, body: Any) -> tuple[int, Any]:
    response = await client.post(f"/v1/messages/{name}/settle", json=body)
    answer = await response.get_json()
    media = JSON_TYPE if response.status_code == 200 else PROBLEM
    fits(answer, PATH, "post", response.status_code, media)
    return response.status_code, answer


@pytest.mark.parametrize(
    ("into", "status", "risks"),
    [("sent", "sent", 0), ("failed", "failed", 0), ("resend", "queued", 1)],
)
@pytest.mark.parametrize("before", [State.UNCERTAIN, State.HELD])
async def test_a_person_settles_what_is_open(
    before: State, into: str, status: str, risks: int, rig: Rig, client: Client
) -> None:
    name = await accept(client)
    settle(rig, State.UNCERTAIN)
    if before is State.HELD:
        rig.store._db.execute("UPDATE deliveries SET state = 'held'")
    rig.store._db.execute("UPDATE sums SET name = 'held' WHERE name = 'uncertain'")
    signal = rig.signals.due("transactional").value

    answer = await post(client, "order-1", {"as": into, "note": "  Bob  has\tit "})

    view = await (await client.get(f"/v1/messages/{name}")).get_json()
    ledger = await (await client.get("/v1/ledger")).get_json()
    told = [event for event in view["timeline"] if event["kind"] == "resolved"]
    assert answer == (200, {"id": name, "as": into, "settled": [0], "left": []})
    assert (view["status"], ledger["declared_risks"], ledger["holds"]) == (status, risks, True)
    assert told[0]["facts"]["note"] == "Bob has it"
    assert told[0]["rule"] == f"by hand: as {into}"
    assert rig.signals.due("transactional").value - signal == risks  # the dispatcher hears of it


async def test_what_is_held_is_not_in_flight_and_nothing_of_it_is_due(
    rig: Rig, client: Client
) -> None:
    name = await accept(client)
    settle(rig, State.UNCERTAIN)
    rig.store._db.execute("UPDATE deliveries SET state = 'held'")
    rig.store._db.execute("UPDATE sums SET name = 'held' WHERE name = 'uncertain'")

    view = await (await client.get(f"/v1/messages/{name}")).get_json()
    ledger = await (await client.get("/v1/ledger")).get_json()

    assert [None] == [each["next_at"] for each in view["deliveries"]]
    assert ({"held": 1}, 0) == (ledger["states"], ledger["in_flight"])


async def test_what_is_not_open_is_left_alone(rig: Rig, client: Client) -> None:
    name = await accept(client, "order-1", "ann@example.org", "bob@example.org")
    settle(rig, State.SENT, State.UNCERTAIN)

    first = await post(client, name, {"as": "failed"})
    again = await post(client, name, {"as": "failed"})

    assert first == (200, {"id": name, "as": "failed", "settled": [1], "left": [0]})
    assert (409, problem("not-settled")) == (again[0], again[1]["type"])
    view = await (await client.get(f"/v1/messages/{name}")).get_json()
    assert [each["status"] for each in view["deliveries"]] == ["sent", "failed"]


async def test_past_its_deadline_nothing_is_sent_again(rig: Rig, client: Client) -> None:
    name = await accept(client)
    settle(rig, State.UNCERTAIN)
    rig.store._db.execute("UPDATE messages SET expires_at = 1")

    status, answer = await post(client, name, {"as": "resend"})

    assert (status, answer["type"]) == (409, problem("not-settled"))
    assert "deadline" in answer["detail"]
    assert (await post(client, name, {"as": "failed"}))[0] == 200


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"as": "lost"}, "/as"),
        ({"as": "sent", "note": "x" * 1000}, "/note"),
        ({"as": "sent", "note": "a\u0007b"}, "/note"),
        ({"as": "sent", "what": 1}, "/what"),
        ({}, "/as"),
    ],
)
async def test_a_faulty_body_is_told_where(body: Any, pointer: str, client: Client) -> None:
    await accept(client)

    status, answer = await post(client, "order-1", body)

    assert (status, answer["errors"][0]["pointer"]) == (422, pointer)


async def test_nobody_can_be_settled_who_is_not_there(client: Client) -> None:
    status, answer = await post(client, "nobody", {"as": "sent"})

    assert (status, answer["type"]) == (404, problem("not-found"))
