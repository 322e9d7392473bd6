"""Our own shortage: descriptors, memory, threads and ports that this process could not get.

It says nothing of the other end, so no provider is blamed for it. Errors of the operating system
are told apart here, and put into its own words.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator
from typing import Final

import trio

from mailactors.runtime.ports import Clock, Journal, SilentJournal
from mailactors.runtime.tally import Tally

SHORTAGES: Final = frozenset(
    {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EAGAIN}
)
"""For EAGAIN: connect(2) and pthread_create(3), where a limit of the system is reached."""
RECENT_S: Final = 15.0
"""How long after it was last met a shortage is reported: a few looks of the watchdog."""
_NO_THREAD: Final = "can't start new thread"


def causes(error: BaseException) -> Iterator[BaseException]:
    """Yield what an error is made of: its groups' members, its cause, or itself.

    `trio.open_tcp_stream` raises one OSError over a group with an error for each address.
    """
    if isinstance(error, BaseExceptionGroup):
        for each in error.exceptions:
            yield from causes(each)
    elif error.__cause__ is not None:
        yield from causes(error.__cause__)
    else:
        yield error


def is_shortage(error: BaseException) -> bool:
    """Whether this process lacked something, so that the error says nothing of the other end.

    One address that could not be tried for it is enough: it might have answered. A local address
    that is not available means that the ports are used up, unless another address has an answer:
    then it is only a family of addresses that this host does not have.
    """
    found = list(causes(error))
    return any(map(_is_ours, found)) or all(_is_without_port(each) for each in found)


def _is_ours(error: BaseException) -> bool:
    match error:
        case MemoryError():
            return True
        case RuntimeError():
            return _NO_THREAD in str(error)
        case socket.gaierror():
            return error.errno == socket.EAI_MEMORY
        case OSError():
            return error.errno in SHORTAGES
        case _:
            return False


def _is_without_port(error: BaseException) -> bool:
    return isinstance(error, OSError) and error.errno in {errno.EADDRNOTAVAIL, errno.EADDRINUSE}


def os_words(error: BaseException) -> str:
    """Return what the operating system says, each reason once.

    >>> os_words(ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused"))
    'connection refused'
    """
    return "; ".join(dict.fromkeys(map(_words, causes(error))))


def _words(error: BaseException) -> str:
    if not isinstance(error, OSError) or not error.strerror:
        return str(error) or type(error).__name__
    is_plain = type(error).__module__ == "builtins"  # a resolver's or OpenSSL's numbers are others
    if not is_plain or error.errno is None or error.errno not in errno.errorcode:
        return error.strerror
    words = os.strerror(error.errno)  # Trio puts the address before them
    return words[0].lower() + words[1:]


class Shortages:
    """What this process lacked, where and how often; the watchdog and the metrics read it."""

    def __init__(self, clock: Clock, journal: Journal | None = None) -> None:
        self.counts = Tally()
        """By place, such as a provider's name."""
        self.met = trio.Event()
        """Set at the next shortage, wherever it is met."""
        self._clock = clock
        self._journal = journal or SilentJournal()
        self._latest: dict[str, tuple[float, str]] = {}

    def note(self, where: str, text: str) -> None:
        """Record a shortage; the first one for some time is logged."""
        now_s = self._clock.now_s()
        if where not in self.recent():
            self._journal.note("resources.short", level="error", where=where, error=text)
        self.counts.add(where)
        self._latest[where] = (now_s, text)
        self.met.set()
        self.met = trio.Event()

    def recent(self) -> dict[str, str]:
        """Return by place what was lacking lately."""
        since_s = self._clock.now_s() - RECENT_S
        return {where: text for where, (at_s, text) in self._latest.items() if at_s > since_s}
