"""`mailactors send --eml`: a MIME file is sent as it is, to whom its headers name."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mailactors import cli
from tests.peers_http import Answer, reply, scripted
from tests.providers.peers import aiosmtpd_peer
from tests.servers import serving, wait_until

ACCEPTED = reply(202, {"id": "m1", "rfc_message_id": "m1@mail.example", "status": "accepted"})
LETTER = b"""From: "Doe, Ann" <ann@example.com>
To: Bob <bob@example.com>,
 =?utf-8?q?J=C3=B6rg?= <joerg@example.com>
Cc: team: carl@example.com, d.e@example.com;
Subject: Hello
Message-ID: <1@example.com>

First line

.
Bcc: no header any more
"""
WIRE = LETTER.replace(b"\n", b"\r\n")
EVERYONE = ["bob@example.com", "joerg@example.com", "carl@example.com", "d.e@example.com"]

Send = Callable[..., tuple[Any, str]]


@pytest.fixture
def send(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Send:
    """Send a file; returns the body that the gateway got, if any, and what was said instead."""

    def send_(
        letter: bytes, *arguments: str, answer: Answer = ACCEPTED, file: str = ""
    ) -> tuple[Any, str]:
        path = tmp_path / "letter.eml"
        path.write_bytes(letter)
        with scripted(answer) as peer:
            command = ["send", *arguments, "--eml", file or str(path), "--url", peer.url]
            monkeypatch.setattr(sys, "argv", ["mailactors", *command])
            with contextlib.suppress(SystemExit):
                cli.main()
        bodies = [json.loads(request.body) for request in peer.requests]
        said = capsys.readouterr().err.removeprefix(f"mailactors: {path} ")
        return bodies[0] if bodies else None, said

    return send_


@pytest.mark.parametrize("letter", [LETTER, LETTER[:-1], WIRE], ids=["LF", "cut", "CRLF"])
def test_the_bytes_are_those_of_the_file_with_the_line_ends_of_mail(
    letter: bytes, send: Send
) -> None:
    body, _ = send(letter)

    assert WIRE == base64.b64decode(body["raw"])
    assert {"to": EVERYONE, "from": "ann@example.com"} == {
        name: value for name, value in body.items() if name != "raw"
    }


@pytest.mark.parametrize(
    "letter", [b"From: a@example.com\r\n\r\nHi\n", b"From: a@example.com\r\rHi"]
)
def test_a_file_with_line_ends_of_both_kinds_is_left_to_the_gateway(
    letter: bytes, send: Send
) -> None:
    body, _ = send(letter, "bob@example.com", "--from", "me@example.com")

    assert letter == base64.b64decode(body["raw"])


MBOX_LINE = b"From ann@example.com Fri Nov  9 01:08:47 2001\n"
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@pytest.mark.parametrize(
    ("before", "expected"),
    [
        (MBOX_LINE, ["took out the mbox line before its headers"]),
        (BYTE_ORDER_MARK, ["took out its byte order mark"]),
        (
            BYTE_ORDER_MARK + MBOX_LINE,
            ["took out its byte order mark", "took out the mbox line before its headers"],
        ),
    ],
)
def test_what_is_no_part_of_the_message_is_taken_out_and_that_is_said(
    before: bytes, expected: list[str], send: Send
) -> None:
    body, said = send(before + LETTER)

    assert WIRE == base64.b64decode(body["raw"])
    assert said.endswith(f"letter.eml: {', '.join(expected)}\n")


def test_arguments_are_stronger_than_headers(send: Send) -> None:
    body, _ = send(LETTER, "eve@example.com", "--from", "me@example.com", "--id", "7")

    assert ["eve@example.com"] == body["to"]
    assert ("me@example.com", "7") == (body["from"], body["id"])


def test_of_several_authors_the_sender_sends(send: Send) -> None:
    body, _ = send(
        b"From: a@example.com, b@example.com\nSender: b@example.com\nTo: c@example.com\n\n"
    )

    assert "b@example.com" == body["from"]


@pytest.mark.parametrize(
    ("letter", "expected"),
    [
        (b"bcc: eve@example.com\n" + LETTER, "has a Bcc header, which every recipient would see;"),
        (b"From: a@example.com\n\nTo: b@example.com\n", "names nobody in To or Cc"),
        (b"To: undisclosed-recipients:;\nFrom: a@example.com\n\n", "names nobody in To or Cc"),
        (b"To: b@example.com\n\n", "has no single author in From"),
        (b"To: c@example.com\nFrom: a@example.com, b@example.com\n\n", "has no single author"),
        (b"", "names nobody in To or Cc"),
        (MBOX_LINE + LETTER + b"\n" + MBOX_LINE + LETTER, "holds more than one message"),
        (LETTER.decode().encode("utf-16"), "is in UTF-16"),
        (LETTER.replace(b"Cc:", b"From:"), "has no single author in From"),
    ],
)
def test_a_file_that_cannot_be_sent_is_refused_before_it_is_submitted(
    letter: bytes, expected: str, send: Send
) -> None:
    body, said = send(letter)

    assert None is body
    assert said.startswith(expected)


def test_what_is_in_the_file_is_not_given_beside_it(send: Send) -> None:
    assert (None, "mailactors: --subject and --body are part of the --eml file\n") == send(
        LETTER, "-s", "Hello"
    )


def test_what_the_gateway_refuses_in_a_file_is_printed(send: Send) -> None:
    problem = {"title": "Not valid", "errors": [{"pointer": "/raw", "detail": "is too long"}]}

    _, said = send(LETTER, answer=reply(422, problem))

    assert "mailactors: Not valid\n  /raw: is too long\n" == said


def test_a_file_may_come_from_standard_input(send: Send, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(LETTER)))

    body, _ = send(b"", file="-")

    assert WIRE == base64.b64decode(body["raw"])


CONFIG = """
[service]
default_from = "gateway@example.com"
listen = "127.0.0.1:0"
spool = "spool.db"

[providers.primary]
kind = "smtp"
host = "127.0.0.1"
port = {port}
tls = "none"
"""


@pytest.mark.slow
def test_a_file_arrives_byte_for_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "letter.eml").write_bytes(LETTER)

    with aiosmtpd_peer() as peer, serving(tmp_path, CONFIG.format(port=peer.port)) as served:
        monkeypatch.setattr(sys, "argv", ["mailactors", "send", "--eml", "letter.eml"])
        monkeypatch.setenv("MAILACTORS_URL", served.url)
        monkeypatch.chdir(tmp_path)
        with contextlib.suppress(SystemExit):
            cli.main()
        wait_until(lambda: bool(peer.arrivals))

    assert EVERYONE == list(peer.arrivals[0].recipients)
    assert WIRE == peer.arrivals[0].content
