"""Delivery over real sockets, through SMTP servers that others wrote, in failover order."""

import email
import email.policy
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from email.message import EmailMessage
from typing import Any

import msgspec
import pytest
import trio
from trio.testing import MockClock

from mailactors.model.message import Address, Attachment
from mailactors.wiring import Gateway
from tests.gateways import letter, make_config, open_store, running, states, status, wait_for_states
from tests.providers.peers import (
    Arrival,
    Peer,
    aiosmtpd_peer,
    make_certificate,
    nodemailer_peer,
    smtp_sink_peer,
)

REFUSED_PORT = 1  # nobody listens there


@pytest.fixture
def fast_clock() -> MockClock:
    """Return a clock that runs fifty times as fast as the wall's: sockets are real, waits short."""
    return MockClock(rate=50.0)


def relay(port: int, **settings: Any) -> dict[str, Any]:
    return {"kind": "smtp", "host": "127.0.0.1", "port": port, "tls": "none", **settings}


def parse(arrival: Arrival) -> EmailMessage:
    message = email.message_from_bytes(arrival.content, policy=email.policy.default)
    assert isinstance(message, EmailMessage)
    return message


@contextmanager
def three_relays() -> Iterator[dict[str, Peer]]:
    with ExitStack() as stack:
        yield {
            name: stack.enter_context(aiosmtpd_peer())
            for name in ("primary", "secondary", "tertiary")
        }


async def wait_until_sent(gateway: Gateway, count: int) -> None:
    await wait_for_states(gateway, within_s=900.0, sent=count)


@pytest.mark.slow
async def test_what_arrives_is_what_was_asked(fast_clock: MockClock) -> None:
    asked = letter(
        to=(Address("bob@example.com", "Bób"), Address("carol@example.org")),
        bcc=(Address("hidden@example.net"),),
        subject="Grüße, and a long subject " + "x" * 200,
        text="Line one\n.a dot\n..two dots\nünïcode\n",
        html="<p>Hello</p>",
        headers=(("X-Campaign", "autumn"),),
        attachments=(Attachment("naïve.bin", bytes(range(256)) * 20),),
    )
    with aiosmtpd_peer() as peer, open_store() as store:
        async with running(make_config({"only": relay(peer.port)}), store) as gateway:
            receipt = await gateway.door.submit(asked)
            await wait_until_sent(gateway, 3)
        (arrival,) = peer.arrivals
    message = parse(arrival)

    assert "ann@sender.example" == arrival.sender
    assert ("bob@example.com", "carol@example.org", "hidden@example.net") == arrival.recipients
    assert asked.subject == message["Subject"]
    assert f"<{receipt.message_id}>" == message["Message-ID"]
    assert "autumn" == message["X-Campaign"]
    assert b"hidden@example.net" not in arrival.content
    body = message.get_body(("plain",))
    assert body is not None
    assert asked.text == body.get_content().replace("\r\n", "\n")
    (attachment,) = message.iter_attachments()
    assert ("naïve.bin", bytes(range(256)) * 20) == (
        attachment.get_filename(),
        attachment.get_content(),
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("down", "expected"),
    [((), "primary"), (("primary",), "secondary"), (("primary", "secondary"), "tertiary")],
)
async def test_the_first_provider_that_is_up_gets_it(
    down: tuple[str, ...], expected: str, fast_clock: MockClock
) -> None:
    with three_relays() as peers, open_store() as store:
        providers = {
            name: relay(REFUSED_PORT if name in down else peer.port) for name, peer in peers.items()
        }
        async with running(make_config(providers), store) as gateway:
            await gateway.door.submit(letter())
            await wait_until_sent(gateway, 1)
            message = await status(gateway, "1")
        arrived = [name for name, peer in peers.items() if peer.arrivals]

    assert [expected] == arrived
    assert expected == message.deliveries[0].provider
    assert len(down) + 1 == message.attempts


class Door:
    """Lets the gateway reach a relay only when it is open."""

    def __init__(self, gateway: Gateway) -> None:
        self.is_open = False
        self._connector = gateway.ports.connector

    async def open_tcp(self, host: str, port: int) -> trio.abc.Stream:
        if not self.is_open:
            raise ConnectionRefusedError("refused by the test")
        return await self._connector.open_tcp(host, port)


