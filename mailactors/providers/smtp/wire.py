"""Checks of every SMTP argument, and the framing of a message, before anything is written.

No argument may end its line and no part of a message may end the message: those are the two ways of
SMTP injection and smuggling.

Source: RFC 5321 §2.3.8, §4.1.1.4, §4.5.2 (transparency), §4.5.3.1; CVE-2023-51764 (smuggling).
"""

from __future__ import annotations

import re
from typing import Final

from mailactors.errors import MailactorsError

LINE_OCTETS_MAX: Final = 998
"""Longest line of a message, without its CRLF (RFC 5321 §4.5.3.1.6, RFC 5322 §2.1.1)."""

PATH_OCTETS_MAX: Final = 254
"""Longest address; with its angle brackets 256 (RFC 5321 §4.5.3.1.3)."""

TERMINATOR: Final = b".\r\n"
"""Ends a message whose last octets are CRLF."""

_HELLO_NAME: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9A-Za-z.:]+\]")


class UnsendableError(MailactorsError):
    """SMTP, or this server, cannot carry this; nothing of it was written."""


def check_address(address: str, *, smtputf8: bool) -> bytes:
    """Return an address as it stands between the angle brackets.

    Spaces are refused although a quoted local part may hold them (RFC 5321 §4.1.2): parsers
    disagree about them, and real mailboxes have none.

    Raises: UnsendableError
    """
    if not address.isprintable() or any(c in " <>" for c in address):
        raise UnsendableError(f"a character in the address {ascii(address)[:80]} that SMTP forbids")
    if not address.isascii() and not smtputf8:
        raise UnsendableError("the server does not offer SMTPUTF8, which an address needs")
    encoded = address.encode()
    if len(encoded) > PATH_OCTETS_MAX:
        raise UnsendableError(f"an address longer than {PATH_OCTETS_MAX} octets")
    return encoded


def check_hello_name(name: str) -> str:
    """Return our name in EHLO, a domain or an address literal.

    Raises: UnsendableError
    """
    if not _HELLO_NAME.fullmatch(name) or len(name) > PATH_OCTETS_MAX:
        raise UnsendableError("the hello name is neither a domain nor an address literal")
    return name


def check_credential(text: str) -> bytes:
    """Return a user name or password in UTF-8 (RFC 4616 §2); never quotes it in the error.

    Raises: UnsendableError
    """
    try:
        encoded = text.encode()
    except UnicodeEncodeError:
        raise UnsendableError("a user name or password that is not Unicode") from None
    if any(octet in b"\r\n\0" for octet in encoded):
        raise UnsendableError("a user name or password with CR, LF or NUL")
    return encoded


def check_message(message: bytes) -> None:
    """Refuse a message that cannot be passed on octet for octet.

    Servers disagree about a bare CR or LF. It is refused and not repaired: a repair would break a
    signature, and to pass it on would allow smuggling.

    Raises: UnsendableError
    """
    if not message.count(b"\r") == message.count(b"\r\n") == message.count(b"\n"):
        raise UnsendableError("a bare CR or LF in the message")
    if b"\0" in message:
        raise UnsendableError("a NUL in the message")
    if max(map(len, message.split(b"\r\n"))) > LINE_OCTETS_MAX:
        raise UnsendableError(f"a line longer than {LINE_OCTETS_MAX} octets in the message")


def stuff_dots(message: bytes) -> bytes:
    r"""Return a checked message for the wire: dots doubled, CRLF at its end, without terminator.

    Only a missing last CRLF is added: SMTP cannot carry a message without it.

    >>> stuff_dots(b".a\r\n.\r\n..b")
    b'..a\r\n..\r\n...b\r\n'
    """
    stuffed = message.replace(b"\r\n.", b"\r\n..")
    if stuffed.startswith(b"."):
        stuffed = b"." + stuffed
    return stuffed if stuffed.endswith(b"\r\n") else stuffed + b"\r\n"
