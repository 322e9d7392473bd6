"""The ports: the only access to time, chance, threads, faults and the network.

The service builds them from the operating system (`system_ports`), the simulator from a seed. No
other module reads a clock, a random source or a socket; a test checks that.
"""

from __future__ import annotations

import errno
import os
import random
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeVar

import trio

T = TypeVar("T")

ID_RANDOM_OCTETS: Final = 10
"""Enough for the 74 random bits of an id."""


class Clock(Protocol):
    """Two clocks that are never mixed: intervals by the first, dates by the second."""

    def now_s(self) -> float:
        """Return monotonic seconds; never goes back, means nothing to another process."""
        ...

    def wall_time(self) -> float:
        """Return seconds since the Unix epoch, UTC; may step when an operator or NTP sets it."""
        ...


class Entropy(Protocol):
    """Keyed chance: under one seed a key always gives the same number, in any order of draws."""

    def draw(self, *key: str | int) -> float:
        """Return a number in [0, 1) for this key, such as ("backoff", message_id, attempt)."""
        ...


class Ids(Protocol):
    """Unique ids of messages and attempts."""

    def new_id(self) -> str:
        """Return 32 hexadecimal digits that sort by time of creation (UUIDv7, RFC 9562 §5.7)."""
        ...


class Faults(Protocol):
    """Named points in production code at which a test or the simulator may inject a fault."""

    def point(self, name: str) -> None:
        """Do nothing in the service; in a test or a simulation, raise or end the process."""
        ...


class Executor(Protocol):
    """Runs blocking work: on a thread in the service, inline in the simulator."""

    async def run(self, work: Callable[[], T]) -> T:
        """Run `work` to its end, one at a time, in the order of the calls; pass on what it raises.

        Not cancellable: a commit that has begun is finished, even if no task waits for it.
        """
        ...

    def close(self) -> None:
        """Release the thread, if there is one."""
        ...


class Connector(Protocol):
    """Opens byte streams to other hosts: name resolution and TCP, without TLS."""

    async def open_tcp(self, host: str, port: int) -> trio.abc.Stream:
        """Return a connected stream.

        Raises: OSError when the name does not resolve or no address accepts, or when this process
            lacks what it takes (`runtime.shortage` tells them apart).
        """
        ...


class Journal(Protocol):
    """Records what actors decided: log lines in the service, a hash in the simulator."""

    def note(self, event: str, /, *, level: str = "info", **facts: Any) -> None:
        """Record one event, a dotted name such as `attempt.done`, with plain values as facts.

        `level` is debug, info, warning or error. A recipient is passed as `recipient`, which the
        log hashes; bodies and secrets are never passed.
        """
        ...


@dataclass(frozen=True)
class Ports:
    """What an actor may use outside its mailbox."""

    clock: Clock
    entropy: Entropy
    ids: Ids
    faults: Faults
    executor: Callable[[str], Executor]
    connector: Connector
    journal: Journal


class SystemClock:
    """The operating system's clocks. `now_s` is Trio's, so that tests can use a mock clock."""

    def now_s(self) -> float:
        return trio.current_time()

    def wall_time(self) -> float:
        return time.time()


class SystemEntropy:
    """Chance that the operating system has seeded once; keys are ignored."""

    def __init__(self) -> None:
        self._random = random.Random()  # noqa: S311 - it jitters times, and guards nothing

    def draw(self, *key: str | int) -> float:
        return self._random.random()


class SystemIds:
    """UUIDv7 from a clock and entropy: 48 bits of milliseconds, then 74 random bits."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._left = b""

    def new_id(self) -> str:
        millis = int(self._clock.wall_time() * 1000) & ((1 << 48) - 1)
        if len(self._left) < ID_RANDOM_OCTETS:
            self._left = os.urandom(256 * ID_RANDOM_OCTETS)  # one call for many ids
        drawn, self._left = self._left[:ID_RANDOM_OCTETS], self._left[ID_RANDOM_OCTETS:]
        return format_uuid7(millis, int.from_bytes(drawn) >> (8 * ID_RANDOM_OCTETS - 74))


def format_uuid7(millis: int, random_bits: int) -> str:
    """Return a UUIDv7 of 48 bits of Unix milliseconds and 74 random bits.

    >>> format_uuid7(0x017F22E279B0, (0xCC3 << 62) | 0x18C4DC0C0C07398F)
    '017f22e279b07cc398c4dc0c0c07398f'

    Source: RFC 9562 §5.7 and its test vector in appendix A.6.
    """
    rand_a, rand_b = random_bits >> 62, random_bits & ((1 << 62) - 1)
    value = (millis << 80) | (0x7 << 76) | (rand_a << 64) | (0b10 << 62) | rand_b
    return f"{value:032x}"


class NoFaults:
    """The fault port of the service: every point is a no-op."""

    def point(self, name: str) -> None:
        """Do nothing."""


class ThreadExecutor:
    """Runs one job at a time on Trio's worker threads; the service's spool uses it."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._limiter = trio.CapacityLimiter(1)

    async def run(self, work: Callable[[], T]) -> T:
        return await trio.to_thread.run_sync(work, limiter=self._limiter)

    def close(self) -> None:
        """Do nothing: Trio ends its idle threads after a few seconds."""


class TcpConnector:
    """Opens real sockets, with Trio's Happy Eyeballs (RFC 8305)."""

    async def open_tcp(self, host: str, port: int) -> trio.abc.Stream:
        try:
            return await trio.open_tcp_stream(host, port)
        except socket.gaierror:
            _open_descriptor()  # for want of one the resolver says "temporary failure", or worse
            raise
        except RuntimeError as error:  # no thread could be started for the resolver
            raise OSError(errno.EAGAIN, str(error)) from None


def _open_descriptor() -> None:
    """Open and close one. Raises: OSError when there is none."""
    socket.socket().close()


class SilentJournal:
    """Records nothing; for tests and benchmarks."""

    def note(self, event: str, /, *, level: str = "info", **facts: Any) -> None:
        """Do nothing."""


def system_ports(journal: Journal) -> Ports:
    """Build the service's ports on the operating system."""
    clock = SystemClock()
    entropy, ids, connector = SystemEntropy(), SystemIds(clock), TcpConnector()
    return Ports(clock, entropy, ids, NoFaults(), ThreadExecutor, connector, journal)
