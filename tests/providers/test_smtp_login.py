"""Logging in: one mechanism after another, tokens from a command, and our name in EHLO."""

from __future__ import annotations

import socket
import sys
from base64 import b64encode
from pathlib import Path

import pydantic
import pytest
import trio

from mailactors.model.outcome import Deferred, NotAttempted, Refusal, Rejected, Scope
from mailactors.providers.smtp import SmtpSettings
from mailactors.providers.smtp import token as tokens
from mailactors.providers.smtp.session import SmtpSession
from mailactors.providers.smtp.settings import ADDRESS_LITERAL, host_name
from mailactors.providers.smtp.token import TokenError, TokenSource
from tests.providers.fake_relay import FakeRelay, Script
from tests.providers.mails import make_provider

USER, PASSWORD = b64encode(b"ann").decode(), b64encode(b"hunter2").decode()
OFFER = b"250-relay\r\n250 AUTH PLAIN LOGIN XOAUTH2\r\n"
LOGIN: Script = {
    "EHLO": OFFER,
    "AUTH LOGIN": b"334 VXNlcm5hbWU6\r\n",
    USER: b"334 UGFzc3dvcmQ6\r\n",
    PASSWORD: b"235 2.7.0 ok\r\n",
}
BY_PASSWORD = {"host": "localhost", "username": "ann", "password": "hunter2"}


async def log_in(relay: FakeRelay, **settings: object) -> SmtpSession | Refusal | NotAttempted:
    return await make_provider(relay, **(BY_PASSWORD | settings)).connect()


def mechanisms_tried(relay: FakeRelay) -> list[bytes]:
    return [line.split()[1] for line in relay.lines if line.startswith(b"AUTH ")]


@pytest.mark.parametrize(
    "reply",
    [
        b"504 5.7.4 Unrecognized authentication type\r\n",
        b"534 5.7.9 mechanism too weak\r\n",
        b"502 not implemented\r\n",
        b"538 5.7.11 encryption required\r\n",
    ],
)
async def test_next_mechanism_follows_one_that_is_not_known(
    nursery: trio.Nursery, reply: bytes
) -> None:
    relay = FakeRelay(nursery, {**LOGIN, "AUTH": reply})

    session = await log_in(relay)

    assert isinstance(session, SmtpSession)
    assert [b"PLAIN", b"LOGIN"] == mechanisms_tried(relay)


async def test_wrong_password_is_not_tried_by_another_mechanism(nursery: trio.Nursery) -> None:
    relay = FakeRelay(nursery, {**LOGIN, "AUTH": b"535 5.7.8 no\r\n"})

    refusal = await log_in(relay)

    assert isinstance(refusal, Rejected)
    assert [b"PLAIN"] == mechanisms_tried(relay)


async def test_last_refusal_stands_when_no_mechanism_is_known(nursery: trio.Nursery) -> None:
    relay = FakeRelay(nursery, {"EHLO": OFFER, "AUTH": b"504 5.7.4 unrecognized\r\n"})

    refusal = await log_in(relay)

    assert isinstance(refusal, Rejected)
    assert (Scope.PROVIDER, 504) == (refusal.scope, refusal.reason.code)
    assert [b"PLAIN", b"LOGIN"] == mechanisms_tried(relay)


async def test_mechanisms_are_those_of_the_settings_in_their_order(nursery: trio.Nursery) -> None:
    relay = FakeRelay(nursery, LOGIN)

    session = await log_in(relay, auth=["login"])

    assert isinstance(session, SmtpSession)
    assert [b"LOGIN"] == mechanisms_tried(relay)


async def test_mechanism_that_is_not_offered_is_not_tried(nursery: trio.Nursery) -> None:
    relay = FakeRelay(nursery, {**LOGIN, "EHLO": b"250-relay\r\n250 AUTH PLAIN\r\n"})

    refusal = await log_in(relay, auth=["login"])

    assert isinstance(refusal, Rejected)
    assert "auth: the server offers neither AUTH LOGIN" == refusal.reason.text
    assert [] == mechanisms_tried(relay)


