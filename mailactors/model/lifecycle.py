"""The states of one delivery, the steps between them, and the names that the public reads.

    ready ──claim──▶ leased ──intend──▶ sending ──▶ sent | bounced | failed
      ▲                 │                  ├──▶ deferred ──claim──▶ leased
      └────release──────┘                  └──▶ uncertain ──▶ sent | ready | held | sending | …

`sending` is an open intent: bytes may be on their way. After a failure that another lane may cure
the delivery is `leased` again. `uncertain`: the provider may have accepted; the delivery is
`sending` again while the attempt is repeated under its key. `held` waits for a person or for
evidence, and is not final. Any pending delivery becomes `sent` at once when evidence says that an
earlier attempt was accepted. A final state is never left.

A `State` is what the spool stores; a `Status` is what answers, logs, events and metrics show.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from mailactors.errors import MailactorsError


class State(enum.StrEnum):
    """What the spool stores of a delivery."""

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


class Status(enum.StrEnum):
    """What the public reads of a delivery, or of a message (then also `partial`)."""

    SCHEDULED = "scheduled"
    QUEUED = "queued"
    PROCESSING = "processing"
    DEFERRED = "deferred"
    UNCERTAIN = "uncertain"
    HELD = "held"
    SENT = "sent"
    BOUNCED = "bounced"
    FAILED = "failed"
    EXPIRED = "expired"
    SUPPRESSED = "suppressed"
    CANCELLED = "cancelled"


_WITHDRAWN = {State.EXPIRED, State.SUPPRESSED, State.CANCELLED}
FINAL: Final = frozenset({State.SENT, State.BOUNCED, State.FAILED} | _WITHDRAWN)
PENDING: Final = frozenset(State) - FINAL

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
    }
    | dict.fromkeys(FINAL, frozenset())
)
"""From each state, the states that may follow."""

_RENAMED: Final = {
    State.READY: Status.QUEUED,
    State.LEASED: Status.QUEUED,
    State.SENDING: Status.PROCESSING,
}
"""The states whose public name is another word; every other state is its own status."""

_STATUS_OF: Final = {state: _RENAMED.get(state) or Status(state.value) for state in State}

STATES_OF: Final[Mapping[Status, frozenset[State]]] = MappingProxyType(
    {status: frozenset(s for s in State if _STATUS_OF[s] is status) for status in Status}
    | {Status.SCHEDULED: frozenset({State.READY})}
)
"""From each status, the states that it may stand for. A ready delivery is scheduled or queued,
by its due time."""

_MOST_TELLING_FIRST: Final = (
    Status.PROCESSING,
    Status.UNCERTAIN,
    Status.HELD,
    Status.QUEUED,
    Status.DEFERRED,
    Status.SCHEDULED,
)


class IllegalTransitionError(MailactorsError):
    """A bug: code asked for a step that the table does not have."""


def check_transition(before: State, after: State) -> None:
    """Raise IllegalTransitionError unless `after` may follow `before`."""
    if after not in NEXT[before]:
        raise IllegalTransitionError(f"a delivery cannot go from {before} to {after}")


def status_of(state: State, *, is_scheduled: bool = False) -> Status:
    """Return the public name of a state.

    Args:
        state: what the spool stores.
        is_scheduled: whether the delivery has not been tried and is due in the future; it is
            looked at for a ready delivery only.

    >>> status_of(State.READY), status_of(State.READY, is_scheduled=True)
    (<Status.QUEUED: 'queued'>, <Status.SCHEDULED: 'scheduled'>)
    >>> status_of(State.SENDING)
    <Status.PROCESSING: 'processing'>
    """
    return Status.SCHEDULED if is_scheduled and state is State.READY else _STATUS_OF[state]


def summarize_statuses(statuses: frozenset[Status]) -> str:
    """Return a message's status from its deliveries' statuses (at least one).

    The most telling pending status if any delivery is pending, else the common final status, else
    `partial`.

    >>> summarize_statuses(frozenset({Status.SENT, Status.QUEUED, Status.DEFERRED}))
    'queued'
    >>> summarize_statuses(frozenset({Status.SENT, Status.BOUNCED}))
    'partial'
    """
    for status in _MOST_TELLING_FIRST:
        if status in statuses:
            return status.value
    return next(iter(statuses)).value if len(statuses) == 1 else "partial"
