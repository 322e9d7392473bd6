"""The command line against a real gateway: what it prints, and what it says when it cannot."""

import http.server
import io
import json
import os
import sys
import threading
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.cells import cell_len

from mailactors import __version__, cli
from mailactors.cli.texts import status_lines
from tests.servers import Served, serving_with

NOBODY = "http://127.0.0.1:1"

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A gateway as it serves without a configuration."""
    folder = tmp_path_factory.mktemp("gateway")
    with serving_with(folder, "--listen", "127.0.0.1:0", "--spool", "spool.db") as served:
        yield served


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command in this process; returns its exit code, output and errors."""
    for name in [name for name in os.environ if name.startswith("MAILACTORS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("COLUMNS", "200")

    def run_(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["mailactors", *arguments])
        code = 0
        try:
            cli.main()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
        return code, *capsys.readouterr()

    return run_


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (
            (),
            [
                *("serve", "send", "status", "show", "cancel", "retry", "settle", "providers"),
                *("pause", "resume", "reset", "flush", "events", "reload", "suppress", "ledger"),
                *("backup", "config", "simulate", "completion", "--version"),
            ],
        ),
        (("serve",), ["--config", "--listen", "--spool", "SIGTERM"]),
        (("send",), ["--subject", "--body", "--id", "--from", "--stream", "--url", "--json"]),
        (("status",), ["--limit", "--url", "MAILACTORS_URL", "--json"]),
        (("config",), ["--config"]),
    ],
    ids=["mailactors", "serve", "send", "status", "config"],
)
def test_help_lists_what_may_be_said(
    command: tuple[str, ...], expected: list[str], run: Run
) -> None:
    code, out, _ = run(*command, "--help")

    assert code == 0
    assert [word for word in expected if word not in out] == []


def test_the_version_is_printed(run: Run) -> None:
    assert run("--version") == (0, f"{__version__}\n", "")


def test_an_unknown_option_is_told(run: Run) -> None:
    code, _, err = run("serve", "--lisen", "x")

    assert code == 2
    assert "--lisen" in err


def test_the_configuration_is_shown_without_secrets(tmp_path: Path, run: Run) -> None:
    file = tmp_path / "mailactors.toml"
    file.write_text(
        '[service]\ndefault_from = "a@example.com"\n'
        '[providers.p]\nkind = "smtp"\nhost = "mx.example"\nusername = "u"\npassword = "canary"\n'
    )

    code, out, err = run("config", "--config", str(file))
    shown = json.loads(run("config", "--config", str(file), "--json")[1])

    assert (code, err) == (0, "")
    assert "canary" not in out + str(shown)
    assert tomllib.loads(out)["providers"]["p"]["port"] == 587
    assert shown["providers"]["p"]["host"] == "mx.example"
    assert shown["service"]["listen"] == "127.0.0.1:8625"
    assert shown["evidence"]["otp"]["p"] == {"evidence": [], "then": "resend at once"}


def test_a_check_names_missing_secrets_and_unused_providers(tmp_path: Path, run: Run) -> None:
    file = tmp_path / "mailactors.toml"
    file.write_text(
        '[service]\ndefault_from = "a@example.com"\n'
        '[providers.p]\nkind = "smtp"\nhost = "mx.example"\nusername = "u"\n'
        '[providers.q]\nkind = "simulated"\n[streams.x]\nroute = ["p"]\n'
    )

    code, out, err = run("config", "-c", str(file))
    served, _, why = run("serve", "-c", str(file))

    assert (code, served) == (0, 1)
    assert tomllib.loads(out)["providers"]["p"]["username"] == "u"
    assert "set the variable MAILACTORS_PROVIDERS__P__PASSWORD" in err
    assert "providers.q: no stream's route names it" in err
    assert "set the variable MAILACTORS_PROVIDERS__P__PASSWORD" in why


def test_a_check_looks_for_files(tmp_path: Path, run: Run) -> None:
    file = tmp_path / "mailactors.toml"
    file.write_text(f"[service]\nspool = '{tmp_path}/none/spool.db'\n")

    code, out, err = run("config", "-c", str(file))

    assert (code, out) == (1, "")
    assert f"service.spool: there is no folder {tmp_path}/none" in err


