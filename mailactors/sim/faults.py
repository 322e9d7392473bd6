"""What may go wrong with a provider, and when: the kinds of fault that a scenario may name."""

from __future__ import annotations

from typing import Annotated, Final, Literal

import pydantic
from pydantic import Field

Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Duration = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(gt=0)]


class Frozen(pydantic.BaseModel):
    """A table of a scenario: nothing unknown in it, and it does not change."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")


class Timed(Frozen):
    """A fault lasts from `at_s` for `for_s`. `providers` is for `[[faults]]` at the top."""

    at_s: Seconds
    for_s: Duration
    providers: tuple[str, ...] = ()

    @property
    def end_s(self) -> float:
        """When it is over."""
        return self.at_s + self.for_s

    def is_on(self, now_s: float) -> bool:
        """Whether it is going on; the end does not belong to it."""
        return self.at_s <= now_s < self.end_s


class Refuse(Timed):
    """The provider refuses the connection."""

    kind: Literal["refuse"]


class Errors(Timed):
    """It answers a share of messages with an error."""

    kind: Literal["errors"]
    rate: Share
    code: Annotated[int, Field(ge=400, le=599)] = 503


class Slow(Timed):
    """It answers late, correctly."""

    kind: Literal["slow"]
    latency_s: Duration


class Stall(Timed):
    """It takes a share of messages and delivers them, but never answers."""

    kind: Literal["stall"]
    rate: Share


class Ambiguous(Timed):
    """It drops the connection after a share of bodies; of those `accepted` did go out."""

    kind: Literal["ambiguous"]
    rate: Share
    accepted: Share


class Throttle(Timed):
    """It lowers its quota, and says with its 429 when to come back."""

    kind: Literal["throttle"]
    per_s: Count
    retry_after_s: Duration = 1.0


class Flap(Timed):
    """It is down for the first `duty` of each period, and up for the rest."""

    kind: Literal["flap"]
    period_s: Duration
    duty: Share

    def is_down(self, now_s: float) -> bool:
        """Whether connections are refused now."""
        return self.is_on(now_s) and (now_s - self.at_s) % self.period_s < self.duty * self.period_s


Fault = Annotated[
    Refuse | Errors | Slow | Stall | Ambiguous | Throttle | Flap, Field(discriminator="kind")
]
KINDS: Final[dict[str, type[Timed]]] = {
    "refuse": Refuse,
    "errors": Errors,
    "slow": Slow,
    "stall": Stall,
    "ambiguous": Ambiguous,
    "throttle": Throttle,
    "flap": Flap,
}
