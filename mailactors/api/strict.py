"""Refuses at the first byte what h11 reads more kindly than others do.

Two readers that disagree on where a request ends let a client smuggle one past a proxy. So lines
end with CRLF alone, a body has one length, and a method and a version are exactly those that exist.
A refused request is answered by hypercorn and its connection closed. An Upgrade is not taken up, as
a server may (RFC 9110 §7.8): HTTP/2 and websockets are never begun.

Relies on the reader and the buffer of h11 0.16, which are private; `tests/api/test_strict.py` would
see them change.

Source: RFC 9112 §2.2 (line ends), §6.1 and §6.3 (framing); RFC 9110 §9.1, §15.6.
"""

from __future__ import annotations

import re
from typing import Any, Final

import h11
from h11._receivebuffer import ReceiveBuffer

VERSIONS: Final = frozenset({b"1.0", b"1.1"})
_BARE: Final = re.compile(rb"(?<!\r)\n|\r(?!\n)")


class StrictConnection(h11.Connection):
    """A server's side of a connection that keeps to the grammar."""

    def __init__(self, incomplete_bytes_max: int) -> None:
        super().__init__(h11.SERVER, max_incomplete_event_size=incomplete_bytes_max)
        self._receive_buffer = StrictBuffer()

    def next_event(self) -> Any:
        """Return the next event, a request without its Upgrade. Raises: RemoteProtocolError."""
        event = super().next_event()
        if isinstance(event, h11.Request):
            refuse(event)
            if any(name == b"upgrade" for name, _ in event.headers):
                event = without_upgrade(event)
        return event


class StrictBuffer(ReceiveBuffer):
    """Gives out heads, trailers and chunk sizes whose lines end with CRLF, and no others."""

    def maybe_extract_lines(self) -> list[bytearray] | None:
        """Return the lines up to an empty one, which it also takes out."""
        whole = bytes(self)
        lines = super().maybe_extract_lines()
        if lines is not None:
            _refuse_bare(whole[: len(whole) - len(self)])
        return lines

    def maybe_extract_next_line(self) -> bytearray | None:
        """Return the next line, with its end."""
        line = super().maybe_extract_next_line()
        _refuse_bare(line or b"")
        return line


def refuse(request: h11.Request) -> None:
    """Raise RemoteProtocolError, with the status to answer, for a request that must not pass."""
    names = {name for name, _ in request.headers}
    if request.http_version not in VERSIONS:
        raise h11.RemoteProtocolError("neither HTTP/1.0 nor HTTP/1.1", error_status_hint=505)
    if request.method != request.method.upper():
        raise h11.RemoteProtocolError("methods are in capitals", error_status_hint=501)
    if b"transfer-encoding" in names and (
        b"content-length" in names or request.http_version != b"1.1"
    ):
        raise h11.RemoteProtocolError("the length of the body is ambiguous")


def without_upgrade(request: h11.Request) -> h11.Request:
    """Return the request as one that asks for no other protocol."""
    return h11.Request(
        method=request.method,
        target=request.target,
        http_version=request.http_version,
        headers=[(name, value) for name, value in request.headers if name != b"upgrade"],
    )


def _refuse_bare(lines: bytes | bytearray) -> None:
    if _BARE.search(lines):
        raise h11.LocalProtocolError("a line does not end with CRLF")
