"""A request's body that is refused at the first byte beyond its limit.

Quart 0.23 looks at the size of a body only when all of it has come: a chunked body without end gets
no answer, and is kept in memory. This one holds under every Quart that we take. Older ones feed it
by `append`, later ones by `put`.
"""

from __future__ import annotations

import math
from collections.abc import Generator
from typing import Any

import trio
from werkzeug.exceptions import RequestEntityTooLarge


class LimitedBody:
    """What has come of a body, as Quart's `Body` gives it; nothing once it is over its limit."""

    def __init__(self, length: int | None, limit: int | None) -> None:
        self._data = bytearray()
        self._limit = math.inf if limit is None else limit
        self._is_over = (length or 0) > self._limit
        self._ended = trio.Event()

    def __len__(self) -> int:
        """Return how many bytes are held."""
        return len(self._data)

    def __await__(self) -> Generator[Any, None, bytes]:
        """Return all of it. Raises: RequestEntityTooLarge, as soon as it is over the limit."""
        return self._read().__await__()

    async def put(self, data: bytes) -> None:
        """Take a part."""
        self.append(data)

    def append(self, data: bytes) -> None:
        """Take a part, unless the body is over its limit: then drop what was held as well."""
        if not self._is_over and len(self._data) + len(data) <= self._limit:
            self._data += data
            return
        self._is_over = True
        self.clear()
        self._ended.set()

    def set_complete(self) -> None:
        """Note that nothing more comes."""
        self._ended.set()

    def disconnect(self) -> None:
        """Do nothing: the handler of a client that is gone is cancelled."""

    def clear(self) -> None:
        """Give back the memory."""
        self._data = bytearray()

    async def _read(self) -> bytes:
        if not self._is_over:
            await self._ended.wait()
        if self._is_over:
            raise RequestEntityTooLarge
        return bytes(self._data)
