"""An operator's commands against a real gateway: what they do, print and exit with."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mailactors import cli
from tests.servers import Served, serving, wait_until

CONFIG = """
[service]
listen = "127.0.0.1:0"
spool = "spool.db"
[streams.transactional]
[streams.late]
route = ["broken"]
expires_after_s = 3600
[providers.primary]
kind = "simulated"
latency_s = 0.01
[providers.secondary]
kind = "simulated"
latency_s = 0.01
[providers.broken]
kind = "simulated"
error_rate = 1.0
"""

Run = Callable[..., tuple[int, str, str]]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("gateway"), CONFIG) as served:
        yield served


@pytest.fixture
def run(
    gateway: Served, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Run:
    """Run a command in this process; returns its exit code, output and errors."""
    for name in [name for name in os.environ if name.startswith("MAILACTORS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("MAILACTORS_URL", gateway.url)

    def run_(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["mailactors", *arguments])
        code = 0
        try:
            cli.main()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
        return code, *capsys.readouterr()

    return run_


def send(run: Run, name: str, *options: str) -> str:
    """Send a message; return the gateway's id."""
    code, out, err = run("send", "bob@example.com", "-b", "Hi", "-s", name, "--id", name, *options)
    assert (code, err) == (0, "")
    return out.split()[-1]


def wait_for(run: Run, name: str, status: str) -> None:
    def has_it() -> bool:
        return bool(json.loads(run("show", name, "--json")[1])["status"] == status)

    wait_until(has_it)


def test_show_tells_why_by_either_id(run: Run) -> None:
    run("pause", "primary")
    try:
        ours = send(run, "a/b ?%1")
        wait_for(run, ours, "sent")
    finally:
        run("resume", "primary")

    for name in (ours, "a/b ?%1"):
        code, out, err = run("show", name)
        assert (code, err) == (0, "")
        assert out.splitlines()[0] == f"{ours}  sent  transactional"
        assert "passed over: primary (paused by an operator)" in " ".join(out.split())
        assert [line for line in out.splitlines() if len(line) > 80] == []


def test_a_message_that_waits_is_cancelled(run: Run) -> None:
    send(run, "to-cancel", "--stream", "late")
    wait_for(run, "to-cancel", "deferred")

    cancelled = run("cancel", "to-cancel")
    again = run("cancel", "to-cancel")

    assert cancelled == again
    assert cancelled[0] == 0
    assert cancelled[1].startswith("1 deliveries of ")
    assert cancelled[1].endswith(" are cancelled\n")


def test_what_was_sent_is_too_late_to_cancel(run: Run) -> None:
    send(run, "too-late")
    wait_for(run, "too-late", "sent")

    code, out, err = run("cancel", "too-late")

    assert (code, out) == (1, "")
    assert err.endswith("  see what became of it: mailactors show too-late\n")


def test_what_was_cancelled_is_retried_and_what_was_sent_is_not(run: Run) -> None:
    send(run, "to-retry", "--stream", "late")
    wait_for(run, "to-retry", "deferred")
    run("cancel", "to-retry")
    send(run, "was-sent")
    wait_for(run, "was-sent", "sent")

    code, out, _ = run("retry", "to-retry")
    refused, _, err = run("retry", "was-sent")

    assert (code, refused) == (0, 1)
    assert out.startswith("accepted as ")
    assert json.loads(run("show", out.split()[-1], "--json")[1])["retry_of"]
    assert "everything was sent" in err
    assert "mailactors show was-sent" in err
    run("cancel", out.split()[-1])


def test_what_needs_no_settling_says_so(run: Run) -> None:
    send(run, "settled")

    code, out, err = run("settle", "settled", "--as", "sent", "--note", "seen")
    wrong, _, words = run("settle", "settled", "--as", "delivered")

    assert (code, out, wrong) == (1, "", 2)
    assert "There is nothing to settle" in err
    assert "mailactors show settled" in err
    assert "sent" in words
    assert "resend" in words


@pytest.mark.parametrize("command", ["show", "cancel", "retry"])
def test_an_unknown_message_is_told_with_what_to_do(command: str, run: Run) -> None:
    code, out, err = run(command, "nobody")

    assert (code, out) == (1, "")
    assert err.endswith(
        "there is no message 'nobody'; the latest are shown by: mailactors status\n"
    )


def test_a_provider_is_paused_resumed_and_reset(run: Run) -> None:
    paused = run("pause", "secondary")
    shown = run("providers")
    resumed = run("resume", "secondary")
    reset = run("reset", "secondary")

    assert [each[0] for each in (paused, shown, resumed, reset)] == [0, 0, 0, 0]
    assert "secondary  breaker closed     paused, 0 of " in paused[1]
    assert "paused, 0 of " in shown[1]
    assert len(shown[1].splitlines()) == 3
    assert "paused" not in resumed[1] + reset[1]


