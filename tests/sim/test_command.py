"""The command: exit codes, JSON, and what it says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer.testing

from mailactors.cli import app

SMALL = """
story = "a test"
duration_s = 3
[traffic]
rate_per_s = 10
[providers.primary]
[expect]
delivered_min = 1.0
within = { p99_s = 5 }
"""


@pytest.fixture
def scenario(tmp_path: Path) -> Path:
    path = tmp_path / "small.toml"
    path.write_text(SMALL)
    return path


def simulate(*arguments: str) -> typer.testing.Result:
    return typer.testing.CliRunner().invoke(app, ["simulate", *arguments], env={"COLUMNS": "200"})


@pytest.mark.slow
def test_all_held(scenario: Path) -> None:
    result = simulate(str(scenario.parent), "--seeds", "1-2", "--json", "-")

    runs = json.loads(result.stdout)
    assert 0 == result.exit_code
    assert [1, 2] == [each["seed"] for each in runs]
    assert runs[0]["hash"] != runs[1]["hash"]
    assert runs[0]["oracle"] is None
    assert [] == runs[0]["violations"]
    assert {"name": "delivered_min", "limit": 1.0, "value": 1.0, "ok": True} in runs[0][
        "expectations"
    ]


@pytest.mark.slow
def test_expectation_missed(scenario: Path, tmp_path: Path) -> None:
    scenario.write_text(SMALL.replace("p99_s = 5", "p99_s = 0.001"))
    written = tmp_path / "out.json"

    result = simulate(str(scenario), "--seed", "7", "--json", str(written))

    assert 1 == result.exit_code
    assert "MISS small, seed 7: within.p99_s: 0." in result.stdout
    assert f"replay: mailactors simulate {scenario} --seed 7" in result.stdout.replace("\n", "")
    assert 7 == json.loads(written.read_text())[0]["seed"]


def test_bad_file(scenario: Path) -> None:
    scenario.write_text(SMALL.replace("story", "stroy"))

    result = simulate(str(scenario))

    assert 2 == result.exit_code
    assert "stroy (line 2): there is no such key; did you mean 'story'?" in result.stderr


@pytest.mark.parametrize("seeds", ["3", "3-1", "a-b"])
def test_bad_seeds(seeds: str, scenario: Path) -> None:
    assert 2 == simulate(str(scenario), "--seeds", seeds).exit_code


def test_folder_without_scenarios(tmp_path: Path) -> None:
    result = simulate(str(tmp_path))

    assert 2 == result.exit_code
    assert "has no scenario in it" in result.stderr
