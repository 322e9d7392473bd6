"""The table of routes: who handles each, what it takes, answers and may refuse."""

from __future__ import annotations

import functools
from typing import Final

import msgspec
from quart import Response

import mailactors
from mailactors.api import (
    acts,
    events,
    messages,
    operation,
    providers,
    schemas,
    submissions,
    suppressions,
)
from mailactors.api import schemas_control as control
from mailactors.api.exchange import BATCH_PATH, answer
from mailactors.api.openapi import document
from mailactors.api.parts import ApiParts
from mailactors.api.route import JSON, Route

_get, _post = functools.partial(Route, "GET"), functools.partial(Route, "POST")
_READ: Final = ("invalid-parameter", "internal", "spool-unavailable")
_BODY: Final = (
    *("malformed-json", "request-timeout", "too-large", "unsupported-media-type", "validation"),
    "internal",
)
_BATCH: Final = (*_BODY, "idempotency-key-invalid", "rate-limited", "overloaded", "stopping")
_ACCEPT: Final = (*_BATCH, "idempotency-key-mismatch", "idempotency-key-reused")
_CONTROL: Final = ("invalid-parameter", "not-found", "internal", "overloaded")
_COMMAND: Final = (*_CONTROL, "spool-unavailable")


async def openapi(_parts: ApiParts) -> Response:
    """This description."""
    return Response(_document_json(), content_type=JSON)


@functools.cache
def _document_json() -> bytes:
    return msgspec.json.encode(document(ROUTES))


async def index(_parts: ApiParts) -> Response:
    """What is served here."""
    summaries = {f"{route.method} {route.path}": route.summary for route in ROUTES}
    return answer(control.Index("mailactors", mailactors.__version__, summaries))


ROUTES: Final = (
    _post(
        "/send-email",
        submissions.send_email,
        {202: schemas.ShortReceipt, 200: schemas.ShortReceipt},
        _ACCEPT,
        body=schemas.ShortMessage,
        is_limited=True,
    ),
    _get(
        "/statuses",
        messages.statuses,
        {200: schemas.StatusPage},
        _READ,
        schemas.StatusesQuery,
    ),
    _post(
        "/v1/messages",
        submissions.post_message,
        {202: schemas.MessageReceipt, 200: schemas.MessageReceipt},
        _ACCEPT,
        body=schemas.MessageIn,
        is_limited=True,
    ),
    _post(
        BATCH_PATH,
        submissions.post_batch,
        {200: schemas.BatchResults},
        _BATCH,
        body=schemas.BatchItem,
        is_limited=True,
    ),
    _get(
        "/v1/messages",
        messages.messages,
        {200: control.MessagePage},
        _READ,
        control.MessagesQuery,
    ),
    _get(
        "/v1/messages/<name>",
        messages.message,
        {200: schemas.MessageView},
        (*_READ, "not-found"),
    ),
    _post(
        "/v1/messages/<name>/cancel",
        messages.cancel_message,
        {200: control.CancelReceipt},
        (*_COMMAND, "too-late"),
    ),
    _post(
        "/v1/messages/<name>/retry",
        messages.retry_message,
        {202: control.RetryReceipt},
        (*_COMMAND, "not-retried", "rate-limited", "stopping"),
        is_limited=True,
    ),
    _post(
        "/v1/messages/<name>/settle",
        messages.settle_message,
        {200: control.SettleReceipt},
        (*dict.fromkeys((*_BODY, *_COMMAND)), "not-settled"),
        body=control.SettleIn,
    ),
    _get("/v1/providers", providers.providers, {200: control.Providers}),
    *(
        _post(f"/v1/providers/<name>/{verb}", handler, {200: control.ProviderView}, _COMMAND)
        for verb, handler in (
            ("pause", providers.pause_provider),
            ("resume", providers.resume_provider),
            ("reset", providers.reset_provider),
        )
    ),
    _post(
        "/v1/flush",
        providers.flush,
        {200: control.FlushView},
        _COMMAND,
        control.FlushQuery,
    ),
    _get(
        "/v1/suppressions",
        suppressions.suppressions,
        {200: control.SuppressionPage},
        _READ,
        control.SuppressionsQuery,
    ),
    _post(
        "/v1/suppressions",
        suppressions.suppress,
        {200: control.SuppressionView},
        (*_BODY, "not-found", "overloaded", "spool-unavailable"),
        body=control.SuppressionIn,
    ),
    Route(
        "DELETE",
        "/v1/suppressions",
        suppressions.unsuppress,
        {200: control.Unsuppression},
        _COMMAND,
        control.AddressQuery,
    ),
    _get("/v1/acts", acts.acts, {200: control.ActPage}, _READ, control.ActsQuery),
    _get(
        "/v1/ledger",
        operation.ledger,
        {200: control.LedgerView},
        (*_READ, "overloaded"),
        control.LedgerQuery,
    ),
    _get(
        "/v1/events",
        events.events,
        {200: None},
        (*_READ, "overloaded"),
        control.EventsQuery,
        media="text/event-stream",
    ),
    _post(
        "/v1/reload",
        operation.reload_configuration,
        {200: control.Reloaded},
        (*_COMMAND, "configuration"),
    ),
    _get(
        "/metrics",
        operation.metrics,
        {200: None},
        ("not-found", "internal", "spool-unavailable"),
        media="text/plain",
    ),
    _get("/healthz", operation.healthz, {200: control.HealthView}),
    _get(
        "/readyz",
        operation.readyz,
        {200: control.HealthView},
        ("internal", "stopping", "not-ready", "spool-unavailable"),
    ),
    _get("/openapi.json", openapi, {200: None}),
    _get("/", index, {200: control.Index}),
)
LIMITED: Final = frozenset(route.operation_id for route in ROUTES if route.is_limited)