async def test_empty_challenge_gets_plains_response(nursery: trio.Nursery) -> None:
    response = b64encode(b"\0ann\0hunter2").decode()
    script: Script = {"EHLO": OFFER, "AUTH": b"334 \r\n", response: b"235 ok\r\n"}

    session = await log_in(FakeRelay(nursery, script))

    assert isinstance(session, SmtpSession)


# Tokens.


def token_command(folder: Path, *outputs: str) -> list[str]:
    """Return a command that prints one output after another, the last for ever."""
    script = folder / "token.py"
    script.write_text(
        "import pathlib, sys\n"
        f"outputs = {outputs!r}\n"
        f"calls = pathlib.Path({str(folder / 'calls')!r})\n"
        "count = int(calls.read_text()) if calls.exists() else 0\n"
        "calls.write_text(str(count + 1))\n"
        "print(outputs[min(count, len(outputs) - 1)])\n"
    )
    return [sys.executable, str(script)]


def calls(folder: Path) -> int:
    return int((folder / "calls").read_text())


def bearer(token: str) -> str:
    return b64encode(f"user=ann\x01auth=Bearer {token}\x01\x01".encode()).decode()


async def log_in_by_token(
    relay: FakeRelay, command: list[str]
) -> SmtpSession | Refusal | NotAttempted:
    return await log_in(relay, password=None, token_command=command)


async def test_token_is_what_the_command_prints(nursery: trio.Nursery, tmp_path: Path) -> None:
    relay = FakeRelay(nursery, {"EHLO": OFFER, "AUTH": b"235 ok\r\n"})
    command = token_command(tmp_path, "ya29.first")
    provider = make_provider(
        relay, host="localhost", username="ann", token_command=command, idle_s=0
    )

    sessions = [await provider.connect() for _ in range(2)]

    assert [True, True] == [isinstance(each, SmtpSession) for each in sessions]
    assert [bearer("ya29.first")] * 2 == [
        line.split()[2].decode() for line in relay.lines if line.startswith(b"AUTH XOAUTH2")
    ]
    assert 1 == calls(tmp_path)


async def test_refused_token_is_asked_for_anew_once(nursery: trio.Nursery, tmp_path: Path) -> None:
    challenge = b64encode(b'{"status":"401"}').decode()
    relay = FakeRelay(
        nursery,
        {
            "EHLO": OFFER,
            f"AUTH XOAUTH2 {bearer('old')}": f"334 {challenge}\r\n".encode(),
            "": b"535 5.7.8 expired\r\n",
            f"AUTH XOAUTH2 {bearer('new')}": b"235 ok\r\n",
        },
    )

    session = await log_in_by_token(relay, token_command(tmp_path, "old", "new"))

    assert isinstance(session, SmtpSession)
    assert 2 == calls(tmp_path)


async def test_token_that_is_refused_twice_is_a_refusal(
    nursery: trio.Nursery, tmp_path: Path
) -> None:
    relay = FakeRelay(nursery, {"EHLO": OFFER, "AUTH": b"535 5.7.8 no\r\n"})

    refusal = await log_in_by_token(relay, token_command(tmp_path, "canary-1", "canary-2"))

    assert isinstance(refusal, Rejected)
    assert (Scope.PROVIDER, 535) == (refusal.scope, refusal.reason.code)
    assert "canary" not in repr(refusal)
    assert 2 == calls(tmp_path)


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["/does/not/exist"], "the token command cannot be run: No such file or directory"),
        ([sys.executable, "-c", "exit(3)"], "the token command ended with status 3"),
        ([sys.executable, "-c", "print('canary'); exit(3)"], "ended with status 3"),
        ([sys.executable, "-c", "pass"], "the token command printed no token"),
        ([sys.executable, "-c", "print('two words, canary')"], "printed no token"),
        ([sys.executable, "-c", "print('canary' * 10_000)"], "printed no token"),
    ],
)
async def test_without_a_token_there_is_no_login(
    nursery: trio.Nursery, command: list[str], words: str
) -> None:
    relay = FakeRelay(nursery, {"EHLO": OFFER})

    refusal = await log_in_by_token(relay, command)

    assert isinstance(refusal, Deferred)
    assert Scope.PROVIDER is refusal.scope
    assert words in refusal.reason.text
    assert "canary" not in repr(refusal)
    assert [] == mechanisms_tried(relay)