def test_an_unknown_provider_is_told_by_the_nearest_name(run: Run) -> None:
    code, out, err = run("pause", "secondry/x")

    assert (code, out) == (1, "")
    code, out, err = run("reset", "secondry")
    assert (code, out) == (1, "")
    assert "did you mean 'secondary'?" in err


def test_addresses_are_suppressed_listed_and_freed(run: Run) -> None:
    added = run("suppress", "add", "eve+1@example.com", "--reason", "asked us")
    listed = run("suppress", "list")
    as_json = json.loads(run("suppress", "list", "--json")[1])
    removed = run("suppress", "remove", "eve+1@example.com")
    again = run("suppress", "remove", "eve+1@example.com")
    wrong = run("suppress", "add", "eve@")

    assert [each[0] for each in (added, listed, removed, again, wrong)] == [0, 0, 0, 0, 1]
    assert added[1].startswith("eve+1@example.com gets no mail  (")
    assert "asked us" in listed[1]
    assert [each["address"] for each in as_json["suppressions"]] == ["eve+1@example.com"]
    assert removed[1].startswith("eve+1@example.com gets mail again")
    assert again[1] == "eve+1@example.com was not on the list\n"
    assert "/address" in wrong[2]


def test_a_reload_says_what_it_did_or_why_not(run: Run, gateway: Served) -> None:
    cwd = Path(f"/proc/{gateway.process.pid}/cwd").resolve()
    file = cwd / "mailactors.toml"

    good = run("reload")
    file.write_text("[service]\nlisten = 5\nspol = 'x'\n")
    bad = run("reload")
    file.write_text(CONFIG)

    assert good[:2] == (0, "the configuration is taken over\n")
    assert bad[0] == 1
    assert "service.listen" in bad[2]
    assert "service.spol" in bad[2]
    assert "nothing has changed; check a file with: mailactors config -c FILE" in bad[2]


def test_events_are_followed_until_interrupted(run: Run, gateway: Served) -> None:
    ours = send(run, "followed")
    command = [sys.executable, "-m", "mailactors", "events", "--after", "0", "--url", gateway.url]

    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        line = next(line for line in process.stdout if ours in line)
        process.send_signal(signal.SIGINT)
        code, said = process.wait(10), process.stderr.read()

    assert line.split()[1:3] == [ours, "accepted"]
    assert (code, said) == (130, "")


def test_a_reader_that_goes_ends_the_events_quietly(run: Run, gateway: Served) -> None:
    send(run, "piped")
    command = [sys.executable, "-m", "mailactors", "events", "--after", "0", "--url", gateway.url]

    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        send(run, "nobody-reads-on")
        code, said = process.wait(10), process.stderr.read()

    assert (code, said) == (1, "")


@pytest.mark.parametrize(
    "command",
    [
        *(("show", "x"), ("cancel", "x"), ("retry", "x"), ("settle", "x", "--as", "sent")),
        *(("providers",), ("pause", "x"), ("resume", "x"), ("reset", "x"), ("flush",)),
        *(("events",), ("reload",), ("suppress", "list"), ("suppress", "add", "a@example.com")),
    ],
    ids=" ".join,
)
def test_each_command_says_how_to_start_a_gateway_where_none_answers(
    command: tuple[str, ...], run: Run
) -> None:
    code, out, err = run(*command, "--url", "http://127.0.0.1:1")

    assert (code, out) == (1, "")
    assert err.startswith("mailactors: no gateway answers at http://127.0.0.1:1 (")
    assert err.endswith("start one with: mailactors serve\n")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_is_given_a_script(shell: str, run: Run) -> None:
    code, out, err = run("completion", shell)

    assert (code, err) == (0, "")
    assert f"_MAILACTORS_COMPLETE=complete_{shell}" in out


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("mailactors sup", {"suppress"}),
        ("mailactors pause s", {"secondary"}),
        ("mailactors settle x --as re", {"resend"}),
        ("mailactors completion ", {"bash", "zsh", "fish"}),
    ],
)
def test_bash_completes_commands_options_and_providers(
    words: str, expected: set[str], gateway: Served
) -> None:
    asked = {
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split(" ")) - 1),
        "_MAILACTORS_COMPLETE": "complete_bash",
        "MAILACTORS_URL": gateway.url,
    }
    program = Path(sys.executable).parent / "mailactors"

    done = subprocess.run(
        [program], env=os.environ | asked, capture_output=True, text=True, timeout=20
    )

    assert set(done.stdout.split()) == expected
    assert done.stderr == ""
