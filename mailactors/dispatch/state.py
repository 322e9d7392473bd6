"""What the dispatcher shares with its successor and with those who watch it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from mailactors.dispatch.attempt import Attempt, Done
from mailactors.runtime.mailbox import Mailbox
from mailactors.runtime.tally import Histogram

MAILBOX_CAPACITY: Final = 1_000_000
"""The slots of all lanes bound what the mailbox holds; this is never reached."""


@dataclass(eq=False)
class DispatcherState:
    """What survives a crash of the dispatcher, and what others may see of it."""

    node: str
    """Who leases, in the spool."""
    mailbox: Mailbox[Done] = field(init=False)
    lost: list[Attempt] = field(default_factory=list)
    """Those on whose end a dispatcher died; its successor leaves them to the spool's intents."""
    has_recovered: bool = False
    """Whether what a dead process left behind has been put right."""
    leases: Callable[[], frozenset[tuple[int, int]]] | None = None
    """(seq, epoch) of what is in memory and in no lane; None before a dispatcher began."""
    decided_s: Histogram = field(default_factory=Histogram)
    """From a failure's last byte or timeout to the decision on what follows."""
    recorded_s: Histogram = field(default_factory=Histogram)
    """From the same moment until outcome and decision were durable."""

    def __post_init__(self) -> None:
        self.mailbox = Mailbox(
            "dispatcher", MAILBOX_CAPACITY, lambda done, _error: self.lost.append(done.attempt)
        )
