"""What a relay has stored: its own ledger, a JSON line a message."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import msgspec


class Stored(msgspec.Struct, frozen=True):
    """A message that the peer has."""

    message_id: str
    recipient: str
    at: float
    was_answered: bool


def read_log(log: Path) -> list[Stored]:
    """Return what a peer has stored; a line that is being written does not count yet."""
    lines = log.read_bytes().split(b"\n")[:-1]
    return [msgspec.json.decode(line, type=Stored) for line in lines]


def count_copies(stored: list[Stored]) -> Counter[str]:
    """Return the number of copies by Message-ID."""
    return Counter(each.message_id for each in stored)
