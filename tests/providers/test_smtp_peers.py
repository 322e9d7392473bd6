"""The provider against servers that others wrote: what arrives is what was sent."""

from __future__ import annotations

import email
import email.policy
from collections.abc import Iterator
from typing import Any

import pytest

from mailactors.model.message import Address, Attachment, Content, Envelope
from mailactors.model.outcome import Accepted, Deferred, Outcome, Rejected, Scope, Uncertain
from mailactors.providers.port import Mail
from tests.providers.mails import ANN, BOB, CAT, make_mail, make_provider, open_session
from tests.providers.peers import (
    Arrival,
    Certificate,
    Peer,
    aiosmtpd_peer,
    make_certificate,
    nodemailer_peer,
    smtp_sink_peer,
)

LOGIN = ("ann", "hünter2 =")
RAW = b".A: b\r\nSubject: dots\r\n\r\n.\r\n..\r\n...x\r\ny.\r\n" + b"z" * 998 + b"\r\n"


@pytest.fixture(scope="module")
def certificate() -> Certificate:
    return make_certificate()


@pytest.fixture(scope="module")
def ca_file(certificate: Certificate) -> Iterator[str]:
    with certificate.authority_file() as path:
        yield path


def rich_mail() -> Mail:
    content = Content(
        Address(ANN, "Ann Ødegård"),
        (Address(BOB, "Bob, the builder"),),
        subject="Grüße · 你好",
        text="Dear Bob,\n.\n..dots\nFrom here\nbjørn\n",
        html="<p>Dear Bob \U0001f600</p>\n",
        attachments=(Attachment("räport.bin", bytes(range(256)) * 20),),
    )
    return Mail("1" * 32, "rich@x.example", 1_700_000_000.0, Envelope(ANN, (BOB, CAT)), content)


def check_rich_mail(arrival: Arrival) -> None:
    parsed = email.message_from_bytes(arrival.content, policy=email.policy.default)
    text, html = parsed.get_body(("plain",)), parsed.get_body(("html",))
    (attachment,) = parsed.iter_attachments()

    assert (arrival.sender, arrival.recipients) == (ANN, (BOB, CAT))
    assert parsed["Subject"] == "Grüße · 你好"
    assert parsed["Message-ID"] == "<rich@x.example>"
    assert parsed["From"].addresses[0].display_name == "Ann Ødegård"
    assert parsed["To"].addresses[0].addr_spec == BOB
    assert text is not None
    assert text.get_content().replace("\r\n", "\n") == "Dear Bob,\n.\n..dots\nFrom here\nbjørn\n"
    assert html is not None
    assert html.get_content().replace("\r\n", "\n") == "<p>Dear Bob \U0001f600</p>\n"
    assert attachment.get_content() == bytes(range(256)) * 20


async def send_all(peer: Peer, *mails: Mail, **settings: Any) -> list[Outcome]:
    provider = make_provider(host="localhost", port=peer.port, **settings)
    outcomes = [await (await open_session(provider)).send(mail) for mail in mails]
    await provider.aclose()
    return outcomes


# aiosmtpd.


@pytest.mark.slow
async def test_aiosmtpd_gets_what_was_sent_over_starttls_and_login(
    certificate: Certificate, ca_file: str
) -> None:
    login = {"username": LOGIN[0], "password": LOGIN[1]}
    with aiosmtpd_peer(certificate=certificate, login=LOGIN) as peer:
        outcomes = await send_all(
            peer, rich_mail(), make_mail(raw=RAW), tls="starttls", ca_file=ca_file, **login
        )

        arrivals = peer.arrivals

    assert [Accepted("000001"), Accepted("000002")] == outcomes
    assert [(True, LOGIN[0])] * 2 == [(arrival.is_tls, arrival.user) for arrival in arrivals]
    check_rich_mail(arrivals[0])
    assert arrivals[1].content == RAW


