"""A configuration as a person reads it: TOML, without secrets, and what evidence can come."""

from __future__ import annotations

from typing import Any

import msgspec
import tomli_w

from mailactors.config.tree import Config
from mailactors.dispatch.evidence import evidence_of
from mailactors.dispatch.retry import Failover, StreamPolicy


def evidence(config: Config) -> dict[str, Any]:
    """Return by stream and provider what can settle a message whose answer was lost."""
    found: dict[str, Any] = {}
    for name, stream in config.streams.items():
        route = config.route(name)
        plan = StreamPolicy(
            route, on_uncertain=stream.on_uncertain, uncertain_wait_s=stream.uncertain_wait_s
        )
        able = {provider: config.providers[provider].capabilities for provider in route}
        found[name] = {provider: evidence_of(able[provider], plan) for provider in route}
    shown = msgspec.json.decode(msgspec.json.encode(found))
    assert isinstance(shown, dict)
    return shown


def effective(config: Config) -> dict[str, Any]:
    """Return the whole configuration as plain values, secrets masked, with its `evidence`."""
    return {**config.model_dump(mode="json"), "evidence": evidence(config)}


def as_toml(config: Config) -> str:
    """Return the configuration as a TOML file that can be read again, without its secrets.

    What evidence can come, and which secrets there are, is said in comments.
    """
    tree = _without_none(config.model_dump(mode="json"))
    lines = []
    for name, provider in tree["providers"].items():
        if provider.pop("password", None) is not None:
            lines.append(f"# providers.{name}.password: not shown")
    for name, stream in tree["streams"].items():
        stream["route"] = list(config.route(name))
        if stream["failover"] == Failover.AFTER_RETRIES:
            del stream["spill_after_s"]  # it has no effect
    for stream, providers in evidence(config).items():
        lines.append(f"# A lost answer of a message of {stream!r}:")
        for provider, found in providers.items():
            can_come = ", ".join(found["evidence"]) or "no evidence can come"
            lines.append(f"#   with {provider!r}: {can_come}; then {found['then']}")
    return tomli_w.dumps(tree) + "\n" + "\n".join(lines)


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_none(inner) for key, inner in value.items() if inner is not None}
    return value
