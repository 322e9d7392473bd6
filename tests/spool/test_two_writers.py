"""Two SQLite stores on one file, without the lock by which a service keeps it for itself."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar

import pytest

from mailactors.spool.port import Command, Result, SpoolBusyError, Store
from mailactors.spool.sqlite import SqliteStore
from mailactors.spool.sqlite.connection import connect
from mailactors.spool.store.commands import execute
from tests.spool.contract_two_writers import Stores, TwoWritersContract
from tests.spool.makers import NOW, make_accept, receive


class TestTwoOnAFile(TwoWritersContract):
    IMPOSSIBLE: ClassVar = {
        "test_a_claim_passes_over_what_another_is_claiming": (
            "SQLite has one write transaction at a time: the other claim waits for its end"
        )
    }

    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path: Path) -> None:
        self.path = str(tmp_path / "spool.db")

    @contextlib.contextmanager
    def make_stores(self) -> Iterator[Stores]:
        first = SqliteStore.open(self.path)
        second = SqliteStore(self.path, connect(self.path), None)
        yield first, second
        second.close()
        first.close()

    @contextlib.contextmanager
    def uncommitted(
        self, store: Store, commands: Sequence[Command], now: float
    ) -> Iterator[Sequence[Result]]:
        assert isinstance(store, SqliteStore)
        store._db.execute("BEGIN IMMEDIATE")
        yield execute(store._rows, commands, now)
        store._db.execute("COMMIT")

    def test_while_one_writes_the_other_is_refused(self, stores: Stores) -> None:
        first, second = stores

        with self.uncommitted(first, [], NOW), pytest.raises(SpoolBusyError):
            second.apply([make_accept()], NOW)

        assert () == first.status("m1")
        assert receive(second, make_accept()).seq == 1
