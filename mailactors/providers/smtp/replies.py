"""Parse what an SMTP server says: replies, enhanced codes and the extensions in its EHLO answer.

Owns the limits on hostile input; never does I/O and never decides what a reply means.

Source: RFC 5321 §4.2 (replies), §4.5.3.1.5 (their length); RFC 2034 and 3463 (enhanced codes).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import msgspec

from mailactors.errors import MailactorsError
from mailactors.model.outcome import Reason

REPLY_LINE_OCTETS_MAX: Final = 2048
"""Four times what RFC 5321 §4.5.3.1.5 allows: real servers put URLs into their refusals."""

REPLY_OCTETS_MAX: Final = 65536
"""One whole reply, all of its lines: nobody needs more, and a server must not fill our memory."""

TEXT_CHARACTERS_MAX: Final = 500

_LINE: Final = re.compile(rb"([1-5][0-9]{2})(?:([ -])(.*))?", re.DOTALL)
_TEXT_MAX: Final = REPLY_LINE_OCTETS_MAX - len("250 ")
_WHOLE: Final = re.compile(rb"([1-5][0-9]{2})(?: ([^\r\n]{0,%d}))?\r\n" % _TEXT_MAX)
"""A complete reply of one line, which is what nearly all of them are."""
_ENHANCED: Final = re.compile(r"#?(([245])\.\d{1,3}\.\d{1,3})(?=\s|$)")
_AT_THE_END: Final = re.compile(r"\(#(([245])\.\d{1,3}\.\d{1,3})\)$")
"""As qmail says it: "sorry, no mailbox here by that name. (#5.1.1)"."""


class GarbageError(MailactorsError):
    """The server said something that is not SMTP, or not an answer to what it was asked."""


class SmtpReply(msgspec.Struct, frozen=True):
    """One complete reply: its code and the text of each line, without code and line end."""

    code: int
    lines: tuple[bytes, ...]

    @property
    def is_positive(self) -> bool:
        """Whether the command was carried out (2yz)."""
        return self.code // 100 == 2

    @property
    def is_refusal(self) -> bool:
        """Whether the command certainly was not carried out (4yz or 5yz)."""
        return self.code // 100 in (4, 5)

    @property
    def enhanced(self) -> str | None:
        """The RFC 3463 code before or after the text, if its class agrees with the reply's."""
        first, last = clean_text(self.lines[0]), clean_text(self.lines[-1])
        found = _ENHANCED.match(first) or _AT_THE_END.search(last)
        return found[1] if found and found[2] == str(self.code)[0] else None

    @property
    def text(self) -> str:
        """All lines as one, fit for a log: no control characters, no codes, cut."""
        lines = (_ENHANCED.sub("", clean_text(line), count=1) for line in self.lines)
        return " ".join(" ".join(lines).split())[:TEXT_CHARACTERS_MAX]

    def to_reason(self, prefix: str = "") -> Reason:
        """Return the reply as the reason of an outcome."""
        return Reason(prefix + self.text, self.code, self.enhanced)


def clean_text(text: bytes | str) -> str:
    r"""Return text that cannot harm a log, a terminal or a JSON document.

    >>> clean_text(b"caf\xc3\xa9 \xff\x1b[31m\x00")
    'café � [31m'
    """
    decoded = text.decode("utf-8", "replace") if isinstance(text, bytes) else text
    decoded = decoded[: 2 * REPLY_LINE_OCTETS_MAX]
    if not decoded.isprintable():
        decoded = "".join(c if c.isprintable() else " " for c in decoded)
    return decoded[: 2 * TEXT_CHARACTERS_MAX].strip()


