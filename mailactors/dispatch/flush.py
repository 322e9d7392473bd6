"""Making deferred mail due now, by hand: after an outage its backoff has nothing to wait for."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from mailactors.runtime.ports import Clock
from mailactors.spool.client import SpoolClient
from mailactors.spool.port import Flush, Flushed

FLUSH_LIMIT: Final = 500
"""Deliveries of one commit, so that others wait for none of them long."""


async def flush_deferred(
    spool: SpoolClient, clock: Clock, streams: Iterable[str], provider: str = ""
) -> int:
    """Make what is deferred due now; lanes, quotas and paces are obeyed as ever.

    Args:
        streams: those that are meant.
        provider: only what this provider had last; empty for all.

    Returns: how many deliveries.

    Raises: SpoolError; what was flushed before it stays so, and to flush again does no harm.
    """
    since, count = clock.wall_time(), 0
    for stream in streams:
        command = Flush(stream, provider, since, FLUSH_LIMIT)
        while True:
            flushed = await spool.ask(command)
            assert isinstance(flushed, Flushed)
            count += flushed.count
            if flushed.after is None:
                break
            command = Flush(stream, provider, since, FLUSH_LIMIT, flushed.after)
    return count
