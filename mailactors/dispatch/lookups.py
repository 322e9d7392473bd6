"""Look-ups under way: bounded at each provider, and none while it answers no look-up."""

from __future__ import annotations

from collections.abc import Callable, Set
from dataclasses import dataclass
from typing import Final, TypeAlias

import msgspec
import trio

from mailactors.dispatch.lane import NEVER_S
from mailactors.model.outcome import Reason
from mailactors.model.secrets import Secrets
from mailactors.providers.port import Found, LookUpFailed, LookUpResult, Provider
from mailactors.runtime.ports import Ports
from mailactors.runtime.supervisor import describe
from mailactors.spool.port import Doubt

LOOK_UPS_MAX: Final = 32
"""Look-ups under way at each provider."""
LOOK_UP_WITHIN_S: Final = 30.0
"""The longest that a look-up may take."""
FAILURES_MAX: Final = 5
"""Look-ups in a row without an answer, after which a provider is not asked for `PAUSE_S`."""
PAUSE_S: Final = 30.0

DoubtKey: TypeAlias = tuple[int, str]
"""A doubt: its message's `seq` and its `attempt_id`."""


class LookUpEnded(msgspec.Struct, frozen=True):
    """A look-up that came back. `asked_at` is UTC."""

    doubt: Doubt
    sighting: LookUpResult
    asked_at: float


@dataclass(eq=False)
class _Vendor:
    """Whether a provider answers look-ups."""

    failures: int = 0
    paused_until_s: float = NEVER_S


class LookUpTasks:
    """The look-ups of one settler, a task each.

    Args:
        report: takes the end of each look-up, once; must not block.
    """

    def __init__(
        self, report: Callable[[LookUpEnded], None], ports: Ports, secrets: Secrets
    ) -> None:
        self._report = report
        self._secrets = secrets
        self._clock = ports.clock
        self._journal = ports.journal
        self._vendors: dict[str, _Vendor] = {}
        self._under_way: dict[DoubtKey, str] = {}

    @property
    def keys(self) -> Set[DoubtKey]:
        """The doubts that are looked up at this moment."""
        return self._under_way.keys()

    def count(self, provider: str) -> int:
        """Return how many are under way at a provider."""
        return sum(name == provider for name in self._under_way.values())

    def is_paused(self, provider: str) -> bool:
        """Whether a provider's look-ups fail: one at a time tries it again after a pause."""
        vendor = self._vendors.setdefault(provider, _Vendor())
        is_early = self._clock.now_s() < vendor.paused_until_s
        return vendor.failures >= FAILURES_MAX and (is_early or self.count(provider) > 0)

    def start(self, doubt: Doubt, provider: Provider, nursery: trio.Nursery) -> None:
        """Begin a look-up."""
        self._under_way[doubt.seq, doubt.attempt_id] = doubt.provider
        nursery.start_soon(self._ask, doubt, provider)

    def end(self, looked: LookUpEnded) -> None:
        """Forget a look-up that came back, and learn whether its provider answers."""
        self._under_way.pop((looked.doubt.seq, looked.doubt.attempt_id), None)
        vendor = self._vendors.setdefault(looked.doubt.provider, _Vendor())
        if isinstance(looked.sighting, LookUpFailed):
            vendor.failures += 1
            vendor.paused_until_s = self._clock.now_s() + PAUSE_S
        else:
            vendor.failures = 0

    async def _ask(self, doubt: Doubt, provider: Provider) -> None:
        asked_at = self._clock.wall_time()
        sighting: LookUpResult = LookUpFailed(Reason(f"no answer within {LOOK_UP_WITHIN_S:g} s"))
        with trio.move_on_after(LOOK_UP_WITHIN_S):
            try:
                sighting = await provider.look_up(doubt.id)
            except Exception as error:  # a look-up's fault is its outcome
                sighting = LookUpFailed(Reason(f"our fault: {type(error).__name__}"))
                self._journal.note(
                    "lookup.fault",
                    level="error",
                    id=doubt.id,
                    error=self._secrets.text(describe(error)),
                )
        self._secrets.learn(provider.secrets)
        match sighting:
            case Found(provider_message_id=name):
                sighting = Found(self._secrets.text(name))
            case LookUpFailed(reason=reason):
                sighting = LookUpFailed(self._secrets.reason(reason))
        self._report(LookUpEnded(doubt, sighting, asked_at))
