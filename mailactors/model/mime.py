"""Content to the bytes of a message: a small MIME writer for the messages that we accept.

Decides structure, body encodings and boundaries; `model.headers` decides what a header may be.
Pure: the same input gives the same bytes on every attempt and provider. Never writes a Bcc, a
header that was not asked for, a bare CR or LF, a NUL, or a line over 998 octets, and never sends
text as 7bit or 8bit: quoted-printable and base64 carry any text unharmed (SMTP smuggling needs a
line that the sender did not encode).

Text is lines: its line breaks become CRLF and the last line is ended if it was not; every other
character, NUL included, arrives as given. Attachments arrive byte for byte.

Source: RFC 5322, RFC 2045-2047, RFC 2183, RFC 2231, RFC 2387, RFC 6532. The standard library's
`email` is the judge in the tests and not the writer: it is more than ten times slower
(`bench/mime.py`) and, in 3.11, lets encoded words inject headers.
"""

from __future__ import annotations

import binascii
import functools
import re
import time
from typing import Final, TypeAlias

from mailactors.model.encoded import quoted_printable
from mailactors.model.headers import (
    HEADER_BLOCK_OCTETS_MAX,
    HEADER_VALUE_OCTETS_MAX,
    UnrenderableError,
    check_hidden,
    check_size,
    disposition_line,
    fold,
    header_line,
    mailbox_line,
    mailboxes_line,
    subject_line,
)
from mailactors.model.message import Address, Alternative, Attachment, Content, Envelope
from mailactors.model.raw import check_raw, header_section

LARGE_OCTETS: Final = 65_536
"""Contents of this size and more are checked and rendered off the event loop, where that would
take more than a few milliseconds."""
CONTENT_TYPE_OCTETS_MAX: Final = 512

Part: TypeAlias = list[bytes]
"""A header block, its empty line and its body, in pieces: one join at the end copies them once."""

_DAYS: Final = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS: Final = (
    *("Jan", "Feb", "Mar", "Apr", "May", "Jun"),
    *("Jul", "Aug", "Sep", "Oct", "Nov", "Dec"),
)
_BASE64_LINE: Final = 76
_HIGH_OR_CONTROL: Final = bytes([*range(9), *range(11, 13), *range(14, 32), *range(127, 256)])
_MARKER = re.compile(r"[A-Za-z0-9._-]{1,60}")  # becomes a boundary, which has at most 70
_MESSAGE_ID = re.compile(r"[!-;=?-~]{1,900}")
_CONTENT_ID = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~.@-]{1,200}")
_RESTRICTED_NAME: Final = r"[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}"  # RFC 6838 §4.2
_CONTENT_TYPE = re.compile(
    rf"(?!(?:multipart|message)/){_RESTRICTED_NAME}/{_RESTRICTED_NAME}"
    r"""(?: *; *[A-Za-z0-9-]+=(?:[A-Za-z0-9!#$%&'*+.^_`{|}~-]+|"[ !#-\[\]-~]*"))*""",
    re.IGNORECASE,
)
_PARAMETER = re.compile(r'; *([A-Za-z0-9-]+)=(?:"([^"]*)"|([^;" ]+))')
_METHOD = re.compile(r"^METHOD:([A-Za-z0-9-]+)[ \t\r]*$", re.IGNORECASE | re.MULTILINE)


def render(content: Content, *, message_id: str, date_s: float, marker: str) -> bytes:
    """Return the message as it goes on the wire, before dot-stuffing.

    Args:
        content: What `check_content` let pass; `raw` is returned byte for byte.
        message_id: The Message-ID without its angle brackets.
        date_s: UTC seconds since the epoch, for the Date header.
        marker: Our own id of the message, for X-Mailactors-Id and the boundaries.

    Returns:
        Lines that all end in CRLF. ASCII, but for address headers whose local part is not
        (see `needs_smtputf8`).

    Raises:
        UnrenderableError: Never for a content that `check_content` let pass.
    """
    if content.raw is not None:
        return content.raw
    lines = _message_lines(content, message_id, date_s, marker)
    head, *body = _body(content, marker)
    return b"".join([_block(lines), head, *body])


