"""Working the gateway by hand: cancel, retry, pause, suppress, reload, metrics."""

from __future__ import annotations

import dataclasses

import pytest
import trio
import trio.testing
from quart.typing import TestClientProtocol as Client

from mailactors.api.app import create_app
from mailactors.dispatch.lane import (
    CONTROL_ROOM,
    BreakerState,
    BreakerStatus,
    LimiterStatus,
    Reset,
)
from mailactors.errors import MailactorsError
from mailactors.model.lifecycle import State
from mailactors.spool.port import (
    Claim,
    Claimed,
    Intend,
    Progress,
    RecordOutcome,
    SpoolFullError,
    Step,
)
from tests.api.bodies import SHORT
from tests.api.rig import METRICS, WITHIN_S, Rig, problem, serve


async def accept(client: Client, name: str = "order-1", *to: str) -> str:
    body = {**SHORT, "id": name, "to": list(to) or "ann@example.org"}
    answer = await (await client.post("/send-email", json=body)).get_json()
    message_id: str = answer["message_id"]
    return message_id


def settle(rig: Rig, *states: State, due_at: float = 0.0) -> None:
    """Play the dispatcher: claim the one message that is due and end its deliveries."""
    now = rig.store.statuses(1, None)[0].accepted_at + 1
    (claimed,) = rig.store.apply([Claim("transactional", 1, "node")], now)
    assert isinstance(claimed, Claimed)
    (lease,) = claimed.leases
    ns = tuple(n for n, _ in lease.recipients)
    attempt = f"attempt-{lease.seq}"
    rig.store.apply([Intend(attempt, lease.seq, ns, lease.epoch, "primary")], now)
    steps = tuple(Step(n, state, due_at) for n, state in zip(ns, states, strict=True))
    command = RecordOutcome(attempt, lease.seq, lease.epoch, "primary", steps, Progress(), "x", {})
    rig.store.apply([command], now)


# Cancel


@pytest.mark.parametrize("by", ["ours", "the client's"])
async def test_what_waits_is_cancelled_and_stays_so(client: Client, by: str) -> None:
    ours = await accept(client)
    name = ours if by == "ours" else "order-1"

    first = await client.post(f"/v1/messages/{name}/cancel")
    again = await client.post(f"/v1/messages/{name}/cancel")

    assert (first.status_code, again.status_code) == (200, 200)
    assert await first.get_json() == {"id": ours, "cancelled": 1, "too_late": 0}
    assert await again.get_json() == await first.get_json()
    view = await (await client.get(f"/v1/messages/{ours}")).get_json()
    assert view["status"] == "cancelled"


async def test_what_was_sent_is_too_late_to_cancel(rig: Rig, client: Client) -> None:
    name = await accept(client)
    settle(rig, State.SENT)

    response = await client.post(f"/v1/messages/{name}/cancel")

    answer = await response.get_json()
    assert (response.status_code, answer["type"]) == (409, problem("too-late"))
    assert answer["counts"] == {"cancelled": 0, "too_late": 1}


async def test_what_is_partly_too_late_is_cancelled_for_the_rest(rig: Rig, client: Client) -> None:
    name = await accept(client, "order-1", "ann@example.org", "bob@example.org")
    settle(rig, State.SENT, State.DEFERRED)

    answer = await (await client.post(f"/v1/messages/{name}/cancel")).get_json()

    assert answer == {"id": name, "cancelled": 1, "too_late": 1}


# Retry


async def test_a_bounced_message_is_sent_once_more_as_a_new_one(rig: Rig, client: Client) -> None:
    name = await accept(client)
    settle(rig, State.BOUNCED)

    response = await client.post(f"/v1/messages/{name}/retry")

    answer = await response.get_json()
    old = await (await client.get(f"/v1/messages/{name}")).get_json()
    new = await (await client.get(answer["status_url"])).get_json()
    assert response.status_code == 202
    assert response.headers["Location"] == answer["status_url"] == f"/v1/messages/{new['id']}"
    assert answer == {
        "id": new["id"],
        "client_id": old["client_id"],
        "rfc_message_id": old["rfc_message_id"],
        "status": "accepted",
        "status_url": f"/v1/messages/{new['id']}",
        "retry_of": name,
    }
    assert (old["status"], old["retry_of"]) == ("bounced", None)
    assert (new["status"], new["retry_of"], new["subject"]) == ("queued", name, "Hello")


