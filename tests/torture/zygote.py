"""Services that start in a moment: a process that has loaded everything forks one for each test.

What it forks runs the command line's own `serve`, or whatever else the command line has. A fresh
interpreter (`Zygote.start(..., is_fresh=True)`) does the same in ten times the time.

    python -m tests.torture.zygote                  # is told on standard input what to fork
    python -m tests.torture.zygote HARM ARGUMENT…   # is the service itself, in a fresh interpreter
"""

from __future__ import annotations

import contextlib
import email.message
import gc
import http.client
import importlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec

from tests.servers import END_WITHIN_S, READY, START_WITHIN_S
from tests.torture.harm import DIED_AT, DISK_LOG, Harm, suffer

ROOT: Final = Path(__file__).parents[2]
LOOK_EVERY_S: Final = 0.003
OUT: Final = "serve.out"
LOG: Final = "serve.log"


class NotStartedError(Exception):
    """The service ended before it was ready. `code` is its exit code, negative for a signal."""

    def __init__(self, code: int, log: str) -> None:
        super().__init__(f"exit code {code}:\n{log}")
        self.code = code
        self.log = log


@dataclass(frozen=True)
class Answer:
    """An HTTP answer."""

    status: int
    headers: email.message.Message
    """Whatever their case."""
    body: Any


def call(
    url: str, method: str, path: str, body: object = None, headers: Mapping[str, str] | None = None
) -> Answer:
    """Ask once over a connection of its own.

    Raises: OSError, http.client.HTTPException, when there is no answer.
    """
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=20)
    with contextlib.closing(connection):
        return ask(connection, method, path, body, headers)


def ask(
    connection: http.client.HTTPConnection,
    method: str,
    path: str,
    body: object = None,
    headers: Mapping[str, str] | None = None,
) -> Answer:
    """Ask over a connection that may be used again."""
    data = None if body is None else json.dumps(body)
    content = {} if body is None else {"Content-Type": "application/json"}
    connection.request(method, path, data, {**content, **(headers or {})})
    answer = connection.getresponse()
    text = answer.read()
    is_json = "json" in answer.headers.get("Content-Type", "")
    return Answer(answer.status, answer.headers, json.loads(text) if is_json else text.decode())


