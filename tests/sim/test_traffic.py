"""Traffic: as often as the file says, by the day and in bursts; sizes and poison."""

from __future__ import annotations

import itertools
import statistics
from collections import Counter
from typing import Any

import pytest
import trio

from mailactors.errors import MailactorsError
from mailactors.intake.submission import OverloadedError, Submission
from mailactors.sim.scenario.file import Scenario
from mailactors.sim.scenario.tables import Traffic
from mailactors.sim.world.entropy import KeyedEntropy
from mailactors.sim.world.scheduling import JumpingClock
from mailactors.sim.world.traffic import TRIES_MAX, Clients, arrival_times, rate_per_s
from mailactors.sim.world.truth import Truth
from mailactors.sim.world.world import make_world
from mailactors.spool.port import Receipt
from tests.sim.makers import small


class Door:
    """Takes everything, but for the first tries of each message."""

    def __init__(self, *errors: Exception) -> None:
        self.messages: list[tuple[float, Submission]] = []
        self.errors = errors
        self.tries: Counter[str] = Counter()

    async def submit(self, submission: Submission, /) -> Receipt:
        await trio.lowlevel.checkpoint()
        number = self.tries[submission.subject]
        self.tries[submission.subject] += 1
        if number < len(self.errors):
            raise self.errors[number]
        self.messages.append((trio.current_time(), submission))
        return Receipt(1, f"{int(submission.subject) + 1:032x}", "", "", 0.0, False)


def submit_all(scenario: Scenario, door: Door, seed: int = 1) -> Truth:
    clock = JumpingClock()

    async def main() -> Truth:
        world, truth = make_world(seed, clock, scenario), Truth(("primary",))
        await Clients(scenario, door, world, truth, truth.accepted.setdefault).run()
        return truth

    return trio.run(main, clock=clock)


def per_hour(traffic: dict[str, Any], hours: int) -> list[float]:
    """Return the rate in each hour."""
    made = Traffic.model_validate(traffic)
    times = list(arrival_times(made, hours * 3600.0, KeyedEntropy(1)))
    assert times == sorted(times)
    counts = Counter(int(at_s // 3600) for at_s in times)
    return [counts[hour] / 3600 for hour in range(hours)]


@pytest.mark.slow
def test_day_swings_between_low_and_high() -> None:
    traffic = {"rate_per_s": 1.0, "diurnal": {"low_per_s": 0.2}}

    rates = per_hour(traffic, 24)

    assert 0.2 == pytest.approx(rates[0], abs=0.05)
    assert 1.0 == pytest.approx(rates[12], abs=0.08)
    assert 0.6 == pytest.approx(rates[6], abs=0.12)
    assert 0.6 == pytest.approx(statistics.mean(rates), abs=0.03)


def test_burst_replaces_the_day() -> None:
    burst = {"at_s": 3600, "for_s": 3600, "rate_per_s": 2}
    traffic = {"rate_per_s": 1.0, "diurnal": {"low_per_s": 0.0}, "bursts": [burst]}

    rates = per_hour(traffic, 3)

    assert 2.0 == pytest.approx(rates[1], abs=0.1)
    assert rates[0] < 0.05
    assert 2.0 == rate_per_s(Traffic.model_validate(traffic), 3600.0)
    assert 0.0 == rate_per_s(Traffic.model_validate(traffic), 0.0)


def test_without_a_day_the_times_do_not_change() -> None:
    times = list(arrival_times(Traffic(rate_per_s=1.0), 1000.0, KeyedEntropy(1)))

    assert 1000 == pytest.approx(len(times), abs=100)
    gaps = [b - a for a, b in itertools.pairwise(times)]
    assert 1.0 == pytest.approx(statistics.stdev(gaps), abs=0.1)


def test_every_message_is_recorded_at_its_first_submission() -> None:
    door = Door(OverloadedError("full", 5.0))

    truth = submit_all(small(duration_s=20), door)

    first = {message.subject: at_s for at_s, message in door.messages}
    assert len(door.messages) == len(truth.submitted_s) == truth.refused == len(truth.accepted)
    for number, at_s in enumerate(truth.submitted_s):
        assert at_s + 5.0 == pytest.approx(first[str(number)])


def test_client_whose_answer_is_lost_retries_with_the_same_key() -> None:
    door = Door(MailactorsError("500"), MailactorsError("500"))

    truth = submit_all(small(duration_s=5), door)

    assert 0 == truth.given_up
    assert len(truth.accepted) == len(truth.submitted_s) > 20
    assert all(message.key == f"message-{message.subject}" for _, message in door.messages)


def test_client_gives_up_in_the_end() -> None:
    truth = submit_all(small(duration_s=5), Door(*[OverloadedError("full", 1.0)] * TRIES_MAX))

    assert truth.given_up == len(truth.submitted_s) > 20
    assert 0 == len(truth.accepted)


@pytest.mark.slow
def test_sizes_are_log_normal_and_only_accounted_for() -> None:
    door = Door()
    size = {"median": 5000, "sigma": 0.6}

    truth = submit_all(small(duration_s=100, traffic={"size_bytes": size}), door)

    sizes = [truth.size_bytes(n) for n in range(len(truth.submitted_s))]
    assert 5000 == pytest.approx(statistics.median(sizes), rel=0.1)
    assert max(sizes) > 15_000
    assert {"A simulated message.\n"} == {message.text for _, message in door.messages}


def test_poison_is_spread_over_the_time() -> None:
    poison = {"count": 10, "kind": "hang_worker"}

    truth = submit_all(small(duration_s=100, traffic={"poison": poison}), Door())

    times = [truth.submitted_s[number] for number in truth.poison]
    assert [pytest.approx(5.0 + 10.0 * n, abs=1.0) for n in range(10)] == times
    assert {"hang_worker"} == set(truth.poison.values())
    assert 0 not in truth.poison
