"""What the torture tests share: one zygote and one peer for all of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.torture.peer import StoringPeer, storing_peer
from tests.torture.zygote import Zygote, zygote


@pytest.fixture(scope="session")
def one_zygote() -> Iterator[Zygote]:
    with zygote() as running:
        yield running


@pytest.fixture
def services(one_zygote: Zygote) -> Iterator[Zygote]:
    """Start services; those that a test leaves behind are killed."""
    yield one_zygote
    one_zygote.end_children()


@pytest.fixture(scope="session")
def peer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StoringPeer]:
    with storing_peer(Path(tmp_path_factory.mktemp("peer"), "stored")) as running:
        yield running
