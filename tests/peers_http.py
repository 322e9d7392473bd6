"""HTTP peers that misbehave as they are told: a scripted server, and a proxy that cuts."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

PATIENCE_S = 10.0
Serve = Callable[[socket.socket], None]


@dataclass
class Request:
    """What a client sent."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Answer:
    """What is sent back for one request, before the connection is closed; nothing is a cut."""

    content: bytes = b""
    is_early: bool = False
    """Whether the end comes before the request was read."""
    hold: threading.Event | None = None
    """Waited for before the connection is closed."""


@dataclass
class Peer:
    """A server on loopback, and the requests it read."""

    url: str
    requests: list[Request] = field(default_factory=list)


def reply(status: int, body: object = None, **headers: str) -> Answer:
    """Return an answer in JSON; a header's underscores are hyphens."""
    content = json.dumps(body).encode()
    lines = [f"HTTP/1.1 {status} Because", f"Content-Length: {len(content)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    lines += ["Content-Type: application/json", "Connection: close", "", ""]
    return Answer("\r\n".join(lines).encode() + content)


def stream(text: str, hold: threading.Event | None = None) -> Answer:
    """Return an answer of server-sent events."""
    head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
    return Answer((head + text).encode(), hold=hold)


@contextlib.contextmanager
def listening(serve: Serve, tls: ssl.SSLContext | None = None) -> Iterator[str]:
    """Serve each connection in a thread of its own; returns the address."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        is_over = threading.Event()
        threads: list[threading.Thread] = []

        def accept() -> None:
            while True:
                connection, _ = listener.accept()
                connection.settimeout(PATIENCE_S)
                if is_over.is_set():
                    connection.close()
                    return
                thread = threading.Thread(target=_serve_one, args=(serve, connection, tls))
                threads.append(thread)
                thread.start()

        acceptor = threading.Thread(target=accept)
        acceptor.start()
        port = listener.getsockname()[1]
        try:
            yield f"{'https' if tls else 'http'}://127.0.0.1:{port}"
        finally:
            is_over.set()
            socket.create_connection(("127.0.0.1", port)).close()
            for thread in (acceptor, *threads):
                thread.join(PATIENCE_S)


def _serve_one(serve: Serve, connection: socket.socket, tls: ssl.SSLContext | None) -> None:
    with connection, contextlib.suppress(OSError):
        if tls is None:
            serve(connection)
            return
        with tls.wrap_socket(connection, server_side=True) as wrapped:
            serve(wrapped)


@contextlib.contextmanager
def scripted(
    *answers: Answer | Callable[[Request], Answer], tls: ssl.SSLContext | None = None
) -> Iterator[Peer]:
    """Answer each request as the script says; its last line is repeated."""
    peer = Peer("")
    script = list(answers)
    lock = threading.Lock()

    def serve(connection: socket.socket) -> None:
        with lock:
            answer = script.pop(0) if len(script) > 1 else script[0]
        if isinstance(answer, Answer) and answer.is_early:
            return
        request = read_request(connection)
        peer.requests.append(request)
        if not isinstance(answer, Answer):
            answer = answer(request)
        connection.sendall(answer.content)
        if answer.hold is not None:
            answer.hold.wait(PATIENCE_S)

    with listening(serve, tls) as peer.url:
        yield peer


@contextlib.contextmanager
def cutting(url: str, cuts: int, *, after_answer: bool) -> Iterator[Peer]:
    """Forward requests to a server, and lose its first answers: cut the client's connection.

    Args:
        url: the server's.
        cuts: so many answers are lost.
        after_answer: cut when the answer has come, or as soon as the request is forwarded.
    """
    peer = Peer("")
    lock = threading.Lock()

    def serve(connection: socket.socket) -> None:
        request = read_request(connection)
        with lock:
            peer.requests.append(request)
            is_cut = len(peer.requests) <= cuts
        upstream = http.client.HTTPConnection(urlsplit(url).netloc, timeout=PATIENCE_S)
        with contextlib.closing(upstream):
            upstream.request(request.method, request.path, request.body, request.headers)
            if is_cut and not after_answer:
                connection.close()
            answer = upstream.getresponse()
            content = answer.read()
            if not is_cut:
                connection.sendall(reply(answer.status, json.loads(content)).content)

    with listening(serve) as peer.url:
        yield peer


def read_request(connection: socket.socket) -> Request:
    """Read one request to the end of its body.

    Raises: OSError when the client goes away before.
    """
    with connection.makefile("rb") as file:
        line = file.readline().decode()
        if not line.endswith("\r\n"):
            raise ConnectionError("the request was cut off")
        method, path, _ = line.split()
        headers: dict[str, Any] = dict(http.client.parse_headers(file).items())
        body = file.read(int(headers.get("Content-Length", 0)))
    return Request(method, path, headers, body)
