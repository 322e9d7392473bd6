"""What is the sync client's own: its names, its deadline over blocking sockets, its threads."""

from __future__ import annotations

import inspect
import json
import socket
import ssl
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpcore2
import pytest
import trustme

from mailactors import client as async_client
from mailactors.client import sync
from mailactors.client.deadline import Deadline
from tests.peers_http import Answer, Request, listening, read_request, reply, scripted

ACCEPTED = reply(202, {"id": "m1", "rfc_message_id": "m1@mail.example", "status": "accepted"})


def exported(module: object) -> set[str]:
    return {
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and not inspect.ismodule(value) and name != "annotations"
    }


def test_it_has_the_names_of_the_async_client() -> None:
    assert exported(async_client) == set(sync.__all__)
    for name in set(sync.__all__) - {"Client"}:
        assert getattr(async_client, name) is getattr(sync, name)


@pytest.mark.parametrize(
    "name", ["__init__", "send", "send_many", "status", "wait", "events", "request"]
)
def test_its_methods_take_the_same_arguments(name: str) -> None:
    ours, other = (getattr(each.Client, name) for each in (sync, async_client))

    assert inspect.signature(ours) == inspect.signature(other)


def test_a_message_is_sent_without_an_event_loop() -> None:
    with scripted(ACCEPTED) as peer, sync.Client(peer.url) as client:
        assert "m1" == client.send(to="bob@example.com", text="A test.").id


@pytest.mark.parametrize("part", ["head", "body"])
@pytest.mark.parametrize("is_secure", [False, True], ids=["plain", "tls"])
def test_a_peer_that_sends_a_byte_now_and_then_is_late(
    part: str, is_secure: bool, tmp_path: Path
) -> None:
    is_over = threading.Event()
    authority = trustme.CA()
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER) if is_secure else None
    if tls is not None:
        authority.issue_cert("127.0.0.1").configure_cert(tls)
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    head = b"HTTP/1.1 200 OK\r\nX: " if part == "head" else b"HTTP/1.1 200 OK\r\n\r\n"

    def serve(connection: socket.socket) -> None:
        read_request(connection)
        connection.sendall(head)
        while not is_over.wait(0.02):
            connection.sendall(b" ")

    with (
        listening(serve, tls) as url,
        sync.Client(url, timeout_s=0.3, retry_for_s=0, ca_file=tmp_path / "ca.pem") as client,
    ):
        with pytest.raises(sync.UnavailableError, match=r"no answer within 0\.3 s"):
            client.request("GET", "/")
        is_over.set()


def test_a_peer_that_does_not_read_is_late() -> None:
    is_over = threading.Event()

    def serve(_: socket.socket) -> None:
        is_over.wait(5)

    with (
        listening(serve) as url,
        sync.Client(url, timeout_s=0.2, retry_for_s=0) as client,
    ):
        with pytest.raises(sync.UnavailableError, match="no answer within"):
            client.send(to="bob@example.com", raw=b"x" * 20_000_000)
        is_over.set()


def test_a_deadline_is_of_one_call_in_one_thread() -> None:
    now_s = [100.0]
    deadline = Deadline(lambda: now_s[0])
    assert deadline.cut(None) is None
    deadline.until_s = 103.0

    with ThreadPoolExecutor(1) as other:
        assert 5.0 == other.submit(deadline.cut, 5.0).result()
    assert [3.0, 2.0, 3.0] == [deadline.cut(each) for each in (5.0, 2.0, None)]
    now_s[0] = 103.0
    with pytest.raises(httpcore2.ReadTimeout):
        deadline.cut(5.0)
    del deadline.until_s
    assert 5.0 == deadline.cut(5.0)


def test_one_client_serves_many_threads() -> None:
    def echo(request: Request) -> Answer:
        return reply(202, {"id": json.loads(request.body)["subject"]})

    with scripted(echo) as peer, sync.Client(peer.url) as client, ThreadPoolExecutor(8) as threads:
        sent = threads.map(lambda n: client.send(to="a@example.com", subject=str(n)).id, range(40))

        assert [str(n) for n in range(40)] == list(sent)
