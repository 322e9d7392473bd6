"""What operators do, by whichever way, and the pauses among it that outlast the process."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from mailactors.spool.port.command import Command, Result

Way = Literal["api", "cli", "signal"]


class Act(msgspec.Struct, frozen=True):
    """One act: when, what, by which way and on what (a message's id, a provider, an address)."""

    seq: int
    at: float
    what: str
    way: str
    subject: str
    facts: dict[str, Any]


class NoteAct(Command, frozen=True):
    """Keep an act of an operator; the same id again changes nothing. → Noted"""

    id: str
    what: str
    way: Way
    subject: str = ""
    facts: Mapping[str, Any] = {}


class SetPaused(Command, frozen=True):
    """Keep that a provider is paused, or is no more. → Noted"""

    provider: str
    is_paused: bool


class Noted(Result, frozen=True):
    """It is kept."""
