"""`mailactors ledger`: of a service, of a file, and of what is neither."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import apsw
import pytest

from mailactors import cli
from mailactors.spool.engines import open_store
from tests.servers import Served, serving_with
from tests.spool.makers import make_accept, receive

NOBODY = "http://127.0.0.1:1"
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("gateway")


@pytest.fixture(scope="module")
def gateway(folder: Path) -> Iterator[Served]:
    with serving_with(folder, "--listen", "127.0.0.1:0", "--spool", "spool.db") as served:
        yield served


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command in this process; returns its exit code, output and errors."""
    for name in [name for name in os.environ if name.startswith("MAILACTORS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("COLUMNS", "120")

    def run_(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["mailactors", *arguments])
        code = 0
        try:
            cli.main()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
        return code, *capsys.readouterr()

    return run_


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    path = tmp_path / "spool.db"
    store = open_store(str(path))
    for number in range(3):
        receive(store, make_accept(f"m{number}"))
    store.close()
    return path


def break_it(path: Path) -> None:
    db = apsw.Connection(str(path))
    db.execute("DELETE FROM deliveries WHERE seq = 2")
    db.close()


def test_a_kept_sum_that_is_wrong_is_an_error(spool: Path, run: Run) -> None:
    db = apsw.Connection(str(spool))
    db.execute("UPDATE sums SET value = 7 WHERE name = 'moving'")
    db.close()

    code, out, _ = run("ledger", "--spool", str(spool))

    assert 1 == code
    assert "ready is kept as 7; 3 were counted." in out
    assert "It adds up" in out  # the rows do


def test_a_services_ledger_is_shown(gateway: Served, run: Run) -> None:
    run("send", "a@example.org", "-s", "Hello", "-b", "x", "--url", gateway.url)

    code, out, err = run("ledger", "--url", gateway.url)
    shown = run("ledger", "--url", gateway.url, "--json")[1]

    assert (code, err) == (0, "")
    assert "deliveries accepted" in out
    assert "It adds up." in out
    ledger = json.loads(shown)
    assert ledger["holds"]
    assert [] == ledger["alarms"]


def test_a_running_services_file_can_be_read_beside_it(
    gateway: Served, folder: Path, run: Run
) -> None:
    run("send", "a@example.org", "-s", "Hello", "-b", "x", "--url", gateway.url)
    before = json.loads(run("ledger", "--url", gateway.url, "--json")[1])

    code, out, err = run("ledger", "--spool", str(folder / "spool.db"), "--json")
    again = run("send", "a@example.org", "-s", "Hello", "-b", "x", "--url", gateway.url)

    read = json.loads(out)
    assert (code, err) == (0, "")
    assert before["accepted"] == read["accepted"] >= 1
    assert read["alarms"] is None
    assert 0 == again[0]  # it is as well as before


def test_the_environment_names_the_service(
    gateway: Served, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MAILACTORS_URL", gateway.url)

    assert 0 == run("ledger")[0]


def test_a_file_goes_before_the_environment(
    spool: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MAILACTORS_URL", NOBODY)

    assert 0 == run("ledger", "--spool", str(spool))[0]


def test_a_stopped_spool_is_shown_and_as_json(spool: Path, run: Run) -> None:
    code, out, err = run("ledger", "--spool", str(spool))
    as_json: dict[str, Any] = json.loads(run("ledger", "--spool", str(spool), "--json")[1])

    assert (code, err) == (0, "")
    assert "3 deliveries accepted" in " ".join(out.split())
    assert {"queued": 3} == as_json["states"]
    assert as_json["oldest_s"]["queued"] >= 0.0


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_an_imbalance_is_an_exit_code(options: tuple[str, ...], spool: Path, run: Run) -> None:
    break_it(spool)

    code, out, _ = run("ledger", "--spool", str(spool), *options)

    assert code == 1
    assert ("does not add up" in out) == (not options)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "there is no file"),
        (b"Dear diary, " * 1000, "is not a database"),
        (b"", "no gateway has used it yet"),
    ],
    ids=["missing", "another file", "empty"],
)
def test_what_is_no_spool_is_not_usable(
    content: bytes | None, words: str, tmp_path: Path, run: Run
) -> None:
    path = tmp_path / "spool.db"
    if content is not None:
        path.write_bytes(content)

    code, out, err = run("ledger", "--spool", str(path))

    assert (code, out) == (2, "")
    assert words in err
    assert "Traceback" not in err


def test_a_newer_spool_is_not_usable(spool: Path, run: Run) -> None:
    db = apsw.Connection(str(spool))
    db.execute("INSERT INTO migrations VALUES (9999, '9999_future.sql', 'x')")
    db.close()

    code, _, err = run("ledger", "--spool", str(spool))

    assert code == 2
    assert "newer mailactors; run that one" in err


def test_a_damaged_spool_is_not_usable(spool: Path, run: Run) -> None:
    with spool.open("r+b") as file:
        file.seek(100)
        file.write(b"\xff" * 8_000)

    code, _, err = run("ledger", "--spool", str(spool))

    assert code == 2
    assert "go on from a backup" in err


def test_without_a_service_it_says_what_to_do(run: Run) -> None:
    code, out, err = run("ledger", "--url", NOBODY)

    assert (code, out) == (2, "")
    assert "no gateway answers" in err


def test_a_file_and_a_service_are_not_asked_at_once(spool: Path, run: Run) -> None:
    code, _, err = run("ledger", "--spool", str(spool), "--url", NOBODY)

    assert code == 2
    assert "not both" in err


def test_help_says_what_the_exit_codes_mean(run: Run) -> None:
    code, out, _ = run("ledger", "--help")

    assert code == 0
    assert [] == [word for word in ("--spool", "--url", "--json", "Exit code") if word not in out]
