"""TLS as the provider does it: what it trusts, what it forgets, what it never says in clear."""

from __future__ import annotations

import datetime
import ssl
from collections.abc import Callable

import pytest
import trio
import trustme

from mailactors.model.outcome import Accepted, Deferred, Phase, Rejected, Scope
from tests.providers.fake_relay import FakeRelay, Fault, Script
from tests.providers.mails import make_mail, make_provider, open_session
from tests.providers.peers import Certificate, make_certificate

OFFER = b"250-relay\r\n250 STARTTLS\r\n"
LOGIN = {"username": "ann", "password": "hunter2"}


@pytest.fixture(scope="module")
def certificate() -> Certificate:
    return make_certificate()


async def test_starttls_then_hello_again_then_login(
    nursery: trio.Nursery, certificate: Certificate
) -> None:
    script: Script = {
        "EHLO": [OFFER, b"250-relay\r\n250 AUTH PLAIN LOGIN\r\n"],
        "AUTH": b"235 ok\r\n",
    }
    relay = FakeRelay(nursery, script, tls=certificate.server_context())

    with certificate.authority_file() as ca_file:
        provider = make_provider(relay, host="localhost", tls="starttls", ca_file=ca_file, **LOGIN)
    outcome = await (await open_session(provider)).send(make_mail())

    assert isinstance(outcome, Accepted)
    verbs = [line.split()[0].decode() for line in relay.lines]
    assert verbs == ["EHLO", "STARTTLS", "EHLO", "AUTH", "MAIL", "RCPT", "DATA"]


async def test_implicit_tls_begins_before_the_greeting(
    nursery: trio.Nursery, certificate: Certificate
) -> None:
    relay = FakeRelay(nursery, tls=certificate.server_context(), is_implicit=True)

    with certificate.authority_file() as ca_file:
        provider = make_provider(relay, host="localhost", tls="implicit", ca_file=ca_file)
    outcome = await (await open_session(provider)).send(make_mail())

    assert isinstance(outcome, Accepted)


async def test_what_was_said_before_the_handshake_is_discarded(
    nursery: trio.Nursery, certificate: Certificate
) -> None:
    script: Script = {
        "EHLO": [b"250-relay\r\n250-AUTH PLAIN\r\n250 STARTTLS\r\n", b"250 relay\r\n"],
        "STARTTLS": b"220 go\r\n250-evil.example\r\n250 AUTH PLAIN\r\n235 welcome\r\n25",
    }
    relay = FakeRelay(nursery, script, tls=certificate.server_context())

    with certificate.authority_file() as ca_file:
        provider = make_provider(relay, host="localhost", tls="starttls", ca_file=ca_file, **LOGIN)
    refusal = await provider.connect()

    assert isinstance(refusal, Rejected)
    assert refusal.reason.text == "auth: the server offers neither AUTH PLAIN nor AUTH LOGIN"
    assert not any(line.startswith(b"AUTH") for line in relay.lines)


@pytest.mark.parametrize("answer", [b"454 4.7.0 not now\r\n", b"250 whatever\r\n", Fault.HANG_UP])
async def test_starttls_refused_says_nothing_more_in_clear(
    nursery: trio.Nursery, answer: bytes | Fault
) -> None:
    relay = FakeRelay(nursery, {"EHLO": OFFER, "STARTTLS": answer})

    refusal = await make_provider(relay, tls="starttls", **LOGIN).connect()

    assert isinstance(refusal, Deferred)
    assert refusal.scope is Scope.PROVIDER
    assert not any(line.startswith((b"AUTH", b"MAIL")) for line in relay.lines)


def expired() -> Certificate:
    authority = trustme.CA()
    past = datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC)
    leaf = authority.issue_cert("localhost", not_before=past, not_after=past)
    return Certificate(authority, leaf)


def other_name() -> Certificate:
    authority = trustme.CA()
    return Certificate(authority, authority.issue_cert("other.example"))


def other_authority() -> Certificate:
    return Certificate(trustme.CA(), trustme.CA().issue_cert("localhost"))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (expired, "certificate has expired"),
        (other_name, "Hostname mismatch"),
        (other_authority, "unable to get local issuer certificate"),
    ],
    ids=["expired", "name", "authority"],
)
async def test_certificate_not_to_be_trusted_is_told_by_its_fault(
    nursery: trio.Nursery, make: Callable[[], Certificate], words: str
) -> None:
    certificate = make()
    relay = FakeRelay(nursery, {"EHLO": OFFER}, tls=certificate.server_context())

    with certificate.authority_file() as ca_file:
        provider = make_provider(relay, host="localhost", tls="starttls", ca_file=ca_file, **LOGIN)
    refusal = await provider.connect()

    assert isinstance(refusal, Deferred)
    assert refusal.scope is Scope.PROVIDER
    assert words in refusal.reason.text
    assert refusal.reason.text.startswith(f"{Phase.TLS.value}: ")


async def test_pooled_connection_under_tls_is_looked_at_without_harm(
    nursery: trio.Nursery, certificate: Certificate
) -> None:
    script = {"EHLO": [OFFER, b"250 relay\r\n"]}
    relay = FakeRelay(nursery, script, tls=certificate.server_context())

    with certificate.authority_file() as ca_file:
        provider = make_provider(relay, host="localhost", tls="starttls", ca_file=ca_file)
    outcomes = [await (await open_session(provider)).send(make_mail()) for _ in range(3)]

    assert [Accepted] * 3 == [type(outcome) for outcome in outcomes]
    assert relay.connections_count == 1


async def test_tls_never_falls_below_1_2(certificate: Certificate) -> None:
    await trio.lowlevel.checkpoint()
    with certificate.authority_file() as ca_file:
        provider = make_provider(tls="implicit", ca_file=ca_file)

    assert provider._tls is not None
    assert provider._tls.minimum_version >= ssl.TLSVersion.TLSv1_2
    assert provider._tls.verify_mode is ssl.CERT_REQUIRED
    assert provider._tls.check_hostname
