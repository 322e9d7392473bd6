"""What is known is not asked like new mail: a replay gets its first answer, whatever changed."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from quart.typing import TestClientProtocol as Client

from tests.api.bodies import FULL
from tests.api.rig import Rig

KEYED = FULL | {"id": "order-7", "stream": "bulk"}
UNKEYED = {name: value for name, value in KEYED.items() if name != "id"}


def rules(rig: Rig, **changes: Any) -> None:
    rig.door.rules = msgspec.structs.replace(rig.door.rules, **changes)


def without_stream(rig: Rig) -> None:
    rules(rig, streams={n: each for n, each in rig.door.rules.streams.items() if n != "bulk"})


def full_backlog(rig: Rig) -> None:
    rules(rig, backlog_max=0)


def used_up_limit(rig: Rig) -> None:
    rules(rig, per_minute=1)
    rig.door._count(1)


@pytest.mark.parametrize("changed", [without_stream, full_backlog, used_up_limit])
@pytest.mark.parametrize("body", [KEYED, UNKEYED | {"key": "content"}])
async def test_a_replay_gets_its_first_answer(
    rig: Rig, client: Client, changed: Any, body: dict[str, Any]
) -> None:
    first = await client.post("/v1/messages", json=body)
    changed(rig)

    again = await client.post("/v1/messages", json=body)
    in_batch = await client.post("/v1/messages/batch", json=[body])
    new = await client.post("/v1/messages", json=body | {"id": "new", "subject": "New"})

    assert (202, 200) == (first.status_code, again.status_code)
    assert await again.get_json() == await first.get_json() | {"replayed": True}
    (result,) = (await in_batch.get_json())["results"]
    assert (200, True) == (result["status"], result["replayed"])
    assert new.status_code in {422, 429, 503}


async def test_a_replay_uses_up_nothing_of_the_limit(rig: Rig, client: Client) -> None:
    rules(rig, per_minute=5)
    await client.post("/v1/messages", json=KEYED)

    for _ in range(9):
        assert 200 == (await client.post("/v1/messages", json=KEYED)).status_code
        assert 200 == (await client.post("/v1/messages/batch", json=[KEYED])).status_code

    assert (5, 4) == rig.door.minute_left()


async def test_other_content_under_a_known_key_is_still_refused(rig: Rig, client: Client) -> None:
    await client.post("/v1/messages", json=KEYED)
    without_stream(rig)

    other = await client.post("/v1/messages", json=KEYED | {"subject": "Another"})

    assert 422 == other.status_code


async def test_a_message_is_found_by_its_key(rig: Rig, client: Client) -> None:
    headers = {"Idempotency-Key": '"8e03978e"'}
    sent = await (await client.post("/v1/messages", json=UNKEYED, headers=headers)).get_json()

    found = await client.get("/v1/messages/8e03978e")

    assert (200, sent["id"]) == (found.status_code, (await found.get_json())["id"])
    assert 404 == (await client.get("/v1/messages/8e03978f")).status_code
