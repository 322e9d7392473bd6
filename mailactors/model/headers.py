"""Header fields: what may become one, and the exact lines that it becomes.

Owns the guard against header injection and the three ways in which text enters a header: as it is,
folded at white space that it already has; as encoded words (RFC 2047); as a mailbox (RFC 5322
§3.4, RFC 6532). Never shortens, repairs or guesses: what cannot be said exactly is refused with
`UnrenderableError`. White space at the two ends of a value is no part of it and is dropped; a tab
inside a header value or a subject is white space like any other and is kept.

Text that looks like an encoded word is encoded itself, so that it is read as what was given:
CPython's own library decoded such text into new headers (CVE-2024-6923).
"""

from __future__ import annotations

import binascii
import functools
import re
from collections.abc import Iterator
from typing import Final
from urllib.parse import quote

import idna

from mailactors.errors import MailactorsError
from mailactors.model.message import Address

LINE_OCTETS_MAX: Final = 998
"""Octets of a line without its CRLF (RFC 5322 §2.1.1)."""
ADDRESS_OCTETS_MAX: Final = 254
"""Octets of an address that fits an SMTP path (RFC 5321 §4.5.3.1.3)."""
FILENAME_OCTETS_MAX: Final = 255
"""Octets of a file name; percent-encoded it still fits one line, so no RFC 2231 continuations."""

_WIDTH: Final = 76  # of a line that holds an encoded word (RFC 2047 §2); 78 would do elsewhere
_WORD_OVERHEAD: Final = len("=?utf-8?q??=")
_WORD_ROOM_MIN: Final = 30  # below this the first encoded word begins on a line of its own
_NAME_ROOM: Final = _WIDTH - len("Reply-To: ")

_FORBIDDEN = re.compile("[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_HEADER_NAME = re.compile(r"[A-Za-z0-9-]{1,76}")
_STRUCTURAL = re.compile(
    r"from|to|cc|bcc|sender|reply-to|subject|date|message-id|received|mime-version|return-path"
    r"|(?:dkim|arc|content|resent|x-mailactors)-.*",
    re.IGNORECASE,
)
_CHUNK = re.compile(r"[ \t]*[^ \t]+")
_ENCODED_WORD = re.compile(r"=\?([^? \t]{1,60})\?([bBqQ])\?([^?]*)\?=")
_TEXT_CHARSET = re.compile(r"(?:utf-|us-ascii|iso-|windows-|cp\d|koi8-|shift_|euc-|gb|big5)[\w-]*")

_ATEXT: Final = r"A-Za-z0-9!#$%&'*+/=?^_`{|}~-"
_LOCAL_PART = re.compile(rf"[{_ATEXT}]+(?:\.[{_ATEXT}]+)*")
_UTF8_ATEXT: Final = rf"\u00a1-\U0010ffff{_ATEXT}"
_LOCAL_PART_UTF8 = re.compile(rf"[{_UTF8_ATEXT}]+(?:\.[{_UTF8_ATEXT}]+)*")
_LABEL: Final = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_DOMAIN = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
_ATOMS = re.compile(rf"[{_ATEXT}]+(?: [{_ATEXT}]+)*")
_PLAIN_FILENAME = re.compile(r"[ !#-\[\]-~]*")
_PHRASE_SAFE: Final = frozenset(
    b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789!*+-/"
)  # the only bytes that the Q encoding may leave alone inside a phrase (RFC 2047 §5 (3))
_Q_OF_BYTE: Final = tuple(
    chr(byte) if byte in _PHRASE_SAFE else "_" if byte == 0x20 else f"={byte:02X}"
    for byte in range(256)
)
_Q_CONTINUATION: Final = ("=8", "=9", "=A", "=B")  # how the second and later bytes of UTF-8 begin


class UnrenderableError(MailactorsError):
    """A part of a content that no message can say exactly, or that none may say.

    `field` is a JSON pointer into the content ("/headers/0/name"), `problem` a predicate that
    repeats nothing of the value but a code point or a number.
    """

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field} {problem}")
        self.field = field
        self.problem = problem


def check_header(name: str, value: str, pointer: str) -> None:
    """Refuse a custom header that could change what the message is or says of itself.

    Args:
        name: Letters, digits and hyphens; not one that the gateway or the route writes.
        value: Text in one line; a tab is allowed as white space.
        pointer: Where the pair is in the content, such as "/headers/0".

    Raises:
        UnrenderableError: At pointer + "/name" or "/value".
    """
    header_line(name, value, pointer)
    check_hidden(value, f"{pointer}/value")


