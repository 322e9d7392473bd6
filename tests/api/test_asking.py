"""Looking: at statuses, messages, providers and probes."""

from __future__ import annotations

import time

import pytest
import trio
from quart.typing import TestClientProtocol as Client

from mailactors.api.views import rfc3339
from mailactors.dispatch.lane import BreakerState, BreakerStatus, LimiterStatus
from mailactors.model.lifecycle import State
from mailactors.spool.port import Claim, Intend, Progress, RecordOutcome, Step
from tests.api.bodies import SHORT
from tests.api.rig import Rig, problem

# GET /statuses, GET /v1/messages/{id}


async def test_statuses_come_newest_first_by_pages(client: Client) -> None:
    for number in range(5):
        await client.post("/send-email", json={**SHORT, "id": str(number)})

    seen, query = [], "/statuses?limit=2"
    while query:
        page = await (await client.get(query)).get_json()
        seen.append([status["client_id"] for status in page["statuses"]])
        query = f"/statuses?limit=2&cursor={page['next']}" if page["next"] else ""

    assert seen == [["4", "3"], ["2", "1"], ["0"]]


async def test_a_status_has_exactly_the_promised_fields(client: Client) -> None:
    receipt = await (await client.post("/send-email", json=SHORT)).get_json()

    answer = await (await client.get(f"/statuses?id={receipt['message_id']}")).get_json()

    (status,) = answer["statuses"]
    assert answer["next"] is None
    assert status == {
        "id": receipt["message_id"],
        "client_id": "order-1",
        "rfc_message_id": receipt["rfc_message_id"],
        "to": ["ann@example.org"],
        "subject": "Hello",
        "status": "queued",
        "provider": None,
        "attempts": 0,
        "updated_at": status["updated_at"],
        "error": None,
        "deliveries": [
            {
                "recipient": "ann@example.org",
                "status": "queued",
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
        "passed_over": [
            {"provider": "first", "why": "breaker open", "until": rfc3339(now + 5)},
            {"provider": "next", "why": "paused by an operator", "until": None},
        ],
        "facts": {"round": 1, "attempt_id": "attempt-1"},
    }
    assert view["explanation"].startswith(
        'It is deferred (rule "recipient deferred: wait"; primary: 450 busy), and waits for its'
        " next attempt until "
    )


def fail_once(rig: Rig, now: float) -> None:
    """Play the dispatcher: claim the message, try it, and defer it."""
    (claimed,) = rig.store.apply([Claim("transactional", 1, "node")], now)
    (lease,) = claimed.leases  # type: ignore[attr-defined]
    rig.store.apply([Intend("attempt-1", lease.seq, (0,), lease.epoch, "primary")], now)
    facts = {
        "rule": "recipient deferred: wait",
        "reason": "450 busy",
        "round": 1,
        "next": {"0": "deferred", "0.due_at": now + 30},
        "passed_over": [
            {"provider": "first", "why": "breaker open", "until": now + 5},
            {"provider": "next", "why": "paused by an operator", "until": None},
        ],
    }
    steps = (Step(0, State.DEFERRED, now + 30, "450 busy"),)
    settle = RecordOutcome(
        "attempt-1", lease.seq, lease.epoch, "primary", steps, Progress(), "deferred", facts
    )
    rig.store.apply([settle], now)


async def test_a_message_is_found_by_either_id_or_not_at_all(client: Client) -> None:
    await client.post("/send-email", json=SHORT)

    by_client_id = await client.get("/v1/messages/order-1")
    unknown = await client.get("/v1/messages/order-2")

    assert by_client_id.status_code == 200
    assert (unknown.status_code, (await unknown.get_json())["type"]) == (404, problem("not-found"))


# Providers and probes


async def test_providers_are_shown_as_they_are_now(rig: Rig, client: Client) -> None:
    lane, now_s = rig.lanes["primary"], trio.current_time()
    lane.breaker_status.publish(
        BreakerStatus(BreakerState.OPEN, until_s=now_s + 100, opened_count=2)
    )
    lane.limiter_status.publish(LimiterStatus(next_permit_s=now_s + 50, permits=3, is_paused=True))
    lane.is_paused = True

    (provider,) = (await (await client.get("/v1/providers")).get_json())["providers"]

    assert 99 < provider.pop("breaker_opens_in_s") <= 100
    assert 49 < provider.pop("next_permit_in_s") <= 50
    assert provider == {
        "name": "primary",
        "breaker": "open",
        "probes_free": 0,
        "opened_count": 2,
        "last_success_s_ago": None,
        "paused": True,
        "permits": 3,
        "in_flight": 0,
        "slots_free": 4,
        "concurrency_max": 4,
        "concurrency": 4,
        "learnt_pace_per_s": None,
        "dead": False,
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