async def test_a_retry_wakes_the_dispatcher(rig: Rig, client: Client) -> None:
    name = await accept(client)
    settle(rig, State.FAILED)
    before = rig.signals.due("transactional").value

    await client.post(f"/v1/messages/{name}/retry")

    assert rig.signals.due("transactional").value == before + 1


async def test_what_is_not_final_or_all_sent_or_retried_is_not_retried(
    rig: Rig, client: Client
) -> None:
    pending = await accept(client, "pending")
    refused = [await client.post(f"/v1/messages/{pending}/retry")]
    settle(rig, State.SENT)
    refused.append(await client.post(f"/v1/messages/{pending}/retry"))
    failed = await accept(client, "failed")
    settle(rig, State.FAILED)
    await client.post(f"/v1/messages/{failed}/retry")
    refused.append(await client.post(f"/v1/messages/{failed}/retry"))

    answers = [await response.get_json() for response in refused]
    assert [response.status_code for response in refused] == [409] * 3
    assert {answer["type"] for answer in answers} == {problem("not-retried")}
    assert "not final" in answers[0]["detail"]
    assert "everything was sent" in answers[1]["detail"]
    assert "retried already" in answers[2]["detail"]


async def test_a_retry_on_a_full_disk_is_told_to_come_again(
    rig: Rig, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = await accept(client)
    settle(rig, State.FAILED)

    def full(_commands: object, _now: float) -> None:
        raise SpoolFullError("disk full")

    monkeypatch.setattr(rig.store, "apply", full)

    response = await client.post(f"/v1/messages/{name}/retry")

    assert (response.status_code, (await response.get_json())["type"]) == (
        503,
        problem("overloaded"),
    )
    assert response.headers["Retry-After"] == "1"


@pytest.mark.parametrize("verb", ["cancel", "retry"])
async def test_a_message_that_nobody_knows_cannot_be_worked(client: Client, verb: str) -> None:
    response = await client.post(f"/v1/messages/nobody/{verb}")

    assert (response.status_code, (await response.get_json())["type"]) == (
        404,
        problem("not-found"),
    )


# Providers


async def test_a_provider_is_paused_and_resumed(rig: Rig, client: Client) -> None:
    lane = rig.lanes["primary"]

    paused = await client.post("/v1/providers/primary/pause")
    was_paused = lane.is_paused
    resumed = await client.post("/v1/providers/primary/resume")

    assert (paused.status_code, (await paused.get_json())["paused"], was_paused) == (
        200,
        True,
        True,
    )
    assert ((await resumed.get_json())["paused"], lane.is_paused) == (False, False)
    assert lane.limiter_mailbox.statistics().handled == 2


async def test_a_reset_is_answered_when_the_breaker_is_closed_and_the_limiter_open(
    rig: Rig, client: Client
) -> None:
    lane = rig.lanes["primary"]
    until_s = rig.clock.now_s() + 60
    lane.breaker_status.publish(BreakerStatus(BreakerState.DISABLED, until_s))
    lane.limiter_status.publish(LimiterStatus(until_s))

    response = await client.post("/v1/providers/primary/reset")

    shown = await response.get_json()
    assert (response.status_code, shown["name"]) == (200, "primary")
    assert (shown["breaker"], shown["breaker_opens_in_s"]) == ("closed", None)
    assert shown["next_permit_in_s"] == 0.0


@pytest.mark.parametrize("verb", ["pause", "resume", "reset"])
async def test_what_an_actor_died_of_is_not_said_to_have_been_done(
    rig: Rig, client: Client, verb: str
) -> None:
    rig.lane_error = RuntimeError("boom")

    response = await client.post(f"/v1/providers/primary/{verb}")

    answer = await response.get_json()
    assert (response.status_code, answer["type"]) == (503, problem("overloaded"))
    assert "boom" in answer["detail"]


@pytest.mark.parametrize("verb", ["pause", "resume", "reset"])
async def test_an_unknown_provider_is_answered_with_the_nearest(client: Client, verb: str) -> None:
    near = await client.post(f"/v1/providers/primry/{verb}")
    far = await client.post(f"/v1/providers/xyz/{verb}")

    assert (near.status_code, far.status_code) == (404, 404)
    assert "did you mean 'primary'?" in (await near.get_json())["detail"]
    assert "there are primary" in (await far.get_json())["detail"]


async def test_words_to_a_lane_never_take_the_room_of_its_attempts(
    rig: Rig, client: Client
) -> None:
    lane = rig.lanes["primary"]
    rig.lane_scope.cancel()
    for _ in range(CONTROL_ROOM):
        lane.limiter_mailbox.put_nowait(Reset())

    response = await client.post("/v1/providers/primary/reset")

    assert response.status_code == 503
    assert lane.limiter_mailbox.waiting == CONTROL_ROOM


# Flush


async def deferred(rig: Rig, client: Client, name: str) -> str:
    """Accept a message, and let it be deferred by the primary for an hour."""
    message_id = await accept(client, name)
    settle(rig, State.DEFERRED, due_at=rig.clock.wall_time() + 3600)
    return message_id


@pytest.mark.parametrize(
    ("query", "count"),
    [("", 2), ("?provider=primary", 2), ("?stream=bulk", 0), ("?stream=transactional", 2)],
)
async def test_what_is_deferred_is_due_now_on_request(
    rig: Rig, client: Client, query: str, count: int
) -> None:
    names = [await deferred(rig, client, "1"), await deferred(rig, client, "2")]
    before = rig.signals.due("transactional").value

    response = await client.post(f"/v1/flush{query}")

    assert (response.status_code, await response.get_json()) == (200, {"flushed": count})
    assert (rig.signals.due("transactional").value > before) == bool(count)
    now = rig.clock.wall_time()
    due_ats = [rig.store.status(name)[0].deliveries[0].due_at for name in names]
    assert [each <= now for each in due_ats] == [bool(count)] * 2


@pytest.mark.parametrize(
    ("query", "hint"),
    [
        ("provider=primry", "there is no such provider; did you mean 'primary'?"),
        ("stream=bulc", "there is no such stream; did you mean 'bulk'?"),
    ],
)
async def test_a_flush_of_what_there_is_not_is_told_the_nearest(
    client: Client, query: str, hint: str
) -> None:
    response = await client.post(f"/v1/flush?{query}")

    answer = await response.get_json()
    assert (response.status_code, answer["detail"]) == (404, hint)


# Reload and metrics


async def test_a_reload_tells_what_needs_a_restart(rig: Rig, client: Client) -> None:
    rig.configuration.notes = ["service.listen"]

    response = await client.post("/v1/reload")

    assert response.status_code == 200
    assert await response.get_json() == {"status": "reloaded", "notes": ["service.listen"]}


async def test_a_faulty_configuration_is_refused_with_its_reasons(rig: Rig, client: Client) -> None:
    rig.configuration.fault = MailactorsError("streams.x.route: there is no provider 'y'")

    response = await client.post("/v1/reload")

    answer = await response.get_json()
    assert (response.status_code, answer["type"]) == (422, problem("configuration"))
    assert answer["detail"] == "streams.x.route: there is no provider 'y'"


async def test_a_client_that_hangs_up_does_not_halve_a_reload(rig: Rig) -> None:
    configuration = rig.configuration
    configuration.may_go_on = trio.Event()
    async with serve(rig.app, rig.journal, graceful_s=WITHIN_S) as served:
        with trio.fail_after(WITHIN_S):
            async with await served.connect() as stream:
                await stream.send_all(b"POST /v1/reload HTTP/1.1\r\nHost: localhost\r\n\r\n")
                await configuration.begun.wait()
            await trio.testing.wait_all_tasks_blocked(0.01)

            configuration.may_go_on.set()
            await configuration.taken_over.wait()


async def test_metrics_are_passed_on_as_they_are(client: Client) -> None:
    response = await client.get("/metrics")

    assert response.status_code == 200
    assert response.content_type == "text/plain; version=0.0.4; charset=utf-8"
    assert await response.get_data() == METRICS


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/metrics"),
        ("POST", "/v1/reload"),
    ],
)
async def test_what_a_gateway_does_not_have_is_not_there(rig: Rig, method: str, path: str) -> None:
    bare = create_app(dataclasses.replace(rig.parts, reload=None, metrics=None, watch=None))

    response = await bare.test_client().open(path, method=method, json=None)

    assert (response.status_code, (await response.get_json())["type"]) == (
        404,
        problem("not-found"),
    )