def check_content(content: Content) -> None:
    """Refuse a content that `render` could not say exactly; intake asks at the door.

    It renders the headers once, so that what passes here cannot fail there, and then looks into
    encoded words that the client wrote.

    Raises:
        UnrenderableError: The first problem, with the field where it is.
    """
    if content.raw is not None:
        check_raw(content.raw)
        return
    # A value that is too long alone is refused at its own place, by header_line.
    lengths = [min(len(value), HEADER_VALUE_OCTETS_MAX) for _, value in content.headers]
    _check_block(sum(lengths))
    lines = _message_lines(content, "id@localhost", 0.0, "marker")
    _check_block(len("\r\n".join(lines).encode()) + 2)
    _canonical(content.text or "", "/text")
    _canonical(content.html or "", "/html")
    for index, attachment in enumerate(content.attachments):
        _attachment_lines(attachment, "attachment", f"/attachments/{index}")
    for index, alternative in enumerate(content.alternatives):
        _alternative_type(alternative, f"/alternatives/{index}/content_type")
        _canonical(alternative.content, f"/alternatives/{index}/content")
    _check_hidden(content)


def _check_block(octets: int) -> None:
    """Refuse headers that are too large together: before the work, and when they are folded."""
    if octets > HEADER_BLOCK_OCTETS_MAX:
        problem = f"must have at most {HEADER_BLOCK_OCTETS_MAX} octets of headers"
        raise UnrenderableError("/headers", problem)


def needs_smtputf8(content: Content, envelope: Envelope) -> bool:
    """Say whether only a server with SMTPUTF8 can take this message (RFC 6531 §3.2).

    It is so when a local part is not ASCII, in the envelope or in a header; IDN domains are
    A-labels by then. A raw message needs it when its header section is not ASCII.
    """
    if content.raw is not None and not header_section(content.raw).isascii():
        return True
    mailboxes = (content.sender, *content.to, *content.cc, *content.reply_to)
    addresses = (envelope.sender, *envelope.recipients, *(box.address for box in mailboxes))
    return any(not address.rpartition("@")[0].isascii() for address in addresses)


def _message_lines(content: Content, message_id: str, date_s: float, marker: str) -> list[str]:
    if not _MESSAGE_ID.fullmatch(message_id):
        raise UnrenderableError("/message_id", "must be printable ASCII without < and >")
    if not _MARKER.fullmatch(marker):
        raise UnrenderableError("/id", "must be 1 to 60 letters, digits, dots, _ and -")
    lines = [f"Date: {_date(int(date_s))}", mailbox_line("From", content.sender, "/sender")]
    if content.to:
        lines.append(mailboxes_line("To", content.to, "/to"))
    if content.cc:
        lines.append(mailboxes_line("Cc", content.cc, "/cc"))
    if content.reply_to:
        lines.append(mailboxes_line("Reply-To", content.reply_to, "/reply_to"))
    lines.append(f"Message-ID: <{message_id}>")
    if content.subject:
        lines.append(subject_line(content.subject))
    lines.append(f"X-Mailactors-Id: {marker}")
    for index, (name, value) in enumerate(content.headers):
        lines.append(header_line(name, value, f"/headers/{index}"))
    lines.append("MIME-Version: 1.0")
    return lines


@functools.lru_cache(maxsize=64)  # a second's messages share it
def _date(date_s: int) -> str:
    """Return an RFC 5322 §3.3 date-time in UTC, whatever the locale.

    >>> _date(1005268127)
    'Fri, 09 Nov 2001 01:08:47 +0000'
    """
    year, month, day, hour, minute, second, weekday, _, _ = time.gmtime(date_s)
    date = f"{_DAYS[weekday]}, {day:02d} {_MONTHS[month - 1]} {year:04d}"
    return f"{date} {hour:02d}:{minute:02d}:{second:02d} +0000"


def _body(content: Content, marker: str) -> Part:
    """Return mixed(alternative(text, …, related(html, inline…), …), attachments…), less levels.

    Alternatives go from the plainest to the richest (RFC 2046 §5.1.4): other forms of text before
    the HTML, a calendar object and what is no text after it.
    """
    parts = []
    loose = list(enumerate(content.attachments))
    before, after = _alternative_parts(content.alternatives)
    if content.text is not None or (content.html is None and not content.alternatives):
        parts.append(_text_part(content.text or "", "plain", "/text"))
    parts += before
    if content.html is not None:
        inline = [pair for pair in loose if pair[1].content_id]
        loose = [pair for pair in loose if not pair[1].content_id]
        parts.append(_html_part(content.html, inline, marker))
    parts += after
    part = parts[0] if len(parts) == 1 else _multipart("alternative", parts, marker)
    if not loose:
        return part
    files = [_attachment_part(item, "attachment", index) for index, item in loose]
    return _multipart("mixed", [part, *files], marker)


