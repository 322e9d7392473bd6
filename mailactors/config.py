"""The configuration: one TOML file, composed of the rooms' own settings, parsed once, frozen.

Every error names its key, and a key that does not exist names the nearest one that does. No room
imports this module: `wiring` hands each room its own part.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Self

import pydantic
import pydantic_settings
from pydantic import Field

from mailactors.dispatch.breaker import BreakerSettings
from mailactors.dispatch.limiter import Quota
from mailactors.dispatch.retry import Failover, Preference
from mailactors.errors import MailactorsError
from mailactors.observe.logs import LogSettings
from mailactors.providers.simulated import SimulatedSettings
from mailactors.providers.smtp import SmtpSettings

ENVIRONMENT_PREFIX: Final = "MAILACTORS_"


class ConfigError(MailactorsError):
    """The configuration is not usable. `problems` holds one line for each fault, key first."""

    def __init__(self, where: str, problems: list[str]) -> None:
        super().__init__("\n".join([f"{where}:", *(f"  {problem}" for problem in problems)]))
        self.problems = problems


class _Frozen(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class LaneSettings(_Frozen):
    """What every provider has beside its own settings."""

    concurrency_max: Annotated[int, Field(ge=1, le=1000)] = 32
    quota: Quota = Quota()
    breaker: BreakerSettings = BreakerSettings()


class SimulatedProviderSettings(SimulatedSettings, LaneSettings):
    """`[providers.X]` with kind = "simulated"."""


class SmtpProviderSettings(SmtpSettings, LaneSettings):
    """`[providers.X]` with kind = "smtp"."""


ProviderSettings = Annotated[
    SimulatedProviderSettings | SmtpProviderSettings, Field(discriminator="kind")
]


class StreamSettings(_Frozen):
    """`[streams.X]`: a class of mail. Without a route it uses every provider, in order."""

    route: tuple[str, ...] = ()
    failover: Failover = Failover.IMMEDIATE
    expires_after_s: Annotated[float, Field(gt=0)] = 48 * 3600.0
    """Published provider incidents have a median of 211 minutes and reach 40 hours."""
    on_uncertain: Preference = Preference.RESEND
    uncertain_wait_s: Annotated[float, Field(ge=0)] = 60.0
    share: Annotated[float, Field(gt=0)] = 1.0


class ServiceSettings(_Frozen):
    """`[service]`: the process itself."""

    listen: Annotated[str, Field(pattern=r"^(\[[0-9a-fA-F:]+\]|[^:]+):\d{1,5}$")] = "127.0.0.1:8025"
    spool: str = "mailactors.db"
    default_from: str = "mailactors@mail.example"
    """The sender of the short form, which has none."""
    drain_s: Annotated[float, Field(ge=0)] = 10.0
    """How long a stop waits for what is in flight."""


class IdempotencySettings(_Frozen):
    """`[idempotency]`: how long keys are remembered."""

    window_s: Annotated[float, Field(gt=0)] = 86400.0
    fingerprint_window_s: Annotated[float, Field(gt=0)] = 60.0


DEFAULT_STREAMS: Final = {
    "transactional": StreamSettings(share=4.0),
    "otp": StreamSettings(share=16.0, expires_after_s=600.0),
    "bulk": StreamSettings(share=1.0),
}

DEMO_PROVIDERS: Final[dict[str, ProviderSettings]] = {
    "primary": SimulatedProviderSettings(latency_s=0.15, error_rate=0.1),
    "secondary": SimulatedProviderSettings(latency_s=0.25, error_rate=0.05),
    "tertiary": SimulatedProviderSettings(latency_s=0.4, error_rate=0.02),
}
"""What serves without a configuration: three providers that fail a little and send nothing."""


class Config(pydantic_settings.BaseSettings):
    """The whole tree. Variables such as MAILACTORS_SERVICE__LISTEN win over the file."""

    model_config = pydantic_settings.SettingsConfigDict(
        env_prefix=ENVIRONMENT_PREFIX,
        env_nested_delimiter="__",
        frozen=True,
        extra="forbid",
        hide_input_in_errors=True,
    )

    service: ServiceSettings = ServiceSettings()
    log: LogSettings = LogSettings()
    idempotency: IdempotencySettings = IdempotencySettings()
    streams: Annotated[dict[str, StreamSettings], Field(min_length=1)] = DEFAULT_STREAMS
    providers: Annotated[dict[str, ProviderSettings], Field(min_length=1)] = DEMO_PROVIDERS

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[pydantic_settings.BaseSettings],
        init_settings: pydantic_settings.PydanticBaseSettingsSource,
        env_settings: pydantic_settings.PydanticBaseSettingsSource,
        dotenv_settings: pydantic_settings.PydanticBaseSettingsSource,
        file_secret_settings: pydantic_settings.PydanticBaseSettingsSource,
    ) -> tuple[pydantic_settings.PydanticBaseSettingsSource, ...]:
        """Let the environment win over the file, and read nothing else."""
        return env_settings, init_settings

    @pydantic.model_validator(mode="after")
    def _routes_exist(self) -> Self:
        for name, stream in self.streams.items():
            for provider in stream.route:
                if provider not in self.providers:
                    hint = nearest(provider, self.providers)
                    raise ValueError(f"streams.{name}.route: no provider {provider!r}{hint}")
        return self

    def route(self, stream: str) -> tuple[str, ...]:
        """Return a stream's providers in order."""
        return self.streams[stream].route or tuple(self.providers)


