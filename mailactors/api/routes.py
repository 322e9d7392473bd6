"""The table of routes: what each takes, answers and may refuse. The document is made of it."""

from __future__ import annotations

import re
from typing import Final

import msgspec

from mailactors.api import schemas, schemas_control
from mailactors.api.exchange import BATCH_PATH

JSON: Final = "application/json"

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


class Route(msgspec.Struct, frozen=True):
    """One route: `operation_id` is the name of its handler, `problems` are slugs."""

    method: str
    rule: str
    operation_id: str
    summary: str
    answers: dict[int, type[msgspec.Struct] | None]
    problems: tuple[str, ...] = ("internal",)
    body: type[msgspec.Struct] | None = None
    query: type[msgspec.Struct] | None = None
    is_limited: bool = False
    """It brings messages in, so that the service's own limit is told with each answer."""
    media: str = JSON
    """What a good answer is."""

    @property
    def path(self) -> str:
        """The rule as OpenAPI writes it: `/v1/messages/{name}`."""
        return re.sub(r"<([a-z_]+)>", r"{\1}", self.rule)


_MESSAGES: Final = (
    Route(
        "POST",
        "/send-email",
        "send_email",
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
        "Every message's status, newest first, by pages; ?id= for one",
        {200: schemas.StatusPage},
        _READ,
        query=schemas.StatusesQuery,
    ),
    Route(
        "POST",
        "/v1/messages",
        "post_message",
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
        "Messages, newest first, by pages, filtered by what became of them",
        {200: schemas_control.MessagePage},
        _READ,
        query=schemas_control.MessagesQuery,
    ),
    Route(
        "GET",
        "/v1/messages/<name>",
        "message",
        "A message's deliveries and its timeline, by our id or the client's",
        {200: schemas.MessageView},
        (*_READ, "not-found"),
    ),
    Route(
        "POST",
        "/v1/messages/<name>/cancel",
        "cancel_message",
        "Cancel what is not yet on its way",
        {200: schemas_control.CancelReceipt},
        (*_COMMAND, "too-late"),
    ),
    Route(
        "POST",
        "/v1/messages/<name>/retry",
        "retry_message",
        "Send once more what a final message did not get sent, as a new message",
        {202: schemas_control.RetryReceipt},
        (*_COMMAND, "not-retried"),
    ),
    Route(
        "POST",
        "/v1/messages/<name>/settle",
        "settle_message",
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
        "The providers as they are now",
        {200: schemas_control.Providers},
    ),
    *(
        Route(
            "POST",
            f"/v1/providers/<name>/{verb}",
            f"{verb}_provider",
            summary,
            {200: schemas_control.ProviderView},
            _CONTROL,
        )
        for verb, summary in (
            ("pause", "Give a provider nothing new; what is in flight goes on"),
            ("resume", "Give a paused provider messages again"),
            ("reset", "Forget what was learnt of a provider: its breaker closes"),
        )
    ),
    Route(
        "GET",
        "/v1/suppressions",
        "suppressions",
        "The addresses that get no mail, by pages",
        {200: schemas_control.SuppressionPage},
        _READ,
        query=schemas_control.SuppressionsQuery,
    ),
    Route(
        "POST",
        "/v1/suppressions",
        "suppress",
        "Let an address get no mail from now on",
        {200: schemas_control.SuppressionView},
        (*_BODY, "not-found", "overloaded", "spool-unavailable"),
        body=schemas_control.SuppressionIn,
    ),
    Route(
        "DELETE",
        "/v1/suppressions",
        "unsuppress",
        "Let an address get mail again",
        {200: schemas_control.Unsuppression},
        _COMMAND,
        query=schemas_control.AddressQuery,
    ),
    Route(
        "GET",
        "/v1/ledger",
        "ledger",
        "Accepted deliveries and where they are, and whether that adds up",
        {200: schemas_control.LedgerView},
        ("internal", "spool-unavailable"),
    ),
    Route(
        "GET",
        "/v1/events",
        "events",
        "What happens, as it happens: server-sent events",
        {200: None},
        (*_READ, "overloaded"),
        query=schemas_control.EventsQuery,
        media="text/event-stream",
    ),
    Route(
        "POST",
        "/v1/reload",
        "reload_configuration",
        "Take over the configuration as it is now, or change nothing",
        {200: schemas_control.Reloaded},
        ("invalid-parameter", "not-found", "configuration", "internal"),
    ),
    Route(
        "GET",
        "/metrics",
        "metrics",
        "Metrics for Prometheus",
        {200: None},
        ("not-found", "internal", "spool-unavailable"),
        media="text/plain",
    ),
    Route(
        "GET",
        "/healthz",
        "healthz",
        "Whether the process is alive",
        {200: schemas_control.HealthView},
    ),
    Route(
        "GET",
        "/readyz",
        "readyz",
        "Whether messages are accepted now",
        {200: schemas_control.HealthView},
        ("internal", "stopping", "not-ready", "spool-unavailable"),
    ),
    Route("GET", "/openapi.json", "openapi", "This description", {200: None}),
    Route("GET", "/", "index", "What is served here", {200: schemas_control.Index}),
)
ROUTES: Final = (*_MESSAGES, *_OPERATION)
LIMITED: Final = frozenset(route.operation_id for route in ROUTES if route.is_limited)
