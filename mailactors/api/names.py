"""By which names this gateway may be called, and by whose pages.

A browser lets any site's page send requests here. A name of the site's own may even resolve to this
machine's address (DNS rebinding), and then the page reads the answers as well. Such a request still
carries the site's name, in Host or in Origin; so only our own names are answered. An address is
ours when the connection came in on it, which nobody can arrange by DNS.

Source: RFC 9110 §7.4 (misdirected requests), the Fetch standard (Origin), Fetch Metadata.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

LOCALHOST: Final = "localhost"
SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
OUR_SITES: Final = frozenset({"same-origin", "none"})
_AUTHORITY: Final = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::[0-9]{0,5})?", re.ASCII)

Headers = Mapping[str, Sequence[str]]
"""The values of each header, by its name in lower case."""


@dataclass(frozen=True)
class OwnNames:
    """The host that we listen on, and the `host` or `host:port` that the configuration names."""

    host: str
    configured: frozenset[str] = frozenset()

    def answer_to(self, authority: str, local: str) -> bool:
        """Say whether a Host is ours, on whatever port: a forwarded port is not our own.

        Args:
            authority: the header's value.
            local: the address on which the connection came in.
        """
        host = host_of(authority)
        if host is None:
            return False
        names = {self.host.lower(), LOCALHOST, local, *map(host_of, self.configured)}
        return host in names or is_loopback(host)

    def are_origin(self, origin: str, hosts: Sequence[str]) -> bool:
        """Say whether an Origin is ours: the very Host of the request, or a configured name."""
        _, _, authority = origin.lower().partition("://")
        return bool(authority) and authority in {*(h.lower() for h in hosts), *self.configured}


def host_of(authority: str) -> str | None:
    """Return the host of `host[:port]`, or None if it is something else.

    >>> host_of("LocalHost.:8625"), host_of("[::1]:80"), host_of("a b"), host_of("x@y")
    ('localhost', '::1', None, None)
    """
    found = _AUTHORITY.fullmatch(authority)
    return found[1].strip("[]").removesuffix(".").lower() if found else None


def is_loopback(host: str) -> bool:
    """Say whether a host is this machine for itself alone.

    >>> is_loopback("127.0.0.53"), is_loopback("::1"), is_loopback("localhost")
    (True, True, True)
    >>> is_loopback("0.0.0.0"), is_loopback("localhost.example")
    (False, False)
    """
    try:
        return host.lower() == LOCALHOST or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def gather(headers: Iterable[tuple[bytes, bytes]]) -> Headers:
    """Return headers by name."""
    gathered: dict[str, list[str]] = {}
    for name, value in headers:
        gathered.setdefault(name.decode("latin-1").lower(), []).append(value.decode("latin-1"))
    return gathered


def strange_host(headers: Headers, target: str, names: OwnNames, local: str) -> str | None:
    """Return the host that a request names, if it is not ours.

    A target in the absolute form goes before the header (RFC 9112 §3.2.2), so both must be ours.
    Without either the client is no browser: HTTP/1.0 asks for no Host.
    """
    given = [*headers.get("host", ())]
    if not target.startswith("/"):
        given.append(re.split("[/?#]", target.partition("://")[2])[0])
    return next((each for each in given if not names.answer_to(each, local)), None)


def is_from_another_site(method: str, headers: Headers, names: OwnNames) -> bool:
    """Say whether another site's page asks. Only a link that a person follows may be from one."""
    hosts, origins = headers.get("host", ()), headers.get("origin", ())
    if not all(names.are_origin(origin, hosts) for origin in origins):
        return True
    is_link = method in SAFE_METHODS and [*headers.get("sec-fetch-mode", ())] == ["navigate"]
    return not is_link and not OUR_SITES.issuperset(headers.get("sec-fetch-site", ()))