def merge_codes(code: int, newer: int) -> int:
    """Return the code of a reply whose lines have different ones.

    Refusals agree on what matters: the command was not carried out. Of a temporary and a permanent
    one the temporary stands, since it may work later.

    Raises: GarbageError when the lines are not all refusals.

    >>> merge_codes(550, 554), merge_codes(550, 451)
    (554, 451)
    """
    classes = {code // 100, newer // 100}
    if code != newer and not classes <= {4, 5}:
        raise GarbageError(f"one reply with two codes, {code} and {newer}")
    return newer if len(classes) == 1 else min(code, newer)


class ReplyParser:
    """Turn a stream of octets, split anywhere, into replies.

    A line may end in LF alone: old servers do that, and no security hangs on the client's leniency.
    """

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._lines: list[bytes] = []
        self._code = 0
        self._octets_count = 0

    @property
    def is_empty(self) -> bool:
        """Whether nothing is left over: no part of a line, no part of a reply."""
        return not self._buffer and not self._lines

    def clear(self) -> None:
        """Forget everything received: after STARTTLS nothing said in clear text counts."""
        self._buffer.clear()
        self._lines.clear()
        self._octets_count = 0

    def feed(self, data: bytes) -> Iterator[SmtpReply]:
        """Take octets and yield the replies that they complete.

        Raises: GarbageError for what is no reply, or is too long.
        """
        at = 0
        if self.is_empty:
            while (whole := _WHOLE.match(data, at)) is not None:
                at = whole.end()
                yield SmtpReply(int(whole[1]), (whole[2] or b"",))
        yield from self._feed_slowly(data[at:])

    def _feed_slowly(self, data: bytes) -> Iterator[SmtpReply]:
        self._buffer += data
        while (end := self._buffer.find(b"\n")) >= 0:
            line = bytes(self._buffer[:end]).removesuffix(b"\r")
            del self._buffer[: end + 1]
            if (reply := self._add(line)) is not None:
                yield reply
        self._check_length(len(self._buffer))

    def _add(self, line: bytes) -> SmtpReply | None:
        self._check_length(len(line))
        match = _LINE.fullmatch(line)
        if match is None:
            raise GarbageError(f"not a reply: {clean_text(line)[:80]!r}")
        code = int(match[1])
        self._code = merge_codes(self._code, code) if self._lines else code
        self._octets_count += len(line)
        self._lines.append(match[3] or b"")
        if match[2] == b"-":
            return None
        reply = SmtpReply(self._code, tuple(self._lines))
        self._lines.clear()
        self._octets_count = 0
        return reply

    def _check_length(self, line_octets: int) -> None:
        if line_octets > REPLY_LINE_OCTETS_MAX:
            raise GarbageError(f"a reply line longer than {REPLY_LINE_OCTETS_MAX} octets")
        if self._octets_count + line_octets > REPLY_OCTETS_MAX:
            raise GarbageError(f"a reply longer than {REPLY_OCTETS_MAX} octets")


@dataclass(frozen=True)
class Extensions:
    """What the server offers, as far as we care (RFC 5321 §4.1.1.1).

    `size_max` is 0 when it is unknown or unlimited; `auth` holds mechanisms in upper case.
    """

    pipelining: bool = False
    starttls: bool = False
    eight_bit_mime: bool = False
    smtputf8: bool = False
    size: bool = False
    size_max: int = 0
    auth: frozenset[str] = frozenset()


def parse_extensions(reply: SmtpReply) -> Extensions:
    """Read the answer to EHLO; its first line is a greeting.

    >>> parse_extensions(SmtpReply(250, (b"hi", b"SIZE 1000", b"auth=LOGIN"))).size_max
    1000
    """
    offered: dict[str, list[str]] = {}
    for line in reply.lines[1:]:
        # "AUTH=LOGIN" is how servers spoke before RFC 4954, and some still say both.
        keyword, *parameters = clean_text(line).upper().replace("=", " ").split() or [""]
        offered.setdefault(keyword, []).extend(parameters)
    size = next(iter(offered.get("SIZE", [])), "")
    return Extensions(
        pipelining="PIPELINING" in offered,
        starttls="STARTTLS" in offered,
        eight_bit_mime="8BITMIME" in offered,
        smtputf8="SMTPUTF8" in offered,
        size="SIZE" in offered,
        size_max=int(size) if size.isascii() and size.isdigit() else 0,
        auth=frozenset(offered.get("AUTH", [])),
    )
