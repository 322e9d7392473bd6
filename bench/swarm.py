"""Run many small random scenarios over all kinds of fault, each of them from its seed alone.

    python -m bench.swarm --seeds 2000 --to swarm.jsonl

Each seed's result is a line of the file. Seeds that are in it already are not run again, so that an
interrupted swarm goes on where it was. A violation of an invariant, an undeclared duplicate, and a
figure that is better than the oracle's bound are printed with the command that replays the seed:

    python -m bench.swarm --replay 107
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from mailactors.sim.oracle.oracle import beaten, oracle_bounds
from mailactors.sim.run.gateway import run_scenario
from mailactors.sim.scenario.file import Scenario, gateway_config
from mailactors.sim.scenario.incidents import ACTORS, LANE_ACTORS, POINTS

Table = dict[str, Any]

NAMES: Final = ("primary", "secondary", "tertiary")
DOMAINS: Final = ("a.example", "b.example")
SMTP_ONLY: Final = {"trickle"}
"""Kinds of fault that need an SMTP wire."""
STREAMS: Final = ("transactional", "otp", "bulk")


class Found(msgspec.Struct, frozen=True):
    """What a seed's run showed; empty lists if all is well."""

    seed: int
    accepted: int
    delivered: int
    violations: list[str]
    beaten: list[str]
    """The figures in which the run was better than the bound."""

    @property
    def problems(self) -> list[str]:
        """Everything that ought not to be."""
        return [*self.violations, *(f"beats the oracle: {each}" for each in self.beaten)]


# Scenarios


def scenario_of(seed: int) -> Scenario:
    """Return the scenario of a seed; it never changes for the same generator."""
    return Scenario.model_validate(tables_of(random.Random(seed)))


def tables_of(chance: random.Random) -> Table:
    """Draw a scenario's tables."""
    duration_s = round(chance.uniform(20, 120), 1)
    names = NAMES[: chance.choice((1, 2, 2, 2, 3))]
    streams = _streams(chance)
    return {
        "story": "one of a swarm",
        "duration_s": duration_s,
        "config": {"streams": streams, "providers": _configured(chance, names)},
        "traffic": _traffic(chance, duration_s, streams),
        "providers": {name: _provider(chance, duration_s) for name in names},
        "faults": _own_faults(chance, duration_s),
        "crashes": _crashes(chance, duration_s, names),
        "operations": _operations(chance, duration_s, names),
    }


def _span(chance: random.Random, duration_s: float) -> Table:
    at_s = round(chance.uniform(0, 0.8 * duration_s), 1)
    return {"at_s": at_s, "for_s": round(chance.uniform(0.5, duration_s), 1)}


def _streams(chance: random.Random) -> Table:
    names = chance.sample(STREAMS, chance.choice((1, 1, 2, 3)))
    return {
        name: {
            "expires_after_s": chance.choice((30, 60, 300, 600)),
            "failover": chance.choice(("immediate", "immediate", "after_retries")),
            "on_uncertain": chance.choice(("resend", "hold")),
        }
        for name in names
    }


def _configured(chance: random.Random, names: Sequence[str]) -> Table:
    found: Table = {}
    for name in names:
        settings: Table = {}
        if chance.random() < 0.3:
            settings["quota"] = {"per_s": chance.choice((1, 2, 5, 20))}
        if chance.random() < 0.2:
            settings["concurrency_max"] = chance.choice((1, 2, 8))
        if chance.random() < 0.2:
            settings["breaker"] = {"open_s": chance.choice((0.5, 5)), "open_cap_s": 10}
        found[name] = settings
    return found


def _traffic(chance: random.Random, duration_s: float, streams: Table) -> Table:
    rate_per_s = round(chance.uniform(0.5, 4), 1)
    traffic: Table = {
        "rate_per_s": rate_per_s,
        "streams": {name: chance.choice((1, 3)) for name in streams},
        "recipient_domains": dict.fromkeys(DOMAINS[: chance.choice((1, 2))], 1),
    }
    if chance.random() < 0.2:
        traffic["bursts"] = [{"at_s": 5, "for_s": 5, "rate_per_s": 10 * rate_per_s}]
    if chance.random() < 0.2:
        traffic["duplicate_submissions"] = 0.3
    if chance.random() < 0.1:
        kind = chance.choice(("crash_actor", "hang_worker", "refused_everywhere"))
        traffic["poison"] = {"count": 2, "kind": kind}
    return traffic


