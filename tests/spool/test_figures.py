"""No figure reads a backlog or a history from end to end: by the plans, and by SQLite's steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mailactors.spool.port import Questions
from mailactors.spool.sqlite import SqliteStore
from tests.spool.fill import fill
from tests.spool.makers import NOW
from tests.spool.test_space import Steps

FIGURES: dict[str, Callable[[Questions], object]] = {
    "ledger": lambda spool: spool.ledger(),
    "pending": lambda spool: spool.pending(NOW + 10),
    "pending counts": lambda spool: spool.pending_counts(),
}


@pytest.fixture(scope="module", params=["ready", "deferred", "held", "sent"])
def large(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[SqliteStore]:
    path = tmp_path_factory.mktemp("spool") / Path("spool.db")
    store = SqliteStore.open(str(path))
    fill(store, 50_000, {request.param: 100}, NOW)
    yield store
    store.close()


@pytest.mark.parametrize("figure", FIGURES)
def test_a_figure_reads_the_heads_of_queues_only(large: SqliteStore, figure: str) -> None:
    with Steps(large) as steps:
        FIGURES[figure](large)

    assert steps.hundreds < 4_000, "more than 400,000 steps"