@pytest.mark.parametrize("command", ["config", "serve"])
def test_a_bad_configuration_is_told_by_its_key(command: str, tmp_path: Path, run: Run) -> None:
    file = tmp_path / "mailactors.toml"
    file.write_text("[service]\nlisen = '127.0.0.1:0'\n")

    code, out, err = run(command, "-c", str(file))

    assert (code, out) == (1, "")
    assert err == (
        f"mailactors: {file}:\n  service.lisen: there is no such key; did you mean 'listen'?\n"
    )


def test_a_file_that_is_missing_is_told(tmp_path: Path, run: Run) -> None:
    code, _, err = run("serve", "-c", str(tmp_path / "none.toml"))

    assert code == 1
    assert err.endswith("none.toml:\n  cannot be read: No such file or directory\n")


def test_a_bad_address_to_listen_on_is_told_by_its_key(run: Run) -> None:
    code, _, err = run("serve", "--listen", "8625")

    assert code == 1
    assert "service.listen: is HOST:PORT, such as 127.0.0.1:8625" in err


def test_a_spool_that_cannot_be_made_is_told(tmp_path: Path, run: Run) -> None:
    spool = tmp_path / "none" / "spool.db"

    code, _, err = run("serve", "--spool", str(spool))

    assert (code, err) == (
        1,
        f"mailactors: {spool}.lock cannot be opened: No such file or directory\n",
    )


@pytest.mark.slow
def test_a_message_is_sent_and_looked_up(gateway: Served, run: Run) -> None:
    url = ("--url", gateway.url)
    to = ["bob@example.com", "carl@example.com"]

    code, out, _ = run("send", *to, "-s", "Hello", "-b", "Hi", "--id", "looked-up", *url)
    assert code == 0
    assert out.startswith("accepted as ")
    message_id = out.split()[-1]
    for name in ("looked-up", message_id):
        code, out, _ = run("status", name, *url)
        assert code == 0
        assert "looked-up" in out
        assert "bob@example.com +1: Hello" in out


@pytest.mark.slow
def test_programs_are_answered_in_json(gateway: Served, run: Run) -> None:
    url = ("--url", gateway.url + "/", "--json")

    _, sent, _ = run("send", "bob@example.com", "-b", "Hi", "--id", "json", *url)
    _, found, _ = run("status", "json", *url)

    (status,) = json.loads(found)["statuses"]
    assert status["id"] == json.loads(sent)["id"]
    assert status["to"] == ["bob@example.com"]


@pytest.mark.slow
def test_a_body_is_read_from_standard_input(
    gateway: Served, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("from a pipe\n"))

    code, _, err = run("send", "bob@example.com", "--url", gateway.url)

    assert (code, err) == (0, "")


