"""The settings of a lane's breaker, and for how long it opens."""

from __future__ import annotations

from typing import Final

import pydantic

SLOW_PROBE_FACTOR: Final = 4.0
SLOW_OPEN_CAPS: Final = 4.0
"""A probe that is not answered in time delays a message. The breaker then stays open for
`SLOW_PROBE_FACTOR` times its duration, doubled with each relapse, up to `SLOW_OPEN_CAPS` times the
usual cap."""
JITTER: Final = 0.2
"""Open times vary by ± this share, so that many gateways do not probe in step."""


class BreakerSettings(pydantic.BaseModel):
    """When a provider counts as failing, and how it is tried again."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    window_s: float = pydantic.Field(default=30.0, gt=0)
    calls_min: int = pydantic.Field(default=20, ge=1)
    failure_rate: float = pydantic.Field(default=0.5, gt=0, le=1)
    slow_call_s: float = pydantic.Field(default=8.0, gt=0)
    open_s: float = pydantic.Field(default=5.0, gt=0)
    open_cap_s: float = pydantic.Field(default=60.0, gt=0)
    probes: int = pydantic.Field(default=3, ge=1)


def open_time_s(
    settings: BreakerSettings, opened_count: int, draw: float, probe_s: float = 0.0
) -> float:
    """Return how long the breaker stays open for the n-th time in a row, `draw` in [0, 1).

    `probe_s` is how long the probe took that found the provider still failing.

    >>> [open_time_s(BreakerSettings(), n, 0.5) for n in (1, 2, 4, 5, 50)]
    [5.0, 10.0, 40.0, 60.0, 60.0]
    >>> [open_time_s(BreakerSettings(), n, 0.5, probe_s=8.0) for n in (2, 3, 4, 50)]
    [64.0, 128.0, 240.0, 240.0]
    """
    doubled = 2.0 ** min(opened_count - 1, 32)
    plain_s = min(settings.open_cap_s, settings.open_s * doubled)
    if probe_s >= settings.slow_call_s:
        slow_s = SLOW_PROBE_FACTOR * probe_s * doubled
        plain_s = max(plain_s, min(SLOW_OPEN_CAPS * settings.open_cap_s, slow_s))
    return plain_s * (1.0 - JITTER + 2.0 * JITTER * draw)
