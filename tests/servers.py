"""The real service in a child process, for tests that kill it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

READY = re.compile(r"is ready on (\S+)")
START_WITHIN_S = 20.0
END_WITHIN_S = 20.0


@dataclass
class Served:
    """A running service."""

    process: subprocess.Popen[str]
    url: str

    def kill(self) -> None:
        """Send SIGKILL, as the machine's own killers do, and wait for the end."""
        self.process.kill()
        self.process.wait(END_WITHIN_S)

    def stop(self) -> int:
        """Send SIGTERM and return the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(END_WITHIN_S)

    def call(self, method: str, path: str, body: object = None) -> tuple[int, Any]:
        """Return the status and the decoded body of an answer."""
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(self.url + path, data, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.load(error)


@contextlib.contextmanager
def serving(folder: Path, config: str) -> Iterator[Served]:
    """Serve from a folder with a configuration; what still runs at the end is killed."""
    file = folder / "mailactors.toml"
    file.write_text(config)
    with serving_with(folder, "--config", str(file)) as served:
        yield served


@contextlib.contextmanager
def serving_with(folder: Path, *arguments: str) -> Iterator[Served]:
    """Serve from a folder with a command line; standard error goes to `serve.log` there."""
    command = [sys.executable, "-m", "mailactors", "serve", *arguments]
    with (folder / "serve.log").open("a") as log:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=log, text=True, cwd=folder, env=os.environ
        )
    try:
        yield Served(process, _read_url(process, folder))
    finally:
        process.kill()
        process.communicate()


def _read_url(process: subprocess.Popen[str], folder: Path) -> str:
    """Return the address from the child's first line, or say what it said instead."""
    assert process.stdout is not None
    watchdog = threading.Timer(START_WITHIN_S, process.kill)
    watchdog.start()
    try:
        ready = READY.search(process.stdout.readline())
    finally:
        watchdog.cancel()
    if ready is None:
        raise RuntimeError(f"the service did not start:\n{(folder / 'serve.log').read_text()}")
    return ready[1]


def wait_until(condition: Callable[[], bool], within_s: float = 30.0) -> None:
    """Ask again and again until a condition holds."""
    deadline_s = time.monotonic() + within_s
    pause = threading.Event()
    while not condition():
        if time.monotonic() > deadline_s:
            raise TimeoutError(f"not within {within_s:g} s")
        pause.wait(0.02)
