"""A relay repeats our credentials: nothing that the gateway stores, logs or answers has them."""

from __future__ import annotations

import base64
import dataclasses
import io
from typing import Any

import msgspec
import pytest
import trio

from mailactors.api import views
from mailactors.observe.explain import look
from mailactors.observe.logs import LogJournal, LogSettings
from mailactors.observe.metrics import expose
from mailactors.wiring import Gateway
from tests.gateways import (
    EPOCH_S,
    letter,
    make_config,
    make_ports,
    open_store,
    running,
    status,
    wait_for_states,
)
from tests.providers.fake_relay import FakeRelay, Script

USER, PASSWORD = "apikey", "hunter22-and-more"
PLAIN = base64.b64encode(f"\0{USER}\0{PASSWORD}".encode())
OFFER = b"250-relay.example\r\n250 AUTH PLAIN LOGIN\r\n"
GREETED: Script = {"EHLO": OFFER, "AUTH": b"235 2.7.0 ok\r\n"}


class Relay:
    """A connector to one relay."""

    def __init__(self, nursery: trio.Nursery, script: Script) -> None:
        self.relay = FakeRelay(nursery, {**GREETED, **script})

    async def open_tcp(self, host: str, port: int) -> trio.abc.Stream:
        return await self.relay.open_tcp(host, port)


async def everything(gateway: Gateway, name: str) -> str:
    """Return all that anybody can read of a message: answers, timeline, spool, metrics."""
    message = await status(gateway, name)
    timeline = await gateway.spool.read(lambda spool: spool.timeline(message.seq))
    feed = await gateway.spool.read(lambda spool: spool.events_after(0, 1000))
    now_s = trio.current_time()
    plan = gateway.lanes.plan(message.stream)
    here = look(message, plan, gateway.lanes, now_s, EPOCH_S + now_s)
    view = views.message_view(message, timeline, here, EPOCH_S + now_s)
    brief = views.status_view(message, EPOCH_S + now_s)
    shown: list[Any] = [message, timeline, feed, view, brief]
    return msgspec.json.encode(shown).decode() + (await expose(gateway)).decode()


@pytest.mark.parametrize(
    ("key", "says", "states"),
    [
        ("AUTH", b"535 5.7.8 %s: bad; you sent AUTH PLAIN %s", {"deferred": 1}),
        ("AUTH", b"454 4.7.0 try later, %s %s", {"deferred": 1}),
        ("MAIL", b"451 4.3.0 session of %s (%s)", {"deferred": 1}),
        ("RCPT", b"550 5.1.1 no such user, says %s (%s)", {"bounced": 1}),
        ("DATA", b"554 5.7.1 %s %s", {"failed": 1}),
        (".", b"250 2.0.0 queued as %s/%s", {"sent": 1}),
    ],
    ids=["AUTH 535", "AUTH 454", "MAIL", "RCPT", "DATA", "accepted"],
)
async def test_what_a_relay_repeats_is_masked_everywhere(
    key: str,
    says: bytes,
    states: dict[str, int],
    autojump_clock: trio.testing.MockClock,
) -> None:
    log = io.StringIO()
    said = says % (PASSWORD.encode(), PLAIN) + b"\r\n"
    journal = LogJournal(LogSettings(level="debug", format="json"), log)
    settings = {"kind": "smtp", "tls": "none", "host": "localhost", "hello_name": "[127.0.0.1]"}
    config = make_config({"p": {**settings, "username": USER, "password": PASSWORD}})
    async with trio.open_nursery() as nursery:
        ports = dataclasses.replace(
            make_ports(), connector=Relay(nursery, {key: said}), journal=journal
        )
        with open_store() as store:
            async with running(config, store, ports) as gateway:
                await gateway.door.submit(letter())
                await wait_for_states(gateway, **states)
                shown = await everything(gateway, "1")
        nursery.cancel_scope.cancel()

    told = shown + log.getvalue()
    assert "***" in shown
    assert "attempt.done" in told
    for secret in (PASSWORD, PLAIN.decode(), PLAIN.decode()[10:20]):
        assert secret not in told
