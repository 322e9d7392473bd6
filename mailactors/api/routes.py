"""The table of routes: who handles each, what it takes, answers and may refuse."""

from __future__ import annotations

import functools
from typing import Final

import msgspec
from quart import Response

import mailactors
from mailactors.api import (
    events,
    messages,
    openapi,
    operation,
    providers,
    schemas,
    schemas_control,
    submissions,
    suppressions,
)
from mailactors.api.exchange import BATCH_PATH, answer
from mailactors.api.parts import ApiParts
from mailactors.api.route import JSON, Route

_READ: Final = ("invalid-parameter", "internal", "spool-unavailable")
_BODY: Final = (
    *("malformed-json", "request-timeout", "too-large", "unsupported-media-type", "validation"),
    "internal",
)
_ACCEPT: Final = (
    *(*_BODY, "idempotency-key-invalid", "idempotency-key-mismatch", "idempotency-key-reused"),
    *("rate-limited", "overloaded", "stopping"),
)
_COMMAND: Final = ("invalid-parameter", "not-found", "internal", "overloaded", "spool-unavailable")
_CONTROL: Final = ("invalid-parameter", "not-found", "internal", "overloaded")


async def _openapi(_parts: ApiParts) -> Response:
    """Return the description of all routes."""
    return Response(_document_json(), content_type=JSON)


@functools.cache
def _document_json() -> bytes:
    return msgspec.json.encode(openapi.document(ROUTES))


async def _index(_parts: ApiParts) -> Response:
    """List the routes."""
    summaries = {f"{route.method} {route.path}": route.summary for route in ROUTES}
    return answer(schemas_control.Index("mailactors", mailactors.__version__, summaries))