def check_hidden(value: str, pointer: str) -> None:
    r"""Refuse text whose own encoded words hide what it must not contain.

    Rendering such text is harmless here, since it is encoded once more; but a provider that is
    handed it as JSON, or a reader that decodes twice, would meet the line break inside.

    >>> check_hidden("=?utf-8?q?a=0D=0ABcc:_b?=", "/subject")
    Traceback (most recent call last):
    mailactors.model.headers.UnrenderableError: /subject hides U+000D in an encoded word
    """
    if "=?" not in value:
        return
    for charset, encoding, payload in _ENCODED_WORD.findall(value):
        hidden = _FORBIDDEN.search(_decoded_word(charset, encoding, payload))
        if hidden:
            problem = f"hides U+{ord(hidden.group()):04X} in an encoded word"
            raise UnrenderableError(pointer, problem)


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


def refuse_controls(value: str, pointer: str, *, allow_tab: bool = False) -> None:
    """Refuse C0 and C1 controls, Unicode line breaks and lone surrogates."""
    found = _FORBIDDEN.search(value)
    if found:
        raise UnrenderableError(pointer, f"must not contain U+{ord(found.group()):04X}")
    if "\t" in value and not allow_tab:
        raise UnrenderableError(pointer, "must not contain U+0009")


def header_line(name: str, value: str, pointer: str) -> str:
    """Return a custom header, folded; a long one keeps every character as it was given.

    Raises:
        UnrenderableError: At pointer + "/name" or "/value"; also for a word longer than a line.
    """
    if not _HEADER_NAME.fullmatch(name):
        problem = "must be 1 to 76 ASCII letters, digits and hyphens"
        raise UnrenderableError(f"{pointer}/name", problem)
    if _STRUCTURAL.fullmatch(name):
        raise UnrenderableError(f"{pointer}/name", "names a header that the gateway writes")
    return _unstructured(name, value, f"{pointer}/value")


def subject_line(subject: str) -> str:
    """Return the Subject header. It is for people, so what no line can hold is encoded."""
    try:
        return _unstructured("Subject", subject, "/subject")
    except UnrenderableError:
        refuse_controls(subject, "/subject", allow_tab=True)
        words = encoded_words(subject.strip(" \t"), _WIDTH - len("Subject: "))
        return fold("Subject", words, "/subject")


def _unstructured(name: str, value: str, pointer: str) -> str:
    refuse_controls(value, pointer, allow_tab=True)
    value = value.strip(" \t")
    if "=?" in value or not value.isascii():
        value = encoded_words(value, _WIDTH - len(name) - 2)
    return fold(name, value, pointer)


def mailboxes_line(name: str, addresses: tuple[Address, ...], pointer: str) -> str:
    """Return an address header (RFC 5322 §3.6.3) of one or more mailboxes."""
    mailboxes = [_mailbox(item, f"{pointer}/{index}") for index, item in enumerate(addresses)]
    return fold(name, ", ".join(mailboxes), pointer)


def mailbox_line(name: str, address: Address, pointer: str) -> str:
    """Return an address header of exactly one mailbox."""
    return fold(name, _mailbox(address, pointer), pointer)


def _mailbox(address: Address, pointer: str) -> str:
    spec = wire_address(address.address, f"{pointer}/address")
    if not address.name:
        return spec
    phrase = _phrase(address.name, f"{pointer}/name")
    return f"{phrase} <{spec}>" if phrase else spec


def _phrase(name: str, pointer: str) -> str:
    name = name.strip(" ")
    is_plain = len(name) <= _WIDTH and name.isascii() and "=?" not in name
    if is_plain and _ATOMS.fullmatch(name):
        return name
    refuse_controls(name, pointer)
    if not is_plain:
        return encoded_words(name, _NAME_ROOM)
    escaped = name.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"' if name else ""


def wire_address(address: str, pointer: str) -> str:
    """Return an address as header and envelope say it: an IDN domain becomes A-labels.

    Quoted local parts and address literals are refused: they are legal, but what one reader takes
    for another mailbox. So is "=?" in a local part, which readers decode. A local part that is
    not ASCII stays as given and needs SMTPUTF8 (RFC 6531).

    >>> wire_address("ann@bücher.example", "/to/0/address")
    'ann@xn--bcher-kva.example'

    Raises:
        UnrenderableError: At the pointer.
    """
    local_part, _, domain = address.rpartition("@")
    if not address.isascii():
        refuse_controls(address, pointer)
        domain = domain if domain.isascii() else _ascii_domain(domain)
        address = f"{local_part}@{domain}"
    if not (_is_local_part(local_part) and _DOMAIN.fullmatch(domain)):
        raise UnrenderableError(pointer, "must be an address such as ann@example.com")
    if len(address) * 4 > ADDRESS_OCTETS_MAX and len(address.encode()) > ADDRESS_OCTETS_MAX:
        raise UnrenderableError(pointer, f"must have at most {ADDRESS_OCTETS_MAX} octets")
    return address


