"""The report of a run: figures, expectations and violations, as plain values."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeAlias

import msgspec

from mailactors.sim.report.series import Record
from mailactors.sim.scenario.file import Scenario
from mailactors.sim.scenario.policies import DEFAULT, Task
from mailactors.sim.scenario.tables import Expect, Traffic
from mailactors.sim.world.entropy import KeyedEntropy
from mailactors.sim.world.traffic import recipient_domain
from mailactors.sim.world.truth import Recovery, Truth, quantile

BEARABLE_S: Final = 2.0
"""The backlog is gone when it is at most what is submitted within this time."""
BEARABLE_MIN: Final = 10.0
CONFIDENCE: Final = 0.95
_FAR: Final = 60.0
"""Terms below e^-60 of the largest do not change a sum."""


class Violation(msgspec.Struct, frozen=True, rename={"invariant": "judge"}):
    """A violation of an invariant, which stops a run; in JSON the invariant's key is `judge`."""

    invariant: str
    at_s: float
    detail: str
    number: int = -1
    """The message's number in the traffic; -1: it concerns no single message."""
    timeline: tuple[str, ...] = ()


class Expectation(msgspec.Struct, frozen=True):
    """One line of `[expect]` and its figure; without a figure it has failed."""

    name: str
    limit: float
    value: float | None
    ok: bool


class Bound(msgspec.Struct, frozen=True):
    """The figures of one of the oracle's schedulers, under the report's names."""

    delivered: int
    delivered_rate: float | None
    p50_s: float | None
    p99_s: float | None
    p999_s: float | None
    attempts_per_message: float | None


class Oracle(Bound, frozen=True):
    """Bounds that no run can beat; `sim/oracle/oracle.py` says what each of them assumes."""

    by_rates: Bound
    """The scheduler that knows when and how often calls fail, but not which: a goal, no bound."""
    expected: int = 0
    """Messages that somebody accepts and nobody rightly refuses: what a policy ought to deliver."""


class DecisionTimes(msgspec.Struct, frozen=True):
    """Real microseconds from a failure's end to the next decision."""

    p50: float
    p99: float
    p999: float


class Report(msgspec.Struct, frozen=True):
    """One run. A figure that was not measured is None."""

    scenario: str
    seed: int
    hash: str
    submitted: int
    refused: int
    """How often a client was asked to retry."""
    given_up: int
    """Messages that were never accepted because their client gave up."""
    accepted: int
    accepted_by_provider: int
    """Messages that a provider accepted: more than `delivered` where one lost some."""
    delivered: int
    delivered_rate: float | None
    p50_s: float | None
    p99_s: float | None
    p99_s_by_domain: dict[str, float | None]
    """By recipient domain."""
    duplicates: int
    undeclared_duplicates: int
    attempts_per_message: float | None
    peak_attempts_per_s: dict[str, int]
    recovery_s: float | None
    """From a fault's end until the backlog was gone, the longest; `recovery` says what lacks."""
    breaker_moves: int
    panics: int
    ended_s: float
    starts: int
    """Processes of the gateway: one, and one more after each death."""
    fault_points: dict[str, int]
    """How often the run passed each fault point of the production code."""
    violations: tuple[Violation, ...]
    expectations: tuple[Expectation, ...]
    p999_s: float | None = None
    backlog_max: int = 0
    """The largest at the end of a step of its chart."""
    recovery: Recovery = "no fault"
    """What `recovery_s` means: a number that is 0 says little beside a backlog."""
    is_quick: bool = False
    """Whether it had a tenth of the scenario's traffic."""
    policy: str = DEFAULT
    oracle: Oracle | None = None
    decision_us: DecisionTimes | None = None
    wall_s: float = 0.0
    messages_per_wall_s: float = 0.0
    record: Record | None = None
    """The data of the page's charts; not part of the JSON."""

    @property
    def title(self) -> str:
        """The scenario's name."""
        return Path(self.scenario).stem

    @property
    def run(self) -> tuple[str, int]:
        """What the runs of several policies to compare have in common."""
        return self.scenario, self.seed

    @property
    def has_passed(self) -> bool:
        """Whether every expectation was met and no invariant violated."""
        return not self.violations and all(each.ok for each in self.expectations)


