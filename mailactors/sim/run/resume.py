"""Finished runs in a file of JSON lines, so that an interrupted command can resume.

A run is identified by its file, seed, policy, a digest of scenario and configuration, and a digest
of this package's source.
"""

from __future__ import annotations

import functools
import hashlib
import os
from pathlib import Path
from typing import Final

import msgspec

import mailactors
from mailactors.config import ConfigError
from mailactors.sim.report.report import Report
from mailactors.sim.scenario.policies import Task

_SOURCES: Final = ("*.py", "*.sql")
_BEGINNING: Final = b'{"inputs":'
"""How each line begins."""


class FinishedRun(msgspec.Struct, frozen=True):
    """One finished run."""

    inputs: str
    """The digest of the scenario and of the configuration."""
    code: str
    """The digest of the package that made the run."""
    report: Report


class ResumeError(ConfigError):
    """The file does not hold finished runs."""


@functools.cache
def code_digest() -> str:
    """Return a digest of this package's source."""
    root = Path(mailactors.__file__).parent
    found = hashlib.blake2b(mailactors.__version__.encode(), digest_size=16)
    for path in sorted(path for pattern in _SOURCES for path in root.rglob(pattern)):
        data = path.read_bytes()
        found.update(f"\0{path.relative_to(root).as_posix()}\0{len(data)}\0".encode())
        found.update(data)
    return found.hexdigest()


def inputs_digest(task: Task) -> str:
    """Return a digest of a run's scenario and configuration."""
    found = hashlib.blake2b(digest_size=16)
    found.update(task.scenario.model_dump_json().encode())
    found.update(task.config.model_dump_json().encode())
    return found.hexdigest()


class FinishedRuns:
    """The file: read once, appended to after each run."""

    def __init__(self, path: str) -> None:
        """Read the file if it exists. Raises: ResumeError."""
        self._path = Path(path)
        self._known: dict[tuple[str, int, str, str, str], Report] = {}
        self._half_at_byte: int | None = None
        """Where an incomplete last line begins, left by a command that was killed."""
        self._is_open = False
        """Whether the last line lacks its newline."""
        try:
            lines = self._path.read_bytes().splitlines(True) if self._path.exists() else []
        except OSError as error:
            raise ResumeError(path, [f"cannot be read: {error.strerror}"]) from None
        for number, line in enumerate(lines, 1):
            self._is_open = not line.endswith(b"\n")
            if line.strip() and not self._read(line, number):
                self._half_at_byte, self._is_open = sum(map(len, lines[:-1])), False

    def _read(self, text: bytes, number: int) -> bool:
        """Read a line; return False if it is incomplete, as only the last one may be."""
        try:
            line = msgspec.json.decode(text, type=FinishedRun)
        except msgspec.MsgspecError as error:
            if text.startswith(_BEGINNING[: len(text)]) and not text.endswith(b"\n"):
                return False
            words = f"line {number}: is no finished run: {error}"
            raise ResumeError(str(self._path), [words]) from None
        report = line.report
        key = (report.scenario, report.seed, report.policy, line.inputs, line.code)
        self._known[key] = report
        return True

    def find(self, task: Task) -> Report | None:
        """Return the report of this run, if it is in the file."""
        key = (task.path, task.seed, task.policy, inputs_digest(task), code_digest())
        return self._known.get(key)

    def add(self, task: Task, report: Report) -> None:
        """Append a run; it is durable when this returns."""
        line = msgspec.json.encode(FinishedRun(inputs_digest(task), code_digest(), report)) + b"\n"
        with self._path.open("ab") as file:
            if self._half_at_byte is not None:
                file.truncate(self._half_at_byte)
            file.write(b"\n" + line if self._is_open else line)
            file.flush()
            os.fsync(file.fileno())
        self._half_at_byte, self._is_open = None, False
