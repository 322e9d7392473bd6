"""Logs, the service's journal: one line a decision, for a person or a machine, without secrets.

Recipients are hashed with a key of this process: lines about one recipient can be joined, and do
not name it. Bodies, subjects and facts named like a secret are masked. Providers repeat addresses
in their answers, so every text is searched for them.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import secrets
import sys
from collections.abc import Mapping, MutableMapping
from typing import Any, Final, Literal, TextIO, TypeAlias

import pydantic
import structlog

from mailactors.model.message import domain_of

Level: TypeAlias = Literal["debug", "info", "warning", "error"]

LEVELS: Final = {"debug": 10, "info": 20, "warning": 30, "error": 40}
MASKED: Final = re.compile(
    r"(?:.*_)?(?:password|secret|token|authorization|api_key|body|text|html|subject)", re.IGNORECASE
)
"""Names of facts that are masked, also as the last word (`smtp_password`)."""
TEXT_MAX: Final = 1000
"""Characters of one fact; a provider's answer may be long."""
_WORD: Final = re.compile(r"""[^\s<>()"',;:]+""")


class LogSettings(pydantic.BaseModel):
    """The format of the logs. `auto` is colours on a terminal and JSON elsewhere."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    level: Level = "info"
    format: Literal["auto", "console", "json"] = "auto"


class LogJournal:
    """The journal port on structlog."""

    def __init__(self, settings: LogSettings, stream: TextIO | None = None) -> None:
        out = sys.stderr if stream is None else stream
        self._level = LEVELS[settings.level]
        self._logger = structlog.wrap_logger(
            structlog.PrintLogger(out),
            processors=[
                structlog.processors.TimeStamper(fmt="iso", utc=True),
                mask,
                _renderer(settings, out),
            ],
        )

    def note(self, event: str, /, *, level: str = "info", **facts: Any) -> None:
        """Write a line, unless its level is below the configured one."""
        if LEVELS[level] >= self._level:
            self._logger.msg(event, level=level, **facts)


class _ForwardHandler(logging.Handler):
    """Writes records of the standard `logging` module to the journal."""

    def __init__(self, journal: LogJournal) -> None:
        super().__init__()
        self._journal = journal

    def emit(self, record: logging.LogRecord) -> None:
        level = record.levelname.lower()
        self._journal.note(
            f"library.{record.name}",
            level=level if level in LEVELS else "error",
            message=record.getMessage(),
        )


def forward_library_logs(journal: LogJournal) -> None:
    """Send warnings and errors of the standard `logging` module to the journal."""
    logging.basicConfig(handlers=[_ForwardHandler(journal)], level=logging.WARNING, force=True)


_HASH_KEY: Final = secrets.token_bytes(16)


def hash_recipient(address: str) -> str:
    """Return a recipient as a keyed hash and its domain; each process has its own key."""
    digest = hashlib.blake2b(address.encode(), key=_HASH_KEY, digest_size=6).hexdigest()
    return f"{digest}@{domain_of(address)}"


def mask(
    _logger: object, _method: str, facts: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    """Hash addresses, mask secrets, cut long texts."""
    return {name: masked(name, value) for name, value in facts.items()}


def masked(name: str, value: Any) -> Any:
    """Return a fact as it may be logged, and all that is nested in it."""
    if MASKED.fullmatch(name):
        return "***"
    if name == "recipient":
        return hash_recipient(str(value))
    if isinstance(value, str):
        text = _WORD.sub(_without_address, value) if "@" in value else value
        return text if len(text) <= TEXT_MAX else text[:TEXT_MAX] + "…"
    if isinstance(value, Mapping):
        return {str(inner): masked(str(inner), item) for inner, item in value.items()}
    if isinstance(value, list | tuple):
        return [masked(name, item) for item in value]
    return value


def _without_address(word: re.Match[str]) -> str:
    return hash_recipient(word[0]) if "@" in word[0].strip("@") else word[0]


def _renderer(settings: LogSettings, out: TextIO) -> structlog.typing.Processor:
    if settings.format == "console" or (settings.format == "auto" and out.isatty()):
        is_plain = bool(os.environ.get("NO_COLOR"))  # no-color.org: present and not empty
        return structlog.dev.ConsoleRenderer(colors=out.isatty() and not is_plain)
    return structlog.processors.JSONRenderer()
