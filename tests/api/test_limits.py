"""The service's own limit a minute: who is refused, for how long, and what every answer tells."""

from __future__ import annotations

import msgspec
import pytest
import trio
from quart.typing import TestClientProtocol as Client
from trio.testing import MockClock

from tests.api.bodies import SHORT
from tests.api.rig import RULES, Rig, problem

BATCH = [{"from": "s@example.com", "to": f"{n}@example.org", "text": "x"} for n in "abc"]


@pytest.fixture
def limited(rig: Rig) -> Rig:
    rig.door.rules = msgspec.structs.replace(RULES, per_minute=2)
    return rig


async def test_every_acceptance_tells_what_is_left(limited: Rig, client: Client) -> None:
    first = await client.post("/send-email", json=SHORT)
    second = await client.post("/v1/messages/batch", json=BATCH[:1])

    assert [r.headers["RateLimit-Policy"] for r in (first, second)] == ['"service";q=2;w=60'] * 2
    assert [r.headers["RateLimit"] for r in (first, second)] == [
        '"service";r=1;t=60',
        '"service";r=0;t=60',
    ]


async def test_one_too_many_is_told_when_there_is_room_and_then_there_is(
    limited: Rig, client: Client, autojump_clock: MockClock
) -> None:
    for name in "ab":
        await client.post("/send-email", json={**SHORT, "id": name})

    refused = await client.post("/send-email", json={**SHORT, "id": "c"})

    wait_s = int(refused.headers["Retry-After"])
    assert (refused.status_code, (await refused.get_json())["type"]) == (
        429,
        problem("rate-limited"),
    )
    assert 55 <= wait_s <= 62
    assert refused.headers["RateLimit"] == f'"service";r=0;t={wait_s}'
    assert refused.headers["RateLimit-Policy"] == '"service";q=2;w=60'
    await trio.sleep(wait_s)
    assert (await client.post("/send-email", json={**SHORT, "id": "c"})).status_code == 202


async def test_a_batch_that_passes_the_limit_comes_in_wholly_or_not_at_all(
    limited: Rig, client: Client
) -> None:
    await client.post("/send-email", json=SHORT)

    refused = await client.post("/v1/messages/batch", json=BATCH[:2])

    statuses = (await (await client.get("/statuses")).get_json())["statuses"]
    assert refused.status_code == 429
    assert "Retry-After" in refused.headers
    assert len(statuses) == 1


async def test_a_batch_larger_than_the_limit_is_never_accepted(
    limited: Rig, client: Client
) -> None:
    refused = await client.post("/v1/messages/batch", json=BATCH)

    answer = await refused.get_json()
    assert (refused.status_code, answer["type"]) == (422, problem("validation"))
    assert "2 a minute" in answer["detail"]
    assert "Retry-After" not in refused.headers


async def test_what_is_faulty_is_told_the_limit_but_uses_none_of_it(
    limited: Rig, client: Client
) -> None:
    refused = await client.post("/send-email", json={**SHORT, "to": "x"})

    assert (refused.status_code, refused.headers["RateLimit"]) == (422, '"service";r=2;t=60')


async def test_without_a_limit_and_elsewhere_nothing_is_told(rig: Rig, client: Client) -> None:
    unlimited = await client.post("/send-email", json=SHORT)
    rig.door.rules = msgspec.structs.replace(RULES, per_minute=2)
    elsewhere = await client.get("/statuses")

    assert "RateLimit" not in unlimited.headers
    assert "RateLimit" not in elsewhere.headers


async def test_a_retry_by_hand_is_a_message_too(limited: Rig, client: Client) -> None:
    for name in "ab":
        await client.post("/send-email", json={**SHORT, "id": name, "to": f"{name}@example.org"})
        await client.post(f"/v1/messages/{name}/cancel")

    refused = await client.post("/v1/messages/a/retry")

    answer = await refused.get_json()
    assert (refused.status_code, answer["type"]) == (429, problem("rate-limited"))
    assert refused.headers["RateLimit"] == f'"service";r=0;t={refused.headers["Retry-After"]}'
    assert len((await (await client.get("/statuses")).get_json())["statuses"]) == 2


async def test_a_retry_uses_the_limit_only_if_it_brings_a_message(
    limited: Rig, client: Client
) -> None:
    await client.post("/send-email", json=SHORT)

    nothing = await client.post(f"/v1/messages/{SHORT['id']}/retry")
    await client.post(f"/v1/messages/{SHORT['id']}/cancel")
    retried = await client.post(f"/v1/messages/{SHORT['id']}/retry")

    assert (nothing.status_code, nothing.headers["RateLimit"]) == (409, '"service";r=1;t=60')
    assert (retried.status_code, retried.headers["RateLimit"]) == (202, '"service";r=0;t=60')


async def test_a_retry_needs_room_as_any_message_does(rig: Rig, client: Client) -> None:
    await client.post("/send-email", json=SHORT)
    await client.post(f"/v1/messages/{SHORT['id']}/cancel")
    rig.door.rules = msgspec.structs.replace(RULES, backlog_max=0)

    full = await client.post(f"/v1/messages/{SHORT['id']}/retry")
    rig.door.close()
    stopping = await client.post(f"/v1/messages/{SHORT['id']}/retry")

    assert [503, 503] == [full.status_code, stopping.status_code]
    assert problem("overloaded") == (await full.get_json())["type"]
    assert problem("stopping") == (await stopping.get_json())["type"]
