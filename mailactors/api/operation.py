"""The routes that tell how the gateway is, and the one that reloads its configuration."""

from __future__ import annotations

import contextlib
from functools import partial
from typing import Final

import trio
from quart import Response

from mailactors.api import schemas, schemas_control, views
from mailactors.api.acts import note_act
from mailactors.api.exchange import answer, read_query
from mailactors.api.parts import ApiParts
from mailactors.api.problems import ProblemError
from mailactors.errors import MailactorsError
from mailactors.intake.submission import OverloadedError

AUDIT_RETRY_S: Final = 5.0
METRICS_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"


async def ledger(parts: ApiParts) -> Response:
    """Accepted deliveries by state, and whether the sums agree."""
    query, now = read_query(schemas_control.LedgerQuery), parts.clock.wall_time()
    ask = partial(views.ask_ledger, now=now, audit=query.audit)
    if query.audit and parts.auditing.locked():
        detail = "the rows are being counted already"
        raise ProblemError("overloaded", detail, retry_after_s=AUDIT_RETRY_S)
    async with parts.auditing if query.audit else contextlib.nullcontext():
        found, pending = await parts.spool.read(ask)
    alarms = None if parts.watch is None else parts.watch.alarms()
    return answer(views.ledger_view(found, pending, alarms, now))


async def metrics(parts: ApiParts) -> Response:
    """Metrics for Prometheus."""
    if parts.metrics is None:
        raise ProblemError("not-found", "this gateway has no metrics")
    return Response(await parts.metrics(), content_type=METRICS_TYPE)


async def healthz(_parts: ApiParts) -> Response:
    """Whether the process is alive."""
    return answer(schemas_control.HealthView("ok"))


async def readyz(parts: ApiParts) -> Response:
    """Whether messages are accepted now."""
    if parts.stopping.is_set():
        raise ProblemError("stopping", "the service is shutting down", retry_after_s=5.0)
    try:
        parts.door.check_room()
    except OverloadedError as error:
        raise ProblemError("not-ready", str(error), retry_after_s=error.retry_after_s) from None
    return answer(schemas_control.HealthView("ready"))


async def reload_configuration(parts: ApiParts) -> Response:
    """Take over the configuration as it is now, or change nothing."""
    read_query(schemas.NoQuery)
    if parts.reload is None:
        raise ProblemError("not-found", "this gateway has no configuration to reload")
    await note_act(parts, "reload")
    async with parts.reloading:
        try:
            with trio.CancelScope(shield=True):  # a client that hangs up must not halve it
                notes = await parts.reload()
        except MailactorsError as error:
            raise ProblemError("configuration", str(error)) from None
    return answer(schemas_control.Reloaded("reloaded", tuple(notes)))
