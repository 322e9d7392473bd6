"""What is asked of a run: the scenario file, and how it fits the gateway's configuration."""

from mailactors.sim.scenario.file import (
    Scenario,
    ScenarioError,
    gateway_config,
    horizon_s,
    load_scenario,
    scenario_schema,
)

__all__ = [
    "Scenario",
    "ScenarioError",
    "gateway_config",
    "horizon_s",
    "load_scenario",
    "scenario_schema",
]
