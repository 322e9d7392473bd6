"""The settings of an `smtp` provider, checked when they are read."""

from __future__ import annotations

import functools
import ipaddress
import re
import socket
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator

from mailactors.providers.port import Capabilities
from mailactors.providers.smtp.wire import UnsendableError, check_credential, check_hello_name

IMPLICIT_TLS_PORT: Final = 465
"""RFC 8314 §3.3."""

ADDRESS_LITERAL: Final = "[127.0.0.1]"

_LOCAL_NAME: Final = re.compile(r"(^|\.)(localhost|local|localdomain|internal|lan|home|arpa)$")
_LABEL: Final = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")


def is_name(host: str) -> bool:
    """Say whether a host is written as a name.

    >>> is_name("relay.example"), is_name("relay..example")
    (True, False)
    """
    return all(map(_LABEL.fullmatch, host.split(".")))


def is_address(host: str) -> bool:
    """Say whether a host is an IP address, without brackets.

    >>> is_address("::1"), is_address("[::1]")
    (True, False)
    """
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def is_loopback(host: str) -> bool:
    """Say whether a host is this machine, without asking anybody.

    >>> is_loopback("127.0.0.1"), is_loopback("localhost"), is_loopback("127.0.0.1.example.com")
    (True, True, False)
    """
    if is_address(host):
        return ipaddress.ip_address(host).is_loopback
    return host.lower() == "localhost"


@functools.cache
def host_name() -> str:
    """Return a name for EHLO that relays take: this host's full name, or else a literal.

    A name that is of no use outside, such as one in .local, is no better than the literal.
    """
    name = socket.gethostname()
    name = name if "." in name else socket.getfqdn(name)
    is_public = "." in name and not _LOCAL_NAME.search(name.lower()) and not is_address(name)
    return name if is_public and is_name(name) and "_" not in name else ADDRESS_LITERAL


class SmtpSettings(BaseModel):
    """How to reach a relay. There is no switch that turns certificate checks off: name a CA."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", hide_input_in_errors=True, allow_inf_nan=False
    )

    kind: Literal["smtp"] = "smtp"
    host: Annotated[str, Field(min_length=1, max_length=253)]
    """A name, or an address without brackets."""
    port: Annotated[int, Field(ge=1, le=65535)] = 587
    """465 when `tls` is "implicit" and no port is given."""
    tls: Literal["starttls", "implicit", "none"] = "starttls"
    """`starttls` means required: a server that does not offer it gets nothing."""
    ca_file: str | None = None
    """PEM file of the authorities to trust, instead of the system's."""
    username: str | None = None
    password: SecretStr | None = None
    token_command: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    """A program and its arguments that print an access token for XOAUTH2; asked again when the
    token is refused."""
    auth: tuple[Literal["plain", "login", "xoauth2"], ...] = ()
    """AUTH mechanisms in the order in which they are tried; empty: `xoauth2` with a
    `token_command`, `plain` and then `login` with a `password`."""
    hello_name: str = Field(default_factory=host_name)
    """Our name in EHLO: a domain, or an address literal as RFC 5321 §4.1.4 asks for want of one.
    Many relays refuse a literal, or a name that is not in DNS."""
    connect_timeout_s: Annotated[float, Field(gt=0)] = 30.0
    """For the connection, and for each answer until the relay is ready for mail."""
    command_timeout_s: Annotated[float, Field(gt=0)] = 60.0
    """For each answer to MAIL and RCPT. RFC 5321 §4.5.3.2 asks for minutes, of whoever has no
    other way; nothing is sent yet, and there may be a healthy provider beside this one."""
    attempt_timeout_s: Annotated[float, Field(gt=0)] = 300.0
    """For a whole attempt until the final dot, the connection included; the time that the
    message's size needs at `octets_per_s_min` comes on top."""
    octets_per_s_min: Annotated[float, Field(gt=0)] = 8192.0
    """The slowest pace of a body, over a minute. Postfix allows 500; it has no other lane."""
    messages_per_connection_max: Annotated[int, Field(ge=1)] = 100
    idle_s: Annotated[float, Field(ge=0)] = 60.0
    """An idle connection older than this is not used again. Servers hang up after 30 to 300 s."""

    @property
    def capabilities(self) -> Capabilities:
        """An envelope of its own, and nothing that tells what became of a lost message."""
        return Capabilities(own_envelope=True)

    @model_validator(mode="before")
    @classmethod
    def _default_port(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("tls") == "implicit":
            return {"port": IMPLICIT_TLS_PORT} | values
        return values

    @field_validator("host")
    @classmethod
    def _is_a_host(cls, host: str) -> str:
        if not is_name(host) and not is_address(host):
            raise ValueError("neither a host name nor an IP address")
        return host

    @field_validator("hello_name", "username", "password")
    @classmethod
    def _without_injection(cls, value: Any, info: Any) -> Any:
        try:
            if info.field_name == "hello_name":
                check_hello_name(value)
            elif value is not None:
                check_credential(_reveal(value))
        except UnsendableError as error:
            raise ValueError(str(error)) from None
        return value

    @model_validator(mode="after")
    def _guard_credentials(self) -> Self:
        secret = "password" if self.token_command is None else "token_command"
        if (self.username is None) != (self.password is None and self.token_command is None):
            raise ValueError(f"username and {secret} go together")
        if "xoauth2" in self.auth and self.token_command is None:
            raise ValueError('auth = ["xoauth2"] needs a token_command')
        if {"plain", "login"} & set(self.auth) and self.password is None:
            raise ValueError('auth = ["plain"] and ["login"] need a password')
        if self.username is not None and self.tls == "none" and not is_loopback(self.host):
            raise ValueError('credentials over tls = "none" are only sent to this very host')
        return self

    @property
    def mechanisms(self) -> tuple[str, ...]:
        """The AUTH mechanisms to try, in upper case; none without a user name."""
        by_token = ["xoauth2"] if self.token_command else []
        by_password = ["plain", "login"] if self.password else []
        return tuple(each.upper() for each in self.auth or [*by_token, *by_password])


def _reveal(secret: SecretStr | str) -> str:
    return secret.get_secret_value() if isinstance(secret, SecretStr) else secret
