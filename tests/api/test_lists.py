"""Lists and sums: messages by filter, suppressed addresses, the ledger."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import pytest
from quart.typing import TestClientProtocol as Client

from mailactors.api.views import rfc3339
from mailactors.observe.alarms import RULES, AlarmKind, Finding, decide_changes
from tests.api.bodies import FULL, SHORT
from tests.api.rig import Rig, problem
from tests.api.test_openapi import fits


async def get(client: Client, path: str) -> Any:
    response = await client.get(path)
    assert response.status_code == 200, await response.get_data()
    return await response.get_json()


async def accept(client: Client, name: str, to: str = "ann@example.org", stream: str = "") -> None:
    body = {"from": "s@example.com", "to": to, "text": "x", "id": name, "stream": stream}
    assert (await client.post("/v1/messages", json=body)).status_code == 202


async def names(client: Client, query: str) -> list[str]:
    page = await get(client, f"/v1/messages?{query}")
    return [message["client_id"] for message in page["messages"]]


# GET /v1/messages


async def test_a_message_in_a_list_has_exactly_the_promised_fields(client: Client) -> None:
    receipt = await (await client.post("/send-email", json=SHORT)).get_json()

    page = await get(client, "/v1/messages")

    (message,) = page["messages"]
    view = await get(client, receipt["status_url"])
    (delivery,) = message.pop("deliveries")
    assert page["next"] is None
    assert (delivery["recipient"], delivery["status"]) == ("ann@example.org", "queued")
    assert message == {
        "id": receipt["message_id"],
        "client_id": "order-1",
        "rfc_message_id": view["rfc_message_id"],
        "status": "queued",
        "stream": "transactional",
        "from": "mailactors@mail.example",
        "subject": "Hello",
        "accepted_at": view["accepted_at"],
        "attempts": 0,
        "retry_of": None,
        "tags": [],
        "metadata": {},
        "status_url": receipt["status_url"],
    }


async def test_messages_are_filtered_by_what_became_of_them(client: Client) -> None:
    await accept(client, "one")
    await accept(client, "two", to="Bob <bob@EXAMPLE.org>")
    await accept(client, "three", stream="bulk")
    await client.post("/v1/messages/one/cancel")

    assert await names(client, "") == ["three", "two", "one"]
    assert await names(client, "stream=bulk") == ["three"]
    assert await names(client, "stream=none") == []
    assert await names(client, "state=cancelled") == ["one"]
    assert await names(client, "recipient=bob@Example.ORG") == ["two"]
    assert await names(client, "recipient=ann@example.org&state=queued") == ["three"]
    assert await names(client, "since=2001-11-09T01:08:47Z&until=9999-01-01T00:00:00Z") != []
    assert await names(client, "until=2001-11-09T01:08:47Z") == []
    assert await names(client, f"since={quote('2999-11-09T02:08:47+01:00')}") == []


async def test_a_scheduled_message_is_not_a_queued_one(rig: Rig, client: Client) -> None:
    body = {"from": "s@example.com", "to": "ann@example.org", "text": "x", "id": "later"}
    send_at = rfc3339(rig.clock.wall_time() + 60.0)
    accepted = await client.post("/v1/messages", json={**body, "send_at": send_at})
    await accept(client, "now")

    view = await get(client, "/v1/messages/later")
    page = await get(client, "/statuses?id=later")
    ledger = await get(client, "/v1/ledger")

    (delivery,) = view["deliveries"]
    assert ("scheduled", "scheduled") == (view["status"], delivery["status"])
    assert (202, send_at) == (accepted.status_code, delivery["next_at"])
    assert "scheduled" == page["statuses"][0]["status"]
    assert await names(client, "state=scheduled") == ["later"]
    assert await names(client, "state=queued") == ["now"]
    assert {"queued": 1, "scheduled": 1} == ledger["states"]
    assert (1, ["queued"]) == (ledger["in_flight"], list(ledger["oldest_s"]))
    ages = {each["state"]: (each["oldest_s"], each["unmoved_s"]) for each in ledger["pending"]}
    assert (None, None) == ages["scheduled"]
    assert None not in ages["queued"]
    fits(ledger, "/v1/ledger", "get", 200, "application/json")


async def test_messages_are_found_by_tag_and_shown_with_tags_and_metadata(client: Client) -> None:
    body = {"from": "s@example.com", "to": "ann@example.org", "text": "x"}
    labels = {"tags": ["vip", "receipt"], "metadata": {"order": "17"}}
    await client.post("/v1/messages", json={**body, **labels, "id": "one"})
    await client.post("/v1/messages", json={**body, "tags": ["receipt"], "id": "two"})
    await accept(client, "three")
    await client.post("/v1/messages/one/cancel")
    retried = await (await client.post("/v1/messages/one/retry")).get_json()

    page = await get(client, "/v1/messages?tag=vip")

    assert [(retried["id"], "one"), (retried["retry_of"], "one")] == [
        (each["id"], each["client_id"]) for each in page["messages"]
    ]
    for shown in (*page["messages"], await get(client, "/v1/messages/one")):
        assert labels == {"tags": shown["tags"], "metadata": shown["metadata"]}
    assert await names(client, "tag=receipt&state=queued") == ["one", "two"]
    assert await names(client, "tag=none") == []


@pytest.mark.parametrize("state", ["ready", "leased", "sending", "partial"])
async def test_a_word_that_is_no_state_is_answered_with_those_that_are(
    client: Client, state: str
) -> None:
    response = await client.get(f"/v1/messages?state={state}")

    detail = (
        "state: is none of scheduled, queued, processing, deferred, uncertain, held, sent, bounced,"
        " failed, expired, suppressed, cancelled"
    )
    assert (400, detail) == (response.status_code, (await response.get_json())["detail"])


async def test_messages_come_by_pages(client: Client) -> None:
    for number in range(5):
        await accept(client, str(number))

    seen, query = [], "/v1/messages?limit=2"
    while query:
        page = await get(client, query)
        seen.append([message["client_id"] for message in page["messages"]])
        query = f"/v1/messages?limit=2&cursor={page['next']}" if page["next"] else ""

    assert seen == [["4", "3"], ["2", "1"], ["0"]]


@pytest.mark.parametrize(
    ("path", "parameter"),
    [
        ("/v1/messages?state=lost", "state"),
        ("/v1/messages?recipient=nobody", "recipient"),
        ("/v1/messages?since=yesterday", "since"),
        ("/v1/messages?since=2030-01-01T00:00:00", "since"),
        ("/v1/messages?until=1e400", "until"),
        ("/v1/messages?limit=1001", "limit"),
        ("/v1/messages?cursor=x", "cursor"),
        ("/v1/messages?strem=bulk", "strem"),
        ("/v1/messages?metadata.order=17", "metadata.order"),
        (f"/v1/messages?tag={'x' * 257}", "tag"),
        ("/v1/messages/x?timeline=1", "timeline"),
        ("/v1/suppressions?limit=0", "limit"),
        ("/v1/suppressions?after=a", "after"),
    ],
)
async def test_a_bad_question_is_refused_by_its_parameter(
    client: Client, path: str, parameter: str
) -> None:
    response = await client.get(path)

    answer = await response.get_json()
    assert (response.status_code, answer["type"]) == (400, problem("invalid-parameter"))
    assert [error["parameter"] for error in answer["errors"]] == [parameter]


@pytest.mark.parametrize("moment", ["9999-12-31T23:59:59-14:00", "0001-01-01T00:00:00%2B14:00"])
async def test_a_time_beyond_the_calendar_is_a_time(client: Client, moment: str) -> None:
    await accept(client, "one")

    page = await get(client, f"/v1/messages?since={moment}")

    assert len(page["messages"]) == (1 if moment.startswith("0001") else 0)


# Suppressions


async def test_an_address_is_suppressed_listed_and_let_go(client: Client) -> None:
    body = {"address": "Ann@EXAMPLE.org", "reason": " asked\n us to "}
    suppressed = await client.post("/v1/suppressions", json=body)
    listed = await get(client, "/v1/suppressions")

    removed = await client.delete("/v1/suppressions?address=Ann@example.ORG")
    again = await client.delete("/v1/suppressions?address=ANN@example.org")

    answer = await suppressed.get_json()
    assert suppressed.status_code == 200
    assert answer == {
        "address": "ann@example.org",
        "reason": "asked us to",
        "source": "api",
        "created_at": answer["created_at"],
    }
    assert listed == {"suppressions": [answer], "next": None}
    assert await removed.get_json() == {"address": "ann@example.org", "was_suppressed": True}
    assert await again.get_json() == {"address": "ann@example.org", "was_suppressed": False}
    assert await get(client, "/v1/suppressions") == {"suppressions": [], "next": None}


async def test_the_first_suppression_of_an_address_stands(client: Client) -> None:
    body = {"address": "ann@example.org", "reason": "first"}
    await client.post("/v1/suppressions", json=body)

    response = await client.post("/v1/suppressions", json={**body, "reason": "second"})

    assert (await response.get_json())["reason"] == "first"


async def test_suppressions_come_by_pages(client: Client) -> None:
    for name in "cab":
        await client.post("/v1/suppressions", json={"address": f"{name}+x@example.org"})

    seen, query = [], "/v1/suppressions?limit=2"
    while query:
        page = await get(client, query)
        seen.append([each["address"][0] for each in page["suppressions"]])
        cursor = page["next"]
        query = f"/v1/suppressions?limit=2&cursor={quote(cursor)}" if cursor else ""

    assert seen == [["a", "b"], ["c"]]


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"address": "nobody"}, "/address"),
        ({"address": "a@example.org", "reason": "a\x00"}, "/reason"),
        ({"address": "a@example.org", "reason": "x" * 257}, "/reason"),
        ({"address": "a@example.org", "source": "me"}, "/source"),
        ({}, "/address"),
    ],
)
async def test_a_faulty_suppression_is_pointed_at(
    client: Client, body: dict[str, str], pointer: str
) -> None:
    response = await client.post("/v1/suppressions", json=body)

    answer = await response.get_json()
    assert (response.status_code, answer["type"]) == (422, problem("validation"))
    assert [error["pointer"] for error in answer["errors"]] == [pointer]


@pytest.mark.parametrize("query", ["", "address=nobody", "address=a@b.example&reason=x"])
async def test_whom_to_let_go_must_be_an_address(client: Client, query: str) -> None:
    response = await client.delete(f"/v1/suppressions?{query}")

    answer = await response.get_json()
    assert (response.status_code, answer["type"]) == (400, problem("invalid-parameter"))


# GET /v1/ledger


async def test_the_ledger_adds_up(client: Client) -> None:
    await client.post("/v1/messages", json=FULL)
    await accept(client, "one")
    await client.post("/v1/messages/one/cancel")

    ledger = await get(client, "/v1/ledger")
    (pending,) = ledger.pop("pending")
    oldest_s = ledger.pop("oldest_s")

    assert ledger == {
        "holds": True,
        "accepted": 5,
        "imbalance": 0,
        "states": {"cancelled": 1, "queued": 4},
        "in_flight": 4,
        "purged": 0,
        "declared_risks": 0,
        "risks": [],
        "alarms": [],
    }
    assert {"stream": "bulk", "state": "queued", "count": 4}.items() <= pending.items()
    assert 0.0 <= pending["unmoved_s"] <= pending["oldest_s"] == oldest_s["queued"] < 60.0


async def test_the_ledger_tells_of_risks_ages_and_alarms(rig: Rig, client: Client) -> None:
    now = rig.clock.wall_time()
    await accept(client, "one")
    await accept(client, "two", stream="bulk")
    for sql, bindings in (
        ("UPDATE messages SET accepted_at = ?1, not_before = ?1 WHERE seq = 1", (now - 500.0,)),
        ("UPDATE deliveries SET updated_at = ?, state = 'held' WHERE seq = 1", (now - 50.0,)),
        ("UPDATE sums SET name = 'held' WHERE name = 'moving' AND stream = 'transactional'", ()),
        ("INSERT INTO sums VALUES ('transactional', 'declared_risks', 3)", ()),
        ("INSERT INTO risks VALUES ('bulk', 'primary', 1), ('transactional', 'other', 2)", ()),
    ):
        rig.store._db.execute(sql, bindings)
    fault = Finding(
        AlarmKind.NOT_SENT, "m1", "7", 1, "bulk", "queued", now - 90.0, "provider x is free"
    )
    for at_s in (0.0, 100.0):
        decide_changes(rig.watch.spool, [fault], at_s, 1005268127.9)

    ledger = await get(client, "/v1/ledger")

    assert 3 == ledger["declared_risks"]
    assert [
        {"stream": "bulk", "provider": "primary", "count": 1},
        {"stream": "transactional", "provider": "other", "count": 2},
    ] == ledger["risks"]
    held = next(each for each in ledger["pending"] if each["state"] == "held")
    assert (500, 50) == (int(held["oldest_s"]), int(held["unmoved_s"]))
    assert {"held": 500, "queued": 0} == {k: int(v) for k, v in ledger["oldest_s"].items()}
    assert [
        {
            "kind": "not_sent",
            "subject": "m1",
            "stream": "bulk",
            "state": "queued",
            "since": rfc3339(now - 90.0),
            "raised_at": "2001-11-09T01:08:47.900Z",
            "detail": "provider x is free",
            "expected": RULES[AlarmKind.NOT_SENT].expected,
        }
    ] == ledger["alarms"]
    fits(ledger, "/v1/ledger", "get", 200, "application/json")


async def test_a_ledger_that_does_not_add_up_says_so(rig: Rig, client: Client) -> None:
    await client.post("/v1/messages", json=FULL)
    rig.store._db.execute("DELETE FROM deliveries WHERE n = 0")

    ledger = await get(client, "/v1/ledger?audit=true")

    assert (False, 4, {"queued": 3}, 1) == (
        *(ledger["holds"], ledger["accepted"], ledger["states"]),
        ledger["imbalance"],
    )
    assert [{"name": "ready", "kept": 4, "counted": 3}] == ledger["audit"]


async def test_a_kept_sum_that_is_wrong_is_found_by_an_audit(rig: Rig, client: Client) -> None:
    await client.post("/v1/messages", json=FULL)
    sound = await get(client, "/v1/ledger?audit=true")
    rig.store._db.execute("UPDATE sums SET value = value + 1")

    kept, audited = await get(client, "/v1/ledger"), await get(client, "/v1/ledger?audit=true")

    assert (True, []) == (sound["holds"], sound["audit"])
    assert (True, 5) == (kept["holds"], kept["accepted"])
    assert "audit" not in kept
    assert (False, 0, {"queued": 4}) == (audited["holds"], audited["imbalance"], audited["states"])
    assert [
        {"name": "accepted", "kept": 5, "counted": 4},
        {"name": "ready", "kept": 5, "counted": 4},
    ] == audited["audit"]


async def test_rows_are_counted_by_one_at_a_time(rig: Rig, client: Client) -> None:
    async with rig.parts.auditing:
        refused = await client.get("/v1/ledger?audit=true")
        answered = await client.get("/v1/ledger")

    assert (503, 200) == (refused.status_code, answered.status_code)
    assert "5" == refused.headers["Retry-After"]


@pytest.mark.parametrize("text", ["0.5", "7", "-1", "1e9", "null", "now", "2030", "2030-01-01", ""])
@pytest.mark.parametrize("name", ["since", "until"])
async def test_a_time_is_a_time(client: Client, name: str, text: str) -> None:
    response = await client.get(f"/v1/messages?{name}={text}")

    answer = await response.get_json()
    assert (response.status_code, answer["type"]) == (400, problem("invalid-parameter"))
    assert answer["errors"][0]["parameter"] == name
