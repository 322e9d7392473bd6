"""What the handlers ask: the gateway's parts, as the API sees them."""

from __future__ import annotations

import weakref
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

import trio

from mailactors.dispatch.lane import Lane
from mailactors.dispatch.retry import StreamPolicy
from mailactors.intake.door import Door
from mailactors.observe.watchdog import WatchdogStatus
from mailactors.runtime.ports import Clock, Executor, Ids, Journal
from mailactors.spool.client import SpoolClient

BATCHES_MAX: Final = 8
"""Batches that are read or accepted at once; each may hold 32 MiB, and as much decoded."""

Reload: TypeAlias = Callable[[], Awaitable[list[str]]]
"""Takes over the configuration; returns what has to wait for a restart, one note each.

Raises MailactorsError with the reasons when it is faulty: nothing has changed then.
"""
Metrics: TypeAlias = Callable[[], Awaitable[bytes]]
"""Returns all metrics in Prometheus's text format, version 0.0.4."""


@dataclass(frozen=True, eq=False, kw_only=True)
class ApiParts:
    """Where each question and command goes. What is None is not served."""

    door: Door
    spool: SpoolClient
    lanes: Mapping[str, Lane]
    """The providers' lanes by name, in the configuration's order."""
    clock: Clock
    plan: Callable[[str], StreamPolicy]
    """Returns a stream's route and rules."""
    journal: Journal
    """Records our own faults, without anything that a client sent."""
    decoding: Executor
    """Where large bodies are decoded, one at a time."""
    ids: Ids
    """Names messages that are retried by hand."""
    stopping: trio.Event = field(default_factory=trio.Event)
    """Set when the service begins to stop: it is not ready then, and event streams end."""
    reload: Reload | None = None
    metrics: Metrics | None = None
    watch: WatchdogStatus | None = None
    """The alarms; without it the ledger's `alarms` are null."""

    batches: trio.CapacityLimiter = field(default_factory=lambda: trio.CapacityLimiter(BATCHES_MAX))
    auditing: trio.Lock = field(default_factory=trio.Lock)
    """Held while every row is counted, which takes a reader for seconds."""
    turn: trio.Lock = field(default_factory=trio.Lock)
    """Held by the one very large body that is being decoded or made durable."""
    reloading: trio.Lock = field(default_factory=trio.Lock)
    streams: weakref.WeakSet[Any] = field(default_factory=weakref.WeakSet)
    """The event streams that are open."""
