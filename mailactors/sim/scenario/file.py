"""A scenario: a TOML file that says what happens and what must hold.

It is read once, checked strictly, and frozen. Every error names the file, the key, its line where
it can be found, and the nearest key that exists (`sim/scenario/problems.py`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Self

import pydantic
from pydantic import Field

from mailactors.config import (
    Config,
    ConfigError,
    load_config,
    merge,
    nearest,
    parse_toml,
    problem_lines,
)
from mailactors.dispatch.lanes import LaneSettings
from mailactors.sim.scenario.faults import Auth, Duration, Fault, Frozen, ProviderFault
from mailactors.sim.scenario.incidents import ClockFault, Crash, Operation, ProcessPause, SpoolFault
from mailactors.sim.scenario.problems import problems_of
from mailactors.sim.scenario.tables import Expect, ProviderPlan, Traffic, overlaps

FILE_BYTES_MAX: Final = 1_000_000
MESSAGES_MAX: Final = 20_000_000
"""Of one run; more would take hours and more memory than there is."""
CRASHES_MAX: Final = 100_000
ATTEMPT_S: Final = 120.0
"""Added to the default horizon: the last attempt may begin at the deadline."""
SUBMIT_S: Final = 300.0
"""Added to it as well: a client that is asked to retry is accepted later than it submits."""
SMTP_ATTEMPT_S: Final = 900.0
"""The same for a provider on an SMTP wire, whose client waits ten minutes for an answer."""
SMTP_PORT: Final = 2525
"""The port of providers on an SMTP wire, which a configuration needs and the connector ignores."""


class ScenarioError(ConfigError):
    """The scenario is not usable. `problems` holds one line for each fault, key first."""


SharedFault = Annotated[Fault | SpoolFault | ClockFault | ProcessPause, Field(discriminator="kind")]


class Scenario(Frozen):
    """A scenario file: a story, traffic, what goes wrong, and what must hold."""

    story: Annotated[str, Field(min_length=1)]
    """What happens, and what must hold, in words."""
    seed: Annotated[int, Field(strict=True)] = 1
    """All chance of the run."""
    duration_s: Duration
    """How long clients submit, in seconds."""
    horizon_s: Duration | None = None
    """When the run ends at the latest; without it, one attempt after the longest deadline."""
    config: dict[str, Any] = Field(default={})
    """Keys of the gateway's configuration, merged over it."""
    traffic: Traffic
    """What clients submit."""
    providers: Annotated[dict[str, ProviderPlan], Field(min_length=1)]
    """By name, as in the gateway's configuration."""
    faults: tuple[SharedFault, ...] = ()
    """Faults that several providers share, and the gateway's own: disk, clock, pauses."""
    crashes: tuple[Crash, ...] = ()
    """Crashes of actors and of the process."""
    operations: tuple[Operation, ...] = ()
    """What a person does."""
    expect: Expect = Expect()
    """What must hold at the end."""

    @pydantic.model_validator(mode="after")
    def _fits_together(self) -> Self:
        problems = [
            *self._size_problems(),
            *self._name_problems(),
            *self._time_problems(),
            *overlaps("faults", self.spool_faults, "spool faults"),
            *overlaps("faults", self.pauses, "pauses"),
        ]
        if problems:
            raise ValueError("\n".join(problems))
        return self

    @property
    def messages_expected(self) -> float:
        """About how many messages clients will submit."""
        traffic, end_s = self.traffic, self.duration_s
        rate = traffic.rate_per_s
        if traffic.diurnal is not None:
            rate = (traffic.diurnal.low_per_s + rate) / 2
        found = rate * end_s
        for burst in traffic.bursts:
            for_s = max(0.0, min(burst.end_s, end_s) - burst.at_s)
            found += (burst.rate_per_s - rate) * for_s
        return max(1.0, found)

    def _size_problems(self) -> Iterator[str]:
        expected, poison = self.messages_expected, self.traffic.poison
        if expected > MESSAGES_MAX:
            yield (
                f"traffic.rate_per_s: would be some {expected:,.0f} messages in all;"
                f" at most {MESSAGES_MAX:,} can be simulated"
            )
        if poison is not None and poison.count > expected:
            yield f"traffic.poison.count: is more than all messages, some {expected:,.0f}"
        for index, crash in enumerate(self.crashes):
            end_s = self.duration_s if crash.until_s is None else crash.until_s
            if crash.every_s is not None and end_s / crash.every_s > CRASHES_MAX:
                yield f"crashes.{index}.every_s: would be more than {CRASHES_MAX:,} crashes"

    def _name_problems(self) -> Iterator[str]:
        for index, fault in enumerate(self.faults):
            if isinstance(fault, ProviderFault):
                if not fault.providers:
                    yield f"faults.{index}.providers: is missing: whom does it concern?"
                yield from self._unknown(f"faults.{index}.providers", fault.providers)
        yield from self._unknown("expect.peak_attempts_per_s", self.expect.peak_attempts_per_s)
        yield from self._no_mail("expect.p99_s_by_domain", self.expect.p99_s_by_domain)
        for key, fault in _timed(self):
            if domain := getattr(fault, "domain", None):
                yield from self._no_mail(f"{key}.domain", [domain])
        for name, plan in self.providers.items():
            for index, own in enumerate(plan.faults):
                if own.providers:
                    key = f"providers.{name}.faults.{index}.providers"
                    yield f"{key}: belongs to [[faults]] only"
        for index, crash in enumerate(self.crashes):
            if crash.lane:
                yield from self._unknown(f"crashes.{index}.what", [crash.lane])
        for index, operation in enumerate(self.operations):
            if operation.provider:
                yield from self._unknown(f"operations.{index}.what", [operation.provider])

    def _unknown(self, key: str, names: Iterable[str]) -> Iterator[str]:
        for name, hint in _strange(names, self.providers):
            yield f"{key}: there is no provider {name!r} in this file{hint}"

    def _no_mail(self, key: str, domains: Iterable[str]) -> Iterator[str]:
        for domain, hint in _strange(domains, self.traffic.recipient_domains):
            yield f"{key}: no mail goes to {domain!r}{hint}"

    def _time_problems(self) -> Iterator[str]:
        if self.horizon_s is not None:
            if self.horizon_s < self.duration_s:
                yield "horizon_s: ends before the traffic does (duration_s)"
            yield from too_late(self, self.horizon_s)
        for burst_index, burst in enumerate(self.traffic.bursts):
            if burst.at_s >= self.duration_s:
                yield f"traffic.bursts.{burst_index}.at_s: begins after the traffic (duration_s)"
        for key, fault in _timed(self):
            is_waiting = isinstance(fault, Auth) and fault.until == "reload"
            if is_waiting and self._reload_at_s(fault) is None:
                yield f"{key}.until: waits for a reload, but no operation reloads after it"

    def _reload_at_s(self, fault: Auth) -> float | None:
        reloads = (each.at_s for each in self.operations if each.what == "reload")
        return min((at_s for at_s in reloads if at_s > fault.at_s), default=None)

    def timeline(self, provider: str) -> tuple[ProviderFault, ...]:
        """Return a provider's faults, including those that it shares with others.

        A fault that lasts until a reload ends with the first reload that is planned after it.
        """
        shared = [
            f for f in self.faults if isinstance(f, ProviderFault) and provider in f.providers
        ]
        return tuple(map(self._planned, (*self.providers[provider].faults, *shared)))

    def _planned(self, fault: ProviderFault) -> ProviderFault:
        if not isinstance(fault, Auth) or fault.until == "end":
            return fault
        reload_at_s = self._reload_at_s(fault)
        assert reload_at_s is not None
        return fault.model_copy(update={"for_s": reload_at_s - fault.at_s})

    @property
    def spool_faults(self) -> tuple[SpoolFault, ...]:
        """The faults of the spool's disk."""
        return tuple(each for each in self.faults if isinstance(each, SpoolFault))

    @property
    def clock_faults(self) -> tuple[ClockFault, ...]:
        """The faults of the gateway's wall clock."""
        return tuple(each for each in self.faults if isinstance(each, ClockFault))

    @property
    def pauses(self) -> tuple[ProcessPause, ...]:
        """When the gateway's process is suspended."""
        return tuple(each for each in self.faults if isinstance(each, ProcessPause))

    @property
    def locks_spool_file(self) -> bool:
        """Whether another process locks the spool's file, so that its writer gives up."""
        return any(fault.what == "busy" for fault in self.spool_faults)

    @property
    def crashes_actors(self) -> bool:
        """Whether the scenario makes actors crash."""
        crashes = any(crash.actor is not None for crash in self.crashes)
        return crashes or self.traffic.poison is not None or self.locks_spool_file

    @property
    def fault_ends_s(self) -> list[float]:
        """When each fault ends, crashes included, earliest first."""
        ends_s = [fault.end_s for name in self.providers for fault in self.timeline(name)]
        ends_s += [each.end_s for each in self.faults if not isinstance(each, ProviderFault)]
        for crash in self.crashes:
            end_s = self.duration_s if crash.until_s is None else crash.until_s
            ends_s.append(crash.at_s if crash.every_s is None else max(crash.at_s, end_s))
        return sorted(ends_s)