async def test_aiosmtpd_refuses_some_and_the_connection_goes_on() -> None:
    with aiosmtpd_peer(refuse={CAT: "550 5.1.1 no such user"}) as peer:
        outcomes = await send_all(peer, make_mail(CAT), make_mail(BOB, CAT), make_mail())

        assert [arrival.recipients for arrival in peer.arrivals] == [(BOB,), (BOB,)]

    assert [Rejected, Accepted, Accepted] == [type(outcome) for outcome in outcomes]
    assert isinstance(outcomes[1], Accepted)
    assert outcomes[1].refused[CAT].scope is Scope.RECIPIENT


async def test_aiosmtpd_gets_unicode_addresses_only_when_it_offers_them() -> None:
    with aiosmtpd_peer(enable_SMTPUTF8=True) as peer:
        (accepted,) = await send_all(peer, make_mail("bjørn@y.example"))
        assert peer.arrivals[0].recipients == ("bjørn@y.example",)
    with aiosmtpd_peer(enable_SMTPUTF8=False) as peer:
        (rejected,) = await send_all(peer, make_mail("bjørn@y.example"))

    assert isinstance(accepted, Accepted)
    assert isinstance(rejected, Rejected)
    assert rejected.scope is Scope.MESSAGE


async def test_aiosmtpd_is_not_sent_more_than_it_takes() -> None:
    with aiosmtpd_peer(data_size_limit=100) as peer:
        (outcome,) = await send_all(peer, make_mail())

        assert peer.arrivals == []

    assert isinstance(outcome, Rejected)
    assert outcome.scope is Scope.MESSAGE


# Nodemailer.


@pytest.mark.slow
@pytest.mark.parametrize("method", ["PLAIN", "LOGIN"])
@pytest.mark.parametrize("tls", ["starttls", "implicit"])
async def test_nodemailer_gets_what_was_sent(
    certificate: Certificate, ca_file: str, tls: str, method: str
) -> None:
    login = {"username": LOGIN[0], "password": LOGIN[1]}
    with nodemailer_peer(
        certificate=certificate, login=LOGIN, secure=tls == "implicit", authMethods=[method]
    ) as peer:
        outcomes = await send_all(
            peer, rich_mail(), make_mail(raw=RAW), tls=tls, ca_file=ca_file, **login
        )

        arrivals = peer.arrivals

    assert [Accepted, Accepted] == [type(outcome) for outcome in outcomes]
    assert [(True, LOGIN[0])] * 2 == [(arrival.is_tls, arrival.user) for arrival in arrivals]
    check_rich_mail(arrivals[0])
    assert arrivals[1].content == RAW


@pytest.mark.slow
async def test_nodemailer_refuses_a_wrong_password(certificate: Certificate, ca_file: str) -> None:
    with nodemailer_peer(certificate=certificate, login=LOGIN) as peer:
        refusal = await make_provider(
            host="localhost",
            port=peer.port,
            tls="starttls",
            ca_file=ca_file,
            username="ann",
            password="wrong-canary",
        ).connect()

    assert isinstance(refusal, Rejected)
    assert (refusal.scope, refusal.reason.code) == (Scope.PROVIDER, 535)
    assert "canary" not in repr(refusal)


@pytest.mark.slow
async def test_nodemailer_refuses_some_and_the_connection_goes_on() -> None:
    refuse = {CAT: (550, "no such user"), BOB: (450, "mailbox busy, try again in 2 minutes")}
    with nodemailer_peer(refuse=refuse) as peer:
        nobody, some = await send_all(peer, make_mail(CAT, BOB), make_mail(CAT, ANN))

        assert [arrival.recipients for arrival in peer.arrivals] == [(ANN,)]

    assert isinstance(nobody, Deferred)
    busy = nobody.refused[BOB]
    assert isinstance(busy, Deferred)
    assert busy.retry_after_s == 120
    assert isinstance(some, Accepted)
    assert list(some.refused) == [CAT]


# Postfix's smtp-sink.


