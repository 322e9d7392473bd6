"""What a valid tree may still get wrong: contradictions, files, providers that nobody uses."""

from __future__ import annotations

import os
import shutil
import ssl
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from mailactors.config.tree import Config, ServiceSettings, SmtpProviderSettings
from mailactors.dispatch.retry import Failover

IMPLICIT_TLS_PORT: Final = 465
MEMORY: Final = ":memory:"

Place = tuple[str, ...]


class Pair(NamedTuple):
    """Two keys of a table, the first of which must not be more than the second."""

    low: str
    high: str
    is_low_given: bool = False
    """It matters only where the first is given; else where one of them is."""


PAIRS: Final[Mapping[str, tuple[Pair, ...]]] = {
    "idempotency": (Pair("fingerprint_window_s", "window_s"),),
    "retention": (Pair("bodies_after_s", "final_after_s"),),
    "streams": (
        Pair("uncertain_wait_s", "expires_after_s", True),
        Pair("spill_after_s", "expires_after_s", True),
    ),
    "providers": (
        Pair("connect_timeout_s", "attempt_timeout_s"),
        Pair("command_timeout_s", "attempt_timeout_s"),
    ),
    "breaker": (Pair("open_s", "open_cap_s"),),
    "quota": (
        Pair("per_s", "per_minute"),
        Pair("per_s", "per_hour"),
        Pair("per_s", "per_day"),
        Pair("per_minute", "per_hour"),
        Pair("per_minute", "per_day"),
        Pair("per_hour", "per_day"),
        Pair("burst", "per_minute"),
        Pair("burst", "per_hour"),
        Pair("burst", "per_day"),
    ),
}
"""By table, or by the kind of table."""


def contradictions(config: Config, tree: Mapping[str, Any]) -> Iterator[tuple[Place, str]]:
    """Yield each pair of keys that contradict each other, with its table.

    Args:
        tree: the tables as they were given: defaults contradict nothing by themselves.
    """
    for place, kind, settings in _tables(config):
        given = _given(tree, place)
        for fault in [*_out_of_order(kind, settings, given), *_at_odds(settings, given)]:
            yield place, f"{'.'.join(place)}: {fault}"


def missing_sender(config: Config, tree: Mapping[str, Any]) -> Iterator[tuple[Place, str]]:
    """Yield a fault if mail would go out from an address that is nobody's.

    Args:
        tree: the tables as they were given, faulty ones as well.
    """
    sends = [name for name, each in config.providers.items() if each.kind != "simulated"]
    if sends and "default_from" not in _given(tree, ("service",)):
        reason = f"is needed, for providers.{sends[0]} sends: the sender of what names none"
        yield ("service", "default_from"), f"service.default_from: {reason}"


def _tables(config: Config) -> Iterator[tuple[Place, str, Any]]:
    yield ("idempotency",), "idempotency", config.idempotency
    yield ("retention",), "retention", config.retention
    for name, stream in config.streams.items():
        yield ("streams", name), "streams", stream
    for name, provider in config.providers.items():
        yield ("providers", name), "providers", provider
        yield ("providers", name, "quota"), "quota", provider.quota
        yield ("providers", name, "breaker"), "breaker", provider.breaker


def _given(tree: Mapping[str, Any], place: Place) -> Mapping[str, Any]:
    value: Any = tree
    for part in place:
        value = value.get(part, {}) if isinstance(value, Mapping) else {}
    return value if isinstance(value, Mapping) else {}


def _out_of_order(kind: str, settings: Any, given: Mapping[str, Any]) -> Iterator[str]:
    for low, high, is_low_given in PAIRS[kind]:
        first, second = (getattr(settings, name, None) for name in (low, high))
        is_given = low in given or (high in given and not is_low_given)
        if first is not None and second is not None and first > second and is_given:
            yield f"{low} = {first:g} is more than {high} = {second:g}"


def _at_odds(settings: Any, given: Mapping[str, Any]) -> Iterator[str]:
    """Yield what has no effect, or cannot work, beside another key of the same table."""
    is_spaced = getattr(settings, "failover", None) is Failover.AFTER_RETRIES
    if "spill_after_s" in given and is_spaced:
        yield 'spill_after_s has no effect with failover = "after_retries"'
    if "burst" in given and getattr(settings, "per_s", None) is None:
        yield "burst is of per_s, which is not given"
    probes = getattr(getattr(settings, "breaker", None), "probes", 0)
    slots = getattr(settings, "concurrency_max", probes)
    if probes > slots and ("concurrency_max" in given or "probes" in given.get("breaker", {})):
        yield f"breaker.probes = {probes} is more than concurrency_max = {slots}"
    if isinstance(settings, SmtpProviderSettings):
        if settings.tls == "none" and settings.ca_file is not None:
            yield 'ca_file has no effect with tls = "none"'
        if settings.port == IMPLICIT_TLS_PORT and settings.tls == "starttls":
            yield 'port = 465 speaks TLS from its first byte: tls = "implicit"'


def unused_providers(config: Config) -> list[str]:
    """Return a note for each provider that no stream's route names."""
    used = {name for stream in config.streams for name in config.route(stream)}
    return [
        f"providers.{name}: no stream's route names it"
        for name in config.providers
        if name not in used
    ]


def check_files(config: Config) -> list[str]:
    """Return a line for each file, folder or program that the configuration names in vain."""
    return [
        *_spool_faults(config.service.spool),
        *_tls_faults(config.service),
        *_provider_faults(config),
    ]


def _spool_faults(spool: str) -> Iterator[str]:
    if spool == MEMORY:
        return
    path = Path(spool).absolute()
    if path.is_dir():
        yield f"service.spool: {spool} is a folder; name a file"
    elif not path.parent.is_dir():
        yield f"service.spool: there is no folder {path.parent}"
    elif not os.access(path if path.exists() else path.parent, os.W_OK):
        yield f"service.spool: {spool} cannot be written by this user"


def _tls_faults(service: ServiceSettings) -> Iterator[str]:
    if service.tls_cert is None or service.tls_key is None:
        return
    unreadable = [*_unreadable("service.tls_cert", service.tls_cert)]
    unreadable += _unreadable("service.tls_key", service.tls_key)
    yield from unreadable
    if not unreadable:
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(
                service.tls_cert, service.tls_key
            )
        except (OSError, ssl.SSLError) as error:
            yield f"service.tls_cert, service.tls_key: {error}"


def _provider_faults(config: Config) -> Iterator[str]:
    for name, settings in config.providers.items():
        if not isinstance(settings, SmtpProviderSettings):
            continue
        if settings.ca_file is not None:
            key = f"providers.{name}.ca_file"
            unreadable = list(_unreadable(key, settings.ca_file))
            yield from unreadable
            if not unreadable:
                try:
                    ssl.create_default_context(cafile=settings.ca_file)
                except (OSError, ssl.SSLError) as error:
                    yield f"{key}: {error}"
        if settings.token_command and shutil.which(settings.token_command[0]) is None:
            program = settings.token_command[0]
            yield f"providers.{name}.token_command: there is no program {program!r}"


def _unreadable(key: str, file: str) -> Iterator[str]:
    try:
        with open(file, "rb"):
            pass
    except OSError as error:
        yield f"{key}: {file}: {error.strerror}"
