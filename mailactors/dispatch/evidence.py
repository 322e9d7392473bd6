"""What can tell of a lost answer, by stream and provider, in words. `settling` acts on the same."""

from __future__ import annotations

import msgspec

from mailactors.dispatch.retry import Preference, StreamPolicy
from mailactors.providers.port import Capabilities


class Evidence(msgspec.Struct, frozen=True):
    """What may settle an uncertain message of a stream at one provider, and what happens if not."""

    evidence: tuple[str, ...]
    """Empty: nothing can."""
    then: str


def evidence_of(able: Capabilities, plan: StreamPolicy) -> Evidence:
    """Say what evidence there can be, and when the stream's preference applies without it.

    >>> evidence_of(Capabilities(True), StreamPolicy(("a",))).then
    'resend at once'
    >>> evidence_of(Capabilities(True, 3600.0), StreamPolicy(("a",)))
    Evidence(evidence=('a repeat under its key, for 3600 s',), then='resend after 60 s')
    """
    found = []
    if able.idempotency_window_s > 0:
        found.append(f"a repeat under its key, for {able.idempotency_window_s:g} s")
    if able.look_up_lag_s is not None:
        found.append(f"two look-ups, from {able.look_up_lag_s:g} s on")
    if able.delivery_events:
        found.append("a delivery event")
    return Evidence(tuple(found), f"{plan.on_uncertain.value} {_when(able, plan)}")


def _when(able: Capabilities, plan: StreamPolicy) -> str:
    if not able.gives_evidence:
        return "at once"
    if able.look_up_lag_s is not None:
        return f"when look-ups have failed for {plan.uncertain_wait_s:g} s"
    if able.idempotency_window_s > 0 and plan.on_uncertain is Preference.HOLD:
        return "when its key is forgotten"
    return f"after {plan.uncertain_wait_s:g} s"