async def test_smtp_sink_gets_what_was_sent() -> None:
    with smtp_sink_peer() as peer:
        outcomes = await send_all(peer, rich_mail(), make_mail(raw=RAW))

        arrivals = {len(arrival.recipients): arrival for arrival in peer.arrivals}

    assert [Accepted("Ok"), Accepted("Ok")] == outcomes
    check_rich_mail(arrivals[2])
    assert arrivals[1].content == RAW


@pytest.mark.parametrize("switches", [("-e",), ("-p",), ("-8",)], ids=["HELO", "one by one", "7"])
async def test_smtp_sink_with_fewer_extensions(switches: tuple[str, ...]) -> None:
    with smtp_sink_peer(*switches) as peer:
        outcomes = await send_all(peer, rich_mail(), make_mail())

        assert len(peer.arrivals) == 2

    assert [Accepted, Accepted] == [type(outcome) for outcome in outcomes]


@pytest.mark.parametrize(
    ("switches", "kind", "scope"),
    [
        (("-r", "MAIL"), Deferred, Scope.PROVIDER),
        (("-f", "MAIL"), Deferred, Scope.PROVIDER),  # its 500 says nothing about the sender
        (("-r", "RCPT", "-b", "450 4.2.1 busy"), Deferred, Scope.RECIPIENT),
        (("-f", "RCPT", "-B", "550 5.1.1 no such user"), Rejected, Scope.RECIPIENT),
        (("-r", "DATA"), Deferred, Scope.PROVIDER),
        (("-f", "DATA", "-B", "554 5.7.1 no"), Rejected, Scope.MESSAGE),
        (("-r", "."), Deferred, Scope.PROVIDER),
        (("-f", "."), Rejected, Scope.MESSAGE),
        (("-q", "MAIL"), Deferred, Scope.PROVIDER),
        (("-q", "RCPT"), Deferred, Scope.PROVIDER),
        (("-q", "DATA"), Deferred, Scope.PROVIDER),
        (("-Q", "MAIL"), Deferred, Scope.PROVIDER),
        (("-Q", "RCPT"), Deferred, Scope.PROVIDER),  # "421 4.0.0 Server closing connection"
        (("-Q", "DATA"), Deferred, Scope.PROVIDER),
        (("-Q", "."), Deferred, Scope.PROVIDER),
        (("-A", "0"), Rejected, Scope.MESSAGE),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
async def test_smtp_sink_refuses(switches: tuple[str, ...], kind: type, scope: Scope) -> None:
    with smtp_sink_peer(*switches) as peer:
        (outcome,) = await send_all(peer, make_mail())

    assert isinstance(outcome, Deferred | Rejected)
    assert (kind, scope) == (type(outcome), outcome.scope)


async def test_smtp_sink_hangs_up_after_the_final_dot() -> None:
    with smtp_sink_peer("-q", ".") as peer:
        (outcome,) = await send_all(peer, make_mail())

    assert isinstance(outcome, Uncertain)


@pytest.mark.parametrize("verb", ["CONNECT", "EHLO"])
@pytest.mark.parametrize("switch", ["-r", "-q", "-Q"])
async def test_smtp_sink_does_not_let_us_in(switch: str, verb: str) -> None:
    with smtp_sink_peer(switch, verb) as peer:
        refusal = await make_provider(host="localhost", port=peer.port).connect()

    assert isinstance(refusal, Deferred)
    assert refusal.scope is Scope.PROVIDER


@pytest.mark.slow
async def test_smtp_sink_takes_ten_megabytes() -> None:
    raw = b"Subject: big\r\n\r\n" + (b"." * 70 + b"\r\n") * 140_000
    with smtp_sink_peer() as peer:
        (outcome,) = await send_all(peer, make_mail(raw=raw))

        assert peer.arrivals[0].content == raw

    assert isinstance(outcome, Accepted)


async def test_nobody_listens() -> None:
    with smtp_sink_peer() as peer:
        port = peer.port

    refusal = await make_provider(host="localhost", port=port).connect()

    assert isinstance(refusal, Deferred)
    assert refusal.reason.text.startswith("connect: ")