def _is_local_part(text: str) -> bool:
    if "=?" in text:
        return False
    if text.isascii():
        return _LOCAL_PART.fullmatch(text) is not None
    return _LOCAL_PART_UTF8.fullmatch(text) is not None and len(text.split()) == 1


@functools.lru_cache(maxsize=1024)
def _ascii_domain(domain: str) -> str:
    try:
        return idna.encode(domain, uts46=True).decode("ascii")
    except idna.IDNAError:
        return ""  # which is no domain, and so refused


def disposition_line(kind: str, filename: str, pointer: str) -> str:
    """Return Content-Disposition (RFC 2183); the name is quoted, or percent-encoded (RFC 2231).

    Quotation marks and backslashes are percent-encoded too: readers differ on escapes.
    """
    line = f"Content-Disposition: {kind}"
    if not filename:
        return line
    refuse_controls(filename, pointer)
    if len(filename.encode()) > FILENAME_OCTETS_MAX:
        raise UnrenderableError(pointer, f"must have at most {FILENAME_OCTETS_MAX} octets")
    if _PLAIN_FILENAME.fullmatch(filename) and "=?" not in filename:
        parameter = f'filename="{filename}"'
    else:
        parameter = f"filename*=utf-8''{quote(filename, safe='!#$&+^`{}')}"
    # Never folded inside the quotes, where some readers keep the line break.
    gap = " " if len(line) + len(parameter) + 2 <= _WIDTH else "\r\n "
    return f"{line};{gap}{parameter}"


def fold(name: str, value: str, pointer: str) -> str:
    """Return `name: value` in lines of 76, broken only where the value has white space.

    Removing the line breaks gives the value back (RFC 5322 §2.2.3), and no line is only white
    space. The value begins on the first line if it fits there at all.

    Raises:
        UnrenderableError: A word, with the white space before it, is longer than a line may be.
    """
    line = f"{name}: {value}"
    if len(line) <= _WIDTH or not value:
        return line
    first, *rest = _CHUNK.findall(value)
    limit = _WIDTH if first.startswith("=?") else LINE_OCTETS_MAX
    fits = _octet_count(f"{name}: {first}") <= limit
    lines = [f"{name}: {first}"] if fits else [f"{name}:", f" {first}"]
    for chunk in rest:
        if len(lines[-1]) + len(chunk) <= _WIDTH:
            lines[-1] += chunk
        else:
            lines.append(chunk)
    longest = max(map(_octet_count, lines))
    if longest > LINE_OCTETS_MAX:
        problem = f"needs a line of {longest} octets; the most is {LINE_OCTETS_MAX}"
        raise UnrenderableError(pointer, problem)
    return "\r\n".join(lines)


def _octet_count(line: str) -> int:
    return len(line) if line.isascii() else len(line.encode())


def encoded_words(text: str, room: int) -> str:
    """Return UTF-8 encoded words, in Q or B, whichever is shorter (RFC 2047).

    No word splits a character or has more than 75 characters, nor the first more than `room`.
    """
    first = room if room >= _WORD_ROOM_MIN else _WIDTH - 1
    data = text.encode()
    quoted = "".join(map(_Q_OF_BYTE.__getitem__, data))
    if len(quoted) <= (len(data) + 2) // 3 * 4:
        return " ".join(_quoted_words(quoted, first - _WORD_OVERHEAD))
    return " ".join(_base64_words(data, first - _WORD_OVERHEAD))


def _quoted_words(quoted: str, room: int) -> Iterator[str]:
    start = 0
    while start < len(quoted):
        end = min(start + room, len(quoted))
        if end < len(quoted):
            end -= 1 if quoted[end - 1] == "=" else 2 if quoted[end - 2] == "=" else 0
            while quoted.startswith(_Q_CONTINUATION, end):
                end -= 3
        yield f"=?utf-8?q?{quoted[start:end]}?="
        start, room = end, _WIDTH - 1 - _WORD_OVERHEAD


def _base64_words(data: bytes, room: int) -> Iterator[str]:
    start = 0
    while start < len(data):
        end = start + room // 4 * 3
        while end < len(data) and data[end] & 0xC0 == 0x80:
            end -= 1
        encoded = binascii.b2a_base64(data[start:end], newline=False).decode("ascii")
        yield f"=?utf-8?b?{encoded}?="
        start, room = end, _WIDTH - 1 - _WORD_OVERHEAD
