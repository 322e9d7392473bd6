"""The spool's port: every command with its result, the questions, the errors, and the store.

Commands are values, so that a group of them can be replayed one by one after a crash: each is
idempotent by the ids that it carries. A store executes them synchronously; `spool.actor` decides
when, and answers nobody before the commit. Times are UTC seconds and come from the caller: a
store never asks for the time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeAlias

from mailactors.spool.port.accept import (
    Accept,
    AcceptedMany,
    AcceptMany,
    Conflict,
    IdempotencyKey,
    Receipt,
)
from mailactors.spool.port.clocks import CorrectDoubts, CorrectDue, Corrected
from mailactors.spool.port.deliver import (
    Claim,
    Claimed,
    Intend,
    Intended,
    Lease,
    Progress,
    Recorded,
    RecordOutcome,
    Release,
    Step,
    Withdrawn,
)
from mailactors.spool.port.doubts import NEVER_AT, Doubt, Doubts, FindDueDoubts, LookUps
from mailactors.spool.port.errors import (
    BUSY_WAIT_S,
    SpoolBrokenError,
    SpoolBusyError,
    SpoolError,
    SpoolFullError,
    SpoolInUseError,
    SpoolSchemaError,
)
from mailactors.spool.port.inspection import (
    DeliveryFacts,
    Inspection,
    InspectionQuery,
    LeaseOwner,
    MessageFacts,
)
from mailactors.spool.port.lists import Filters, Page
from mailactors.spool.port.questions import (
    DeliveryStatus,
    Event,
    FeedEvent,
    Ledger,
    MessageStatus,
    Pending,
    Questions,
    Risk,
)
from mailactors.spool.port.retention import Purge, Purged
from mailactors.spool.port.retry import NotRetried, Retry
from mailactors.spool.port.settle import (
    IntendAgain,
    Postpone,
    RecordDeliveryEvent,
    SettleByHand,
    SettledByHand,
    SettleDoubt,
)
from mailactors.spool.port.suppressions import Suppress, Suppression, Unsuppress, Unsuppressed
from mailactors.spool.port.upkeep import (
    ALONE_FROM,
    CRASHES_MAX,
    Cancel,
    Cancelled,
    CountCrash,
    Expire,
    Expired,
    Flush,
    Flushed,
    Recover,
    Recovered,
)

__all__ = ["ALONE_FROM", "BUSY_WAIT_S", "CRASHES_MAX", "NEVER_AT", "Accept", "AcceptMany"]
__all__ += ["AcceptedMany", "Cancel", "Cancelled", "Claim", "Claimed", "Command", "Conflict"]
__all__ += ["CountCrash", "DeliveryFacts", "DeliveryStatus", "Doubt", "Doubts", "Event", "Expire"]
__all__ += ["Expired", "FeedEvent", "Filters", "FindDueDoubts", "Flush", "Flushed"]
__all__ += ["CorrectDoubts", "CorrectDue", "Corrected", "IdempotencyKey", "Inspection"]
__all__ += ["InspectionQuery", "Intend", "IntendAgain", "Intended", "Lease", "LeaseOwner"]
__all__ += ["Ledger", "LookUps", "MessageFacts", "MessageStatus", "NotRetried", "Page", "Pending"]
__all__ += ["Postpone", "Progress", "Purge", "Purged", "Questions", "Receipt"]
__all__ += ["RecordDeliveryEvent", "RecordOutcome", "Recorded", "Recover", "Recovered", "Release"]
__all__ += ["Result", "Retry", "Risk", "SettleByHand", "SettleDoubt", "SettledByHand"]
__all__ += ["SpoolBrokenError", "SpoolBusyError", "SpoolError", "SpoolFullError"]
__all__ += ["SpoolInUseError", "SpoolSchemaError", "Step", "Store", "Suppress", "Suppression"]
__all__ += ["Unsuppress", "Unsuppressed", "Withdrawn"]

Command: TypeAlias = (
    Accept
    | AcceptMany
    | Claim
    | Intend
    | RecordOutcome
    | Release
    | Expire
    | Flush
    | CorrectDue
    | CorrectDoubts
    | FindDueDoubts
    | Postpone
    | IntendAgain
    | SettleDoubt
    | SettleByHand
    | RecordDeliveryEvent
    | CountCrash
    | Cancel
    | Recover
    | Retry
    | Suppress
    | Unsuppress
    | Purge
)


Result: TypeAlias = (
    Receipt
    | Conflict
    | AcceptedMany
    | Claimed
    | Intended
    | Withdrawn
    | Recorded
    | Expired
    | Flushed
    | Corrected
    | Doubts
    | Cancelled
    | Recovered
    | SettledByHand
    | NotRetried
    | Suppression
    | Unsuppressed
    | Purged
)


class Store(Questions, Protocol):
    """A spool's storage: synchronous, used by one caller at a time."""

    def apply(self, commands: Sequence[Command], now: float) -> list[Result]:
        """Execute commands in order in one durable transaction; results in the same order.

        All or nothing: an exception means that none of them happened.

        Raises: SpoolFullError, SpoolBusyError, SpoolBrokenError; anything else is a bug.
        """
        ...

    def reader(self) -> Questions:
        """Return a second view for questions, usable from another thread; may be `self`."""
        ...

    def backup(self, path: str, progress: Callable[[int, int], None] | None = None) -> None:
        """Copy all that is committed when it begins to a new file; the writer goes on meanwhile.

        May run on another thread than `apply`. `progress` gets the pages done and in all.

        Raises: SpoolError if the file exists, or cannot be written; then there is none.
        """
        ...

    def close(self) -> None:
        """Close the file and give up its lock."""
        ...
