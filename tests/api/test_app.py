"""What holds for every route: faults of ours, what is not there, other sites, limits of size."""

from __future__ import annotations

import pytest
import trio
from quart.typing import TestClientProtocol as Client

from mailactors.intake.submission import OverloadedError
from mailactors.spool.port import SpoolBrokenError
from tests.api.bodies import SHORT
from tests.api.rig import Rig, problem


async def test_a_broken_spool_is_503_on_every_question(
    rig: Rig, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(_question: object) -> None:
        raise SpoolBrokenError("disk I/O error")

    monkeypatch.setattr(rig.reader, "read", broken)

    for path in ("/v1/ledger", "/statuses", "/v1/messages/x"):
        response = await client.get(path)

        answer = await response.get_json()
        assert (response.status_code, answer["type"]) == (503, problem("spool-unavailable"))
        assert "disk I/O" not in await response.get_data(as_text=True)


async def test_readiness_asks_nothing_of_the_readers(
    rig: Rig, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    async def busy(question: object) -> None:
        asked.append(question)
        await trio.sleep_forever()

    monkeypatch.setattr(rig.reader, "read", busy)

    for path in ("/readyz", "/healthz"):
        with trio.fail_after(5):
            assert 200 == (await client.get(path)).status_code
    assert [] == asked


async def test_an_overloaded_door_says_when_to_return(
    rig: Rig, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def overloaded(_submission: object) -> None:
        raise OverloadedError("too many submissions at once", 1.2)

    monkeypatch.setattr(rig.door, "submit", overloaded)

    response = await client.post("/send-email", json=SHORT)

    assert (response.status_code, response.headers["Retry-After"]) == (503, "2")


async def test_a_fault_of_ours_shows_nothing_and_is_noted_without_its_words(
    rig: Rig, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def bug(_submission: object) -> None:
        raise RuntimeError("secret of ann@example.org")

    monkeypatch.setattr(rig.door, "submit", bug)

    response = await client.post("/send-email", json=SHORT)

    ((event, facts),) = rig.journal.notes
    assert response.status_code == 500
    assert "secret" not in await response.get_data(as_text=True)
    assert (event, facts["error"], facts["route"]) == ("api.fault", "RuntimeError", "/send-email")
    assert "ann" not in str(facts)
    assert facts["at"].startswith("test_app.py:")


async def test_a_group_of_faults_is_a_fault_of_ours_too(
    rig: Rig, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def bug(_submission: object) -> None:
        raise ExceptionGroup("bugs", [RuntimeError("one"), ValueError("two")])

    monkeypatch.setattr(rig.door, "submit", bug)

    response = await client.post("/send-email", json=SHORT)

    assert response.status_code == 500
    assert response.content_type == "application/problem+json"


@pytest.mark.parametrize(
    ("method", "path", "status", "slug"),
    [
        ("GET", "/nowhere", 404, "not-found"),
        ("GET", "/v1/messages/a/b", 404, "not-found"),
        ("GET", "/send-email", 405, "method-not-allowed"),
        ("DELETE", "/statuses", 405, "method-not-allowed"),
        ("BREW", "/statuses", 405, "method-not-allowed"),
    ],
)
async def test_what_is_not_there_is_a_problem_too(
    client: Client, method: str, path: str, status: int, slug: str
) -> None:
    response = await client.open(path, method=method, json=None)

    answer = await response.get_json()
    assert (response.status_code, answer["type"]) == (status, problem(slug))
    assert response.content_type == "application/problem+json"
    assert ("Allow" in response.headers) == (status == 405)


async def test_a_body_over_the_limit_is_refused_and_the_connection_closed(
    client: Client,
) -> None:
    headers = {"Content-Type": "application/json", "Content-Length": str(17 * 1024 * 1024)}

    response = await client.post("/send-email", data=b"{", headers=headers)

    assert (response.status_code, (await response.get_json())["type"]) == (
        413,
        problem("too-large"),
    )
    assert response.headers["Connection"] == "close"


async def test_the_index_lists_the_routes(client: Client) -> None:
    answer = await (await client.get("/")).get_json()

    assert answer["service"] == "mailactors"
    assert "POST /send-email" in answer["routes"]


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/send-email", "OPTIONS, POST"),
        ("/v1/messages/batch", "OPTIONS, POST"),
        ("/v1/messages", "GET, HEAD, OPTIONS, POST"),
        ("/v1/messages/x", "GET, HEAD, OPTIONS"),
        ("/v1/suppressions", "DELETE, GET, HEAD, OPTIONS, POST"),
    ],
)
async def test_options_names_the_methods_of_the_route_and_no_others(
    client: Client, path: str, expected: str
) -> None:
    response = await client.options(path)

    assert (response.status_code, response.headers["Allow"]) == (200, expected)