def _alternative_parts(alternatives: tuple[Alternative, ...]) -> tuple[list[Part], list[Part]]:
    """Return what goes before the HTML and what goes after it, each in the order given."""
    before, after = list[Part](), list[Part]()
    for index, each in enumerate(alternatives):
        kind = media_type(each.content_type)
        is_plainer = kind.startswith("text/") and kind != "text/calendar"
        (before if is_plainer else after).append(_alternative_part(each, f"/alternatives/{index}"))
    return before, after


def _alternative_part(alternative: Alternative, pointer: str) -> Part:
    content_type = _alternative_type(alternative, f"{pointer}/content_type")
    data = _canonical(alternative.content, f"{pointer}/content")
    return _encoded_part(fold("Content-Type", content_type, f"{pointer}/content_type"), data)


def _alternative_type(alternative: Alternative, pointer: str) -> str:
    """Return the media type with the parameters that its content makes necessary.

    Text has a charset, and a calendar object that is an invitation has its method as a parameter
    too, by which mail programs know it (RFC 6047 §2.4).
    """
    content_type = alternative.content_type
    given = _check_media_type(content_type, pointer)
    kind = media_type(content_type)
    if kind in ("text/plain", "text/html"):
        raise UnrenderableError(pointer, f"must be another form; give {kind} as text or html")
    if given.get("charset", "utf-8").lower() != "utf-8":
        raise UnrenderableError(pointer, "must have no charset but utf-8, in which it is sent")
    if kind == "text/calendar" and (found := _METHOD.search(alternative.content)):
        method = found[1].upper()
        if given.get("method", method).upper() != method:
            raise UnrenderableError(pointer, f"must have the content's method, {method[:40]}")
        if "method" not in given:
            content_type += f"; method={method}"
    if kind.startswith("text/") and "charset" not in given:
        content_type += "; charset=utf-8"
    check_size(content_type, CONTENT_TYPE_OCTETS_MAX, pointer)
    return content_type


def media_type(content_type: str) -> str:
    """Return a media type without its parameters, in lower case."""
    return content_type.partition(";")[0].strip(" ").lower()


def _html_part(html: str, inline: list[tuple[int, Attachment]], marker: str) -> Part:
    part = _text_part(html, "html", "/html")
    if not inline:
        return part
    files = [_attachment_part(item, "inline", index) for index, item in inline]
    return _multipart("related", [part, *files], marker)


def _text_part(text: str, subtype: str, pointer: str) -> Part:
    data = _canonical(text, pointer)
    return _encoded_part(f"Content-Type: text/{subtype}; charset=utf-8", data)


def _encoded_part(content_type: str, data: bytes) -> Part:
    """Return a part of canonical text in the shorter of the two safe encodings."""
    awkward = len(data) - len(data.translate(None, _HIGH_OR_CONTROL))
    if awkward * 6 > len(data):  # each costs three octets here, where base64 costs four for three
        encoding, body = "base64", _base64(data)
    else:
        encoding, body = "quoted-printable", quoted_printable(data)
    return [_block([content_type, f"Content-Transfer-Encoding: {encoding}"]), b"\r\n", body]


def _canonical(text: str, pointer: str) -> bytes:
    """Return the text in UTF-8 with every line ended by CRLF (RFC 2046 §4.1.1).

    Line ends are replaced in the octets: one emoji makes a text four times as long as these.
    """
    try:
        data = text.encode()
    except UnicodeEncodeError as error:
        code_point = ord(text[error.start])
        raise UnrenderableError(pointer, f"must not contain U+{code_point:04X}") from None
    if b"\r" in data:
        data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    if data and not data.endswith(b"\n"):
        data += b"\n"
    return data.replace(b"\n", b"\r\n")


