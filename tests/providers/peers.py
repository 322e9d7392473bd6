"""Third parties' SMTP servers on loopback, to judge our client by: each a context manager.

A peer that is not installed skips its tests, except under CI=true, where it fails them: a suite
that skips what it is for is worth nothing.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import shutil
import socket
import ssl
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import trustme
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult, LoginPassword

HERE = Path(__file__).parent
HOST = "127.0.0.1"
START_TIMEOUT_S = 10.0


@dataclass(frozen=True)
class Arrival:
    """One message as a peer received it; `content` without dot-stuffing."""

    sender: str
    recipients: tuple[str, ...]
    content: bytes
    is_tls: bool = False
    user: str | None = None


@dataclass
class Peer:
    """A running server."""

    port: int
    read_arrivals: Callable[[], list[Arrival]]
    host: str = HOST

    @property
    def arrivals(self) -> list[Arrival]:
        """Everything that has arrived so far."""
        return self.read_arrivals()


def unavailable(reason: str) -> None:
    """Skip the test that needs a peer, or fail it where peers are promised."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


@dataclass(frozen=True)
class Certificate:
    """A key and certificate for localhost and 127.0.0.1, with the authority that signed it."""

    authority: trustme.CA
    leaf: trustme.LeafCert

    def server_context(self) -> ssl.SSLContext:
        """Return a context that a server presents the certificate with."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self.leaf.configure_cert(context)
        return context

    @contextmanager
    def authority_file(self) -> Iterator[str]:
        """Write the authority where `ca_file` may point."""
        with self.authority.cert_pem.tempfile() as path:
            yield path


def make_certificate() -> Certificate:
    """Make an authority and a certificate by it."""
    authority = trustme.CA()
    return Certificate(authority, authority.issue_cert("localhost", HOST))


@dataclass
class _Recorder:
    """An aiosmtpd handler that keeps what it gets and refuses whom it is told to."""

    refuse: dict[str, str]
    answer_after_s: float = 0.0
    arrivals: list[Arrival] = field(default_factory=list)

    async def handle_RCPT(  # noqa: N802 - aiosmtpd's name
        self, _server: Any, _session: Any, envelope: Any, address: str, _options: list[str]
    ) -> str:
        if address in self.refuse:
            return self.refuse[address]
        envelope.rcpt_tos.append(address)
        return "250 2.1.5 OK"

    async def handle_DATA(self, _server: Any, session: Any, envelope: Any) -> str:  # noqa: N802
        arrival = Arrival(
            envelope.mail_from,
            tuple(envelope.rcpt_tos),
            bytes(envelope.original_content),
            is_tls=session.ssl is not None,
            user=session.auth_data,
        )
        self.arrivals.append(arrival)
        await asyncio.sleep(self.answer_after_s)
        return f"250 2.0.0 OK: queued as {len(self.arrivals):06d}"


class _AnyPortController(Controller):
    """aiosmtpd's controller, which knocks at the port that it was given and not at its own."""

    def _trigger_server(self) -> None:
        assert isinstance(self.server, asyncio.Server)
        self.port = self.server.sockets[0].getsockname()[1]
        super()._trigger_server()  # type: ignore[no-untyped-call]


@contextmanager
def aiosmtpd_peer(
    *,
    certificate: Certificate | None = None,
    login: tuple[str, str] | None = None,
    refuse: dict[str, str] | None = None,
    answer_after_s: float = 0.0,
    **options: Any,
) -> Iterator[Peer]:
    """Run aiosmtpd on a thread: STARTTLS with a certificate, AUTH with a login.

    Args:
        certificate: offers and requires STARTTLS.
        login: the one user name and password; AUTH is then required.
        refuse: replies to RCPT, by recipient.
        answer_after_s: how long a message that is kept already waits for its 250.
        options: of aiosmtpd's SMTP class, such as `data_size_limit` or `enable_SMTPUTF8`.
    """
    recorder = _Recorder(refuse or {}, answer_after_s)

    def authenticate(_s: Any, _session: Any, _e: Any, _mechanism: str, data: Any) -> AuthResult:
        assert isinstance(data, LoginPassword)
        given = data.login.decode(), data.password.decode()
        return AuthResult(success=given == login, auth_data=given[0], handled=False)

    if certificate is not None:
        options |= {"tls_context": certificate.server_context(), "require_starttls": True}
    if login is not None:
        options |= {"authenticator": authenticate, "auth_required": True}
        options |= {"auth_require_tls": certificate is not None}
    controller = _AnyPortController(recorder, hostname=HOST, port=0, **options)
    controller.start()
    try:
        yield Peer(controller.port, lambda: list(recorder.arrivals))
    finally:
        controller.stop()


