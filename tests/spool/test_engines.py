"""The name of a spool chooses its engine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from mailactors.spool.engines import backup_spool, open_store, read_spool
from mailactors.spool.port import SpoolError
from tests.spool.makers import make_accept, receive


def test_a_path_is_a_file(tmp_path: Path) -> None:
    path = str(tmp_path / "spool.db")
    store = open_store(path)
    receive(store, make_accept())

    backup_spool(path, f"{path}.copy")
    store.close()

    assert 1 == read_spool(path, lambda spool: spool.ledger().accepted)
    assert 1 == read_spool(f"{path}.copy", lambda spool: spool.ledger().accepted)


@pytest.mark.parametrize(
    "use",
    [
        open_store,
        lambda spool: read_spool(spool, lambda questions: questions.ledger()),
        lambda spool: backup_spool(spool, "copy"),
    ],
    ids=["open", "read", "backup"],
)
def test_an_unknown_engine_is_refused_by_the_settings_name(use: Callable[[str], object]) -> None:
    with pytest.raises(SpoolError, match=r"^service\.spool begins with postgresql://") as caught:
        use("postgresql://user:secret@host/mail")

    assert "secret" not in str(caught.value)
