"""What a client says to a server: the commands, and what else a reply answers."""

from __future__ import annotations

import enum

import msgspec


class Verb(enum.Enum):
    """What a reply answers; GREETING and FINAL answer no command."""

    GREETING = "greeting"
    EHLO = "EHLO"
    HELO = "HELO"
    STARTTLS = "STARTTLS"
    AUTH = "AUTH"
    RSET = "RSET"
    MAIL = "MAIL"
    RCPT = "RCPT"
    DATA = "DATA"
    FINAL = "final dot"
    LONE_DOT = "lone dot"
    """Ends a DATA that nobody is left to receive (RFC 2920 §3.1)."""
    QUIT = "QUIT"


class Command(msgspec.Struct, frozen=True):
    """One command line, and the recipient if it is a RCPT."""

    verb: Verb
    line: bytes = b""
    recipient: str = ""

    def __repr__(self) -> str:
        return f"Command({self.verb})"  # a line may hold a password
