"""The world: the same seed is the same run, down to the order of tasks."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import trio

from mailactors.sim import world
from mailactors.sim.world import JumpingClock, KeyedEntropy, SchedulingError, seeded_scheduling
from tests.sim.makers import run, small

TWICE = """
from tests.sim.makers import fault, run, small
providers = {"primary": fault("ambiguous", rate=0.3, accepted=0.5), "secondary": {}}
traffic = {"duplicate_submissions": 0.1}
print(run(small(duration_s=15, providers=providers, traffic=traffic)).hash)
"""


def order_of_ties(seed: int) -> list[int]:
    order: list[int] = []

    async def wait(number: int) -> None:
        await trio.sleep(5.0)
        order.append(number)

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            for number in range(60):
                nursery.start_soon(wait, number)

    with seeded_scheduling(seed):
        trio.run(main, clock=JumpingClock())
    return order


def test_ties_are_broken_by_the_seed_alone() -> None:
    orders = [order_of_ties(1) for _ in range(5)]

    assert all(order == orders[0] for order in orders)
    assert order_of_ties(2) != orders[0]


@pytest.mark.parametrize("name", [world.SWITCH, world.DICE])
def test_a_trio_without_its_private_names_is_refused(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(world.scheduler(), name)

    with pytest.raises(SchedulingError, match=r"has no trio\._core\._run"), seeded_scheduling(1):
        pass


def test_the_switch_is_put_back() -> None:
    before = vars(world.scheduler())[world.SWITCH]

    order_of_ties(1)

    assert before == vars(world.scheduler())[world.SWITCH]


def test_draws_belong_to_seed_and_key() -> None:
    entropy = KeyedEntropy(7)

    assert 0.69595 == pytest.approx(entropy.draw("latency", 12, "primary", 1), abs=1e-4)
    assert entropy.draw("a", 1) != entropy.draw("a", 2)
    assert entropy.draw("a", 1) != KeyedEntropy(8).draw("a", 1)


def test_virtual_time_takes_no_time() -> None:
    async def main() -> float:
        await trio.sleep(86400.0)
        return trio.current_time()

    assert 86400.0 == trio.run(main, clock=JumpingClock())


@pytest.mark.slow
def test_same_seed_same_hash_in_two_processes() -> None:
    hashes = []
    for hash_seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        done = subprocess.run(
            [sys.executable, "-c", TWICE], env=environment, capture_output=True, text=True
        )
        assert 0 == done.returncode, done.stderr
        hashes.append(done.stdout)

    assert hashes[0] == hashes[1]


@pytest.mark.slow
def test_another_seed_is_another_hash() -> None:
    scenario = small(duration_s=5)

    assert run(scenario, 1).hash == run(scenario, 1).hash
    assert run(scenario, 1).hash != run(scenario, 2).hash
