"""The world: the same seed is the same run, down to the order of tasks."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import types
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import pytest
import trio

from mailactors.sim.scenario.file import Scenario
from mailactors.sim.world import scheduling
from mailactors.sim.world.entropy import KeyedEntropy
from mailactors.sim.world.scheduling import (
    JumpingClock,
    SchedulingError,
    run_seeded,
    seeded_scheduling,
)
from mailactors.sim.world.world import COMMIT_S, EPOCH_S, World, make_world
from mailactors.spool.port import SpoolBusyError
from tests.sim.makers import run, small

T = TypeVar("T")

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


@pytest.mark.parametrize("name", [scheduling.SWITCH, scheduling.RANDOM])
def test_a_trio_without_its_private_names_is_refused(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(scheduling.scheduler(), name)

    with pytest.raises(SchedulingError, match=r"has no trio\._core\._run"), seeded_scheduling(1):
        pass


@pytest.mark.parametrize("path", scheduling.RUNNER)
def test_a_runner_that_lacks_what_is_needed_is_refused(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = types.SimpleNamespace(
        io_manager=types.SimpleNamespace(process_events=print),
        instruments={},
        runq=[],
        deadlines=types.SimpleNamespace(_heap=[]),
    )
    context = types.SimpleNamespace(runner=runner)
    monkeypatch.setattr(scheduling.scheduler(), scheduling.CONTEXT, context)
    assert scheduling.present_runner() is runner
    delattr(runner, path.partition(".")[0])

    with pytest.raises(SchedulingError, match=f"has no .*{path}"):
        scheduling.present_runner()


def test_a_lone_sleeper_passes_time_without_a_turn() -> None:
    seen: list[tuple[str, float]] = []

    async def work(name: str, clock: JumpingClock) -> None:
        for _ in range(2):
            await clock.sleep_until(clock.current_time() + 1.0, shield=True)
            seen.append((name, clock.current_time()))

    async def main() -> None:
        await work("alone", clock)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(work, "a", clock)
            await trio.sleep(0.5)
            nursery.start_soon(work, "b", clock)

    clock = JumpingClock()
    run_seeded(main, clock, 1)

    assert [("alone", 1.0), ("alone", 2.0)] == seen[:2]
    assert [("a", 3.0), ("b", 3.5), ("a", 4.0), ("b", 4.5)] == seen[2:]


def test_the_switch_is_put_back() -> None:
    before = vars(scheduling.scheduler())[scheduling.SWITCH]

    order_of_ties(1)

    assert before == vars(scheduling.scheduler())[scheduling.SWITCH]


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


def test_a_table_of_draws_is_even_and_keyed() -> None:
    draws = KeyedEntropy(7).table("primary")

    rolled = [draw for number in range(1000) for draw in draws(number, 1)]

    assert draws(3, 1) == KeyedEntropy(7).table("primary")(3, 1)
    assert 8 == len(set(draws(3, 1)))
    others = [draws(3, 2), draws(4, 1), KeyedEntropy(8).table("primary")(3, 1)]
    others.append(KeyedEntropy(7).table("secondary")(3, 1))
    assert all(draws(3, 1) != other for other in others)
    assert 0.5 == pytest.approx(math.fsum(rolled) / len(rolled), abs=0.02)
    assert 0.1 == pytest.approx(sum(draw < 0.1 for draw in rolled) / len(rolled), abs=0.01)
    assert all(0.0 <= draw < 1.0 for draw in rolled)


def in_world(
    body: Callable[[World], Awaitable[T]], scenario: Scenario | None = None, *, spawns: bool = True
) -> T:
    clock = JumpingClock()

    async def main() -> T:
        made = make_world(1, clock, scenario)
        async with trio.open_nursery() as nursery:
            if spawns:
                made.spawn = nursery.start_soon
            result = await body(made)
            nursery.cancel_scope.cancel()
        return result

    return trio.run(main, clock=clock)


def own(*faults: dict[str, Any]) -> Scenario:
    return small(duration_s=1000, faults=list(faults))


def test_wall_clock_steps_and_drifts_and_the_other_does_not() -> None:
    scenario = own(
        {"kind": "clock", "at_s": 10, "step_s": -3600},
        {"kind": "clock", "at_s": 20, "drift_per_s": 0.5, "for_s": 10},
    )

    async def body(made: World) -> list[float]:
        seen = []
        for at_s in (9.0, 10.0, 20.0, 25.0, 40.0):
            await trio.sleep_until(at_s)
            assert at_s == made.clock.now_s()
            seen.append(made.clock.wall_time() - EPOCH_S - at_s)
        return seen

    assert [0, -3600, -3600, -3597.5, -3595] == pytest.approx(in_world(body, scenario))


def test_leap_makes_all_that_was_due_due_at_once() -> None:
    async def body(made: World) -> list[tuple[str, float]]:
        seen = []

        async def wait(name: str, for_s: float) -> None:
            await trio.sleep(for_s)
            seen.append((name, made.clock.now_s()))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait, "during", 20.0)
            nursery.start_soon(wait, "after", 200.0)
            await trio.sleep(10.0)
            made.leap(100.0)
            await trio.lowlevel.checkpoint()
        return seen

    assert [("during", 110.0), ("after", 200.0)] == in_world(body)


def spool(what: str, at_s: float = 10.0, for_s: float = 5.0, **more: Any) -> dict[str, Any]:
    return {"kind": "spool", "what": what, "at_s": at_s, "for_s": for_s, **more}


def test_disk_returns_its_active_fault() -> None:
    scenario = own(spool("eio", 100.0), spool("enospc"))

    async def body(made: World) -> list[str | None]:
        seen: list[str | None] = []
        for at_s in (9.9, 10.0, 14.9, 15.0, 100.0, 106.0, 107.0):
            await trio.sleep_until(at_s)
            found = made.disk.fault()
            seen.append(found.what if found else None)
        return seen

    assert [None, "enospc", "enospc", None, "eio", None, None] == in_world(body, scenario)


async def commit_s(made: World, at_s: float) -> float:
    """Return how long work takes that begins then."""
    await trio.sleep_until(at_s)
    executor = made.ports.executor("spool")
    assert "done" == await executor.run(lambda: "done")
    return made.clock.now_s() - at_s


def test_slow_disk_delays_commits() -> None:
    async def body(made: World) -> list[float]:
        return [await commit_s(made, at_s) for at_s in (1.0, 10.0, 20.0)]

    times_s = in_world(body, own(spool("slow", commit_s=2.5)))

    assert [COMMIT_S, 2.5 + COMMIT_S, COMMIT_S] == pytest.approx(times_s)


def test_file_that_another_process_holds() -> None:
    async def body(made: World) -> float:
        with pytest.raises(SpoolBusyError):
            await commit_s(made, 10.0)
        assert 10.1 == pytest.approx(made.clock.now_s())
        return await commit_s(made, 14.95)  # it is free before we give up

    assert 0.1 + COMMIT_S == pytest.approx(in_world(body, own(spool("busy"))))


def test_agenda_keeps_to_its_times() -> None:
    async def body(made: World) -> list[tuple[str, float, float]]:
        seen: list[tuple[str, float, float]] = []

        def act(name: str) -> Callable[[float], None]:
            return lambda at_s: seen.append((name, at_s, made.clock.now_s()))

        made.plan(30.0, act("c"))
        made.plan(10.0, act("a"))
        made.plan(10.0, act("b"))
        await trio.sleep(20.0)
        made.plan(5.0, act("late"))
        await trio.sleep(1.0)
        assert 3 == len(seen)
        made.finish()
        return seen

    seen = in_world(body)
    assert [("a", 10, 10), ("b", 10, 10), ("late", 5, 20), ("c", 30, 21)] == seen


def test_planning_needs_a_nursery() -> None:
    async def body(made: World) -> None:
        with pytest.raises(RuntimeError, match=r"World\.spawn"):
            made.plan(30.0, lambda _at_s: None)

    in_world(body, spawns=False)


def test_sleepers_wake_in_time_and_among_trios_own() -> None:
    woken: list[tuple[str, float]] = []

    async def sleep_and_tell(
        name: str, sleep: Callable[[float], Awaitable[None]], s: float
    ) -> None:
        await sleep(s)
        woken.append((name, trio.current_time()))

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(sleep_and_tell, "b", scheduling.sleep, 2.0)
            nursery.start_soon(sleep_and_tell, "a", scheduling.sleep, 1.0)
            nursery.start_soon(sleep_and_tell, "trio", trio.sleep, 1.5)
            nursery.start_soon(sleep_and_tell, "past", scheduling.sleep, -1.0)

    trio.run(main, clock=JumpingClock())

    assert woken == [("past", 0.0), ("a", 1.0), ("trio", 1.5), ("b", 2.0)]


def test_a_sleeper_can_be_cancelled_unless_it_is_shielded() -> None:
    async def main() -> list[float]:
        with trio.move_on_after(1):
            await scheduling.sleep(10)
        first_s = trio.current_time()
        with trio.move_on_after(1):
            await scheduling.sleep(10, shield=True)
        return [first_s, trio.current_time()]

    assert [1.0, 11.0] == trio.run(main, clock=JumpingClock())
