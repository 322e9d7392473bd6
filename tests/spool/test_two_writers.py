"""Two SQLite stores on one file, without the lock by which a service keeps it for itself."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from mailactors.spool.port import Claim, Claimed, Command, Result, SpoolBusyError, Store
from mailactors.spool.sqlite import SqliteStore
from mailactors.spool.sqlite.connection import connect
from mailactors.spool.store.commands import execute
from tests.spool.contract_two_writers import Stores, TwoWritersContract
from tests.spool.makers import NOW, make_accept, receive


class TestTwoOnAFile(TwoWritersContract):
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

    def test_a_claim_passes_over_what_another_is_claiming(self, stores: Stores) -> None:
        """Impossible here: SQLite has one write transaction at a time, so the claim is refused."""
        first, second = stores
        first.apply([make_accept("m1"), make_accept("m2")], NOW)

        with (
            self.uncommitted(first, [Claim("main", 1, "first")], NOW) as (claimed,),
            pytest.raises(SpoolBusyError),
        ):
            second.apply([Claim("main", 10, "second")], NOW)

        (later,) = second.apply([Claim("main", 10, "second")], NOW)
        assert isinstance(claimed, Claimed)
        assert isinstance(later, Claimed)
        assert [["m1"], ["m2"]] == [[e.id for e in each.leases] for each in (claimed, later)]
