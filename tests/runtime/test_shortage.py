"""What is our own shortage, and what the operating system says."""

from __future__ import annotations

import errno
import os
import socket
from typing import Any

import pytest
import trio

from mailactors.runtime.ports import SystemClock, TcpConnector
from mailactors.runtime.shortage import RECENT_S, Shortages, is_shortage, os_words
from tests.descriptors import without_descriptors
from tests.gateways import NotingJournal


def fault(number: int) -> OSError:
    return OSError(number, os.strerror(number))


def of_addresses(*errors: OSError) -> OSError:
    """Return what `trio.open_tcp_stream` raises when each address failed."""
    error = OSError("all attempts to connect to relay.example:25 failed")
    error.__cause__ = ExceptionGroup("each", errors)
    return error


REFUSED, UNROUTED = fault(errno.ECONNREFUSED), fault(errno.EHOSTUNREACH)
NO_PORT = fault(errno.EADDRNOTAVAIL)
SHORT = [
    *map(fault, (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EAGAIN)),
    of_addresses(fault(errno.EMFILE)),
    of_addresses(fault(errno.EMFILE), REFUSED),
    of_addresses(NO_PORT),
    socket.gaierror(socket.EAI_MEMORY, "Memory allocation failure"),
    MemoryError(),
    RuntimeError("can't start new thread"),
    trio.BrokenResourceError("socket connection broken"),
]
SHORT[-1].__cause__ = fault(errno.ENOBUFS)
THEIRS = [
    REFUSED,
    of_addresses(REFUSED, UNROUTED),
    of_addresses(NO_PORT, REFUSED),
    socket.gaierror(socket.EAI_NONAME, "Name or service not known"),
    socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution"),
    RuntimeError("another"),
    trio.BrokenResourceError("the server closed the connection"),
]


@pytest.mark.parametrize("error", SHORT, ids=repr)
def test_what_this_process_lacks_is_its_own(error: BaseException) -> None:
    assert is_shortage(error)


@pytest.mark.parametrize("error", THEIRS, ids=repr)
def test_everything_else_is_about_the_other_end(error: BaseException) -> None:
    assert not is_shortage(error)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (REFUSED, "connection refused"),
        (of_addresses(REFUSED, fault(errno.ECONNREFUSED)), "connection refused"),
        (of_addresses(UNROUTED, REFUSED), "no route to host; connection refused"),
        (THEIRS[3], "Name or service not known"),
        (RuntimeError(), "RuntimeError"),
    ],
)
def test_the_operating_system_is_quoted(error: BaseException, words: str) -> None:
    assert words == os_words(error)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "no-such-name.invalid"])
async def test_a_connector_without_descriptors_says_so(host: str) -> None:
    with without_descriptors(), pytest.raises(OSError, match=r".") as caught:
        await TcpConnector().open_tcp(host, 25)

    assert is_shortage(caught.value)
    assert "too many open files" == os_words(caught.value)


async def test_a_port_where_nobody_listens_is_refused_in_those_words() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

    with pytest.raises(OSError, match=r".") as caught:
        await TcpConnector().open_tcp("127.0.0.1", port)

    assert "connection refused" == os_words(caught.value)


async def test_a_connector_without_threads_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_args: Any, **_named: Any) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(trio, "open_tcp_stream", fail)

    with pytest.raises(OSError, match="thread") as caught:
        await TcpConnector().open_tcp("relay.example", 25)

    assert is_shortage(caught.value)


async def test_a_shortage_is_logged_once_and_counted_each_time(autojump_clock: object) -> None:
    journal = NotingJournal()
    shortages = Shortages(SystemClock(), journal)

    for _ in range(3):
        shortages.note("primary", "too many open files")
        await trio.sleep(RECENT_S / 2)

    assert [{"where": "primary", "error": "too many open files"}] == journal.named(
        "resources.short"
    )
    assert {("primary",): 3} == shortages.counts.counts
    assert {"primary": "too many open files"} == shortages.recent()
    await trio.sleep(RECENT_S)
    assert {} == shortages.recent()
