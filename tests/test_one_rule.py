"""When a submission is a new message: one rule for the API's forms, the clients and the CLI."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import anyio
import pytest

from mailactors import cli, client
from mailactors.client import Key, sync
from tests.servers import Served, serving

pytestmark = pytest.mark.slow

CONFIG = """
[service]
listen = "127.0.0.1:0"
spool = "spool.db"

[providers.quick]
kind = "simulated"
latency_s = 0.01
"""
TO = "bob@example.com"
Way = Callable[..., str]
"""Submits a mail (text, and maybe id and key); returns the gateway's id of the message."""


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("gateway"), CONFIG) as served:
        yield served


def short(gateway: Served, text: str, **fields: Any) -> str:
    body = {"to": TO, "subject": "Hello", "body": text, **fields}
    status, answer = gateway.call("POST", "/send-email", body)
    assert (status in {200, 202}, answer["id"]) == (True, fields.get("id"))
    return str(answer["message_id"])


def full(gateway: Served, text: str, **fields: Any) -> str:
    body = {"to": TO, "subject": "Hello", "text": text, **fields}
    return str(gateway.call("POST", "/v1/messages", body)[1]["id"])


def batch(gateway: Served, text: str, **fields: Any) -> str:
    body = [{"to": TO, "subject": "Hello", "text": text, **fields}]
    return str(gateway.call("POST", "/v1/messages/batch", body)[1]["results"][0]["id"])


def by_client(gateway: Served, text: str, **fields: Any) -> str:
    async def main() -> str:
        async with client.Client(gateway.url) as opened:
            return (await opened.send(to=TO, subject="Hello", text=text, **fields)).id

    return anyio.run(main)


def by_sync_client(gateway: Served, text: str, **fields: Any) -> str:
    with sync.Client(gateway.url) as opened:
        return opened.send(to=TO, subject="Hello", text=text, **fields).id


def many_by_sync_client(gateway: Served, text: str, key: Any = Key.FRESH, **fields: Any) -> str:
    mail: Any = {"to": TO, "subject": "Hello", "text": text, **fields}
    with sync.Client(gateway.url) as opened:
        (sent,) = opened.send_many([mail], key=key)
    assert isinstance(sent, sync.Sent)
    return sent.id


def by_command(gateway: Served, text: str, **fields: Any) -> str:
    options = [word for name, value in fields.items() for word in (f"--{name}", value)]
    command = ["mailactors", "send", TO, "-s", "Hello", "-b", text, *options, "--json"]
    output: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("MAILACTORS_")]:
            patch.delenv(name)
        patch.setattr(sys, "argv", [*command, "--url", gateway.url])
        patch.setattr(sys.stdout, "write", output.append)
        with contextlib.suppress(SystemExit):
            cli.main()
    return str(json.loads("".join(output))["id"])


WAYS: dict[str, Way] = {
    each.__name__: each
    for each in (short, full, batch, by_client, by_sync_client, many_by_sync_client, by_command)
}
CONTENT = {"key": "content"}
CASES: dict[str, tuple[dict[str, str], dict[str, str], bool]] = {
    "content": (CONTENT, CONTENT, True),
    "content_of_two_ids": ({"id": "a", **CONTENT}, {"id": "b", **CONTENT}, True),
    "content_with_and_without_id": (CONTENT, {"id": "a", **CONTENT}, True),
    "other_content_of_one_id": ({"id": "a", **CONTENT}, {"id": "a", "text": "x", **CONTENT}, False),
    "other_content": (CONTENT, {"text": "x", **CONTENT}, False),
    "one_id": ({"id": "a"}, {"id": "a"}, True),
    "two_ids": ({"id": "a"}, {"id": "b"}, False),
    "an_id_and_content": ({"id": "a"}, CONTENT, False),
}


def submit(way: str, gateway: Served, run: str, given: dict[str, str]) -> str:
    """Submit by a way, with a text and ids that only this case has."""
    fields = {"text": "", **given}
    names = {name: f"{value}-{run}" for name, value in fields.items() if name != "key"}
    return WAYS[way](gateway, **{**fields, **names})


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("way", WAYS)
def test_what_is_the_same_message(way: str, case: str, gateway: Served) -> None:
    one, other, is_same = CASES[case]
    run = uuid.uuid4().hex

    ids = [submit(way, gateway, run, given) for given in (one, other)]

    assert is_same == (ids[0] == ids[1])


@pytest.mark.parametrize("way", WAYS)
def test_without_a_key_only_the_short_form_goes_by_content(way: str, gateway: Served) -> None:
    run = uuid.uuid4().hex

    ids = [submit(way, gateway, run, {}) for _ in range(2)]

    assert (way == "short") == (ids[0] == ids[1])


def test_content_is_the_same_by_whatever_way(gateway: Served) -> None:
    run = uuid.uuid4().hex

    ids = {submit(way, gateway, run, CONTENT) for way in WAYS}

    assert ids == {submit("short", gateway, run, {})}


@pytest.mark.parametrize("key", ["content", Key.CONTENT])
def test_a_key_beside_the_content_is_refused_by_the_clients_as_well(
    key: Any, gateway: Served
) -> None:
    mail: Any = {"to": TO, "text": "Hi", "idempotency_key": "k"}
    with sync.Client(gateway.url) as opened:
        with pytest.raises(sync.RejectedError, match="two different keys"):
            opened.send(**mail, key=key)
        (refused,) = opened.send_many([mail], key=key)

    assert isinstance(refused, sync.RejectedError)
