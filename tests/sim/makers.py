"""Small scenarios for tests: the library's, shortened, and ones made of a few words."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from mailactors.sim.report.report import Report
from mailactors.sim.run.gateway import run_scenario
from mailactors.sim.scenario.file import Scenario, gateway_config

LIBRARY = Path(__file__).parent.parent.parent / "scenarios"
CUT_S = 60.0
NAMES = sorted(path.stem for path in LIBRARY.glob("*.toml"))


def shortened(name: str, messages: float = 500.0) -> Scenario:
    """Return a scenario of the library with so few messages: all its times are divided.

    One with crashes is cut off instead: deaths so close together would leave time for nothing.
    """
    raw = tomllib.loads((LIBRARY / f"{name}.toml").read_text())
    if "crashes" in raw:
        raw["duration_s"] = CUT_S
        raw["crashes"] = [crash for crash in raw["crashes"] if crash["at_s"] < CUT_S]
        return Scenario.model_validate(raw)
    factor = max(1.0, raw["duration_s"] * raw["traffic"]["rate_per_s"] / messages)
    return Scenario.model_validate(divided(raw, factor))


def divided(raw: Any, factor: float) -> Any:
    """Return what was read from a scenario's file with all its times divided."""
    if isinstance(raw, list):
        return [divided(each, factor) for each in raw]
    if not isinstance(raw, dict):
        return raw
    return {
        key: value / factor
        if key in {"at_s", "for_s", "until_s", "duration_s", "period_s", "delay_s", "horizon_s"}
        else divided(value, factor)
        for key, value in raw.items()
    }


def small(*, duration_s: float = 20.0, rate_per_s: float = 10.0, **tables: Any) -> Scenario:
    """Return a scenario with a primary and a secondary, without faults by default."""
    traffic = {"rate_per_s": rate_per_s, **tables.pop("traffic", {})}
    plain = {"story": "a test", "duration_s": duration_s, "horizon_s": duration_s + 300}
    providers = tables.pop("providers", {"primary": {}, "secondary": {}})
    return Scenario.model_validate({**plain, "traffic": traffic, "providers": providers, **tables})


def run(scenario: Scenario, seed: int = 1) -> Report:
    """Run a scenario on the default policy."""
    return run_scenario("test", scenario, gateway_config("test", scenario, None), seed)


def fault(kind: str, at_s: float = 5.0, for_s: float = 5.0, **more: Any) -> dict[str, Any]:
    """Return a provider's table with one fault."""
    return {"faults": [{"at_s": at_s, "for_s": for_s, "kind": kind, **more}]}