@pytest.mark.slow
async def test_all_down_defers_by_the_table_and_sends_when_one_returns(
    fast_clock: MockClock,
) -> None:
    with smtp_sink_peer() as peer, open_store() as store:
        providers = {name: relay(peer.port) for name in ("primary", "secondary", "tertiary")}
        async with running(make_config(providers), store) as gateway:
            door = Door(gateway)
            for lane in gateway.lanes.values():
                lane.provider._connector = door  # type: ignore[attr-defined]  # the one seam a relay has
            await gateway.door.submit(letter())
            await wait_for_states(gateway, deferred=1)
            assert 3 == (await status(gateway, "1")).attempts
            door.is_open = True
            await wait_until_sent(gateway, 1)

            events = await gateway.spool.read(lambda spool: spool.timeline(1))
        arrivals = peer.arrivals

    assert 1 == len(arrivals)
    assert "deferred" in [event.facts.get("next", {}).get("0") for event in events]


@pytest.mark.slow
@pytest.mark.parametrize(
    "switches",
    [
        pytest.param(("-f", "MAIL"), id="hard reject of MAIL"),
        pytest.param(("-r", "MAIL"), id="soft reject of MAIL"),
        pytest.param(("-f", "EHLO,HELO"), id="hard reject of EHLO"),
        pytest.param(("-f", "DATA"), id="hard reject of DATA"),
        pytest.param(("-f", "CONNECT"), id="hard reject of the connection"),
        pytest.param(("-q", "MAIL"), id="drop at MAIL"),
        pytest.param(("-q", "RCPT"), id="drop at RCPT"),
        pytest.param(("-q", "DATA"), id="drop at DATA"),
        pytest.param(("-Q", "MAIL"), id="421 at MAIL"),
        pytest.param(("-Q", "DATA"), id="421 at DATA"),
        pytest.param(("-f", "."), id="hard reject of the message"),
        pytest.param(("-r", "."), id="soft reject of the message"),
        pytest.param(("-r", "CONNECT"), id="soft reject of the connection"),
        pytest.param(("-A", "0"), id="abort after DATA"),
    ],
)
async def test_a_faulty_primary_sends_the_message_to_the_secondary_once(
    switches: tuple[str, ...], fast_clock: MockClock
) -> None:
    with smtp_sink_peer(*switches) as bad, aiosmtpd_peer() as good, open_store() as store:
        config = make_config({"primary": relay(bad.port), "secondary": relay(good.port)})
        async with running(config, store) as gateway:
            await gateway.door.submit(letter())
            await wait_until_sent(gateway, 1)
            message = await status(gateway, "1")
        arrivals = good.arrivals

    assert 1 == len(arrivals)
    assert ("secondary", 2, 0) == (
        message.deliveries[0].provider,
        message.attempts,
        message.declared_risks,
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("switches", "state"),
    [
        (("-f", "RCPT", "-B", "550 5.1.1 no such user"), "bounced"),
        (("-r", "RCPT", "-b", "451 4.7.1 greylisted"), "deferred"),
    ],
)
async def test_a_refused_recipient_is_not_tried_elsewhere(
    switches: tuple[str, ...], state: str, fast_clock: MockClock
) -> None:
    with smtp_sink_peer(*switches) as bad, aiosmtpd_peer() as good, open_store() as store:
        config = make_config({"primary": relay(bad.port), "secondary": relay(good.port)})
        async with running(config, store) as gateway:
            await gateway.door.submit(letter())
            await wait_for_states(gateway, **{state: 1})
            assert [state] == states(await status(gateway, "1"))

        assert [] == good.arrivals


@pytest.mark.slow
@pytest.mark.parametrize(
    ("preference", "expected", "arrivals_expected", "risks"),
    [("hold", "held", 0, 0), ("resend", "sent", 1, 1)],
)
async def test_a_connection_lost_after_the_body_is_uncertain(
    preference: str,
    expected: str,
    arrivals_expected: int,
    risks: int,
    autojump_clock: MockClock,
) -> None:
    """The first relay hangs up at the final dot, and is then replaced by one that does not."""
    clock_ratio = 50.0
    autojump_clock.rate, autojump_clock.autojump_threshold = clock_ratio, float("inf")
    streams = {"mail": {"on_uncertain": preference}}
    with smtp_sink_peer("-q", ".") as bad, aiosmtpd_peer() as good, open_store() as store:
        providers = {"primary": relay(bad.port), "secondary": relay(good.port)}
        async with running(make_config(providers, streams=streams), store) as gateway:
            await gateway.door.submit(letter())
            await wait_for_states(gateway, uncertain=1)
            events = await gateway.spool.read(lambda spool: spool.timeline(1))
            lost_ids = message_ids(bad)
            gateway.lanes.plans["mail"] = msgspec.structs.replace(
                gateway.lanes.plans["mail"], route=("secondary",)
            )
            await wait_for_states(gateway, **{expected: 1})
            message = await status(gateway, "1")
        arrivals = good.arrivals

    assert "uncertain" == events[-1].facts["outcome"]
    assert "final" in events[-1].facts["reason"]
    assert (arrivals_expected, risks) == (len(arrivals), message.declared_risks)
    assert {parse(arrival)["Message-ID"] for arrival in arrivals} <= lost_ids


