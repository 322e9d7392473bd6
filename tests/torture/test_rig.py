"""The rig in short: a real service killed again and again, and three ledgers that agree."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.torture import rig
from tests.torture.rig import PLACES, Rig
from tests.torture.zygote import Zygote

pytestmark = pytest.mark.slow

CYCLES = 25


@pytest.mark.timeout(150)
def test_nothing_is_lost_and_nothing_repeated_unsaid(services: Zygote, tmp_path: Path) -> None:
    def new() -> Rig:
        return Rig(
            tmp_path / "run",
            fresh_every=12,
            stop_every=20,
            stop_s=0.5,
            answer_s=(0.04, 0.15),
            services=services,
        )

    before = new().run(CYCLES - 5)
    count = new().run(CYCLES)  # goes on where that one was
    assert (before.cycles, before.violations) == (CYCLES - 5, [])
    assert count.violations == []
    assert (count.missing_in_spool, count.missing_at_relays) == (0, 0)
    assert count.duplicates_undeclared == 0
    assert count.cycles == CYCLES
    assert sum(count.by_point.values()) == CYCLES
    assert count.kills_with_open_intents >= 0.8 * count.kills
    assert count.acknowledged > CYCLES
    assert len([point for point in count.by_point if point.startswith("C")]) >= 4
    assert count.acknowledged > before.acknowledged


@pytest.mark.parametrize(
    ("mutation", "violation"),
    [
        ("recover_sending_as_ready", "not declared"),
        ("answer_before_commit", "was answered 202|not in the spool"),
    ],
)
def test_the_rig_notices_a_guard_that_is_missing(
    services: Zygote, tmp_path: Path, mutation: str, violation: str
) -> None:
    count = Rig(
        tmp_path / "run", mutations=(mutation,), services=services, answer_s=(0.04, 0.15)
    ).run(5)
    assert any(part in line for line in count.violations for part in violation.split("|")), count


@pytest.mark.parametrize("mutations", [(), ("intend_under_any_epoch",)])
def test_a_stale_owner_keeps_still_because_of_its_epoch(
    services: Zygote,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    mutations: tuple[str, ...],
) -> None:
    point = "C10 two owners, of which one is stale"
    monkeypatch.setattr(rig, "PLACES", ((point, (rig.USURP, 1)),))

    count = Rig(
        tmp_path / "run",
        place_every=2,
        services=services,
        answer_s=(0.04, 0.15),
        mutations=mutations,
    ).run(8)

    if mutations:
        assert any("did not keep still" in line for line in count.violations)
    else:
        assert count.violations == []
        assert count.by_point[point] >= 3


def test_every_place_comes_up_ten_times_in_a_thousand_cycles() -> None:
    turns = 1_000 // Rig(Path()).place_every
    assert turns // len(PLACES) >= 10