def _provider(chance: random.Random, duration_s: float) -> Table:
    plan: Table = {"faults": []}
    if chance.random() < 0.25:
        plan["wire"] = "smtp"
    elif chance.random() < 0.3:
        plan["search_lag_s"] = chance.choice((0, 2, 20))
    elif chance.random() < 0.4:
        plan["idempotency_window_s"] = chance.choice((60, 3600))
    if chance.random() < 0.3:
        plan["delivery_events"] = {"delay_median_s": chance.choice((0.5, 5, 60))}
    if chance.random() < 0.2:
        plan["quota"] = chance.choice(({"per_s": 2}, {"per_minute": 60}, {"per_s": 3}))
    plan["latency_s"] = {"median": chance.choice((0.05, 0.15, 1.5)), "sigma": 0.4}
    for _ in range(chance.choice((0, 1, 1, 2, 3))):
        kind = chance.choice([each for each in FAULTS if "wire" in plan or each not in SMTP_ONLY])
        plan["faults"].append({"kind": kind, **_span(chance, duration_s), **FAULTS[kind](chance)})
    return plan


def _rate(chance: random.Random) -> float:
    return chance.choice((0.05, 0.3, 0.7, 1.0))


FAULTS: Final[dict[str, Callable[[random.Random], Table]]] = {
    "refuse": lambda _: {},
    "errors": lambda c: {"rate": _rate(c), "code": c.choice((503, 500, 421, 451))},
    "slow": lambda c: {"latency_s": c.choice((2.0, 20.0, 61.0, 100.0))},
    "stall": lambda c: {"rate": _rate(c)},
    "ambiguous": lambda c: {"rate": _rate(c), "accepted": c.choice((0.0, 0.5, 1.0))},
    "throttle": lambda c: {"per_s": c.choice((1, 3)), "retry_after_s": c.choice((1.0, 10.0))},
    "capacity": lambda c: {"per_s": c.choice((0.5, 3.0)), "keeps_abandoned": c.random() < 0.5},
    "flap": lambda c: {"period_s": c.choice((2.0, 10.0)), "duty": c.choice((0.3, 0.7))},
    "auth": lambda _: {"until": "end"},
    "dns": lambda c: {"answer": c.choice(("nxdomain", "servfail", "slow"))},
    "tls": lambda c: {"why": c.choice(("expired", "name"))},
    "lie": lambda c: {
        "rate": _rate(c),
        "then": c.choice(("drop", {"bounce_after_s": 5.0}, {"delay_s": 30.0})),
    },
    "reject": lambda c: {
        "rate": _rate(c),
        "scope": c.choice(("recipient", "message")),
        "false_share": c.choice((0.0, 0.5, 1.0)),
    },
    "defer_domain": lambda c: {
        "domain": "a.example",
        "rate": _rate(c),
        "code": c.choice((421, 450, 451, 452)),
        "is_rate_limit": c.random() < 0.3,
    },
    "slow_domain": lambda c: {"domain": "a.example", "latency_s": c.choice((5.0, 20.0, 61.0))},
    "garbage": lambda c: {"rate": _rate(c)},
    "trickle": lambda c: {"octets_per_s": c.choice((5.0, 50.0, 2000.0))},
    "short": lambda _: {},
}
"""By kind of provider's fault: what it draws beside its time."""


def _own_faults(chance: random.Random, duration_s: float) -> list[Table]:
    found: list[Table] = []
    if chance.random() < 0.25:
        what = chance.choice(("enospc", "slow", "busy", "eio"))
        more = {"commit_s": 0.5} if what == "slow" else {}
        span = {
            "at_s": round(chance.uniform(0, duration_s), 1),
            "for_s": chance.choice((1.0, 12.0)),
        }
        found.append({"kind": "spool", "what": what, **span, **more})
    if chance.random() < 0.15:
        step_s = chance.choice((-3600.0, -30.0, 30.0, 3600.0))
        found.append(
            {"kind": "clock", "at_s": round(chance.uniform(1, duration_s), 1), "step_s": step_s}
        )
    if chance.random() < 0.15:
        found.append({"kind": "pause", **_span(chance, duration_s)})
    return found


def _crashes(chance: random.Random, duration_s: float, names: Sequence[str]) -> list[Table]:
    found = []
    for _ in range(chance.choice((0, 0, 0, 1, 2))):
        lane = f"actor:{chance.choice(LANE_ACTORS)}:{chance.choice(names)}"
        point = f"process:{chance.choice(POINTS)}"
        what = chance.choice(("process", point, f"actor:{chance.choice(ACTORS)}", lane))
        found.append({"at_s": round(chance.uniform(1, duration_s), 1), "what": what})
    return found


