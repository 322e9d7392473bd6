"""Every fault of a body at once: what does not fit a type is told, mended, and the rest looked at.

A typed decoder stops at the first fault. Here the body is decoded without types, and each fault is
replaced by something that fits, or taken out, until nothing is left to tell. The work is bounded:
a longer body gets fewer rounds, and a large one none.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any, Final, TypeAlias

import msgspec

from mailactors.api.problems import FaultView

FAULTS_TOLD: Final = 25
"""Faults of a body's types that are told at once."""
MENDED_BYTES_MAX: Final = 256 * 1024
"""Of a larger body one fault is told: without types it may take much more memory than as text."""
WORK_BYTES_MAX: Final = 2 * 1024 * 1024
"""Bytes of a body times the rounds over it."""
_TAKEN_OUT: Final = object()
_STAND_INS: Final[tuple[Any, ...]] = ("", "x", {}, [], 0, "2030-01-01T00:00:00Z")
"""What is put in a fault's place, one after another, until the type takes it."""

Steps: TypeAlias = tuple[str | int, ...]


class Misfit(msgspec.Struct, frozen=True):
    """A fault, and where it is in the body."""

    view: FaultView
    steps: Steps
    is_unknown: bool = False
    meant: str = ""
    """The name that an unknown one seems to mean: that this is missing follows from it."""
    choices: tuple[str, ...] = ()


def all_faults(
    body: bytes, shape: type[msgspec.Struct], read: Callable[[msgspec.ValidationError], Misfit]
) -> tuple[FaultView, ...]:
    """Return the faults of a body that does not fit a type, at least one, in the order found.

    Args:
        read: what is wrong, and where, from the decoder's error.
    """
    tree = msgspec.json.decode(body)
    found: list[FaultView] = []
    told: list[Steps] = []
    tries: Counter[Steps] = Counter()
    for _ in range(max(1, min(8 * FAULTS_TOLD, WORK_BYTES_MAX // (len(body) + 1)))):
        try:
            msgspec.convert(tree, shape)
            break
        except msgspec.ValidationError as error:
            misfit = read(error)
        if not any(misfit.steps[: len(known)] == known for known in told):
            found.append(misfit.view)
            told += [misfit.steps, (*misfit.steps[:-1], misfit.meant)]
        if len(found) == FAULTS_TOLD or not _mend(tree, misfit, tries[misfit.steps]):
            break
        tries[misfit.steps] += 1
    return tuple(found)


def _mend(tree: Any, misfit: Misfit, tries: int) -> bool:
    """Take out what does not fit, or put something else there; False if nothing helps."""
    if not misfit.steps:
        return False
    *path, last = misfit.steps
    holder = tree
    for step in path:
        is_there = isinstance(holder, list) or (isinstance(holder, dict) and step in holder)
        if not is_there:
            return False  # a name that a place's text leaves open, such as one with a dot
        holder = holder[step]
    options = [*misfit.choices, *_STAND_INS]
    if isinstance(holder, dict):
        options.insert(0, _TAKEN_OUT)
    if tries >= len(options) or (misfit.is_unknown and tries):
        return False
    if options[tries] is not _TAKEN_OUT:
        holder[last] = options[tries]
    elif last in holder:
        del holder[last]
    return True
