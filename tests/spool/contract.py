"""What every part of the contract stands on: a store that a subclass makes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from mailactors.spool.port import (
    Store,
)


class Contract:
    """Subclass it as `Test…` with `make_store`; `check` may look at more than the port shows."""

    def make_store(self) -> contextlib.AbstractContextManager[Store]:
        """Return a new, empty store for the time of the context."""
        raise NotImplementedError

    def check(self, store: Store) -> None:
        """Look at the insides after each random command."""

    @pytest.fixture
    def store(self) -> Iterator[Store]:
        with self.make_store() as store:
            yield store