@contextmanager
def nodemailer_peer(
    *,
    certificate: Certificate | None = None,
    login: tuple[str, str] | None = None,
    refuse: dict[str, tuple[int, str]] | None = None,
    **options: Any,
) -> Iterator[Peer]:
    """Run Nodemailer's smtp-server under Node; `options` such as `secure` or `authMethods`."""
    node = shutil.which("node")
    if node is None or not (HERE / "node_modules" / "smtp-server").is_dir():
        unavailable("Nodemailer's smtp-server is missing: npm install in tests/providers")
    user, password = login or (None, None)
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder, "arrivals")
        options |= {"log": str(log), "refuse": refuse or {}, "user": user, "password": password}
        if certificate is not None:
            options["key"] = certificate.leaf.private_key_pem.bytes().decode()
            options["cert"] = certificate.leaf.cert_chain_pems[0].bytes().decode()
        command = [str(node), str(HERE / "nodemailer_peer.js"), json.dumps(options)]
        with _running(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            port = int(process.stdout.readline())
            yield Peer(port, lambda: _read_nodemailer(log))


def _read_nodemailer(log: Path) -> list[Arrival]:
    lines = log.read_text().splitlines() if log.exists() else []
    return [_parse_nodemailer(json.loads(line)) for line in lines]


def _parse_nodemailer(said: dict[str, Any]) -> Arrival:
    content = base64.b64decode(said.pop("content"))
    return Arrival(recipients=tuple(said.pop("recipients")), content=content, **said)


@contextmanager
def smtp_sink_peer(*switches: str) -> Iterator[Peer]:
    """Run Postfix's smtp-sink; the switches choose its faults, such as `-q DATA` or `-r RCPT`.

    -r and -f answer 4xx and 5xx to the named commands (-b and -B say with which words), -q hangs
    up, -Q says 421, "." being the final dot; -A 0 refuses after the 354 without reading on. What
    arrives within one tick of the file system's clock is in no particular order.
    """
    sink = shutil.which("smtp-sink") or shutil.which("smtp-sink", path="/usr/sbin")
    if sink is None:
        unavailable("Postfix's smtp-sink is missing: apt-get install postfix")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder.chmod(0o777)
        port = _free_port()
        command = [str(sink), *switches, "-d", f"{folder}/m.", f"{HOST}:{port}", "64"]
        if os.geteuid() == 0:
            command[1:1] = ["-u", "nobody"]
        stack.enter_context(_running(command))
        _wait_until_open(port)
        yield Peer(port, lambda: _read_sink(folder))


def _read_sink(folder: Path) -> list[Arrival]:
    dumps = sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime_ns)
    # Only what is whole ends in an empty line. (It may still have been refused: `-r .` dumps, too.)
    wholes = [dump for path in dumps if (dump := path.read_bytes()).endswith(b"\n\n")]
    return [_parse_sink(dump) for dump in wholes]


def _parse_sink(dump: bytes) -> Arrival:
    """Read a dump: its own headers to the three lines of Received, the message, an empty line.

    smtp-sink writes LF for CRLF.
    """
    own, _, rest = dump.partition(b"Received: ")
    content = rest.split(b"\n", 3)[3].removesuffix(b"\n")
    facts = [line.split(": ", 1) for line in own.decode().splitlines()]
    sender = next(value for name, value in facts if name == "X-Mail-Args")
    recipients = tuple(value for name, value in facts if name == "X-Rcpt-Args")
    return Arrival(_path(sender), tuple(map(_path, recipients)), content.replace(b"\n", b"\r\n"))


def _path(argument: str) -> str:
    return argument[argument.index("<") + 1 : argument.index(">")]


def _free_port() -> int:
    with socket.create_server((HOST, 0)) as server:
        return int(server.getsockname()[1])


def _wait_until_open(port: int) -> None:
    deadline_s = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline_s:
        with suppress(ConnectionRefusedError):
            socket.create_connection((HOST, port), 1.0).close()
            return
        time.sleep(0.005)
    raise TimeoutError(f"nobody listens on port {port}")


@contextmanager
def _running(command: list[str], **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(command, **options)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()
