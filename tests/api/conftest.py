"""What the API's tests share."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from quart.typing import TestClientProtocol as Client

from tests.api.rig import Rig, Served, Waiter, open_rig, serve


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    async with open_rig() as rig:
        yield rig


@pytest.fixture
def client(rig: Rig) -> Client:
    return rig.app.test_client()


@pytest.fixture
async def served(rig: Rig) -> AsyncIterator[Served]:
    async with serve(rig.app, rig.journal) as served:
        yield served


@pytest.fixture
def waiter() -> Waiter:
    return Waiter()