@dataclass
class Child:
    """A service that was started; it may have ended meanwhile."""

    pid: int
    folder: Path
    reap: Any
    url: str = ""
    code: int | None = None
    """Its exit code once it has ended, negative for a signal."""

    def signal(self, number: int) -> None:
        """Send a signal, unless it has ended already."""
        if self.code is None:
            os.kill(self.pid, number)  # it is not reaped before `wait`, so the pid is its own

    def kill(self) -> None:
        """Send SIGKILL, as the machine's own killers do, and wait for the end."""
        self.signal(signal.SIGKILL)
        self.wait()

    def stop(self) -> int:
        """Send SIGTERM and return the exit code."""
        self.signal(signal.SIGTERM)
        return self.wait()

    def wait(self, within_s: float = END_WITHIN_S) -> int:
        """Return the exit code; one that does not end in time is killed, with an error."""
        if self.code is None:
            watchdog = threading.Timer(within_s, os.kill, (self.pid, signal.SIGKILL))
            began_s = time.monotonic()
            watchdog.start()
            try:
                self.code = self.reap(self.pid)
            finally:
                watchdog.cancel()
            if time.monotonic() - began_s >= within_s:
                raise TimeoutError(f"the service did not end within {within_s:g} s:\n{self.log}")
        assert self.code is not None
        return self.code

    @property
    def has_ended(self) -> bool:
        """Whether the process is gone, reaped or not."""
        if self.code is not None:
            return True
        with contextlib.suppress(FileNotFoundError):
            return Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
        return True

    @property
    def died_at(self) -> str:
        """Return the place at which it killed itself, or an empty string."""
        with contextlib.suppress(FileNotFoundError):
            return (self.folder / DIED_AT).read_text()
        return ""

    @property
    def log(self) -> str:
        """Return what it and its predecessors in the folder said on standard error."""
        return (self.folder / LOG).read_text()

    @property
    def disk_log(self) -> list[str]:
        """Return what its faulty disk noted."""
        with contextlib.suppress(FileNotFoundError):
            return (self.folder / DISK_LOG).read_text().splitlines()
        return []

    def call(
        self,
        method: str,
        path: str,
        body: object = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Ask the service."""
        return call(self.url, method, path, body, headers)

    def wait_for_url(self) -> str:
        """Wait until the service says where it listens.

        Raises: NotStartedError
        """
        deadline_s = time.monotonic() + START_WITHIN_S
        out = self.folder / OUT
        while time.monotonic() < deadline_s:
            has_ended = self.has_ended
            if ready := READY.search(out.read_text()):
                self.url = ready[1]
                return self.url
            if has_ended:
                raise NotStartedError(self.wait(), self.log)
            time.sleep(LOOK_EVERY_S)
        self.kill()
        raise NotStartedError(-signal.SIGKILL, f"not ready within {START_WITHIN_S:g} s")


@dataclass
class Zygote:
    """The process that forks services."""

    process: subprocess.Popen[str]
    children: list[Child] = field(default_factory=list)

    def start(
        self,
        folder: Path,
        config: str,
        harm: Harm | None = None,
        *,
        is_fresh: bool = False,
        is_awaited: bool = True,
    ) -> Child:
        """Start a service in a folder, and wait until it is ready.

        Args:
            folder: the service's current folder; its output goes to files there.
            config: the text of its configuration.
            harm: what it does to itself.
            is_fresh: start it in an interpreter of its own.
            is_awaited: wait until it is ready.

        Raises: NotStartedError
        """
        (folder / "mailactors.toml").write_text(config)
        for name in (DIED_AT, OUT):
            (folder / name).unlink(missing_ok=True)
        (folder / OUT).touch()
        arguments = ["serve", "--config", "mailactors.toml"]
        start = self._spawn if is_fresh else self._fork
        child = start(folder, harm, arguments)
        self.children.append(child)
        if is_awaited:
            child.wait_for_url()
        return child

    def _fork(self, folder: Path, harm: Harm | None, arguments: list[str]) -> Child:
        text = msgspec.json.encode(harm or Harm()).decode()
        reply = self._tell({"fork": str(folder), "harm": text, "arguments": arguments})
        return Child(int(reply), folder, self._reap)

    def _spawn(self, folder: Path, harm: Harm | None, arguments: list[str]) -> Child:
        command = [sys.executable, "-m", "mailactors", *arguments]
        environment = dict(os.environ)
        if harm is not None:
            text = msgspec.json.encode(harm).decode()
            command[2:3] = ["tests.torture.zygote", text]
            environment["PYTHONPATH"] = str(ROOT)
        with (folder / OUT).open("w") as out, (folder / LOG).open("a") as log:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=log,
                cwd=folder,
                env=environment,
                start_new_session=True,
            )
        return Child(process.pid, folder, lambda _pid: process.wait())

    def _reap(self, pid: int) -> int:
        return int(self._tell({"reap": pid}))

    def _tell(self, request: dict[str, Any]) -> str:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        reply = self.process.stdout.readline()
        if not reply:
            raise RuntimeError("the zygote has ended")
        return reply

    def end_children(self) -> None:
        """Kill what still runs."""
        for child in self.children:
            child.kill()
        self.children.clear()


@contextlib.contextmanager
def zygote() -> Iterator[Zygote]:
    """Run a zygote; whatever it started ends with it."""
    with subprocess.Popen(
        [sys.executable, "-m", "tests.torture.zygote"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        start_new_session=True,  # Ctrl-C is for the rig, which ends its children itself
    ) as process:
        running = Zygote(process)
        try:
            yield running
        finally:
            running.end_children()
            assert process.stdin is not None
            process.stdin.close()
            process.wait(END_WITHIN_S)


# The other side: this file as a program.


def main() -> None:
    """Fork what standard input asks for, until it ends; or be the service."""
    if len(sys.argv) > 1:
        _serve(msgspec.json.decode(sys.argv[1], type=Harm), sys.argv[2:])
    _load()
    children: dict[int, None] = {}
    try:
        for line in sys.stdin:
            request = json.loads(line)
            if "fork" in request:
                pid = os.fork()
                if pid == 0:
                    _become_service(request)
                children[pid] = None
                reply = pid
            else:
                _, status = os.waitpid(request["reap"], 0)
                del children[request["reap"]]
                reply = os.waitstatus_to_exitcode(status)
            print(reply, flush=True)  # noqa: T201  # whoever started it reads
    finally:
        for pid in children:
            os.kill(pid, signal.SIGKILL)


def _load() -> None:
    """Import what a service imports as it goes, and leave it alone from then on."""
    ours = ("mailactors.cli", "mailactors.service")
    for module in ("hypercorn.protocol.h11", "hypercorn.trio", "quart_trio", *ours):
        importlib.import_module(module)
    gc.collect()
    gc.freeze()


def _become_service(request: dict[str, Any]) -> None:
    """Turn a fork into a service; never returns."""
    code = 1
    try:
        os.setsid()
        os.chdir(request["fork"])
        _point(0, os.devnull, os.O_RDONLY)
        _point(1, OUT, os.O_WRONLY)
        _point(2, LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        code = _serve(msgspec.json.decode(request["harm"], type=Harm), request["arguments"])
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except Exception:  # an interrupt needs no traceback: the rig itself ends its children
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _point(number: int, path: str, flags: int) -> None:
    file = os.open(path, flags, 0o600)
    os.dup2(file, number)
    os.close(file)


def _serve(harm: Harm, arguments: list[str]) -> int:
    from mailactors.cli import main as run

    suffer(harm)
    sys.argv = ["mailactors", *arguments]
    run()
    return 0


if __name__ == "__main__":
    main()
