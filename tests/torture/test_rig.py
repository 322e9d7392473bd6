"""The rig in short: a real service killed again and again, and three ledgers that agree."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.torture.rig import PLACES, Count, Rig

pytestmark = pytest.mark.slow

CYCLES = 25


@pytest.mark.timeout(150)
def test_nothing_is_lost_and_nothing_repeated_unsaid(tmp_path: Path) -> None:
    rig = Rig(tmp_path / "run", fresh_every=12, stop_every=20, stop_s=0.5)
    count = rig.run(CYCLES)
    assert count.violations == []
    assert (count.missing_in_spool, count.missing_at_relays) == (0, 0)
    assert count.duplicates_undeclared == 0
    assert count.cycles == CYCLES
    assert sum(count.by_point.values()) == CYCLES
    assert count.kills_with_open_intents >= 0.8 * count.kills
    assert count.acknowledged > CYCLES
    assert len([point for point in count.by_point if point.startswith("C")]) >= 4

    again = Rig(tmp_path / "run", fresh_every=12).run(CYCLES + 2)  # goes on where it was
    assert again.violations == []
    assert again.cycles == CYCLES + 2
    assert again.acknowledged > count.acknowledged


def run_without(tmp_path: Path, mutation: str) -> Count:
    return Rig(tmp_path / "run", mutations=(mutation,)).run(6)


@pytest.mark.parametrize(
    ("mutation", "violation"),
    [
        ("recover_sending_as_ready", "not declared"),
        ("send_without_intent", "not declared"),
        ("key_after_commit", "accepted twice|not in the spool"),
        ("answer_before_commit", "was answered 202|not in the spool"),
    ],
)
def test_the_rig_notices_a_guard_that_is_missing(
    tmp_path: Path, mutation: str, violation: str
) -> None:
    count = run_without(tmp_path, mutation)
    assert any(part in line for line in count.violations for part in violation.split("|")), count


def test_every_place_comes_up_ten_times_in_a_thousand_cycles() -> None:
    turns = 1_000 // Rig(Path()).place_every
    assert turns // len(PLACES) >= 10