def _operations(chance: random.Random, duration_s: float, names: Sequence[str]) -> list[Table]:
    found: list[Table] = []
    at_s, name = round(chance.uniform(1, duration_s), 1), chance.choice(names)
    if chance.random() < 0.1:
        found.append({"at_s": at_s, "what": f"pause:{name}"})
        found.append({"at_s": at_s + chance.choice((5, 40)), "what": f"resume:{name}"})
    if chance.random() < 0.1:
        found.append(
            {"at_s": at_s, "what": chance.choice(("reload", f"reset:{name}", "cancel:20%"))}
        )
    return found


# Runs


def run_seed(seed: int) -> Found:
    """Run a seed's scenario on the default policy, and hold it against the oracle."""
    scenario = scenario_of(seed)
    config = gateway_config("swarm", scenario, None)
    report = run_scenario("swarm", scenario, config, seed)
    violations = [f"{each.invariant}: {each.detail}" for each in report.violations]
    if report.undeclared_duplicates:
        violations.append(f"{report.undeclared_duplicates} undeclared duplicates")
    bounds = oracle_bounds(scenario, config, seed, report.delivered)
    # A run that a violation has stopped says nothing of the bound.
    bettered = [] if violations else beaten(report, bounds)
    return Found(seed, report.accepted, report.delivered, violations[:5], bettered)


def _try_seed(seed: int) -> Found:
    try:
        return run_seed(seed)
    except Exception as error:  # the swarm goes on
        return Found(seed, 0, 0, [f"{type(error).__name__}: {error}"[:500]], [])


def known_results(path: Path) -> list[Found]:
    """Return the results in a file; a last line that was cut off does not count."""
    found = []
    for line in path.read_bytes().splitlines() if path.exists() else ():
        try:
            found.append(msgspec.json.decode(line, type=Found))
        except msgspec.DecodeError:
            continue
    return found


def results(seeds: Sequence[int], processes: int) -> Iterator[Found]:
    """Yield each seed's result as it comes."""
    with multiprocessing.get_context("spawn").Pool(processes, maxtasksperchild=100) as pool:
        yield from pool.imap_unordered(_try_seed, seeds)


def replay(seed: int) -> Found:
    """Print a seed's scenario, run it, and print what it shows."""
    print(json.dumps(tables_of(random.Random(seed)), indent=1))
    found = run_seed(seed)
    print("\n".join(found.problems) or "all is well")
    return found


def swarm(count: int, first: int, to: Path, processes: int) -> list[Found]:
    """Run what is not in the file yet; return every result that has problems."""
    known = {each.seed: each for each in known_results(to)}
    wanted = range(first, first + count)
    left = [seed for seed in wanted if seed not in known]
    bad = [each for seed, each in known.items() if each.problems and seed in wanted]
    if to.exists() and not to.read_bytes().endswith(b"\n"):
        to.write_bytes(b"".join(msgspec.json.encode(each) + b"\n" for each in known.values()))
    with to.open("ab") as file:
        for done, found in enumerate(results(left, processes), 1):
            file.write(msgspec.json.encode(found) + b"\n")
            file.flush()
            if found.problems:
                bad.append(found)
            if sys.stderr.isatty() or done % 50 == 0 or done == len(left):
                print(f"\r{done} of {len(left)}, {len(bad)} bad", end="", file=sys.stderr)
    print(file=sys.stderr)
    return sorted(bad, key=lambda each: each.seed)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a swarm, or one seed of it again."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seeds", type=int, default=2000)
    parser.add_argument("--first", type=int, default=1)
    parser.add_argument("--to", type=Path, default=Path("swarm.jsonl"))
    parser.add_argument("--processes", type=int, default=multiprocessing.cpu_count())
    parser.add_argument("--replay", type=int, help="run this seed only, and show its scenario")
    options = parser.parse_args(arguments)
    if options.replay is not None:
        return 1 if replay(options.replay).problems else 0
    bad = swarm(options.seeds, options.first, options.to, options.processes)
    for found in bad:
        for problem in found.problems:
            print(f"seed {found.seed}: {problem}")
        print(f"  replay: python -m bench.swarm --replay {found.seed}")
    print(f"{len(bad)} of {options.seeds} seeds have problems")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
