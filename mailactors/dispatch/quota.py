"""What a provider allows, as configured."""

from __future__ import annotations

from typing import Final

import pydantic

BURST_MAX: Final = 10_000
"""Permits of a burst, whose times are remembered so that one can be given back."""


class Quota(pydantic.BaseModel):
    """What a provider allows; absent: unlimited."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    per_s: float | None = pydantic.Field(default=None, gt=0)
    burst: int | None = pydantic.Field(default=None, gt=0, le=BURST_MAX)
    """Permits of `per_s` that an idle limiter gives at once; None for a second's worth."""
    per_minute: int | None = pydantic.Field(default=None, gt=0)
    per_hour: int | None = pydantic.Field(default=None, gt=0)
    per_day: int | None = pydantic.Field(default=None, gt=0)

    @property
    def burst_count(self) -> int:
        """The burst, at least one.

        >>> [Quota(per_s=per_s).burst_count for per_s in (50.0, 2.5, 0.2)]
        [50, 2, 1]
        """
        return self.burst or max(1, min(BURST_MAX, int(self.per_s or 1.0)))