class CrashedRun(msgspec.Struct, frozen=True):
    """A run that ended without a report."""

    task: Task
    why: str


Result: TypeAlias = Report | CrashedRun


def figures_of(
    scenario: Scenario, truth: Truth, risks: dict[int, int], entropy: KeyedEntropy
) -> dict[str, Any]:
    """Return the figures of the ground truth, by the report's fields."""
    accepted, latencies_s = len(truth.accepted), truth.latencies_s(truth.taken)
    undeclared = (
        max(0, len(times) - 1 - risks.get(number, 0)) for number, times in truth.arrivals.items()
    )
    backlog = truth.backlog(max(BEARABLE_MIN, BEARABLE_S * scenario.traffic.rate_per_s))
    recovery, recovery_s = backlog.recovery(scenario.fault_ends_s)
    return {
        "submitted": len(truth.submitted_s),
        "refused": truth.refused,
        "given_up": truth.given_up,
        "accepted": accepted,
        "accepted_by_provider": truth.accepted_by_provider,
        "delivered": truth.delivered,
        "delivered_rate": truth.delivered / accepted if accepted else None,
        "p50_s": rounded(quantile(latencies_s, 0.5)),
        "p99_s": rounded(quantile(latencies_s, 0.99)),
        "p999_s": rounded(quantile(latencies_s, 0.999)),
        "p99_s_by_domain": _p99_s_by_domain(scenario.traffic, truth, entropy),
        "duplicates": truth.duplicates,
        "undeclared_duplicates": sum(undeclared),
        "attempts_per_message": rounded(truth.attempts / accepted) if accepted else None,
        "peak_attempts_per_s": {name: peak.highest for name, peak in truth.peaks.items()},
        "recovery": recovery,
        "recovery_s": rounded(recovery_s),
    }


def _p99_s_by_domain(
    traffic: Traffic, truth: Truth, entropy: KeyedEntropy
) -> dict[str, float | None]:
    numbers: dict[str, list[int]] = {domain: [] for domain in traffic.recipient_domains}
    for number in truth.taken:
        numbers[recipient_domain(traffic, entropy, number)].append(number)
    return {
        domain: rounded(quantile(truth.latencies_s(found), 0.99))
        for domain, found in numbers.items()
    }


def rounded(value: float | None) -> float | None:
    """Cut a figure to what means something."""
    return None if value is None else round(value, 4)


def expectations_of(
    expect: Expect, figures: Mapping[str, Any], oracle: Oracle | None = None
) -> tuple[Expectation, ...]:
    """Hold the figures against what must hold.

    What is asked of deliveries is asked of those that the oracle delivers, where it was asked; a
    gap to it is not measured without it.
    """
    found: list[Expectation] = []

    def at_most(name: str, limit: float | None, value: float | None) -> None:
        if limit is not None:
            found.append(Expectation(name, limit, value, value is not None and value <= limit))

    if expect.delivered_min is not None:
        rate = delivered_share(figures, oracle)
        is_ok = rate is not None and rate >= expect.delivered_min
        found.append(Expectation("delivered_min", expect.delivered_min, rate, is_ok))
    for name in ("p50_s", "p99_s", "p999_s"):
        at_most(f"within.{name}", getattr(expect.within, name), figures[name])
    for domain, limit in expect.p99_s_by_domain.items():
        at_most(f"p99_s_by_domain.{domain}", limit, figures["p99_s_by_domain"].get(domain))
    for name in ("duplicates", "undeclared_duplicates", "attempts_per_message"):
        at_most(f"{name}_max", getattr(expect, f"{name}_max"), figures[name])
    for name, limit in expect.peak_attempts_per_s.items():
        at_most(f"peak_attempts_per_s.{name}", limit, figures["peak_attempts_per_s"][name])
    at_most("recovery_s_max", expect.recovery_s_max, figures["recovery_s"])
    if (gap := expect.oracle_gap) is not None:
        at_most("oracle_gap.p50_max", gap.p50_max, gap_of("p50_s", figures, oracle))
        at_most("oracle_gap.p99_max", gap.p99_max, gap_of("p99_s", figures, oracle))
        attempts = gap_of("attempts_per_message", figures, oracle)
        at_most("oracle_gap.attempts_max", gap.attempts_max, attempts)
    return tuple(found)


