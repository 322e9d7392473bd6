"""The tree of the configuration, composed of the rooms' own settings, frozen.

No room imports this module: `wiring` hands each room its own part.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Final, Self

import pydantic
import pydantic_settings
from pydantic import Field

from mailactors.api.names import host_of, is_loopback
from mailactors.dispatch.lanes import LaneSettings
from mailactors.dispatch.retry import SPILL_AFTER_S, Failover, Preference
from mailactors.errors import MailactorsError
from mailactors.intake.admission import normal_address
from mailactors.observe.logs import LogSettings
from mailactors.providers.simulated import SimulatedSettings
from mailactors.providers.smtp import SmtpSettings

ENVIRONMENT_PREFIX: Final = "MAILACTORS_"
ENVIRONMENT_DELIMITER: Final = "__"
PORT_MAX: Final = 65535
_LISTEN: Final = re.compile(r"(?:\[[0-9a-fA-F:]+\]|[^:\s]+):(?P<port>\d{1,5})", re.ASCII)


class ConfigError(MailactorsError):
    """The configuration is not usable. `problems` holds one line for each fault, key first."""

    def __init__(self, where: str, problems: list[str]) -> None:
        super().__init__("\n".join([f"{where}:", *(f"  {problem}" for problem in problems)]))
        self.problems = problems


class _Frozen(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(
        frozen=True, extra="forbid", hide_input_in_errors=True, allow_inf_nan=False
    )


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
    spill_after_s: Annotated[float, Field(ge=0)] = SPILL_AFTER_S
    """How long a message waits for a permit or a slot of its preferred provider, if that one is
    well, before the next one takes it. Without it, a stream named `otp` does not wait."""
    share: Annotated[float, Field(gt=0)] = 1.0


class ServiceSettings(_Frozen):
    """`[service]`: the process itself."""

    insecure: bool = False
    """Listen beyond loopback although there are no keys: whoever can connect can send."""
    listen: str = "127.0.0.1:8625"
    names: tuple[str, ...] = ()
    """Host names by which clients and proxies call the gateway, beside its address."""
    spool: str = "mailactors.db"
    default_from: str = "mailactors@mail.example"
    """The sender of the short form, which has none."""
    drain_s: Annotated[float, Field(ge=0)] = 10.0
    """How long a stop waits for attempts in flight."""
    per_minute: Annotated[int, Field(gt=0)] | None = None
    """Messages that the whole service accepts a minute."""
    backlog_max: Annotated[int, Field(gt=0)] = 1_000_000
    """Pending deliveries beyond which new messages are refused."""
    tls_cert: str | None = None
    """PEM file with the certificate and its chain; with `tls_key` the API speaks HTTPS."""
    tls_key: str | None = None

    @pydantic.field_validator("listen")
    @classmethod
    def _is_host_and_port(cls, listen: str, info: pydantic.ValidationInfo) -> str:
        found = _LISTEN.fullmatch(listen)
        if found is None or int(found["port"]) > PORT_MAX:
            raise ValueError("is HOST:PORT, such as 127.0.0.1:8625 or [::1]:8625")
        if not info.data.get("insecure") and not is_loopback(host_of(listen) or ""):
            raise ValueError(
                f"{listen} is open to other machines, and whoever can connect can send, for there"
                " are no keys; if a firewall or a proxy keeps strangers out, set insecure = true"
            )
        return listen

    @pydantic.field_validator("names")
    @classmethod
    def _are_hosts(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if host_of(name) is None:
                raise ValueError(f"{name!r} is no HOST or HOST:PORT, such as mail.example.com")
        return tuple(name.lower() for name in names)

    @pydantic.field_validator("default_from")
    @classmethod
    def _is_an_address(cls, default_from: str) -> str:
        normal_address(default_from)
        return default_from

    @pydantic.model_validator(mode="after")
    def _has_both_halves(self) -> Self:
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("tls_cert and tls_key go together")
        return self


class RetentionSettings(_Frozen):
    """`[retention]`: when finished messages are deleted."""

    final_after_s: Annotated[float, Field(gt=0)] = 30 * 86400.0
    """Messages that have been final for longer are deleted."""
    bodies_after_s: Annotated[float, Field(gt=0)] = 3 * 86400.0
    """Their bodies are deleted earlier: they are most of the space, and confidential."""


class IdempotencySettings(_Frozen):
    """`[idempotency]`: how long keys are remembered."""

    window_s: Annotated[float, Field(gt=0)] = 86400.0
    fingerprint_window_s: Annotated[float, Field(gt=0)] = 60.0


DEFAULT_STREAMS: Final = {
    "transactional": StreamSettings(share=4.0),
    "otp": StreamSettings(share=16.0, expires_after_s=600.0, spill_after_s=0.0),
    "bulk": StreamSettings(share=1.0),
}

DEMO_PROVIDERS: Final[dict[str, ProviderSettings]] = {
    "primary": SimulatedProviderSettings(latency_s=0.15, error_rate=0.1),
    "secondary": SimulatedProviderSettings(latency_s=0.25, error_rate=0.05),
    "tertiary": SimulatedProviderSettings(latency_s=0.4, error_rate=0.02),
}
"""The providers without a configuration: three that fail at times and send nothing."""


class Config(pydantic_settings.BaseSettings):
    """The whole tree. `load_config` lets the environment win over the file."""

    model_config = pydantic_settings.SettingsConfigDict(
        env_prefix=ENVIRONMENT_PREFIX,
        env_nested_delimiter=ENVIRONMENT_DELIMITER,
        frozen=True,
        extra="forbid",
        hide_input_in_errors=True,
    )

    service: ServiceSettings = ServiceSettings()
    log: LogSettings = LogSettings()
    idempotency: IdempotencySettings = IdempotencySettings()
    retention: RetentionSettings = RetentionSettings()
    streams: Annotated[dict[str, StreamSettings], Field(min_length=1)] = DEFAULT_STREAMS
    providers: Annotated[dict[str, ProviderSettings], Field(min_length=1)] = DEMO_PROVIDERS

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[pydantic_settings.BaseSettings],
        init_settings: pydantic_settings.PydanticBaseSettingsSource,
        *_: Any,
        **__: Any,
    ) -> tuple[pydantic_settings.PydanticBaseSettingsSource, ...]:
        """Read the arguments only: the environment must not change a test or a simulation."""
        return (init_settings,)

    @pydantic.field_validator("streams", mode="before")
    @classmethod
    def _otp_does_not_wait(cls, streams: Any) -> Any:
        if isinstance(streams, dict) and isinstance(otp := streams.get("otp"), dict):
            return streams | {"otp": {"spill_after_s": 0.0, **otp}}
        return streams

    @pydantic.model_validator(mode="after")
    def _routes_exist(self) -> Self:
        faults = [
            f"streams.{name}.route: {fault}"
            for name, stream in self.streams.items()
            for fault in _faults_of_route(stream.route, self.providers)
        ]
        if faults:
            raise ValueError("\n".join(faults))
        return self

    def route(self, stream: str) -> tuple[str, ...]:
        """Return a stream's providers in order."""
        return self.streams[stream].route or tuple(self.providers)


def _faults_of_route(route: tuple[str, ...], providers: Mapping[str, object]) -> Iterator[str]:
    for name in dict.fromkeys(route):
        if name not in providers:
            yield f"no provider {name!r}{nearest(name, providers)}"
    if len(set(route)) < len(route):
        yield "names a provider twice"


def nearest(name: str, known: Mapping[str, object] | list[str]) -> str:
    """Return a hint with the nearest known name, or an empty text."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""