def _strange(names: Iterable[str], known: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    """Yield each unknown name, and a hint at the nearest known one."""
    return ((name, nearest(name, known)) for name in names if name not in known)


def _timed(scenario: Scenario) -> Iterator[tuple[str, Any]]:
    """Yield each fault, crash and operation with its key."""
    for name, plan in scenario.providers.items():
        for index, fault in enumerate(plan.faults):
            yield f"providers.{name}.faults.{index}", fault
    for table in ("faults", "crashes", "operations"):
        for index, each in enumerate(getattr(scenario, table)):
            yield f"{table}.{index}", each


def too_late(scenario: Scenario, end_s: float) -> Iterator[str]:
    """Yield a line for each fault, crash and operation that would begin after the run's end."""
    for key, each in _timed(scenario):
        if each.at_s >= end_s:
            yield f"{key}.at_s: is after the end of the run, {end_s:g} s"


def scenario_schema() -> dict[str, Any]:
    """Return the JSON schema (2020-12) of a scenario file."""
    schema = Scenario.model_json_schema()
    return {"$schema": pydantic.json_schema.GenerateJsonSchema.schema_dialect, **schema}


def load_scenario(path: str) -> Scenario:
    """Read a scenario. Raises: ScenarioError, with every error and its key."""
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
    raw = parse_toml(where, text, ScenarioError)
    try:
        return Scenario.model_validate(raw)
    except pydantic.ValidationError as error:
        raise ScenarioError(where, problems_of(error, text, Scenario)) from None


def gateway_config(where: str, scenario: Scenario, path: str | None) -> Config:
    """Return the policy under test: the file's, or the default one, with the scenario's overrides.

    A provider on an SMTP wire is of the kind `smtp` whatever the file says, at a simulated host.

    Raises: ConfigError for a bad configuration, ScenarioError where the two do not fit together.
    """
    plain = {"providers": {name: {"kind": "simulated"} for name in scenario.providers}}
    below: dict[str, Any] = plain if path is None else load_config(path).model_dump()
    below["providers"] = {
        name: _on_smtp(name, settings) if _is_on_smtp(scenario, name) else settings
        for name, settings in below["providers"].items()
    }
    above = merge(scenario.config, {"service": {"spool": ":memory:"}})
    try:
        config = Config.model_validate(merge(below, above))
    except pydantic.ValidationError as error:
        problems = [f"config.{line}" for line in problem_lines(error)]
        raise ScenarioError(where, problems) from None
    problems = list(_mismatches(scenario, config))
    if problems:
        raise ScenarioError(where, problems)
    return config


def _is_on_smtp(scenario: Scenario, name: str) -> bool:
    return name in scenario.providers and scenario.providers[name].wire == "smtp"


def _on_smtp(name: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Return a provider's settings for the simulated wire: those of its lane and its client stay,
    but there is no encryption and no login."""
    kept = {} if settings["kind"] != "smtp" else settings
    lane = {key: settings[key] for key in LaneSettings.model_fields if key in settings}
    wire = {"kind": "smtp", "host": f"{name}.smtp.example", "port": SMTP_PORT, "tls": "none"}
    unused = dict.fromkeys(("ca_file", "username", "password", "token_command"))
    return {**kept, **lane, **wire, **unused, "auth": ()}


def _mismatches(scenario: Scenario, config: Config) -> Iterator[str]:
    """Yield the contradictions between the scenario and the gateway's configuration."""
    described, streams = scenario.providers, scenario.traffic.streams
    for name, hint in _strange(config.providers, described):
        yield f"providers.{name}: is missing, but the gateway's configuration has it{hint}"
    for name, hint in _strange(described, config.providers):
        yield f"providers.{name}: the gateway's configuration has no such provider{hint}"
    for name, hint in _strange(streams, config.streams):
        yield f"traffic.streams.{name}: there is no such stream{hint}"
    if scenario.horizon_s is None:
        yield from too_late(scenario, horizon_s(scenario, config))


def horizon_s(scenario: Scenario, config: Config) -> float:
    """Return when a run ends at the latest."""
    if scenario.horizon_s is not None:
        return scenario.horizon_s
    deadlines = [stream.expires_after_s for stream in config.streams.values()]
    is_smtp = any(plan.wire == "smtp" for plan in scenario.providers.values())
    attempt_s = SMTP_ATTEMPT_S if is_smtp else ATTEMPT_S
    latest_s = scenario.duration_s + SUBMIT_S + max(deadlines) + attempt_s
    for fault in scenario.clock_faults:  # deadlines follow the wall clock
        latest_s += max(0.0, -(fault.step_s or 0.0))
        drift_per_s = min(0.0, fault.drift_per_s or 0.0)
        if fault.for_s is None:
            latest_s /= 1.0 + drift_per_s
        else:
            latest_s -= drift_per_s * fault.for_s
    return latest_s