def delivered_share(figures: Mapping[str, Any], oracle: Oracle | None) -> float | None:
    """Return the share that arrived of what the oracle delivers, at most 1.

    >>> oracle = Oracle(85, 0.85, 0.1, 0.1, 0.1, 1.0, Bound(80, 0.8, 0.1, 0.1, 0.1, 1.0), 80)
    >>> delivered_share({"accepted": 100, "delivered": 72, "delivered_rate": 0.72}, oracle)
    0.9
    """
    if oracle is None or not oracle.expected:
        rate: float | None = figures["delivered_rate"]
        return rate
    could = min(oracle.expected, figures["accepted"] or 1)
    return min(1.0, float(figures["delivered"] / could))


def gap_of(name: str, figures: Mapping[str, Any], oracle: Oracle | None) -> float | None:
    """Return a figure as a factor of the oracle's; None if either is unknown."""
    bound = None if oracle is None else getattr(oracle, name)
    if not bound or figures[name] is None:
        return None
    return round(float(figures[name] / bound), 4)


def with_oracle(report: Report, expect: Expect, oracle: Oracle) -> Report:
    """Add the oracle's figures, and check the expectations that refer to them."""
    figures = {name: getattr(report, name) for name in report.__struct_fields__}
    expectations = expectations_of(expect, figures, oracle)
    return msgspec.structs.replace(report, oracle=oracle, expectations=expectations)


class LossBound(NamedTuple):
    """What the runs of one scenario and policy together prove about lost messages."""

    scenario: str
    policy: str
    seeds: int
    words: str
    """The losses and their upper bound, in words."""


def loss_bounds(reports: Iterable[Report]) -> Iterator[LossBound]:
    """Yield the bound of each scenario and policy that accepted messages."""
    groups: dict[tuple[str, str], list[Report]] = {}
    for report in reports:
        groups.setdefault((report.scenario, report.policy), []).append(report)
    for (scenario, policy), runs in groups.items():
        accepted = sum(report.accepted for report in runs)
        lost = accepted - sum(report.delivered for report in runs)
        if accepted:
            bound = 100 * failure_rate_max(lost, accepted)
            words = (
                f"{lost:,} of {accepted:,} messages not delivered (95 % upper bound: {bound:.2g} %)"
            )
            yield LossBound(scenario, policy, len(runs), words)


def failure_rate_max(failed: int, count: int, confidence: float = CONFIDENCE) -> float:
    """Return the upper confidence bound of a failure rate.

    One-sided and exact (Clopper and Pearson, 1934): at this rate, `failed` or fewer failures would
    be seen in one of twenty trials. Without a failure it is about 3 / count (the rule of three).

    >>> f"{failure_rate_max(0, 30_000):.6f}, {failure_rate_max(7, 200_000):.6f}"
    '0.000100, 0.000066'
    """
    if failed >= count:
        return 1.0
    low, high = failed / count, 1.0
    for _ in range(60):
        rate = (low + high) / 2
        if _at_most(failed, count, rate) > 1.0 - confidence:
            low = rate
        else:
            high = rate
    return high


def _at_most(failed: int, count: int, rate: float) -> float:
    """Return the probability of at most `failed` failures, at a rate above failed / count."""
    if rate >= 1:
        return 0.0
    highest = math.lgamma(count + 1) - math.lgamma(failed + 1) - math.lgamma(count - failed + 1)
    highest += failed * math.log(rate) + (count - failed) * math.log1p(-rate)
    total, term, number = 0.0, 0.0, failed
    while number >= 0 and term > -_FAR:
        total += math.exp(term)
        if number:
            term += math.log(number) - math.log(count - number + 1)
            term += math.log1p(-rate) - math.log(rate)
        number -= 1
    return total * math.exp(highest)
