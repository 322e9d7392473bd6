"""The gateway's process in a simulation: it dies at any moment, and nothing follows its death."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from mailactors.config import Config
from mailactors.dispatch import provider
from mailactors.dispatch.attempt import Attempt
from mailactors.sim.report.report import Report
from mailactors.sim.run.gateway import run_scenario
from mailactors.sim.run.node import Process, ProcessDiedError, ProcessExecutor
from mailactors.sim.run.observed import ObservedStore
from mailactors.sim.scenario.file import gateway_config
from mailactors.sim.scenario.incidents import POINTS
from mailactors.spool.sqlite import TEMPORARY
from mailactors.wiring import Gateway
from tests.sim.makers import fault, run, small
from tests.spool.makers import NOW, make_accept

KEYED = {name: {"idempotency_window_s": 86400} for name in ("primary", "secondary")}
KILLED = [{"at_s": 3.0, "what": "process", "every_s": 4.0}]


def violations(report: Report) -> set[str]:
    return {each.invariant for each in report.violations}


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_killed_again_and_again_nothing_is_lost(seed: int) -> None:
    report = run(small(crashes=KILLED, providers=KEYED), seed)

    assert () == report.violations
    assert report.starts >= 4
    assert report.accepted > 150
    assert 0 == report.duplicates
    assert report.delivered == report.accepted


@pytest.mark.slow
@pytest.mark.parametrize("point", POINTS)
def test_killed_at_each_point(point: str) -> None:
    crashes = [{"at_s": 3.0, "what": f"process:{point}", "every_s": 5.0}]
    lossy = fault("ambiguous", 0, 20, rate=0.2, accepted=0.5)
    looked_up, repeated = {"search_lag_s": 1.0, **lossy}, {"idempotency_window_s": 3600, **lossy}
    settled = {"settler.doubt": looked_up, "settler.looked": looked_up, "settler.outcome": repeated}
    providers = {"primary": settled.get(point, {}), "secondary": {}}

    report = run(small(crashes=crashes, providers=providers))

    assert () == report.violations
    assert report.starts >= 3
    assert report.fault_points[point] > 0
    assert report.delivered == report.accepted > 150
    assert 0 == report.undeclared_duplicates


@pytest.mark.slow
def test_killed_between_commits() -> None:
    crashes = [{"at_s": 3.0, "what": "process:between-commits", "every_s": 2.0}]

    report = run(small(crashes=crashes))

    assert () == report.violations
    assert report.starts >= 5


@pytest.mark.slow
@pytest.mark.parametrize(
    "actor",
    ["spool", "dispatcher", "registry", "reporter", "keeper"]
    + [f"{kind}:primary" for kind in ("limiter", "breaker", "provider")],
)
def test_actors_that_crash_lose_nothing(actor: str) -> None:
    crashes = [{"at_s": 3.0, "what": f"actor:{actor}", "every_s": 9.0}]

    report = run(small(crashes=crashes))

    assert () == report.violations
    assert 1 == report.starts
    assert report.delivered == report.accepted == report.submitted
    assert 0 == report.undeclared_duplicates


@pytest.mark.slow
def test_exhausted_restarts_end_the_process_and_another_starts() -> None:
    crashes = [{"at_s": 3.0, "what": "actor:dispatcher", "every_s": 0.5}]

    report = run(small(crashes=crashes))

    assert () == report.violations
    assert report.starts > 1
    assert report.delivered == report.accepted > 100


# A dead process


async def test_dead_process_writes_nothing() -> None:
    life = Process()
    written: list[int] = []

    class Slow:
        async def run(self, work: Any) -> Any:
            await trio.lowlevel.checkpoint()
            life.end("killed while the commit was waiting for the disk")
            return work()

        def close(self) -> None:
            pass

    with pytest.raises(ProcessDiedError, match="killed"):
        await ProcessExecutor(Slow(), life).run(lambda: written.append(1))

    assert [] == written


@pytest.mark.slow
def test_write_after_death_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    async def immortal(self: ProcessExecutor, work: Any) -> Any:
        with trio.CancelScope(shield=True):
            return await self.inner.run(work)

    monkeypatch.setattr(ProcessExecutor, "run", immortal)

    slow = {"kind": "spool", "what": "slow", "commit_s": 0.3, "at_s": 1.0, "for_s": 60.0}
    scenario = small(crashes=KILLED, faults=[slow])
    reports = (run(scenario, seed) for seed in range(50))

    assert any("nothing after death" in violations(report) for report in reports)


@pytest.mark.slow
def test_send_after_death_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    attempt_once = provider.ProviderActor._attempt

    async def stubborn(self: provider.ProviderActor, attempt: Attempt, make: Any) -> None:
        try:
            await attempt_once(self, attempt, make)
        finally:
            with trio.CancelScope(shield=True):
                session: Any = await self._lane.provider.connect()
                await session.aclose()

    monkeypatch.setattr(provider.ProviderActor, "_attempt", stubborn)

    assert "nothing after death" in violations(run(small(crashes=KILLED)))


@pytest.mark.slow
def test_process_that_ends_by_itself_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    async def failing(gateway: Any, **_: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(Gateway, "run", failing)

    assert "no process dies by itself" in violations(run(small(duration_s=5)))


# The rest of what may befall us


@pytest.mark.slow
def test_cancelled_messages_stay_where_they_are() -> None:
    down = {"primary": fault("refuse", 0, 10), "secondary": fault("refuse", 0, 10)}
    operations = [{"at_s": 8.0, "what": "cancel:50%"}]

    report = run(small(providers=down, operations=operations))

    assert () == report.violations
    assert 15 < report.accepted - report.delivered < 65


@pytest.mark.slow
def test_paused_lane_is_left_alone_and_resumes() -> None:
    operations = [{"at_s": 5.0, "what": "pause:primary"}, {"at_s": 10.0, "what": "resume:primary"}]

    report = run(small(operations=operations))

    assert () == report.violations
    assert report.delivered == report.accepted
    assert report.peak_attempts_per_s["secondary"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("what", ["enospc", "eio", "busy", "slow"])
def test_faulty_disk_loses_nothing(what: str) -> None:
    faults = [{"kind": "spool", "what": what, "at_s": 5.0, "for_s": 4.0}]

    report = run(small(faults=faults))

    assert () == report.violations
    assert report.delivered == report.accepted > 100
    assert 0 == report.undeclared_duplicates


def test_a_full_disk_of_this_machine_is_not_a_simulated_one() -> None:
    store = ObservedStore.open(TEMPORARY)
    store._db.pragma("max_page_count", store._db.pragma("page_count"))

    with pytest.raises(RuntimeError, match="this machine fails the simulator: no room"):
        store.apply([make_accept(recipients=["r" * 10_000 + "@example.com"])], NOW)

    store.close()


@pytest.mark.slow
@pytest.mark.parametrize("step_s", [-7200.0, 7200.0])
def test_wall_clock_that_steps(step_s: float) -> None:
    faults = [{"kind": "clock", "at_s": 5.0, "step_s": step_s}]

    report = run(small(faults=faults))

    assert () == report.violations
    assert report.delivered == report.accepted == report.submitted
    assert (report.p99_s or 99.0) < 5.0


@pytest.mark.slow
def test_suspended_machine() -> None:
    faults = [{"kind": "pause", "at_s": 5.0, "for_s": 30.0}]

    report = run(small(faults=faults))

    assert () == report.violations
    assert report.delivered == report.accepted
    assert 0 == report.undeclared_duplicates


def test_configuration_is_the_same_for_every_process() -> None:
    scenario = small(duration_s=2)
    config: Config = gateway_config("test", scenario, None)
    seen: list[Config] = []

    run_scenario("test", scenario, config, prepare=lambda gateway: seen.append(gateway.config))

    assert [config] == seen
