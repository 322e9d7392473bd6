"""The service as a process: its first lines, its signals, and why it does not start."""

import contextlib
import json
import re
import resource
import shlex
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mailactors.config import Config
from mailactors.errors import MailactorsError
from mailactors.service import (
    announce,
    raise_descriptor_limit,
    split_listen,
    too_few_descriptors,
    why_it_ended,
)
from mailactors.spool.engines import open_store
from tests.servers import Served, serving, serving_with, wait_until

DEMO = ("--listen", "127.0.0.1:0", "--spool", "spool.db")


def config(latency_s: float, drain_s: float = 10.0) -> str:
    """Return a configuration with one provider that takes its time."""
    return (
        f'[service]\nlisten = "127.0.0.1:0"\nspool = "spool.db"\ndrain_s = {drain_s}\n'
        f'[providers.p]\nkind = "simulated"\nlatency_s = {latency_s}\nlatency_sigma = 0\n'
        "delivery_events = true\n"
        "[streams.mail]\nuncertain_wait_s = 3600\n"
    )


def submit(served: Served, name: str) -> None:
    body = {"id": name, "to": f"r{name}@example.com", "subject": "Hello", "body": "Hi"}
    code, answer = served.call("POST", "/send-email", body)
    assert (code, answer["id"]) == (202, name)


def status(served: Served, name: str) -> Any:
    code, answer = served.call("GET", f"/statuses?id={name}")
    assert code == 200
    (found,) = answer["statuses"]
    return found["status"]


def states(folder: Path) -> dict[str, int]:
    """Return what a service that has ended left in its spool."""
    with contextlib.closing(open_store(str(folder / "spool.db"))) as store:
        ledger = store.ledger()
    assert ledger.is_balanced
    return {state: count for state, count in ledger.states.items() if count}


def log(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "serve.log").read_text().splitlines()]


def events(folder: Path) -> list[str]:
    return [line["event"] for line in log(folder)]


def fail_to_serve(folder: Path, *arguments: str) -> tuple[int, str, str]:
    """Run a service that is expected to end by itself."""
    command = [sys.executable, "-m", "mailactors", "serve", *arguments]
    ended = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=20)
    return ended.returncode, ended.stdout, ended.stderr


@pytest.mark.slow
def test_the_first_example_works_as_it_is_printed(tmp_path: Path) -> None:
    with serving_with(tmp_path, *DEMO) as served:
        assert served.process.stdout is not None
        lines = [served.process.stdout.readline() for _ in range(9)]
        text = "".join(lines)
        command = shlex.split(text[text.index("  curl -i") : text.index("  curl http")])
        url = next(word for word in command if word.startswith("http"))
        header, body = command[command.index("-H") + 1], command[command.index("-d") + 1]
        name, _, value = header.partition(": ")
        request = urllib.request.Request(url, body.encode(), {name: value})
        with urllib.request.urlopen(request, timeout=10) as answer:
            code, accepted = answer.status, json.load(answer)
        listed = served.call("GET", "/statuses")[1]["statuses"]

        assert (code, accepted["message"]) == (202, "Email process initiated.")
        (found,) = listed
        assert (found["client_id"], found["to"]) == ("1", ["chahak@example.com"])
        assert f"curl {served.url}/statuses" in text
        assert "spool      spool.db" in text
        assert "primary (simulated), secondary (simulated), tertiary (simulated)" in text
        wait_until(lambda: status(served, "1") == "sent")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_in_order_with_everything_recorded(
    number: signal.Signals, tmp_path: Path
) -> None:
    with serving(tmp_path, config(latency_s=0.4)) as served:
        for n in range(5):
            submit(served, str(n))
        wait_until(lambda: status(served, "4") == "processing")
        served.process.send_signal(number)
        code = served.process.wait(20)

    assert code == 0
    assert states(tmp_path) == {"sent": 5}
    assert "service.stopping" in events(tmp_path)


@pytest.mark.slow
def test_what_is_in_flight_past_the_drain_is_uncertain_at_the_next_start(tmp_path: Path) -> None:
    with serving(tmp_path, config(latency_s=600, drain_s=0.2)) as served:
        submit(served, "1")
        wait_until(lambda: status(served, "1") == "processing")
        code = served.stop()

    assert (code, states(tmp_path)) == (0, {"uncertain": 1})
    with serving(tmp_path, config(latency_s=600, drain_s=0.2)) as served:
        wait_until(lambda: status(served, "1") == "uncertain")
        assert served.stop() == 0
    assert "spool.recovered" not in events(tmp_path)  # nobody died


