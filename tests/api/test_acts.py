"""What operators do is kept: when, what, and by which way."""

from __future__ import annotations

from typing import Any

import pytest
from quart.typing import TestClientProtocol as Client

from mailactors.model.lifecycle import State
from mailactors.spool.port import SpoolError
from tests.api.bodies import FULL
from tests.api.rig import Rig
from tests.api.test_operating import accept, settle


async def acts(client: Client, query: str = "") -> list[dict[str, Any]]:
    answer = await (await client.get(f"/v1/acts{query}")).get_json()
    found: list[dict[str, Any]] = answer["acts"]
    return found


ADDRESS = {"address": "Ann@example.org", "reason": "asked"}


@pytest.mark.parametrize(
    ("method", "path", "body", "what", "subject"),
    [
        ("POST", "/v1/providers/primary/pause", None, "pause", "primary"),
        ("POST", "/v1/providers/primary/resume", None, "resume", "primary"),
        ("POST", "/v1/providers/primary/reset", None, "reset", "primary"),
        ("POST", "/v1/flush?provider=primary", None, "flush", None),
        ("POST", "/v1/suppressions", ADDRESS, "suppress", "Ann@example.org"),
        (
            "DELETE",
            "/v1/suppressions?address=ann@example.org",
            None,
            "unsuppress",
            "ann@example.org",
        ),
        ("POST", "/v1/reload", None, "reload", None),
    ],
)
@pytest.mark.parametrize(("agent", "way"), [("curl/8", "api"), ("mailactors-cli", "cli")])
async def test_every_act_is_kept_with_its_way(
    rig: Rig,
    client: Client,
    method: str,
    path: str,
    body: dict[str, str] | None,
    what: str,
    subject: str | None,
    agent: str,
    way: str,
) -> None:
    before = rig.clock.wall_time()

    answer = await client.open(path, method=method, json=body, headers={"User-Agent": agent})

    assert 200 == answer.status_code
    (act,) = await acts(client)
    assert (what, way, subject) == (act["what"], act["way"], act["subject"])
    (kept,) = rig.store.acts_after(0, 10)
    assert before <= kept.at <= rig.clock.wall_time()


async def test_what_is_done_to_a_message_is_kept(rig: Rig, client: Client) -> None:
    name = await accept(client)
    settle(rig, State.UNCERTAIN)
    await client.post(f"/v1/messages/{name}/settle", json={"as": "failed", "note": "Bob has it"})
    await client.post(f"/v1/messages/{name}/retry")
    other = await (await client.post("/v1/messages", json=FULL)).get_json()
    await client.post(f"/v1/messages/{other['id']}/cancel")

    assert [
        ("settle", name, {"into": "failed", "note": "Bob has it"}),
        ("retry", name, {}),
        ("cancel", other["id"], {}),
    ] == [(each["what"], each["subject"], each["facts"]) for each in await acts(client)]


async def test_acts_are_paged(rig: Rig, client: Client) -> None:
    for verb in ("pause", "resume", "reset"):
        await client.post(f"/v1/providers/primary/{verb}")

    first = await (await client.get("/v1/acts?limit=2")).get_json()
    rest = await (await client.get(f"/v1/acts?after={first['next']}")).get_json()

    assert ["pause", "resume"] == [each["what"] for each in first["acts"]]
    assert (["reset"], None) == ([each["what"] for each in rest["acts"]], rest["next"])


async def test_a_pause_is_kept_until_it_is_over(rig: Rig, client: Client) -> None:
    await client.post("/v1/providers/primary/pause")
    during = rig.store.paused()
    await client.post("/v1/providers/primary/resume")

    assert (frozenset({"primary"}), frozenset()) == (during, rig.store.paused())


async def test_nothing_is_done_to_mail_that_cannot_be_kept(
    rig: Rig, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = await accept(client)

    async def broken(_command: object) -> None:
        raise SpoolError("no answer")

    monkeypatch.setattr(rig.reader, "ask", broken)
    answer = await client.post(f"/v1/messages/{name}/cancel")

    assert 503 == answer.status_code
    assert (State.READY,) == tuple(each.state for each in rig.store.status(name)[0].deliveries)
