"""Header fields: what may become one, and the exact lines that it becomes.

Owns the guard against header injection and the ways in which text enters a header: as it is, folded
at white space that it already has; as encoded words (RFC 2047), where a field's grammar has room
for them; as a mailbox (RFC 5322 §3.4, RFC 6532). Never shortens, repairs or guesses: what cannot be
said exactly is refused with `UnrenderableError`. White space at the two ends of a value is no part
of it and is dropped; a tab inside a header value or a subject is white space like any other and is
kept.

Each value has a limit that is checked before anything else is done with it.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping
from typing import Final
from urllib.parse import quote

import idna

from mailactors.errors import MailactorsError
from mailactors.model.encoded import (
    CONTROLS,
    ENCODED_WORD,
    LINE_WIDTH,
    encoded_words,
    hidden_controls,
    needs_words,
)
from mailactors.model.message import Address

LINE_OCTETS_MAX: Final = 998
"""Octets of a line without its CRLF (RFC 5322 §2.1.1)."""
ADDRESS_OCTETS_MAX: Final = 254
"""Octets of an address that fits an SMTP path (RFC 5321 §4.5.3.1.3)."""
FILENAME_OCTETS_MAX: Final = 255
"""Octets of a file name; percent-encoded it still fits one line, so no RFC 2231 continuations."""

HEADER_BLOCK_OCTETS_MAX: Final = 102_400
"""Octets of all headers together; what Postfix reads by default (header_size_limit)."""
HEADER_VALUE_OCTETS_MAX: Final = 32_768
"""Octets of one value: a thread of 400 messages in References."""
NAME_CHARACTERS_MAX: Final = 512
"""Characters of a display name."""
ONCE: Final = frozenset(
    [
        *("date", "from", "sender", "reply-to", "to", "cc", "message-id", "in-reply-to"),
        *("references", "subject"),  # RFC 5322 §3.6
        *("mime-version", "content-type", "content-transfer-encoding"),  # RFC 2045 §3
        *("list-help", "list-unsubscribe", "list-subscribe", "list-post", "list-owner"),
        *("list-archive", "list-id", "list-unsubscribe-post"),  # RFC 2369, RFC 2919, RFC 8058
        *("auto-submitted", "importance", "priority", "organization"),  # RFC 3834, 2156, 5536
    ]
)
"""Fields that a message has at most once, in lower case."""
COMMANDS: Final = re.compile(
    "x-(?:smtpapi|msys-api|apiheader|virtual-mta|xsmailingid|xsmessageid|"
    "(?:mailgun|mailjet|mj|mc|pm|ses|sib|mailin|mt|mailersend|postal|elasticemail|emailit"
    "|smtp2go|mailactors)-.*)|resend-idempotency-key",
    re.IGNORECASE,
)
"""Fields that vendors obey, and ours: a client could undo what its stream's settings say."""

_NAME_ROOM: Final = LINE_WIDTH - len("Reply-To: ")
_COMMENT_WORD: Final = LINE_WIDTH - len(" (),")  # what may stand beside an encoded word
_HEADER_NAME = re.compile(r"[A-Za-z0-9-]{1,76}")
_STRUCTURAL = re.compile(
    r"from|to|cc|bcc|sender|reply-to|subject|date|message-id|received|mime-version|return-path"
    r"|(?:dkim|arc|content|resent|x-mailactors)-.*",
    re.IGNORECASE,
)
_CHUNK = re.compile(r"[ \t]*[^ \t]+")
_COMMENT = re.compile(r'<[^<>]*>|"[^"]*"|\(([^()]*)\)')  # what is in <> or "" is none
_PHRASES = re.compile(r'(?:"[^"]*"|[^",])+')

