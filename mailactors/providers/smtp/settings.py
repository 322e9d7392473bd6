"""The settings of an `smtp` provider, checked when they are read."""

from __future__ import annotations

import ipaddress
import re
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator

from mailactors.providers.port import Capabilities
from mailactors.providers.smtp.wire import UnsendableError, check_credential, check_hello_name

IMPLICIT_TLS_PORT: Final = 465
"""RFC 8314 §3.3."""

_LABEL: Final = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")


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
    hello_name: str = "[127.0.0.1]"
    """Our name in EHLO: a domain, or an address literal as RFC 5321 §4.1.4 asks for want of one."""
    connect_timeout_s: Annotated[float, Field(gt=0)] = 30.0
    """For the connection, and for each answer until the relay is ready for mail."""
    command_timeout_s: Annotated[float, Field(gt=0)] = 60.0
    """For each answer to MAIL and RCPT. RFC 5321 §4.5.3.2 asks for minutes, of whoever has no
    other way; nothing is sent yet, and there may be a healthy provider beside this one."""
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
        if not all(map(_LABEL.fullmatch, host.split("."))) and not is_address(host):
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
        if (self.username is None) != (self.password is None):
            raise ValueError("username and password go together")
        if self.username is not None and self.tls == "none" and not is_loopback(self.host):
            raise ValueError('credentials over tls = "none" are only sent to this very host')
        return self


def _reveal(secret: SecretStr | str) -> str:
    return secret.get_secret_value() if isinstance(secret, SecretStr) else secret


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
