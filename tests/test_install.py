"""Without the server: the client and what asks a gateway work, other commands say what lacks."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from mailactors.cli.base import SERVER_PACKAGES
from tests.peers_http import reply, scripted

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
ACCEPTED = reply(202, {"id": "m1", "rfc_message_id": "m1@mail.example", "status": "accepted"})
STATUSES = reply(200, {"statuses": [], "next": None})
EML = b"From: ann@example.com\r\nTo: bob@example.com\r\nSubject: x\r\n\r\nA test.\r\n"


def names_of(requirements: list[str]) -> set[str]:
    names = (re.match(r"[\w-]+", each) for each in requirements)
    return {name[0].replace("-", "_") for name in names if name}


def run_bare(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a program where what only the server needs cannot be imported."""
    lacking = sorted(SERVER_PACKAGES - {"h11", "pydantic"})  # these come with others
    block = f"import sys; sys.modules.update(dict.fromkeys({lacking}))\n"
    command = [sys.executable, "-c", block + code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, input="A test.")


def mailactors(*arguments: str) -> subprocess.CompletedProcess[str]:
    return run_bare("from mailactors.cli import main; main()", *arguments)


def test_the_extra_is_what_the_command_line_knows() -> None:
    assert names_of(PROJECT["optional-dependencies"]["serve"]) == SERVER_PACKAGES


def test_the_client_imports_only_what_every_install_has() -> None:
    allowed = names_of(PROJECT["dependencies"]) | {"mailactors"} | sys.stdlib_module_names
    imported = set()
    for path in (ROOT / "mailactors" / "client").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                imported.add((node.module or "").split(".")[0])
            elif isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}

    assert set() == imported - allowed


@pytest.mark.slow
def test_both_clients_work_without_the_server() -> None:
    code = """
import asyncio
from mailactors import client
from mailactors.client import sync

async def main(url):
    async with client.Client(url) as gateway:
        return (await gateway.send(to="bob@example.com", text="A test.")).id

with sync.Client(sys.argv[1]) as gateway:
    print(gateway.send(to="bob@example.com", text="A test.").id, asyncio.run(main(sys.argv[1])))
"""
    with scripted(ACCEPTED) as peer:
        done = run_bare(code, peer.url)

    assert (done.stdout, done.stderr) == ("m1 m1\n", "")


@pytest.mark.slow
def test_what_asks_a_gateway_works_without_the_server(tmp_path: Path) -> None:
    (tmp_path / "one.eml").write_bytes(EML)
    with scripted(ACCEPTED) as peer:
        sent = mailactors("send", "bob@example.com", "--url", peer.url)
        passed_on = mailactors("send", "--eml", str(tmp_path / "one.eml"), "--url", peer.url)
    with scripted(STATUSES) as peer:
        shown = mailactors("status", "--url", peer.url)

    for done in (sent, passed_on, shown):
        assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [
        ("serve",),
        ("config",),
        ("backup", "copy.db"),
        ("simulate", "scenarios"),
        ("ledger", "--spool", "spool.db"),
    ],
    ids=lambda arguments: arguments[0],
)
def test_what_needs_the_server_says_how_to_install_it(arguments: tuple[str, ...]) -> None:
    done = mailactors(*arguments)

    assert done.returncode == 2
    assert "is not installed; install it with: pip install 'mailactors[serve]'" in done.stderr
    assert "Traceback" not in done.stderr