_ATEXT: Final = r"A-Za-z0-9!#$%&'*+/=?^_`{|}~-"
_LOCAL_PART = re.compile(rf"[{_ATEXT}]+(?:\.[{_ATEXT}]+)*")
_UTF8_ATEXT: Final = rf"\u00a1-\U0010ffff{_ATEXT}"
_LOCAL_PART_UTF8 = re.compile(rf"[{_UTF8_ATEXT}]+(?:\.[{_UTF8_ATEXT}]+)*")
_LABEL: Final = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_DOMAIN = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
_ATOMS = re.compile(rf"[{_ATEXT}]+(?: [{_ATEXT}]+)*")
_PLAIN_FILENAME = re.compile(r"[ !#-\[\]-~]*")


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
    for character in hidden_controls(value):
        raise UnrenderableError(pointer, f"hides U+{ord(character):04X} in an encoded word")


def refuse_controls(value: str, pointer: str, *, allow_tab: bool = False) -> None:
    """Refuse C0 and C1 controls, Unicode line breaks and lone surrogates."""
    found = CONTROLS.search(value)
    if found:
        raise UnrenderableError(pointer, f"must not contain U+{ord(found.group()):04X}")
    if "\t" in value and not allow_tab:
        raise UnrenderableError(pointer, "must not contain U+0009")


def header_line(name: str, value: str, pointer: str) -> str:
    """Return a custom header, folded; a long one keeps every character as it was given.

    Text that is not ASCII, or looks like an encoded word, is encoded where the field's grammar has
    free text, a phrase or a comment, and refused elsewhere (RFC 2047 §5): in a URL, a message id, a
    keyword.

    Raises:
        UnrenderableError: At pointer + "/name" or "/value"; also for a word longer than a line.
    """
    if not _HEADER_NAME.fullmatch(name):
        problem = "must be 1 to 76 ASCII letters, digits and hyphens"
        raise UnrenderableError(f"{pointer}/name", problem)
    if _STRUCTURAL.fullmatch(name):
        raise UnrenderableError(f"{pointer}/name", "names a header that the gateway writes")
    value = _plain_value(value, f"{pointer}/value")
    if needs_words(value):
        key = name.lower()
        encode = _free_text if key.startswith("x-") else _ENCODERS.get(key, _structured)
        value = encode(name, value, f"{pointer}/value")
    return fold(name, value, f"{pointer}/value")


def subject_line(subject: str) -> str:
    """Return the Subject header. It is for people, so what no line can hold is encoded."""
    value = _plain_value(subject, "/subject")
    if not needs_words(value):
        try:
            return fold("Subject", value, "/subject")
        except UnrenderableError:
            pass
    return fold("Subject", _free_text("Subject", value, "/subject"), "/subject")


def _plain_value(value: str, pointer: str) -> str:
    check_size(value, HEADER_VALUE_OCTETS_MAX, pointer)
    refuse_controls(value, pointer, allow_tab=True)
    return value.strip(" \t")


def check_size(value: str, octets_max: int, pointer: str) -> None:
    """Refuse a value that is longer than it may be, whatever is in it."""
    octets = len(value) if len(value) > octets_max else _octet_count(value)
    if octets > octets_max:
        raise UnrenderableError(pointer, f"must have at most {octets_max} octets")


def _free_text(name: str, value: str, pointer: str) -> str:
    return encoded_words(value, LINE_WIDTH - len(name) - 2)


def _structured(name: str, value: str, pointer: str) -> str:
    """Return a value with its comments encoded (RFC 2047 §5 (2)), if it needs no more than that.

    >>> _structured("List-Post", "NO (Bücher)", "/headers/0/value")
    'NO (=?utf-8?q?B=C3=BCcher?=)'
    """
    if "\\" in value:
        raise UnrenderableError(pointer, "must be ASCII where it has a backslash")
    rest = _COMMENT.sub(lambda match: match[0] if match[1] is None else "()", value)
    if not rest.isascii():
        raise UnrenderableError(pointer, f"must be ASCII in {name}, except in a comment")
    if ENCODED_WORD.search(rest):
        raise UnrenderableError(pointer, f"must not look like an encoded word in {name}")
    return _COMMENT.sub(_encoded_comment, value)


def _encoded_comment(match: re.Match[str]) -> str:
    if match[1] is None or not needs_words(match[1]):
        return match[0]
    return f"({encoded_words(match[1], _COMMENT_WORD, _COMMENT_WORD)})"