@pytest.mark.slow
def test_a_second_signal_ends_it_at_once(tmp_path: Path) -> None:
    with serving(tmp_path, config(latency_s=600, drain_s=600)) as served:
        submit(served, "1")
        wait_until(lambda: status(served, "1") == "processing")
        served.process.send_signal(signal.SIGINT)
        wait_until(lambda: "service.stopping" in events(tmp_path))
        before_s = time.monotonic()
        code = served.stop()

    assert code == 128 + signal.SIGTERM
    assert time.monotonic() - before_s < 5
    assert states(tmp_path) == {"sending": 1}


@pytest.mark.slow
def test_two_services_cannot_share_a_spool(tmp_path: Path) -> None:
    with serving_with(tmp_path, *DEMO) as served:
        code, out, err = fail_to_serve(tmp_path, *DEMO)

        assert (code, out) == (1, "")
        assert "spool.db is in use by another process" in err
        assert "Traceback" not in err
        assert served.call("GET", "/healthz")[0] == 200


@pytest.fixture
def port() -> Iterator[int]:
    """A port that is taken."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.mark.slow
def test_a_port_that_is_taken_is_told(port: int, tmp_path: Path) -> None:
    code, out, err = fail_to_serve(tmp_path, "--listen", f"127.0.0.1:{port}", "--spool", "s.db")

    assert (code, out) == (1, "")
    last = err.splitlines()[-1]
    assert last.startswith(f"mailactors: cannot listen on 127.0.0.1:{port}: ")
    assert "Address already in use" in last
    assert "Traceback" not in err


@pytest.mark.slow
def test_a_bad_configuration_is_told_by_its_key(tmp_path: Path) -> None:
    (tmp_path / "bad.toml").write_text('[providers.p]\nkind = "smpt"\n')

    code, out, err = fail_to_serve(tmp_path, "--config", "bad.toml")

    assert (code, out) == (1, "")
    assert err == (
        "mailactors: bad.toml:\n  providers.p.kind: there is no kind 'smpt'; did you mean 'smtp'?\n"
    )


@pytest.mark.slow
def test_the_log_tells_nobody_who_wrote_to_whom(tmp_path: Path) -> None:
    with serving(tmp_path, config(latency_s=0.01) + '[log]\nlevel = "debug"\n') as served:
        body = {"id": "canary-id", "to": "canary-to@example.com"}
        body |= {"subject": "canary-subject", "body": "canary-body"}
        served.call("POST", "/send-email", body)
        served.call("POST", "/send-email", {**body, "to": "canary-to@"})
        served.call("GET", "/canary-path?canary=query")
        wait_until(lambda: status(served, "canary-id") == "sent")
        served.stop()

    assert "attempt.done" in events(tmp_path)
    assert "canary" not in (tmp_path / "serve.log").read_text()


@pytest.mark.parametrize(
    ("listen", "expected"),
    [
        ("127.0.0.1:8625", ("127.0.0.1", 8625)),
        ("[::1]:0", ("::1", 0)),
        ("mail.example:80", ("mail.example", 80)),
    ],
)
def test_an_address_to_listen_on_is_a_host_and_a_port(
    listen: str, expected: tuple[str, int]
) -> None:
    assert split_listen(listen) == expected


def test_only_the_demo_tells_what_to_try(capsys: pytest.CaptureFixture[str]) -> None:
    announce(Config(), "http://127.0.0.1:8625", is_demo=False)
    plain = capsys.readouterr().out
    announce(Config(), "http://127.0.0.1:8625", is_demo=True)
    demo = capsys.readouterr().out

    assert re.match(r"mailactors \S+ is ready on http://127.0.0.1:8625\n", plain)
    assert "curl" not in plain
    assert demo.startswith(plain)
    assert "curl -i http://127.0.0.1:8625/send-email" in demo


def test_only_what_the_listener_met_is_told_of_the_listener() -> None:
    crash = ExceptionGroup("", [ExceptionGroup("", [MailactorsError("an actor crashed")])])
    bind = ExceptionGroup("", [ExceptionGroup("", [OSError(98, "Address already in use")])])

    assert why_it_ended(crash, Config()) == "MailactorsError: an actor crashed"
    assert why_it_ended(bind, Config()) == (
        "cannot listen on 127.0.0.1:8625: OSError: [Errno 98] Address already in use"
    )


def test_the_limit_of_descriptors_is_raised_as_far_as_it_may() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(256, before[1]), before[1]))
    try:
        raised = raise_descriptor_limit()
        assert (before[1], before[1]) == resource.getrlimit(resource.RLIMIT_NOFILE)
        assert raised in (before[1], sys.maxsize)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_too_few_descriptors_are_told_with_what_to_do() -> None:
    slots = {"kind": "simulated", "concurrency_max": 200}
    config = Config.model_validate({"providers": {"a": slots, "b": slots}})

    assert [] == too_few_descriptors(1464, config, 1000)
    (note,) = too_few_descriptors(1463, config, 1000)
    assert "may open 1463 files and connections, and may need 1464" in note
    assert "ulimit -Hn" in note
