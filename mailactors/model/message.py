"""Messages as they were accepted; immutable from then on.

The limits that bound every later room are here; intake checks them.
"""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Iterable
from typing import Final

import msgspec

RECIPIENTS_MAX: Final = 50
"""Recipients of one message; the lowest limit among SES, Postmark and Resend."""
NAME_HIDDEN_MIN: Final = 3
"""A shorter local part occurs in any text, and identifies no person."""
_WORD: Final = r"(?<![^\W_])%s(?![^\W_])"
"""A name that is not part of a longer word: `lose@…` does not hide "closed"."""


class Address(msgspec.Struct, frozen=True, omit_defaults=True):
    """A mailbox with an optional display name (RFC 5322 §3.4)."""

    address: str
    name: str = ""


class Attachment(msgspec.Struct, frozen=True, omit_defaults=True):
    """A file that travels with the message, decoded.

    A `content_id` makes it inline: HTML refers to it as `cid:<content_id>` (RFC 2392).
    """

    filename: str
    content: bytes
    content_type: str = "application/octet-stream"
    content_id: str = ""


class Alternative(msgspec.Struct, frozen=True, omit_defaults=True):
    """The same message in another form than text and HTML, such as an invitation (text/calendar).

    `content_type` may have parameters; the content is sent in UTF-8.
    """

    content_type: str
    content: str


class Content(msgspec.Struct, frozen=True, omit_defaults=True):
    """The parts of a message, from which each attempt renders what its provider needs.

    Bcc recipients are only in the envelope. `raw`, where given, is a whole MIME message that is
    passed on byte for byte; then `text`, `html`, `headers`, `attachments` and `alternatives` are
    empty.
    """

    sender: Address
    to: tuple[Address, ...] = ()
    cc: tuple[Address, ...] = ()
    reply_to: tuple[Address, ...] = ()
    subject: str = ""
    text: str | None = None
    html: str | None = None
    headers: tuple[tuple[str, str], ...] = ()
    attachments: tuple[Attachment, ...] = ()
    raw: bytes | None = None
    tags: tuple[str, ...] = ()
    metadata: dict[str, str] = {}
    alternatives: tuple[Alternative, ...] = ()

    @property
    def size(self) -> int:
        """Return octets of attachments and raw, and characters of texts: what there is to do."""
        texts = [self.text or "", self.html or "", *(value for _, value in self.headers)]
        texts += [each.content for each in self.alternatives]
        files = [self.raw or b"", *(each.content for each in self.attachments)]
        return sum(map(len, texts)) + sum(map(len, files))


class Envelope(msgspec.Struct, frozen=True):
    """Sender and recipients (RFC 5321 §2.3.1); one delivery for each recipient, in this order."""

    sender: str
    recipients: tuple[str, ...]


class Message(msgspec.Struct, frozen=True):
    """One accepted message. Times are UTC seconds since the epoch.

    `id` is ours, and also the marker that every attempt through every provider carries.
    `message_id` is the RFC 5322 Message-ID without its angle brackets, `date_s` the Date header's
    time.
    """

    id: str
    message_id: str
    date_s: float
    envelope: Envelope
    content: Content
    stream: str
    accepted_at: float
    not_before: float
    expires_at: float


_ENCODER = msgspec.msgpack.Encoder(order="deterministic")
_DECODER = msgspec.msgpack.Decoder(Content)


def pack_content(content: Content) -> bytes:
    """Return the canonical bytes of a content: equal contents give equal bytes."""
    return _ENCODER.encode(content)


def unpack_content(packed: bytes) -> Content:
    """Return the content that `pack_content` packed."""
    return _DECODER.decode(packed)


def fingerprint(*parts: object) -> str:
    """Return the SHA-256, in hexadecimal, of plain values in their canonical form."""
    return hashlib.sha256(_ENCODER.encode(parts)).hexdigest()


def without_defaults(value: object) -> object:
    """Return a struct as a map of the fields that differ from their defaults, at every depth.

    A field that a later version adds, with a default, leaves the map of older values as it was.

    >>> without_defaults((Address("ann@example.com"), Address("bob@example.com", "Bob")))
    [{'address': 'ann@example.com'}, {'address': 'bob@example.com', 'name': 'Bob'}]
    """
    if isinstance(value, msgspec.Struct):
        fields = [(name, getattr(value, name), default) for name, default in _fields(type(value))]
        return {
            name: without_defaults(given) for name, given, default in fields if given != default
        }
    if isinstance(value, tuple):
        return [without_defaults(each) for each in value]
    return value


@functools.cache
def _fields(kind: type[msgspec.Struct]) -> tuple[tuple[str, object], ...]:
    """Return each field's name and default; NODEFAULT, which equals nothing, for none."""
    return tuple(
        (each.name, each.default_factory() if callable(each.default_factory) else each.default)
        for each in msgspec.structs.fields(kind)
    )


def domain_of(address: str) -> str:
    """Return what follows the last @, in lower case.

    >>> domain_of("Ann@Example.COM")
    'example.com'
    """
    return address.rpartition("@")[2].lower()


def without_recipients(text: str, recipients: Iterable[str]) -> str:
    """Return a provider's text with the recipients' names and addresses replaced by `***`.

    >>> without_recipients('user "Bob77" unknown (bob77=40example.com)', ["bob77@example.com"])
    'user "***" unknown (***=40example.com)'
    >>> without_recipients("lose_mail: the server closed it", ["lose@example.com"])
    '***_mail: the server closed it'
    """
    for recipient in recipients:
        for name in (recipient, recipient.rpartition("@")[0]):
            if len(name) >= NAME_HIDDEN_MIN and _may_name(text, name):
                text = re.sub(_WORD % re.escape(name), "***", text, flags=re.IGNORECASE)
    return text


def _may_name(text: str, name: str) -> bool:
    # A cheap test first: a pattern for each name costs time to compile, and few names occur.
    if text.isascii() and name.isascii():
        return name.lower() in text.lower()
    return True
