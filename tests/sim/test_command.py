"""The command: exit codes, JSON, and what it says."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import typer.testing

from mailactors.cli import app
from mailactors.sim import command
from mailactors.sim.run.gateway import run_scenario
from mailactors.sim.run.quick import quick_of
from mailactors.sim.run.task import run_task
from mailactors.sim.scenario.file import parse_scenario
from mailactors.sim.scenario.incidents import POINTS

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
FIGURES = {
    *(
        "scenario",
        "seed",
        "policy",
        "hash",
        "accepted",
        "accepted_by_provider",
        "delivered",
        "delivered_rate",
        "p50_s",
    ),
    *("p99_s", "p999_s", "duplicates", "undeclared_duplicates", "attempts_per_message"),
    *("peak_attempts_per_s", "recovery_s", "violations", "expectations", "oracle", "decision_us"),
    *("wall_s", "messages_per_wall_s"),
}
BOUNDS = {"delivered", "delivered_rate", "p50_s", "p99_s", "p999_s", "attempts_per_message"}


@pytest.fixture
def scenario(tmp_path: Path) -> Path:
    path = tmp_path / "small.toml"
    path.write_text(SMALL)
    return path


def simulate(*arguments: str, columns: int = 200) -> typer.testing.Result:
    environment = {"COLUMNS": str(columns)}
    return typer.testing.CliRunner().invoke(app, ["simulate", *arguments], env=environment)


@pytest.mark.slow
def test_all_held(scenario: Path) -> None:
    result = simulate(str(scenario.parent), "--seeds", "1-2", "--json", "-")

    runs = json.loads(result.stdout)
    assert 0 == result.exit_code
    assert [1, 2] == [each["seed"] for each in runs]
    assert runs[0]["hash"] != runs[1]["hash"]
    assert FIGURES <= runs[0].keys()
    assert "record" not in runs[0]
    assert BOUNDS | {"by_rates", "expected"} == runs[0]["oracle"].keys()
    assert BOUNDS == runs[0]["oracle"]["by_rates"].keys()
    assert runs[0]["decision_us"] is None
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
    assert f"replay: mailactors simulate {scenario} --seed 7\n" in result.stdout
    assert 7 == json.loads(written.read_text())[0]["seed"]


@pytest.mark.slow
def test_nothing_is_wider_than_the_terminal(scenario: Path) -> None:
    scenario.write_text(SMALL.replace("[providers.primary]", "[providers.primary]\n[providers.b]"))

    result = simulate(str(scenario), columns=80)

    lines = result.stdout.splitlines()
    assert max(len(line) for line in lines) <= 80
    assert any(re.match(r"small +1 +100% ", line.strip()) for line in lines)
    assert any(line.startswith("primary     ──") for line in lines)
    assert any(line.strip().startswith("oracle ") for line in lines)


@pytest.mark.slow
def test_upper_bound_of_the_losses_is_printed(scenario: Path) -> None:
    result = simulate(str(scenario), "--seeds", "1-3", "--json", str(scenario.with_suffix(".json")))

    runs = json.loads(scenario.with_suffix(".json").read_text())
    accepted = sum(each["accepted"] for each in runs)
    found = re.search(r"small, 3 seeds: 0 of (\d+) messages not delivered \((.*)\)", result.stdout)
    assert found is not None
    assert str(accepted) == found[1]
    assert f"95 % upper bound: {100 * (1 - 0.05 ** (1 / accepted)):.2g} %" == found[2]


@pytest.mark.slow
def test_results_are_the_same_whatever_the_jobs(scenario: Path) -> None:
    def figures(*more: str) -> list[dict[str, Any]]:
        path = scenario.with_suffix(".json")
        assert 0 == simulate(str(scenario), "--seeds", "1-3", "--json", str(path), *more).exit_code
        real = {"wall_s", "messages_per_wall_s", "decision_us"}
        runs = json.loads(path.read_text())
        return [{name: run[name] for name in run.keys() - real} for run in runs]

    assert figures() == figures("--jobs", "2")


@pytest.mark.slow
def test_finished_runs_are_not_made_again(
    scenario: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    resume, first, second = (str(tmp_path / name) for name in ("runs", "first", "second"))
    assert 0 == simulate(str(scenario), "--seeds", "1-2", "--resume", resume).exit_code
    simulate(str(scenario), "--seeds", "1-2", "--resume", resume, "--json", first)
    made = []

    def count(task: Any, tell: Any) -> Any:
        made.append(task.seed)
        return run_task(task, tell)

    monkeypatch.setattr(command, "run_task", count)
    simulate(str(scenario), "--seeds", "1-4", "--resume", resume, "--json", second)

    assert [3, 4] == made
    assert 4 == len(Path(resume).read_text().splitlines())
    assert json.loads(Path(first).read_text()) == json.loads(Path(second).read_text())[:2]


@pytest.mark.slow
def test_interrupted_shows_what_was_finished(
    scenario: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(task: Any, tell: Any) -> Any:
        if task.seed == 2:
            raise KeyboardInterrupt
        return run_task(task, tell)

    monkeypatch.setattr(command, "run_task", interrupt)

    result = simulate(str(scenario), "--seeds", "1-3")

    assert 130 == result.exit_code
    assert "small, seed 1: " in result.stdout
    assert "interrupted: 1 of 3 runs were finished" in result.stdout


def test_a_run_that_dies_is_named(scenario: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def die(*_: Any) -> Any:
        raise RuntimeError("[bold]a bug[/bold]")

    monkeypatch.setattr(command, "run_task", die)

    result = simulate(str(scenario), "--seed", "5")

    assert 1 == result.exit_code
    assert "died small, seed 5 (default): Traceback" in result.stdout
    assert "RuntimeError: [bold]a bug[/bold]" in result.stdout


@pytest.mark.slow
def test_policies_are_compared_on_the_same_messages(scenario: Path, tmp_path: Path) -> None:
    config = tmp_path / "mine.toml"
    config.write_text('[providers.primary]\nkind = "simulated"\n')
    written = tmp_path / "out.json"

    result = simulate(
        str(scenario), "--compare", f"naive,retry,fallback,default,{config}", "--json", str(written)
    )

    runs = json.loads(written.read_text())
    assert 0 == result.exit_code
    assert ["naive", "retry", "fallback", "default", str(config)] == [r["policy"] for r in runs]
    assert 1 == len({run["accepted"] for run in runs})
    assert 1 == len({json.dumps(run["oracle"]) for run in runs})
    assert runs[3]["hash"] == runs[4]["hash"]
    assert "mine.toml" in result.stdout


@pytest.mark.slow
def test_a_configuration_is_compared_with_others_on_its_providers(
    scenario: Path, tmp_path: Path
) -> None:
    config = tmp_path / "mine.toml"
    config.write_text(
        '[providers.primary]\nkind = "simulated"\nquota = { per_s = 1 }\n'
        '[service]\ndefault_from = "me@example.com"\n'
    )
    written = tmp_path / "out.json"

    result = simulate(
        *(str(scenario), "--compare", "naive,default", "--config", str(config)),
        *("--json", str(written)),
    )

    runs = json.loads(written.read_text())
    assert ["naive", "default", str(config)] == [run["policy"] for run in runs]
    assert runs[1]["p99_s"] < 1 < runs[2]["p99_s"]  # the quota is the file's
    assert 1 == result.exit_code  # within.p99_s


@pytest.mark.slow
def test_quick_is_a_tenth_of_the_traffic_and_says_so(scenario: Path) -> None:
    scenario.write_text(
        SMALL.replace("rate_per_s = 10", "rate_per_s = 100").replace("p99_s = 5", "p99_s = 0.001")
    )
    written = scenario.with_suffix(".json")

    result = simulate(str(scenario), "--quick", "--json", str(written))

    (run,) = json.loads(written.read_text())
    assert 0 == result.exit_code
    assert 15 <= run["accepted"] <= 50
    assert run["is_quick"]
    assert ["delivered_min", "undeclared_duplicates_max"] == [
        each["name"] for each in run["expectations"]
    ]
    assert result.stdout.startswith("quick: a tenth of the traffic.")
    assert "small, seed 1, quick: " in result.stdout


def test_quick_leaves_all_but_the_traffic_as_it_is() -> None:
    text = SMALL.replace(
        "rate_per_s = 10",
        "rate_per_s = 10\ndiurnal = { low_per_s = 4, period_s = 3 }\n"
        "bursts = [{ at_s = 1, for_s = 1, rate_per_s = 50 }]",
    )
    whole = parse_scenario("a.toml", text)

    quick = quick_of(whole)

    assert quick.traffic.diurnal is not None
    assert (1.0, 0.4, 5.0) == (
        quick.traffic.rate_per_s,
        quick.traffic.diurnal.low_per_s,
        quick.traffic.bursts[0].rate_per_s,
    )
    rest = {"traffic", "expect"}
    assert whole.model_dump(exclude=rest) == quick.model_dump(exclude=rest)
    assert quick.messages_expected == pytest.approx(whole.messages_expected / 10)


@pytest.mark.slow
def test_a_fault_after_the_traffic_is_told(scenario: Path) -> None:
    fault = 'faults = [{{ at_s = {}, for_s = 1, kind = "refuse" }}]'
    scenario.write_text(SMALL.replace("[expect]", fault.format(3) + "\n[expect]"))

    result = simulate(str(scenario))

    words = (
        "note: small: the fault refuse of primary begins at 3.00 s, after the traffic (3.00 s):"
        " it meets only what still waits then"
    )
    assert words in " ".join(result.stderr.split())
    scenario.write_text(SMALL.replace("[expect]", fault.format(2) + "\n[expect]"))
    assert "note:" not in simulate(str(scenario)).stderr


@pytest.mark.slow
def test_loops_have_no_expectations(scenario: Path) -> None:
    scenario.write_text(SMALL.replace("p99_s = 5", "p99_s = 0.001"))

    result = simulate(str(scenario), "--compare", "naive")

    assert 0 == result.exit_code
    assert "MISS" not in result.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--compare", "naive,adaptive"], "no policy and no file 'adaptive'; there are naive, re"),
        (["--compare", "default", "--config", "x.toml"], "x.toml"),
        (["--json", "/nowhere/at/all.json"], "there is no such folder"),
        (["--html", "/nowhere/at/all.html"], "there is no such folder"),
        (["--html", "-"], "name a file"),
        (["--html", "/"], "/ is a folder"),
        (["--resume", "/nowhere/at/all.jsonl"], "there is no such folder"),
        (["--config", "missing.toml"], "missing.toml"),
    ],
)
def test_unusable_arguments_are_refused_at_once(
    arguments: list[str], words: str, scenario: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "run_task", run_scenario)  # must not come to that

    result = simulate(str(scenario), *arguments)

    assert 2 == result.exit_code
    assert words in result.stderr.replace("\n", " ")


def test_without_a_terminal_each_run_prints_a_line(scenario: Path) -> None:
    result = simulate(str(scenario), "--seeds", "1-2")

    lines = result.stderr.splitlines()
    stem = scenario.stem
    assert "2 runs, about 60 messages" == lines[0]
    assert [f"{n} of 2 runs: {stem}, seed {n}: passed" for n in (1, 2)] == [
        line for line in lines if "runs:" in line
    ]


def test_points_that_no_run_passed_are_named(scenario: Path) -> None:
    result = simulate(str(scenario), "--json", str(scenario.with_suffix(".json")))

    (run,) = json.loads(scenario.with_suffix(".json").read_text())
    missed = [name for name, count in run["fault_points"].items() if not count]
    assert {"settler.looked", "settler.doubt"} <= set(missed)
    assert set(POINTS) <= set(run["fault_points"])
    assert run["fault_points"]["provider.sent"] > 0
    words = " ".join(result.stdout.split())
    assert f"fault points that no run passed: {', '.join(missed)}" in words


def test_schema_describes_the_file(scenario: Path) -> None:
    result = simulate("--schema")

    schema = json.loads(result.stdout)
    good = {"story": "a", "duration_s": 1, "traffic": {"rate_per_s": 1}, "providers": {"p": {}}}
    assert 0 == result.exit_code
    jsonschema.validate(good, schema)
    with pytest.raises(jsonschema.ValidationError, match="stroy"):
        jsonschema.validate({**good, "stroy": "a"}, schema)


def test_without_a_file_it_says_what_is_missing() -> None:
    assert 2 == simulate().exit_code


def test_bad_file(scenario: Path) -> None:
    scenario.write_text(SMALL.replace("story", "stroy"))

    result = simulate(str(scenario))

    assert 2 == result.exit_code
    assert "stroy (line 2): there is no such key; did you mean 'story'?" in result.stderr


@pytest.mark.parametrize("seeds", ["3", "3-1", "a-b", "1-99999999999"])
def test_bad_seeds(seeds: str, scenario: Path) -> None:
    assert 2 == simulate(str(scenario), "--seeds", seeds).exit_code


def test_folder_without_scenarios(tmp_path: Path) -> None:
    result = simulate(str(tmp_path))

    assert 2 == result.exit_code
    assert "has no scenario in it" in result.stderr