@pytest.mark.slow
def test_the_address_of_the_gateway_may_be_in_the_environment(
    gateway: Served, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MAILACTORS_URL", gateway.url)

    assert run("status")[0] == 0


@pytest.mark.slow
def test_the_same_id_again_sends_nothing_and_other_content_is_refused(
    gateway: Served, run: Run
) -> None:
    letter = ("send", "bob@example.com", "--id", "same", "--url", gateway.url)

    first = run(*letter, "-b", "Hi")
    again = run(*letter, "-b", "Hi")
    code, _, err = run(*letter, "-b", "Something else")

    assert first == again
    assert code == 1
    assert "was used with other content" in err


@pytest.mark.slow
def test_a_refusal_names_each_fault(gateway: Served, run: Run) -> None:
    code, out, err = run(
        *("send", "bob@", "ann@example.com", "-b", "Hi", "--stream", "none"),
        *("--from", "me@example.com", "--url", gateway.url),
    )

    assert (code, out) == (1, "")
    assert "  /to/0: " in err
    assert "  /stream: there is no stream 'none'" in err


@pytest.mark.slow
def test_deferred_mail_is_flushed(gateway: Served, run: Run) -> None:
    flushed = run("flush", "--provider", "primary", "--stream", "bulk", "--url", gateway.url)
    code, _, err = run("flush", "--provider", "primry", "--url", gateway.url)

    assert (0, "0 deliveries are due now\n", "") == flushed
    assert code == 1
    assert "did you mean 'primary'?" in err


@pytest.mark.slow
def test_an_unknown_id_is_told(gateway: Served, run: Run) -> None:
    code, out, err = run("status", "nobody", "--url", gateway.url)

    expected = "there is no message 'nobody'; the latest are shown by: mailactors status"
    assert (code, out, err) == (1, "", f"mailactors: {expected}\n")


@pytest.mark.slow
def test_a_program_is_told_of_an_unknown_id_in_json(gateway: Served, run: Run) -> None:
    code, out, _ = run("status", "nobody", "--json", "--url", gateway.url)

    assert (code, json.loads(out)["statuses"]) == (0, [])


@pytest.mark.parametrize("url", [NOBODY, "http://127.0.0.1:abc", "127.0.0.1:8625", "nothing"])
@pytest.mark.parametrize("command", [("status",), ("send", "bob@example.com", "-b", "Hi")])
def test_where_no_gateway_answers_it_says_how_to_start_one(
    url: str, command: tuple[str, ...], run: Run
) -> None:
    code, out, err = run(*command, "--url", url)

    assert (code, out) == (1, "")
    assert err.startswith(f"mailactors: no gateway answers at {url} (")
    assert err.endswith("start one with: mailactors serve\n")


class Stranger(http.server.BaseHTTPRequestHandler):
    """Something that is no gateway."""

    def do_GET(self) -> None:
        self.send_response(int(self.path.strip("/").split("/")[0]))
        self.end_headers()
        self.wfile.write(b"<html>Welcome</html>")

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # as above
        """Say nothing."""


@pytest.fixture
def stranger() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Stranger) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join(5)


@pytest.mark.parametrize(
    ("code", "expected"),
    [("200", "what answers at {url} is no gateway"), ("404", "the gateway answered 404")],
)
def test_something_else_that_answers_is_told(
    code: str, expected: str, stranger: str, run: Run
) -> None:
    url = f"{stranger}/{code}"

    ended = run("status", "--url", url)

    assert ended == (1, "", f"mailactors: {expected.format(url=url)}\n")


def status_of(**changes: Any) -> dict[str, Any]:
    plain: dict[str, Any] = {"id": "17", "client_id": None, "to": ["bob@example.com"]}
    plain |= {"status": "sent", "provider": None, "attempts": 1, "error": None}
    plain |= {"updated_at": "2026-01-01T00:00:00Z", "subject": "Hello"}
    return {**plain, **changes}


@pytest.mark.parametrize("hostile", ["[/red] [bold]no[/bold] :smile:", "\x1b[2J\x1b]0;x\x07"])
def test_what_a_provider_or_client_says_is_no_command_to_the_terminal(hostile: str) -> None:
    said = status_of(error=hostile, subject=hostile, id=hostile)

    lines = list(status_lines(said, 200))

    shown = "".join(each if each.isprintable() else "?" for each in hostile)
    assert all(line.isprintable() for line in lines)
    assert [shown in line for line in lines] == [True, True, True]


@pytest.mark.parametrize("width", [60, 80, 200])
def test_a_status_fits_the_terminal_and_keeps_its_id_whole(width: int) -> None:
    name = "01a204dc535573a79f66e30aa0e7bacf"
    said = status_of(
        id=name,
        client_id="order-" * 20,
        to=["somebody.with.a.long.name@example.com"] * 3,
        subject="日本語の件名 " * 20,
        provider="a-provider-with-a-long-name" * 3,
        error="452 4.2.2 mailbox full " * 20,
    )

    lines = list(status_lines(said, width))

    assert lines[0].split()[0] == name
    assert [line for line in lines if cell_len(line) > width] == []


def test_a_status_shows_subject_provider_attempts_and_both_ids() -> None:
    said = status_of(id="01a2", client_id="order-7", status="scheduled", provider="primary")

    assert list(status_lines(said, 80)) == [
        "01a2  scheduled  primary, 1 attempt  00:00:00Z",
        "  [order-7] bob@example.com: Hello",
    ]