_MESSAGES: Final = (
    Route(
        "POST",
        "/send-email",
        "send_email",
        submissions.send_email,
        "Accept a message in the short form; its id is the idempotency key",
        {202: schemas.ShortReceipt, 200: schemas.ShortReceipt},
        _ACCEPT,
        body=schemas.ShortMessage,
        is_limited=True,
    ),
    Route(
        "GET",
        "/statuses",
        "statuses",
        messages.list_statuses,
        "Every message's status, newest first, by pages; ?id= for one",
        {200: schemas.StatusPage},
        _READ,
        query=schemas.StatusesQuery,
    ),
    Route(
        "POST",
        "/v1/messages",
        "post_message",
        submissions.post_message,
        "Accept a message",
        {202: schemas.MessageReceipt, 200: schemas.MessageReceipt},
        _ACCEPT,
        body=schemas.MessageIn,
        is_limited=True,
    ),
    Route(
        "POST",
        BATCH_PATH,
        "post_batch",
        submissions.post_batch,
        "Accept up to 1,000 messages in one commit, with a result for each",
        {200: schemas.BatchResults},
        tuple(
            p for p in _ACCEPT if p not in {"idempotency-key-mismatch", "idempotency-key-reused"}
        ),
        body=schemas.BatchItem,
        is_limited=True,
    ),
    Route(
        "GET",
        "/v1/messages",
        "messages",
        messages.list_messages,
        "Messages, newest first, by pages, by stream, state, recipient, tag and time",
        {200: schemas_control.MessagePage},
        _READ,
        query=schemas_control.MessagesQuery,
    ),
    Route(
        "GET",
        "/v1/messages/<name>",
        "message",
        messages.show_message,
        "A message's deliveries and its timeline, by our id or the client's",
        {200: schemas.MessageView},
        (*_READ, "not-found"),
    ),
    Route(
        "POST",
        "/v1/messages/<name>/cancel",
        "cancel_message",
        messages.cancel_message,
        "Cancel the deliveries that are not being sent yet",
        {200: schemas_control.CancelReceipt},
        (*_COMMAND, "too-late"),
    ),
    Route(
        "POST",
        "/v1/messages/<name>/retry",
        "retry_message",
        messages.retry_message,
        "Send once more what a final message did not get sent, as a new message",
        {202: schemas_control.RetryReceipt},
        (*_COMMAND, "not-retried"),
    ),
    Route(
        "POST",
        "/v1/messages/<name>/settle",
        "settle_message",
        messages.settle_message,
        "Settle by hand what of a message is uncertain or held",
        {200: schemas_control.SettleReceipt},
        (*dict.fromkeys((*_BODY, *_COMMAND)), "not-settled"),
        body=schemas_control.SettleIn,
    ),
)
_OPERATION: Final = (
    Route(
        "GET",
        "/v1/providers",
        "providers",
        providers.list_providers,
        "The providers as they are now",
        {200: schemas_control.Providers},
    ),
    *(
        Route(
            "POST",
            f"/v1/providers/<name>/{verb}",
            f"{verb}_provider",
            handler,
            summary,
            {200: schemas_control.ProviderView},
            _CONTROL,
        )
        for verb, handler, summary in (
            (
                "pause",
                providers.pause_provider,
                "Give a provider nothing new; what is in flight goes on",
            ),
            ("resume", providers.resume_provider, "Give a paused provider messages again"),
            (
                "reset",
                providers.reset_provider,
                "Forget what was learnt of a provider: its breaker closes",
            ),
        )
    ),
    Route(
        "POST",
        "/v1/flush",
        "flush",
        providers.flush,
        "Make deferred deliveries due now, all or one provider's or stream's",
        {200: schemas_control.FlushView},
        _COMMAND,
        query=schemas_control.FlushQuery,
    ),
    Route(
        "GET",
        "/v1/suppressions",
        "suppressions",
        suppressions.list_suppressions,
        "The addresses that get no mail, by pages",
        {200: schemas_control.SuppressionPage},
        _READ,
        query=schemas_control.SuppressionsQuery,
    ),
    Route(
        "POST",
        "/v1/suppressions",
        "suppress",
        suppressions.suppress,
        "Send an address no mail from now on",
        {200: schemas_control.SuppressionView},
        (*_BODY, "not-found", "overloaded", "spool-unavailable"),
        body=schemas_control.SuppressionIn,
    ),
    Route(
        "DELETE",
        "/v1/suppressions",
        "unsuppress",
        suppressions.unsuppress,
        "Send an address mail again",
        {200: schemas_control.Unsuppression},
        _COMMAND,
        query=schemas_control.AddressQuery,
    ),
    Route(
        "GET",
        "/v1/ledger",
        "ledger",
        operation.show_ledger,
        "Accepted deliveries by state, and whether the sums agree",
        {200: schemas_control.LedgerView},
        ("internal", "spool-unavailable"),
    ),
    Route(
        "GET",
        "/v1/events",
        "events",
        events.follow_events,
        "Every event as it is committed: server-sent events",
        {200: None},
        (*_READ, "overloaded"),
        query=schemas_control.EventsQuery,
        media="text/event-stream",
    ),
    Route(
        "POST",
        "/v1/reload",
        "reload_configuration",
        operation.reload_configuration,
        "Take over the configuration as it is now, or change nothing",
        {200: schemas_control.Reloaded},
        ("invalid-parameter", "not-found", "configuration", "internal"),
    ),
    Route(
        "GET",
        "/metrics",
        "metrics",
        operation.show_metrics,
        "Metrics for Prometheus",
        {200: None},
        ("not-found", "internal", "spool-unavailable"),
        media="text/plain",
    ),
    Route(
        "GET",
        "/healthz",
        "healthz",
        operation.healthz,
        "Whether the process is alive",
        {200: schemas_control.HealthView},
    ),
    Route(
        "GET",
        "/readyz",
        "readyz",
        operation.readyz,
        "Whether messages are accepted now",
        {200: schemas_control.HealthView},
        ("internal", "stopping", "not-ready", "spool-unavailable"),
    ),
    Route("GET", "/openapi.json", "openapi", _openapi, "This description", {200: None}),
    Route("GET", "/", "index", _index, "What is served here", {200: schemas_control.Index}),
)
ROUTES: Final = (*_MESSAGES, *_OPERATION)
LIMITED: Final = frozenset(route.operation_id for route in ROUTES if route.is_limited)
