"""Text in an encoding: quoted-printable of a body, and encoded words of a header.

Encoded words (RFC 2047) are text beyond ASCII in a header, written and read.

Text that looks like an encoded word is encoded itself, so that it is read as what was given:
CPython's own library decoded such text into new headers (CVE-2024-6923).
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Iterator
from typing import Final

LINE_WIDTH: Final = 76
"""Characters of a line that holds an encoded word (RFC 2047 §2); 78 would do elsewhere."""
CONTROLS: Final = re.compile("[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
"""C0 and C1 but the tab, Unicode's line breaks, lone surrogates: in no header."""
ENCODED_WORD: Final = re.compile(r"=\?([^? \t]{1,60})\?([bBqQ])\?([^?]*)\?=")

_PLAIN: Final = bytes([*range(0x20, 0x3D), *range(0x3E, 0x7F), 0x09, 0x0D, 0x0A])
"""Octets that quoted-printable leaves as they are, but at the end of a line."""
_SLICE: Final = LINE_WIDTH - 1
_LONG_QUOTED_LINE: Final = re.compile(rb"^(.{74,})(=20|=09)\r$", re.MULTILINE)

_WORD_OVERHEAD: Final = len("=?utf-8?q??=")
_WORD_ROOM_MIN: Final = 30  # below this the first encoded word begins on a line of its own
_TEXT_CHARSET: Final = re.compile(
    r"(?:utf-|us-ascii|iso-|windows-|cp\d|koi8-|shift_|euc-|gb|big5)[\w-]*"
)
_PHRASE_SAFE: Final = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789!*+-/"
# the only bytes that the Q encoding may leave alone inside a phrase (RFC 2047 §5 (3))
_Q_OF_BYTE: Final = tuple(
    chr(byte) if byte in _PHRASE_SAFE else "_" if byte == 0x20 else f"={byte:02X}"
    for byte in range(256)
)
_Q_CONTINUATION: Final = ("=8", "=9", "=A", "=B")  # how the second and later bytes of UTF-8 begin


def quoted_printable(data: bytes) -> bytes:
    """Return RFC 2045 §6.7 of lines ended by CRLF, mending two habits of the C function.

    It encodes a dot that is alone on a line, but not one that its own soft break leaves alone; and
    a blank that ends a full line makes it 77 or 78 octets long when encoded. Of plain text it only
    cuts the lines, which slices do several times as fast.
    """
    has_blank = b" \r\n" in data or b"\t\r\n" in data
    has_lone_dot = b"\n.\r\n" in data or data.startswith(b".\r\n")
    if not has_blank and not has_lone_dot and not data.translate(None, _PLAIN):
        lines = data.split(b"\r\n")
        return b"\r\n".join([_sliced(x) if len(x) > _SLICE else x for x in lines])
    encoded = binascii.b2a_qp(data).replace(b"=\r\n.\r\n", b"=\r\n=2E\r\n")
    return _LONG_QUOTED_LINE.sub(rb"\1=\r\n\2\r", encoded) if has_blank else encoded


def _sliced(line: bytes) -> bytes:
    slices = [line[at : at + _SLICE] for at in range(0, len(line), _SLICE)]
    if slices[-1] == b".":
        slices[-1] = b"=2E"
    return b"=\r\n".join(slices)


def needs_words(text: str) -> bool:
    """Return whether text must be encoded to be read as it was given."""
    return "=?" in text or not text.isascii()


def encoded_words(text: str, room: int, room_after: int = LINE_WIDTH - 1) -> str:
    """Return UTF-8 encoded words, in Q or B, whichever is shorter.

    No word splits a character or has more than `room_after` characters, nor the first more than
    `room`.
    """
    first = room if room >= _WORD_ROOM_MIN else room_after
    rooms = first - _WORD_OVERHEAD, room_after - _WORD_OVERHEAD
    data = text.encode()
    quoted_length = len(data) + 2 * len(data.translate(None, _PHRASE_SAFE + b" "))
    if quoted_length <= (len(data) + 2) // 3 * 4:
        quoted = "".join(map(_Q_OF_BYTE.__getitem__, data))
        return " ".join(_quoted_words(quoted, *rooms))
    return " ".join(_base64_words(data, *rooms))


def _quoted_words(quoted: str, room: int, room_after: int) -> Iterator[str]:
    start = 0
    while start < len(quoted):
        end = min(start + room, len(quoted))
        if end < len(quoted):
            end -= 1 if quoted[end - 1] == "=" else 2 if quoted[end - 2] == "=" else 0
            while quoted.startswith(_Q_CONTINUATION, end):
                end -= 3
        yield f"=?utf-8?q?{quoted[start:end]}?="
        start, room = end, room_after


def _base64_words(data: bytes, room: int, room_after: int) -> Iterator[str]:
    start = 0
    while start < len(data):
        end = start + room // 4 * 3
        while end < len(data) and data[end] & 0xC0 == 0x80:
            end -= 1
        encoded = binascii.b2a_base64(data[start:end], newline=False).decode("ascii")
        yield f"=?utf-8?b?{encoded}?="
        start, room = end, room_after


def hidden_controls(text: str) -> Iterator[str]:
    r"""Yield each encoded word's first control character, for a reader that decodes it.

    >>> list(hidden_controls("=?utf-8?q?a=0D=0ABcc:_b?= c =?utf-8?b?AA==?="))
    ['\r', '\x00']
    """
    if "=?" not in text:
        return
    for charset, encoding, payload in ENCODED_WORD.findall(text):
        hidden = CONTROLS.search(_decoded_word(charset, encoding, payload))
        if hidden:
            yield hidden.group()


def _decoded_word(charset: str, encoding: str, payload: str) -> str:
    if encoding in "qQ":
        data = binascii.a2b_qp(payload.encode(errors="replace"), header=True)
    else:
        data = _decoded_base64(payload)
    charset = charset.partition("*")[0].lower()  # RFC 2231 §5 adds a language after an asterisk
    try:
        return data.decode(charset if _TEXT_CHARSET.fullmatch(charset) else "latin-1", "replace")
    except (LookupError, ValueError):
        return data.decode("latin-1")


def _decoded_base64(payload: str) -> bytes:
    letters = re.sub(r"[^A-Za-z0-9+/]", "", payload)
    whole = letters[: len(letters) - (len(letters) % 4 == 1)]  # one letter alone says no byte
    return binascii.a2b_base64(whole + "=" * (-len(whole) % 4))
