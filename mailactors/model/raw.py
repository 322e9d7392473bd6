"""A whole message that a client brings: whether it may be passed on, byte for byte.

Nothing of it is repaired, since a signature in it would break: it is accepted as it is, or refused
with the number of the line that is at fault. `mend_file` is for files before they are submitted,
and says what it changed.

Source: RFC 5322 §2.1, §2.2 and §3.6; RFC 6532 §3.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final, NamedTuple

from mailactors.model.encoded import CONTROLS, hidden_controls
from mailactors.model.headers import (
    COMMANDS,
    HEADER_BLOCK_OCTETS_MAX,
    LINE_OCTETS_MAX,
    ONCE,
    UnrenderableError,
)

BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"

_END: Final = b"\r\n\r\n"
_BARE: Final = re.compile(rb"\r(?!\n)|(?<!\r)\n")
_NAME: Final = re.compile(r"[!-9;-~]+")
_MBOX_LINE: Final = re.compile(r">?From ")
_NEXT_IN_MBOX: Final = re.compile(rb"\n\r?\nFrom [^\r\n]* [0-9]{4}\r?\n[!-9;-~]+:")
_MESSAGE_ID: Final = re.compile("<([!-;=?-~]{1,900})>")
_NAME_SHOWN_MAX: Final = 76


class Field(NamedTuple):
    """A header field: the number of its first line, its name, and its value, unfolded."""

    line: int
    name: str
    value: str


def check_raw(raw: bytes) -> None:
    """Refuse a message that is not fit for the wire, or that no client may send.

    Refused are what is no message (an mbox file, a byte order mark, no headers), what the headers
    of a structured message could not say either (control characters, a Bcc, commands to vendors),
    fields twice that a message has once, and header octets that are not UTF-8.

    Raises:
        UnrenderableError: At "/raw", with the number of the line.
    """
    _check_lines(raw)
    if raw.startswith(BYTE_ORDER_MARK):
        raise _fault(1, "begins with a byte order mark")
    head = header_section(raw)
    if len(head) > HEADER_BLOCK_OCTETS_MAX:
        problem = f"must have at most {HEADER_BLOCK_OCTETS_MAX} octets of headers"
        raise UnrenderableError("/raw", problem)
    seen: dict[str, int] = {}
    for field in _fields(_decoded(head)):
        name = field.name.lower()
        _check_field(field, name)
        if name in ONCE and name in seen:
            raise _fault(field.line, f"is a second {field.name}, after line {seen[name]}")
        seen[name] = field.line
    if "from" not in seen:
        raise UnrenderableError("/raw", "must have a From header, before an empty line")


def header_section(raw: bytes) -> bytes:
    """Return the headers with the CRLF of the last one; all of it where there is no body."""
    end = raw.find(_END)
    return raw if end < 0 else raw[: end + 2]


def message_id_of(raw: bytes) -> str:
    """Return the Message-ID of a message that passed, without brackets; "" if it has none to name.

    It is passed on as it is, so that is the one by which a receiver knows it.
    """
    for field in _fields(header_section(raw).decode()):
        if field.name.lower() == "message-id":
            found = _MESSAGE_ID.fullmatch(field.value.strip(" \t"))
            return found[1] if found else ""
    return ""


def mend_file(data: bytes) -> tuple[bytes, list[str]]:
    r"""Return a file's message as it was in the mail, and what was changed for that, in words.

    A byte order mark and the first line of an mbox are no part of a message and are taken out. A
    file without any CR gets the line ends of mail, CRLF, of which a signature in it was made.

    >>> mend_file(b"From ann@example.com Fri Nov  9 01:08:47 2001\nFrom: ann@example.com\n\nHi")
    (b'From: ann@example.com\r\n\r\nHi\r\n', ['took out the mbox line before its headers'])

    Raises:
        UnrenderableError: It holds several messages, or is in UTF-16 as some shells redirect.
    """
    changes = []
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise UnrenderableError("/raw", "is in UTF-16; save the message as it came, octet by octet")
    if data.startswith(BYTE_ORDER_MARK):
        data = data.removeprefix(BYTE_ORDER_MARK)
        changes.append("took out its byte order mark")
    if data.startswith(b"From "):
        if _NEXT_IN_MBOX.search(data):
            raise UnrenderableError("/raw", "holds more than one message")
        data = data.partition(b"\n")[2]
        changes.append("took out the mbox line before its headers")
    if b"\r" not in data:
        data = data.removesuffix(b"\n").replace(b"\n", b"\r\n") + b"\r\n"
    return data, changes


def _fault(line: int, problem: str) -> UnrenderableError:
    return UnrenderableError("/raw", f"line {line} {problem}")


def _line_at(raw: bytes, position: int) -> int:
    return raw.count(b"\n", 0, position) + 1


def _check_lines(raw: bytes) -> None:
    nul = raw.find(b"\0")
    if nul >= 0:
        raise _fault(_line_at(raw, nul), "contains NUL")
    if not raw.count(b"\r") == raw.count(b"\r\n") == raw.count(b"\n"):
        bare = _BARE.search(raw)
        assert bare is not None
        raise _fault(_line_at(raw, bare.start()), "has a CR or LF alone; lines end with CRLF")
    if not raw.endswith(b"\r\n"):
        raise UnrenderableError("/raw", "must end its last line with CRLF")
    start = overlong_line(raw)
    if start is not None:
        problem = f"is longer than {LINE_OCTETS_MAX} octets"
        raise _fault(_line_at(raw, start), problem)


def overlong_line(raw: bytes) -> int | None:
    """Return where the first line begins that is longer than a line may be, or None.

    It looks only for the last line end within reach of each, so the steps are as few as the longest
    lines that would fit; a list of ten million octets' lines would take 300 MB.
    """
    reach = LINE_OCTETS_MAX + len(b"\r\n")
    start = 0
    while len(raw) - start > reach:
        end = raw.rfind(b"\n", start, start + reach)
        if end < 0:
            return start
        start = end + 1
    return None


def _decoded(head: bytes) -> str:
    try:
        return head.decode()
    except UnicodeDecodeError as error:
        raise _fault(_line_at(head, error.start), "is not UTF-8, as headers are") from None


def _fields(head: str) -> Iterator[Field]:
    """Yield the fields of a header section, in one pass.

    Raises:
        UnrenderableError: A line is neither a field nor the continuation of one.
    """
    line, name, values = 0, "", list[str]()
    for number, text in enumerate(head.removesuffix("\r\n").split("\r\n"), 1):
        control = CONTROLS.search(text)
        if control:
            raise _fault(number, f"contains U+{ord(control.group()):04X} in a header")
        if text[:1] in (" ", "\t") and name and text.strip(" \t"):
            values.append(text)
            continue
        if name:
            yield Field(line, name, "".join(values))
        line, (name, value) = number, _split(number, text)
        values = [value]
    yield Field(line, name, "".join(values))


def _split(number: int, text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if colon and _NAME.fullmatch(name):
        return name, value
    if colon and _NAME.fullmatch(name.strip()) and name[:1].strip():
        raise _fault(number, "has white space between the name of a header and its colon")
    if _MBOX_LINE.match(text):
        raise _fault(number, "begins an mbox file and is no header")
    raise _fault(number, "is neither a header nor the continuation of one")


def _check_field(field: Field, name: str) -> None:
    if any(hidden in "\r\n\0" for hidden in hidden_controls(field.value)):
        raise _fault(field.line, f"hides a line break or NUL in an encoded word of {_shown(field)}")
    if name in ("bcc", "resent-bcc"):
        raise _fault(field.line, f"is a {field.name} header, which every recipient sees")
    if COMMANDS.fullmatch(name):
        raise _fault(field.line, f"is {_shown(field)}, a command to a provider, which only we give")
    if name == "from" and not field.value.strip():
        raise _fault(field.line, "is a From header that names nobody")


def _shown(field: Field) -> str:
    return field.name[:_NAME_SHOWN_MAX]
