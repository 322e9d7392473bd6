"""Cells: the latest value of something and its version; older values are not queued."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Cell(Generic[T]):
    """Holds the latest published value, which listeners may be called on.

    A reader that remembers `version` knows whether anything was published since. Publishing an
    equal value is no change.
    """

    def __init__(self, value: T) -> None:
        self._value = value
        self._version = 0
        self._listeners: list[Callable[[], None]] = []

    @property
    def value(self) -> T:
        """The latest value."""
        return self._value

    @property
    def version(self) -> int:
        """How often the value has changed."""
        return self._version

    def publish(self, value: T) -> None:
        """Replace the value and nudge listeners, if it differs."""
        if value != self._value:
            self._value = value
            self._version += 1
            for listener in self._listeners:
                listener()

    def listen(self, listener: Callable[[], None]) -> None:
        """Call `listener`, which must not block, after every change from now on."""
        self._listeners.append(listener)