async def test_command_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "TOKEN_WITHIN_S", 0.05)

    with pytest.raises(TokenError, match="more than"):
        await TokenSource([sys.executable, "-c", "import time; time.sleep(60)"]).token()


async def test_those_who_ask_at_once_share_one_run(tmp_path: Path) -> None:
    source = TokenSource(token_command(tmp_path, "first", "second", "third"))
    first = await source.token()

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(source.token, first)

    assert "second" == await source.token()
    assert 2 == calls(tmp_path)


@pytest.mark.parametrize(
    "wrong",
    [
        {"username": "ann"},
        {"token_command": ["true"]},
        {"username": "ann", "token_command": []},
        {"username": "ann", "password": "canary", "auth": ["xoauth2"]},
        {"username": "ann", "token_command": ["true"], "auth": ["plain"]},
        {"username": "ann", "password": "canary", "auth": ["cram-md5"]},
        {"username": "ann", "token_command": ["true"], "tls": "none"},
    ],
)
def test_settings_fit_each_other(wrong: dict[str, object]) -> None:
    with pytest.raises(pydantic.ValidationError) as caught:
        SmtpSettings.model_validate({"host": "relay.example"} | wrong)

    assert "canary" not in str(caught.value)


def test_mechanisms_follow_from_what_there_is() -> None:
    def mechanisms(**settings: object) -> tuple[str, ...]:
        return SmtpSettings.model_validate({"host": "relay.example"} | settings).mechanisms

    assert () == mechanisms()
    assert ("PLAIN", "LOGIN") == mechanisms(username="a", password="b")
    assert ("XOAUTH2",) == mechanisms(username="a", token_command=["true"])
    assert ("LOGIN", "PLAIN") == mechanisms(username="a", password="b", auth=["login", "plain"])
    both = {"username": "a", "password": "b", "token_command": ["true"]}
    assert ("XOAUTH2", "PLAIN", "LOGIN") == mechanisms(**both)


# Our name.


@pytest.mark.parametrize(
    ("host", "full", "name"),
    [
        ("mail.example.com", "", "mail.example.com"),
        ("mail", "mail.example.com", "mail.example.com"),
        ("mail", "mail", ADDRESS_LITERAL),
        ("mail", "localhost", ADDRESS_LITERAL),
        ("mail.local", "", ADDRESS_LITERAL),
        ("mail", "mail.localdomain", ADDRESS_LITERAL),
        ("ip-10-0-0-1.ec2.internal", "", ADDRESS_LITERAL),
        ("10.0.0.1", "", ADDRESS_LITERAL),
        ("my_host.example.com", "", ADDRESS_LITERAL),
        ("bad..name", "", ADDRESS_LITERAL),
    ],
)
def test_our_name_is_the_hosts_where_relays_take_it(
    monkeypatch: pytest.MonkeyPatch, host: str, full: str, name: str
) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: host)
    monkeypatch.setattr(socket, "getfqdn", lambda _name: full)
    host_name.cache_clear()

    assert name == SmtpSettings(host="relay.example").hello_name

    monkeypatch.undo()
    host_name.cache_clear()


async def test_our_name_may_be_set(nursery: trio.Nursery) -> None:
    relay = FakeRelay(nursery)

    await make_provider(relay, hello_name="mail.example.com").connect()

    assert [b"EHLO mail.example.com"] == relay.lines
