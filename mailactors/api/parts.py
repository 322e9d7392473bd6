"""What the handlers ask: the gateway's parts, as the API sees them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import trio

from mailactors.dispatch.lane import Lane
from mailactors.intake.door import Door
from mailactors.observe.watchdog import WatchdogStatus
from mailactors.runtime.ports import Clock, Ids, Journal
from mailactors.spool.actor import SpoolSignals
from mailactors.spool.client import SpoolClient

Reload: TypeAlias = Callable[[], Awaitable[list[str]]]
"""Takes over the configuration; returns what has to wait for a restart, one note each.

Raises MailactorsError with the reasons when it is faulty: nothing has changed then.
"""
Metrics: TypeAlias = Callable[[], Awaitable[bytes]]
"""Returns all metrics in Prometheus's text format, version 0.0.4."""


@dataclass(frozen=True, eq=False)
class ApiParts:
    """Where each question and command goes. What is None is not served."""

    door: Door
    reader: SpoolClient
    lanes: Mapping[str, Lane]
    clock: Clock
    signals: SpoolSignals
    journal: Journal
    stopping: trio.Event
    ids: Ids
    writer: SpoolClient | None = None
    reload: Reload | None = None
    metrics: Metrics | None = None
    watch: WatchdogStatus | None = None
