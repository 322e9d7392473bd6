"""A scenario: a TOML file that says what happens and what must hold.

Read once, checked strictly, frozen. Every fault of a file is told with the file, the key, the line
where it can be found, and the nearest key that exists.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Final, Self

import pydantic
import pydantic_core
from pydantic import Field

from mailactors.config import Config, ConfigError, load_config, merge, nearest, problem_lines
from mailactors.sim.faults import KINDS, Count, Duration, Fault, Frozen, Seconds, Share, Timed

FILE_BYTES_MAX: Final = 1_000_000
ATTEMPT_S: Final = 120.0
"""Added to the default horizon: the last attempt may begin at the deadline."""


class ScenarioError(ConfigError):
    """The scenario is not usable. `problems` holds one line for each fault, key first."""


class Burst(Frozen):
    """For this long the rate is another one."""

    at_s: Seconds
    for_s: Duration
    rate_per_s: Seconds


class Traffic(Frozen):
    """What clients submit."""

    rate_per_s: Duration
    bursts: tuple[Burst, ...] = ()
    streams: dict[str, Duration] = Field(default={})
    recipient_domains: dict[str, Duration] = Field(default={"example.com": 1.0}, min_length=1)
    duplicate_submissions: Share = 0.0

    @pydantic.model_validator(mode="after")
    def _bursts_are_apart(self) -> Self:
        ordered = sorted(self.bursts, key=lambda burst: burst.at_s)
        for first, second in pairwise(ordered):
            if first.at_s + first.for_s > second.at_s:
                raise ValueError(f"bursts: those at {first.at_s:g} and {second.at_s:g} s overlap")
        return self


class Latency(Frozen):
    """Log-normal: the median, and the deviation of its logarithm."""

    median: Duration = 0.15
    sigma: Annotated[float, Field(ge=0, le=3)] = 0.4


class VendorQuota(Frozen):
    """What the vendor enforces with a 429, and never told the gateway. Absent: no limit."""

    per_s: Count | None = None
    per_minute: Count | None = None
    per_hour: Count | None = None
    per_day: Count | None = None


class ProviderPlan(Frozen):
    """`[providers.X]`: how a provider behaves, and what goes wrong with it."""

    latency_s: Latency = Latency()
    quota: VendorQuota = VendorQuota()
    faults: tuple[Fault, ...] = ()


class Within(Frozen):
    """Submission to acceptance by a provider."""

    p50_s: Duration | None = None
    p99_s: Duration | None = None


class Expect(Frozen):
    """What must hold at the end. What is absent is not asked."""

    delivered_min: Share | None = None
    within: Within = Within()
    duplicates_max: Annotated[int, Field(ge=0)] | None = None
    undeclared_duplicates_max: Annotated[int, Field(ge=0)] | None = 0
    attempts_per_message_max: Duration | None = None
    peak_attempts_per_s: dict[str, Duration] = Field(default={})
    recovery_s_max: Seconds | None = None


class Scenario(Frozen):
    """The whole file."""

    story: Annotated[str, Field(min_length=1)]
    seed: int = 1
    duration_s: Duration
    horizon_s: Duration | None = None
    config: dict[str, Any] = Field(default={})
    traffic: Traffic
    providers: Annotated[dict[str, ProviderPlan], Field(min_length=1)]
    faults: tuple[Fault, ...] = ()
    expect: Expect = Expect()

    @pydantic.model_validator(mode="after")
    def _names_exist(self) -> Self:
        for index, fault in enumerate(self.faults):
            if not fault.providers:
                raise ValueError(f"faults.{index}.providers: is missing: whom does it concern?")
            self._check_providers(f"faults.{index}.providers", fault.providers)
        self._check_providers("expect.peak_attempts_per_s", self.expect.peak_attempts_per_s)
        for name, plan in self.providers.items():
            if any(fault.providers for fault in plan.faults):
                raise ValueError(f"providers.{name}.faults: `providers` belongs to [[faults]] only")
        if self.horizon_s is not None and self.horizon_s < self.duration_s:
            raise ValueError("horizon_s: ends before the traffic does (duration_s)")
        return self

    def _check_providers(self, key: str, names: Any) -> None:
        for name in names:
            if name not in self.providers:
                hint = nearest(name, self.providers)
                raise ValueError(f"{key}: there is no provider {name!r} in this file{hint}")

    def timeline(self, provider: str) -> tuple[Timed, ...]:
        """Return a provider's faults, those that it shares with others included."""
        shared = [fault for fault in self.faults if provider in fault.providers]
        return (*self.providers[provider].faults, *shared)

    @property
    def last_fault_end_s(self) -> float | None:
        """When the last fault is over; None without any."""
        return max((f.end_s for name in self.providers for f in self.timeline(name)), default=None)