@pytest.mark.slow
async def test_the_message_id_is_the_same_on_every_attempt(fast_clock: MockClock) -> None:
    with (
        smtp_sink_peer("-f", ".") as bad,
        smtp_sink_peer("-f", ".") as worse,
        aiosmtpd_peer() as good,
        open_store() as store,
    ):
        providers = {
            "primary": relay(bad.port),
            "secondary": relay(worse.port),
            "tertiary": relay(good.port),
        }
        async with running(make_config(providers), store) as gateway:
            receipt = await gateway.door.submit(letter())
            await wait_until_sent(gateway, 1)
        seen = [message_ids(peer) for peer in (bad, worse, good)]

    assert [{f"<{receipt.message_id}>"}] * 3 == seen


@pytest.mark.slow
async def test_a_relay_that_asks_for_tls_and_a_login_gets_both(fast_clock: MockClock) -> None:
    certificate = make_certificate()
    with (
        certificate.authority_file() as ca_file,
        nodemailer_peer(certificate=certificate, login=("ann", "s3cret")) as peer,
        open_store() as store,
    ):
        only = relay(
            peer.port,
            host="localhost",
            tls="starttls",
            ca_file=ca_file,
            username="ann",
            password="s3cret",
        )
        async with running(make_config({"only": only}), store) as gateway:
            await gateway.door.submit(letter())
            await wait_until_sent(gateway, 1)
        (arrival,) = peer.arrivals

    assert (True, "ann") == (arrival.is_tls, arrival.user)
    assert "Letter 1" == parse(arrival)["Subject"]


@pytest.mark.slow
async def test_one_transaction_has_three_fates(fast_clock: MockClock) -> None:
    refuse = {"gone@example.com": "550 5.1.1 no such user", "busy@example.com": "450 4.2.1 busy"}
    to = tuple(Address(f"{name}@example.com") for name in ("good", "gone", "busy"))
    with aiosmtpd_peer(refuse=refuse) as peer, open_store() as store:
        async with running(make_config({"only": relay(peer.port)}), store) as gateway:
            await gateway.door.submit(letter(to=to))
            await wait_for_states(gateway, sent=1, bounced=1, deferred=1)
            del refuse["busy@example.com"]
            await wait_for_states(gateway, sent=2, bounced=1)
            message = await status(gateway, "1")
        arrivals = peer.arrivals

    assert [("good@example.com",), ("busy@example.com",)] == [a.recipients for a in arrivals]
    assert {"good@example.com, gone@example.com, busy@example.com"} == {
        str(parse(arrival)["To"]) for arrival in arrivals
    }
    assert ["sent", "bounced", "sent"] == states(message)


@pytest.mark.slow
async def test_a_mime_message_is_passed_on_byte_for_byte(fast_clock: MockClock) -> None:
    raw = (
        b"From: Ann <ann@sender.example>\r\nTo: bob@example.com\r\n"
        b"Subject: =?utf-8?q?odd?=\r\nMessage-ID: <mine@sender.example>\r\n"
        b"X-Odd:   spaces   kept  \r\n\r\n.leading dot\r\n\ttab\r\n"
    )
    with aiosmtpd_peer() as peer, open_store() as store:
        async with running(make_config({"only": relay(peer.port)}), store) as gateway:
            receipt = await gateway.door.submit(letter(raw=raw, subject="", text=None))
            await wait_until_sent(gateway, 1)
        (arrival,) = peer.arrivals

    assert raw == arrival.content
    assert "mine@sender.example" == receipt.message_id


def message_ids(peer: Peer) -> set[str]:
    """Return the Message-IDs of what a peer was given, kept or not."""
    return {str(parse(arrival)["Message-ID"]) for arrival in peer.arrivals}
