"""The life of one delivery, as a table: what is not in it cannot happen.

    ready ──claim──▶ leased ──intend──▶ sending ──▶ sent | bounced | failed
      ▲                 │                  ├──▶ deferred ──claim──▶ leased
      └────release──────┘                  └──▶ uncertain ──▶ sent | ready | held | sending | …

`sending` is an open intent: bytes may be on their way; after a failure that another lane may cure
at once it is `leased` again. `uncertain` is an attempt whose end nobody knows; it is `sending`
again while it is repeated by its key. `held` waits for a person, or for evidence, and is not
final. A delivery that waits becomes `sent` at once when it turns out that an earlier attempt was
accepted. A final state is never left.
"""

from __future__ import annotations

import enum
from types import MappingProxyType
from typing import Final

from mailactors.errors import MailactorsError


class State(enum.StrEnum):
    """Where a delivery stands."""

    READY = "ready"
    DEFERRED = "deferred"
    LEASED = "leased"
    SENDING = "sending"
    UNCERTAIN = "uncertain"
    HELD = "held"
    SENT = "sent"
    BOUNCED = "bounced"
    FAILED = "failed"
    EXPIRED = "expired"
    SUPPRESSED = "suppressed"
    CANCELLED = "cancelled"


_WITHDRAWN = {State.EXPIRED, State.SUPPRESSED, State.CANCELLED}

NEXT: Final = MappingProxyType(
    {
        State.READY: frozenset({State.LEASED, State.SENT, State.FAILED} | _WITHDRAWN),
        State.DEFERRED: frozenset({State.LEASED, State.SENT, State.FAILED} | _WITHDRAWN),
        State.LEASED: frozenset(
            {State.READY, State.DEFERRED, State.SENDING, State.SENT, State.FAILED} | _WITHDRAWN
        ),
        State.SENDING: frozenset(
            {State.SENT, State.BOUNCED, State.FAILED, State.LEASED, State.READY, State.DEFERRED}
            | {State.UNCERTAIN, State.EXPIRED}
        ),
        State.UNCERTAIN: frozenset(
            {State.SENT, State.BOUNCED, State.FAILED, State.READY, State.DEFERRED, State.HELD}
            | {State.SENDING}
        ),
        State.HELD: frozenset({State.SENT, State.BOUNCED, State.FAILED, State.READY}),
        State.SENT: frozenset(),
        State.BOUNCED: frozenset(),
        State.FAILED: frozenset(),
        State.EXPIRED: frozenset(),
        State.SUPPRESSED: frozenset(),
        State.CANCELLED: frozenset(),
    }
)
"""From each state, the states that may follow."""

FINAL: Final = frozenset(state for state, following in NEXT.items() if not following)
PENDING: Final = frozenset(State) - FINAL

_PENDING_ORDER: Final = (
    State.SENDING,
    State.UNCERTAIN,
    State.HELD,
    State.LEASED,
    State.READY,
    State.DEFERRED,
)


class IllegalTransitionError(MailactorsError):
    """A bug of ours: a delivery was to take a step that the table does not have."""


def check_transition(before: State, after: State) -> None:
    """Raise IllegalTransitionError unless `after` may follow `before`."""
    if after not in NEXT[before]:
        raise IllegalTransitionError(f"a delivery cannot go from {before} to {after}")


def summarize(states: frozenset[State]) -> str:
    """Return a message's status from its deliveries' states.

    A pending state if any delivery is pending (the most telling one), else the common final
    state, else `partial`.

    >>> summarize(frozenset({State.SENT, State.DEFERRED}))
    'deferred'
    >>> summarize(frozenset({State.SENT, State.BOUNCED}))
    'partial'
    """
    for state in _PENDING_ORDER:
        if state in states:
            return state.value
    return next(iter(states)).value if len(states) == 1 else "partial"
