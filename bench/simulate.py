"""Measure the simulator: CPU time and memory a message, as a scenario gets longer.

    python -m bench.simulate --messages 7200 72000 720000

Each length is a run of its own process, checks on, with all times of the scenario's file stretched
alike, so that each has the same share of faults. The last column compares the cost of a
message with that of the first length. With `--outage-h` the lengths are those of a total outage
instead, in hours of one run, the first of them 0:

    python -m bench.simulate --outage-h 0 12
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import time
import tomllib
from collections.abc import Sequence

import msgspec

from mailactors.sim.run.gateway import run_scenario
from mailactors.sim.scenario.file import Scenario, gateway_config
from tests.sim.makers import LIBRARY, divided

HOUR_S = 3600.0
HEALTHY_H = 1.5
"""How much longer than the longest outage each run is."""
RSS_UNIT_BYTES = 1024
"""What Linux counts `ru_maxrss` in."""


class Cost(msgspec.Struct, frozen=True):
    """What one run took; nothing of the imports but their memory is in it."""

    messages: int
    cpu_s: float
    memory_bytes: int
    """The most that the process had at any time."""
    violations: int
    delivered: int

    @property
    def ms_a_message(self) -> float:
        """CPU milliseconds for each message, its share of everything included."""
        return self.cpu_s / self.messages * 1e3


def stretched(name: str, messages: int) -> Scenario:
    """Return a scenario of the library with about so many messages at its own rate."""
    raw = tomllib.loads((LIBRARY / f"{name}.toml").read_text())
    expected = raw["duration_s"] * raw["traffic"]["rate_per_s"]
    return Scenario.model_validate(divided(raw, expected / messages))


def with_outage(hours: float, total_h: float) -> Scenario:
    """Return a run of a message a second, whose providers refuse everything for so long."""
    refused = {"kind": "refuse", "at_s": 600, "for_s": hours * HOUR_S}
    provider = {"faults": [refused] if hours else []}
    return Scenario.model_validate(
        {
            "story": "a backlog",
            "duration_s": total_h * HOUR_S,
            "traffic": {"rate_per_s": 1},
            "providers": {"primary": provider, "secondary": provider},
        }
    )


def measure(name: str, scenario: Scenario) -> Cost:
    """Make a run in this process."""
    begun_s = time.process_time()
    report = run_scenario(name, scenario, gateway_config(name, scenario, None))
    return Cost(
        report.accepted,
        time.process_time() - begun_s,
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * RSS_UNIT_BYTES,
        len(report.violations),
        report.delivered,
    )


def line(cost: Cost, first: Cost) -> str:
    """Return a row of the table."""
    return (
        f"{cost.messages:>9,} {cost.delivered:>9,} {cost.violations:>10} {cost.cpu_s:>8.1f}"
        f" {cost.ms_a_message:>7.2f} {1e3 / cost.ms_a_message:>6,.0f}"
        f" {cost.memory_bytes / 1e6:>7,.0f} {cost.ms_a_message / first.ms_a_message:>6.2f}"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a table of lengths, or of outages."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--scenario", default="primary-down")
    parser.add_argument("--messages", type=int, nargs="+", default=[7_200, 72_000])
    parser.add_argument("--outage-h", type=float, nargs="+", help="hours of a total outage")
    options = parser.parse_args(arguments)
    if options.outage_h:
        total_h = max(options.outage_h) + HEALTHY_H
        runs = [("outage", with_outage(hours, total_h)) for hours in options.outage_h]
    else:
        runs = [(options.scenario, stretched(options.scenario, n)) for n in options.messages]
    print(" messages delivered violations    CPU s ms/each  per s      MB  ratio", flush=True)
    first: Cost | None = None
    for name, scenario in runs:
        context = multiprocessing.get_context("spawn")
        with context.Pool(1) as pool:
            cost = pool.apply(measure, (name, scenario))
        first = first or cost
        print(line(cost, first), flush=True)


if __name__ == "__main__":
    main()