def _list_id(name: str, value: str, pointer: str) -> str:
    """Return a List-Id, a phrase before an identifier in angle brackets (RFC 2919 §3).

    >>> _list_id("List-Id", '"Bücher, neu" <books.example.com>', "/headers/0/value")
    '=?utf-8?b?QsO8Y2hlciwgbmV1?= <books.example.com>'
    """
    phrase, bracket, rest = value.partition("<")
    if not bracket:
        return _structured(name, value, pointer)
    if needs_words(phrase):
        phrase = _words_of(phrase, LINE_WIDTH - len(name) - 2) + " "
    return phrase + _structured(name, bracket + rest, pointer)


def _keywords(name: str, value: str, pointer: str) -> str:
    """Return phrases with commas between them (RFC 5322 §3.6.5)."""
    if "\\" in value or value.count('"') % 2:
        raise UnrenderableError(pointer, "must be phrases with commas between them")
    room = LINE_WIDTH - len(name) - 2
    phrases = [
        _words_of(phrase, room) if needs_words(phrase) else phrase.strip(" \t")
        for phrase in _PHRASES.findall(value)
    ]
    return ", ".join(phrases)


def _words_of(phrase: str, room: int) -> str:
    phrase = phrase.strip(" \t")
    if len(phrase) > 1 and phrase[0] == phrase[-1] == '"':
        phrase = re.sub(r"\\(.)", r"\1", phrase[1:-1])
    return encoded_words(phrase, room, LINE_WIDTH - len(" ,"))


_ENCODERS: Final[Mapping[str, Callable[[str, str, str], str]]] = {
    "comments": _free_text,
    "organization": _free_text,
    "keywords": _keywords,
    "list-id": _list_id,
}
"""Where else than in comments a field has room for encoded words, by its name in lower case."""


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
    if len(name) > NAME_CHARACTERS_MAX:
        raise UnrenderableError(pointer, f"must have at most {NAME_CHARACTERS_MAX} characters")
    name = name.strip(" ")
    is_plain = len(name) <= LINE_WIDTH and not needs_words(name)
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
    check_size(address, ADDRESS_OCTETS_MAX * 4, pointer)  # an IDN domain becomes shorter or longer
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
    if len(filename) <= FILENAME_OCTETS_MAX:
        refuse_controls(filename, pointer)
    check_size(filename, FILENAME_OCTETS_MAX, pointer)
    if _PLAIN_FILENAME.fullmatch(filename) and "=?" not in filename:
        parameter = f'filename="{filename}"'
    else:
        parameter = f"filename*=utf-8''{quote(filename, safe='!#$&+^`{}')}"
    # Never folded inside the quotes, where some readers keep the line break.
    gap = " " if len(line) + len(parameter) + 2 <= LINE_WIDTH else "\r\n "
    return f"{line};{gap}{parameter}"


def fold(name: str, value: str, pointer: str) -> str:
    """Return `name: value` in lines of 76, broken only where the value has white space.

    Removing the line breaks gives the value back (RFC 5322 §2.2.3), and no line is only white
    space. The value begins on the first line if it fits there at all.

    Raises:
        UnrenderableError: A word, with the white space before it, is longer than a line may be.
    """
    line = f"{name}: {value}"
    if len(line) <= LINE_WIDTH or not value:
        return line
    first, *rest = _CHUNK.findall(value)
    limit = LINE_WIDTH if first.startswith("=?") else LINE_OCTETS_MAX
    fits = _octet_count(f"{name}: {first}") <= limit
    lines = [f"{name}: {first}"] if fits else [f"{name}:", f" {first}"]
    for chunk in rest:
        if len(lines[-1]) + len(chunk) <= LINE_WIDTH:
            lines[-1] += chunk
        else:
            lines.append(chunk)
    longest = max(map(_octet_count, lines))
    if longest > LINE_OCTETS_MAX:
        problem = f"needs a line of {longest} octets; the most is {LINE_OCTETS_MAX}"
        raise UnrenderableError(pointer, problem)
    return "\r\n".join(lines)


def _octet_count(line: str) -> int:
    return len(line) if line.isascii() else len(line.encode(errors="replace"))