def load_config(path: str | None, service: Mapping[str, str] | None = None) -> Config:
    """Read a configuration file, or take the defaults.

    Args:
        path: a TOML file, or None.
        service: keys of `[service]` that win over the file's, such as a command line's.

    Raises: ConfigError, with every fault and its key.
    """
    where = path or "the environment"
    try:
        raw = {} if path is None else tomllib.loads(Path(path).read_text(encoding="utf-8"))
        if service:
            raw["service"] = {**raw.get("service", {}), **service}
        return Config(**raw)
    except OSError as error:
        raise ConfigError(where, [f"cannot be read: {error.strerror}"]) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(where, [f"is not TOML: {error}"]) from None
    except pydantic.ValidationError as error:
        raise ConfigError(where, list(problem_lines(error))) from None
    except pydantic_settings.SettingsError as error:
        raise ConfigError(where, [str(error)]) from None


def problem_lines(error: pydantic.ValidationError) -> Iterator[str]:
    """Yield each fault as `key: what is wrong`."""
    for fault in error.errors(include_url=False, include_input=False):
        location = [str(part) for part in fault["loc"]]
        if location[:1] == ["providers"]:
            del location[2:3]  # the union's tag, which is no key
        key = ".".join(location)
        if fault["type"] == "extra_forbidden":
            yield f"{key}: there is no such key{nearest(location[-1], _known_keys(location))}"
        elif fault["type"] == "union_tag_not_found":
            yield f"{key}.kind: is missing; it is one of {', '.join(_KINDS)}"
        elif fault["type"] == "union_tag_invalid":
            kind = fault["ctx"]["tag"]
            yield f"{key}.kind: there is no kind {kind!r}{nearest(kind, _KINDS)}"
        elif key:
            yield f"{key}: {fault['msg']}"
        else:
            yield fault["msg"].removeprefix("Value error, ")


_KINDS: Final = ["simulated", "smtp"]
_PLACES: Final[dict[str, type[pydantic.BaseModel]]] = {
    "service": ServiceSettings,
    "log": LogSettings,
    "idempotency": IdempotencySettings,
    "streams": StreamSettings,
    "quota": Quota,
    "breaker": BreakerSettings,
}


def nearest(name: str, known: Mapping[str, object] | list[str]) -> str:
    """Return a hint that names the nearest known name, or nothing."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""


def _known_keys(location: list[str]) -> list[str]:
    """Return the keys that are known beside the last part of a location."""
    if location[0] == "providers" and len(location) == 3:
        kinds: list[type[pydantic.BaseModel]] = [SimulatedProviderSettings, SmtpProviderSettings]
        return [key for kind in kinds for key in kind.model_fields]
    model: type[pydantic.BaseModel] = Config
    for part in location[:-1]:
        model = _PLACES.get(part, model)
    return list(model.model_fields)


def effective(config: Config) -> dict[str, Any]:
    """Return the whole configuration as plain values, secrets masked."""
    return config.model_dump(mode="json")
