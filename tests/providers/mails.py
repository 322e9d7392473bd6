"""Mails, providers and sessions for the tests of SMTP."""

from __future__ import annotations

from mailactors.model.message import Address, Content, Envelope
from mailactors.providers.port import Mail
from mailactors.providers.smtp import SmtpProvider, SmtpSettings
from mailactors.providers.smtp.session import SmtpSession
from mailactors.runtime.ports import Connector, SystemClock, TcpConnector

ANN = "ann@x.example"
BOB = "bob@y.example"
CAT = "cat@z.example"


def make_mail(*recipients: str, raw: bytes | None = None, text: str = "hello\n") -> Mail:
    """Return a mail from Ann, to Bob unless said otherwise."""
    recipients = recipients or (BOB,)
    content = (
        Content(Address(ANN), raw=raw)
        if raw is not None
        else Content(Address(ANN), tuple(map(Address, recipients)), subject="Hi", text=text)
    )
    envelope = Envelope(ANN, recipients)
    return Mail("0" * 32, "id@x.example", 1_700_000_000.0, envelope, content)


def make_provider(connector: Connector | None = None, **settings: object) -> SmtpProvider:
    """Return a provider without TLS unless said otherwise, over TCP unless given a connector."""
    usual = {"host": "relay.example", "tls": "none", "hello_name": "[127.0.0.1]"}
    parsed = SmtpSettings.model_validate(usual | settings)
    return SmtpProvider("relay", parsed, SystemClock(), connector or TcpConnector())


async def open_session(provider: SmtpProvider) -> SmtpSession:
    """Connect, which must not be refused."""
    session = await provider.connect()
    assert isinstance(session, SmtpSession), session
    return session