def _attachment_part(attachment: Attachment, kind: str, index: int) -> Part:
    lines = _attachment_lines(attachment, kind, f"/attachments/{index}")
    return [_block(lines), b"\r\n", _base64(attachment.content)]


def _attachment_lines(attachment: Attachment, kind: str, pointer: str) -> list[str]:
    content_type = attachment.content_type
    _check_media_type(content_type, f"{pointer}/content_type")
    lines = [
        fold("Content-Type", content_type, f"{pointer}/content_type"),
        "Content-Transfer-Encoding: base64",
        disposition_line(kind, attachment.filename, f"{pointer}/filename"),
    ]
    if content_id := attachment.content_id:
        if not _CONTENT_ID.fullmatch(content_id) or "=?" in content_id:
            problem = "must be up to 200 characters of an address, without < and >"
            raise UnrenderableError(f"{pointer}/content_id", problem)
        lines.append(f"Content-ID: <{content_id}>")
    return lines


def _check_media_type(content_type: str, pointer: str) -> dict[str, str]:
    """Return the parameters by name in lower case; refuse what is no media type of one part."""
    check_size(content_type, CONTENT_TYPE_OCTETS_MAX, pointer)
    # RFC 2046 §5.2.1 forbids base64 for message/rfc822, and a multipart would be parsed further.
    if not _CONTENT_TYPE.fullmatch(content_type) or "=?" in content_type:
        problem = "must be a media type such as text/csv, but neither multipart nor message"
        raise UnrenderableError(pointer, problem)
    found = _PARAMETER.findall(content_type)
    parameters = {name.lower(): quoted or bare for name, quoted, bare in found}
    if len(parameters) < len(found):
        raise UnrenderableError(pointer, "must have each parameter once")
    return parameters


def _multipart(subtype: str, parts: list[Part], marker: str) -> Part:
    """Return the parts between boundaries (RFC 2046 §5.1).

    Invariant: the boundary is in no part. Bodies are quoted-printable or base64, in neither of
    which "=" is ever followed by "_", header lines do not begin with "--", and nested multiparts
    differ in the subtype's letter.
    """
    boundary = f"=_{subtype[0]}_{marker}"
    related = '\r\n type="text/html";' if subtype == "related" else ""  # required by RFC 2387 §3.1
    head = f'Content-Type: multipart/{subtype};{related}\r\n boundary="{boundary}"\r\n'
    opening = f"\r\n--{boundary}\r\n".encode("ascii")
    chunks = [head.encode("ascii")]
    for part in parts:
        chunks.append(opening)
        chunks.extend(part)
    chunks.append(f"\r\n--{boundary}--\r\n".encode("ascii"))
    return chunks


def _base64(data: bytes) -> bytes:
    """Return base64 in lines of 76, each ended by CRLF; `base64.encodebytes` ends them by LF."""
    encoded = binascii.b2a_base64(data, newline=False)
    starts = range(0, len(encoded), _BASE64_LINE)
    return b"\r\n".join([*[encoded[start : start + _BASE64_LINE] for start in starts], b""])


def _block(lines: list[str]) -> bytes:
    """Return a header block, after counting that it has as many headers as were meant.

    The second wall against injection: it knows nothing of how the lines were made.
    """
    block = "\r\n".join(lines) + "\r\n"
    breaks = block.count("\r\n")
    assert block.count("\r") == breaks == block.count("\n"), "a bare CR or LF in a header"
    assert breaks - block.count("\r\n ") - block.count("\r\n\t") == len(lines), "a stray header"
    assert "\0" not in block, "a NUL in a header"
    return block.encode()


def _check_hidden(content: Content) -> None:
    check_hidden(content.subject, "/subject")
    _check_hidden_name(content.sender, "/sender")
    for pointer, addresses in (
        ("/to", content.to),
        ("/cc", content.cc),
        ("/reply_to", content.reply_to),
    ):
        for index, address in enumerate(addresses):
            _check_hidden_name(address, f"{pointer}/{index}")
    for index, (_, value) in enumerate(content.headers):
        check_hidden(value, f"/headers/{index}/value")
    for index, attachment in enumerate(content.attachments):
        check_hidden(attachment.filename, f"/attachments/{index}/filename")


def _check_hidden_name(address: Address, pointer: str) -> None:
    check_hidden(address.name, f"{pointer}/name")