def load_scenario(path: str) -> Scenario:
    """Read a scenario.

    Raises: ScenarioError, with every fault and its key.
    """
    try:
        if Path(path).stat().st_size > FILE_BYTES_MAX:
            raise ScenarioError(path, [f"is larger than {FILE_BYTES_MAX:,} bytes: is it the file?"])
        text = Path(path).read_text(encoding="utf-8")
        return parse_scenario(path, text)
    except OSError as error:
        raise ScenarioError(path, [f"cannot be read: {error.strerror}"]) from None
    except UnicodeDecodeError as error:
        raise ScenarioError(path, [f"is not TOML: {error}"]) from None


def parse_scenario(where: str, text: str) -> Scenario:
    """Return the scenario of a text. Raises: ScenarioError."""
    try:
        return Scenario.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise ScenarioError(where, [f"is not TOML: {error}"]) from None
    except pydantic.ValidationError as error:
        faults = error.errors(include_url=False)
        raise ScenarioError(where, [_problem(fault, text) for fault in faults]) from None


def _problem(fault: pydantic_core.ErrorDetails, text: str) -> str:
    """Return a fault as `key: what is wrong`, with the line if the key's name is found once."""
    location = list(fault["loc"])
    known = list(_known_keys(location))
    plain = [str(part) for part in location if part not in KINDS]
    key = ".".join(plain)
    if fault["type"] == "extra_forbidden":
        words = f"there is no such key{nearest(plain[-1], known)}"
    elif fault["type"] == "union_tag_invalid":
        tag = fault["ctx"]["tag"]
        words = f"there is no fault kind {tag!r}{nearest(tag, list(KINDS))}"
    elif fault["type"] == "union_tag_not_found":
        words = f"has no kind; it is one of {', '.join(KINDS)}"
    else:
        words = fault["msg"].removeprefix("Value error, ")
    found = [
        number
        for number, line in enumerate(text.splitlines(), 1)
        if plain and re.search(rf"(?<![\w-]){re.escape(plain[-1])}(?![\w-])", line)
    ]
    line = f" (line {found[0]})" if len(found) == 1 else ""
    return f"{key}{line}: {words}" if key else words


_TABLES: Final[dict[str, type[pydantic.BaseModel]]] = {
    "": Scenario,
    "traffic": Traffic,
    "traffic.bursts": Burst,
    "providers": ProviderPlan,
    "providers.latency_s": Latency,
    "providers.quota": VendorQuota,
    "expect": Expect,
    "expect.within": Within,
}


def _known_keys(location: list[int | str]) -> Iterator[str]:
    """Yield the keys that are known beside the last part of a location."""
    table = location[:-1]
    if "faults" in table and isinstance(table[-1], str) and table[-1] in KINDS:
        yield from (*KINDS[table[-1]].model_fields,)
        return
    if table[:1] == ["providers"]:
        del table[1:2]
    model = _TABLES.get(".".join(str(part) for part in table if isinstance(part, str)))
    yield from model.model_fields if model else ()


def gateway_config(where: str, scenario: Scenario, path: str | None) -> Config:
    """Return the policy under test: the file's, or the default one, with the scenario's overrides.

    Raises: ConfigError for a bad configuration, ScenarioError where the two do not fit together.
    """
    if path is None:
        below: dict[str, Any] = {
            "providers": {n: {"kind": "simulated"} for n in scenario.providers}
        }
    else:
        below = load_config(path).model_dump()
    above = merge(scenario.config, {"service": {"spool": ":memory:"}})
    try:
        config = Config.model_validate(merge(below, above))
    except pydantic.ValidationError as error:
        problems = [f"config.{line}" for line in problem_lines(error)]
        raise ScenarioError(where, problems) from None
    problems = list(_misfits(scenario, config))
    if problems:
        raise ScenarioError(where, problems)
    return config


def _misfits(scenario: Scenario, config: Config) -> Iterator[str]:
    """Yield what the scenario and the gateway's configuration do not agree about."""
    described, streams = scenario.providers, scenario.traffic.streams
    for name in config.providers:
        if name not in described:
            hint = nearest(name, described)
            yield f"providers.{name}: is missing, but the gateway's configuration has it{hint}"
    for name in described:
        if name not in config.providers:
            hint = nearest(name, config.providers)
            yield f"providers.{name}: the gateway's configuration has no such provider{hint}"
    for name in streams:
        if name not in config.streams:
            hint = nearest(name, config.streams)
            yield f"traffic.streams.{name}: there is no such stream{hint}"


def horizon_s(scenario: Scenario, config: Config) -> float:
    """Return when a run ends at the latest."""
    if scenario.horizon_s is not None:
        return scenario.horizon_s
    deadlines = [stream.expires_after_s for stream in config.streams.values()]
    return scenario.duration_s + max(deadlines) + ATTEMPT_S
