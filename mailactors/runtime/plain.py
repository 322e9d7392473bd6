"""A plain TCP socket by its descriptor: what was taken, and what has come, without waiting.

`send_all` of a stream does not say how much of a failed write had left; the kernel's own count
does. A call that need not wait costs no turn of the event loop. TLS has no such calls: a record
is written as a whole or not at all.
"""

from __future__ import annotations

import os
from typing import Final, Self

import trio

RECEIVE_OCTETS: Final = 16384


class PlainSocket:
    """The socket under a stream, for the stream's one user at a time; the stream closes it."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._descriptor = stream.socket.fileno()

    @classmethod
    def under(cls, stream: trio.abc.Stream) -> Self | None:
        """Return the socket of a stream that is nothing else, or None."""
        return cls(stream) if isinstance(stream, trio.SocketStream) else None

    def write_now(self, data: bytes | memoryview) -> int:
        """Return how many octets the kernel took, from the first on; perhaps none.

        Raises: trio.BrokenResourceError, when it took none and never will.
        """
        try:
            return os.write(self._descriptor, data)
        except (BlockingIOError, InterruptedError):
            return 0
        except OSError as error:
            raise _broken(error) from error

    def read_now(self) -> bytes | None:
        """Return what has come, nothing (b"") at the end of the stream, None if nothing came.

        Raises: trio.BrokenResourceError
        """
        try:
            return os.read(self._descriptor, RECEIVE_OCTETS)
        except (BlockingIOError, InterruptedError):
            return None
        except OSError as error:
            raise _broken(error) from error

    async def write(self, data: bytes | memoryview) -> None:
        """Write all of it, waiting only where the kernel does not take it at once.

        Raises: trio.BrokenResourceError, trio.ClosedResourceError
        """
        left = memoryview(data)
        while left := left[self.write_now(left) :]:
            await trio.lowlevel.wait_writable(self._descriptor)

    async def read(self) -> bytes:
        """Wait, and return what has come; b"" at the end of the stream.

        Raises: trio.BrokenResourceError, trio.ClosedResourceError
        """
        while True:
            await trio.lowlevel.wait_readable(self._descriptor)
            data = self.read_now()
            if data is not None:
                return data


def _broken(error: OSError) -> trio.BrokenResourceError:
    return trio.BrokenResourceError(f"socket connection broken: {error}")
