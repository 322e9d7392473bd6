"""What an operator does to a running service: reload it, back it up, serve HTTPS."""

import ssl
import subprocess
import sys
import threading
import urllib.request
from pathlib import Path

import pytest
import trustme

from tests.servers import Served, serving, wait_until
from tests.test_kill import is_settled, read_spool

CONFIG = """
[service]
listen = "127.0.0.1:0"
spool = "spool.db"
drain_s = 5
{service}

[providers.{name}]
kind = "simulated"
latency_s = 0.01
{provider}
"""


def config(name: str = "first", provider: str = "", service: str = "") -> str:
    return CONFIG.format(name=name, provider=provider, service=service)


def lanes(served: Served) -> list[str]:
    _, answer = served.call("GET", "/v1/providers")
    return [each["name"] for each in answer["providers"]]


def log(folder: Path) -> str:
    return (folder / "serve.log").read_text()


@pytest.mark.slow
def test_a_hangup_reloads_providers(tmp_path: Path) -> None:
    with serving(tmp_path, config("first")) as served:
        (tmp_path / "mailactors.toml").write_text(config("second"))
        served.process.send_signal(1)
        wait_until(lambda: lanes(served) == ["second"])
        served.call(
            "POST", "/send-email", {"id": "1", "to": "a@example.com", "subject": "x", "body": "x"}
        )
        wait_until(lambda: is_settled(served))
        _, page = served.call("GET", "/statuses?id=1")

        assert 0 == served.stop()
    assert "second" == page["statuses"][0]["provider"]


@pytest.mark.slow
def test_a_bad_file_changes_nothing_and_names_the_key(tmp_path: Path) -> None:
    with serving(tmp_path, config("first")) as served:
        (tmp_path / "mailactors.toml").write_text(config("second", provider="latncy_s = 1"))
        served.process.send_signal(1)
        wait_until(lambda: "reload.refused" in log(tmp_path))
        status, problem = served.call("POST", "/v1/reload")

        assert ["first"] == lanes(served)
        assert 422 == status
        assert "providers.second.latncy_s" in str(problem)
        assert "did you mean 'latency_s'" in str(problem)
        assert 0 == served.stop()
    assert "providers.second.latncy_s" in log(tmp_path)


@pytest.mark.slow
def test_what_needs_a_restart_is_said(tmp_path: Path) -> None:
    with serving(tmp_path, config("first")) as served:
        changed = config("first").replace('spool = "spool.db"', 'spool = "other.db"')
        (tmp_path / "mailactors.toml").write_text(changed)
        status, answer = served.call("POST", "/v1/reload")

        assert 200 == status
        assert "service.spool" in str(answer)


@pytest.mark.slow
def test_the_api_speaks_https(tmp_path: Path) -> None:
    authority = trustme.CA()
    leaf = authority.issue_cert("127.0.0.1")
    leaf.private_key_pem.write_to_path(str(tmp_path / "key.pem"))
    leaf.cert_chain_pems[0].write_to_path(str(tmp_path / "cert.pem"))
    context = ssl.create_default_context()
    authority.configure_trust(context)
    service = 'tls_cert = "cert.pem"\ntls_key = "key.pem"'

    with serving(tmp_path, config(service=service)) as served:
        with urllib.request.urlopen(served.url + "/readyz", context=context, timeout=10) as answer:
            status = answer.status

        assert served.url.startswith("https://")
        assert 200 == status


class Submitting:
    """A client that submits until it is told to stop."""

    def __init__(self, served: Served) -> None:
        self.acknowledged: list[str] = []
        self._served = served
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def stop(self) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        n = 0
        while not self._over.is_set():
            body = {"id": f"{n}", "to": "a@example.com", "subject": "x", "body": "x" * 5000}
            status, _ = self._served.call("POST", "/send-email", body)
            assert status == 202
            self.acknowledged.append(str(n))
            n += 1


@pytest.mark.slow
def test_a_backup_under_load_holds_all_that_was_acknowledged_before(tmp_path: Path) -> None:
    with serving(tmp_path, config()) as served:
        client = Submitting(served)
        wait_until(lambda: len(client.acknowledged) > 50)
        before = set(client.acknowledged)
        command = [sys.executable, "-m", "mailactors", "backup", "copy.db", "--spool", "spool.db"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=30)
        client.stop()
    copied = read_spool(tmp_path / "copy.db")

    assert 0 == done.returncode, done.stderr
    assert before <= set(copied)


@pytest.mark.slow
def test_a_backup_never_overwrites(tmp_path: Path) -> None:
    (tmp_path / "copy.db").write_text("precious")
    with serving(tmp_path, config()):
        command = [sys.executable, "-m", "mailactors", "backup", "copy.db", "--spool", "spool.db"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=30)

    assert 1 == done.returncode
    assert "copy.db exists" in done.stderr
    assert "precious" == (tmp_path / "copy.db").read_text()
