"""A deadline for a whole exchange over blocking sockets.

The timeouts of `httpx2` are of single operations: a peer that sends a byte now and then is never
late. Below it, each operation gets what is left of `left_s` in its thread.

It takes the place of the network backend of httpx's connection pool, which httpx does not offer;
`tests/test_client_sync.py` would see that change.
"""

from __future__ import annotations

import math
import ssl
import threading
from collections.abc import Callable, Iterable
from typing import Any, Final

import httpcore2
import httpx2

WRITE_BYTES: Final = 65536
"""Written at once: a peer that reads slowly is late after a few of these."""


class Deadline(threading.local):
    """Until when the exchange of the present thread may last."""

    until_s: float = math.inf

    def __init__(self, now_s: Callable[[], float]) -> None:
        self._now_s = now_s

    def cut(self, timeout_s: float | None) -> float | None:
        """Return the time that one operation may take. Raises: httpcore2.ReadTimeout."""
        left_s = self.until_s - self._now_s()
        if left_s <= 0:
            raise httpcore2.ReadTimeout("the time for this exchange is up")
        if timeout_s is None:
            return None if math.isinf(left_s) else left_s
        return min(timeout_s, left_s)


class DeadlineTransport(httpx2.HTTPTransport):
    """A transport whose connections keep to a deadline."""

    def __init__(self, verify: ssl.SSLContext | bool, deadline: Deadline) -> None:
        super().__init__(verify=verify, trust_env=False)
        pool: Any = self._pool
        pool._network_backend = _Backend(pool._network_backend, deadline)


class _Backend(httpcore2.NetworkBackend):
    def __init__(self, inner: httpcore2.NetworkBackend, deadline: Deadline) -> None:
        self._inner = inner
        self._deadline = deadline

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.NetworkStream:
        timeout = self._deadline.cut(timeout)
        stream = self._inner.connect_tcp(host, port, timeout, local_address, socket_options)
        return _Stream(stream, self._deadline)


class _Stream(httpcore2.NetworkStream):
    def __init__(self, inner: httpcore2.NetworkStream, deadline: Deadline) -> None:
        self._inner = inner
        self._deadline = deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._inner.read(max_bytes, self._deadline.cut(timeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        for start in range(0, len(buffer), WRITE_BYTES):
            piece = buffer[start : start + WRITE_BYTES]
            self._inner.write(piece, self._deadline.cut(timeout))

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore2.NetworkStream:
        timeout = self._deadline.cut(timeout)
        secured = self._inner.start_tls(ssl_context, server_hostname, timeout)
        return _Stream(secured, self._deadline)

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)

    def close(self) -> None:
        self._inner.close()
