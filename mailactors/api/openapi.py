"""The table of routes, and the OpenAPI 3.1 document made of it and of the schemas' types."""

from __future__ import annotations

import functools
import re
from typing import Any, Final

import msgspec

import mailactors
from mailactors.api import schemas
from mailactors.api.problems import KINDS, MEDIA_TYPE, TYPE_PREFIX, Problem

_REF: Final = "#/components/schemas/{name}"
_JSON: Final = "application/json"
_BODY_PROBLEMS: Final = (
    *("malformed-json", "idempotency-key-invalid", "idempotency-key-mismatch", "request-timeout"),
    *("too-large", "unsupported-media-type", "validation", "idempotency-key-reused"),
    *("internal", "overloaded", "stopping"),
)
_READ_PROBLEMS: Final = ("invalid-parameter", "internal", "spool-unavailable")
_RETRY_AFTER: Final = {
    "description": "Seconds after which to try again.",
    "schema": {"type": "integer", "minimum": 1},
}
_IDEMPOTENCY_KEY: Final = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": (
        "The same key with the same message answers the first receipt again. A structured-field"
        " string in quotes, or bare; if the body has an id as well they must be equal."
    ),
    "schema": {"type": "string", "minLength": 1, "maxLength": 514},
}


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

    @property
    def path(self) -> str:
        """The rule as OpenAPI writes it: `/v1/messages/{name}`."""
        return re.sub(r"<([a-z_]+)>", r"{\1}", self.rule)


ROUTES: Final = (
    Route(
        "POST",
        "/send-email",
        "send_email",
        "Accept a message in the short form; its id is the idempotency key",
        {202: schemas.ShortReceipt, 200: schemas.ShortReceipt},
        _BODY_PROBLEMS,
        body=schemas.ShortMessage,
    ),
    Route(
        "GET",
        "/statuses",
        "statuses",
        "Every message's status, newest first, by pages; ?id= for one",
        {200: schemas.StatusPage},
        _READ_PROBLEMS,
        query=schemas.StatusesQuery,
    ),
    Route(
        "POST",
        "/v1/messages",
        "post_message",
        "Accept a message",
        {202: schemas.MessageReceipt, 200: schemas.MessageReceipt},
        _BODY_PROBLEMS,
        body=schemas.MessageIn,
    ),
    Route(
        "GET",
        "/v1/messages/<name>",
        "message",
        "A message's deliveries and its timeline, by our id or the client's",
        {200: schemas.MessageView},
        (*_READ_PROBLEMS, "not-found"),
    ),
    Route(
        "GET",
        "/v1/providers",
        "providers",
        "The providers as they are now",
        {200: schemas.Providers},
    ),
    Route("GET", "/healthz", "healthz", "Whether the process is alive", {200: schemas.Health}),
    Route(
        "GET",
        "/readyz",
        "readyz",
        "Whether messages are accepted now",
        {200: schemas.Health},
        ("internal", "stopping", "not-ready", "spool-unavailable"),
    ),
    Route("GET", "/openapi.json", "openapi", "This description", {200: None}),
    Route("GET", "/", "index", "What is served here", {200: schemas.Index}),
)


@functools.cache
def document_json() -> bytes:
    """Return the document as JSON; it never changes while the process lives."""
    return msgspec.json.encode(document())


def document() -> dict[str, Any]:
    """Return the document: every route, every answer, every problem."""
    types = {
        type_
        for route in ROUTES
        for type_ in (route.body, *route.answers.values(), Problem)
        if type_ is not None
    }
    in_order = sorted(types, key=lambda type_: type_.__name__)
    _, components = msgspec.json.schema_components(in_order, ref_template=_REF)
    paths: dict[str, dict[str, Any]] = {}
    for route in ROUTES:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "mailactors",
            "version": mailactors.__version__,
            "description": "One durable endpoint in front of several email providers.",
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "paths": paths,
        "components": {"schemas": components},
    }


def _operation(route: Route) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": route.operation_id,
        "summary": route.summary,
        "parameters": _parameters(route),
        "responses": {},
    }
    if route.body is not None:
        content = {_JSON: {"schema": _ref(route.body)}}
        operation["requestBody"] = {"required": True, "content": content}
    for status, type_ in route.answers.items():
        operation["responses"][str(status)] = _answer(status, type_)
    by_status: dict[int, list[str]] = {}
    for slug in route.problems:
        by_status.setdefault(KINDS[slug].status, []).append(slug)
    for status, slugs in sorted(by_status.items()):
        operation["responses"][str(status)] = _problem(status, slugs)
    return operation


def _answer(status: int, type_: type[msgspec.Struct] | None) -> dict[str, Any]:
    schema = {"type": "object"} if type_ is None else _ref(type_)
    answer: dict[str, Any] = {
        "description": "Accepted, durably" if status == 202 else "As asked for",
        "content": {_JSON: {"schema": schema}},
    }
    if type_ in {schemas.ShortReceipt, schemas.MessageReceipt}:
        answer["headers"] = {"Location": {"schema": {"type": "string"}}}
        if status == 200:
            answer["description"] = "Accepted before under this key: the first answer again"
            replayed = {"schema": {"type": "string", "const": "true"}}
            answer["headers"]["Idempotent-Replayed"] = replayed
    return answer


def _problem(status: int, slugs: list[str]) -> dict[str, Any]:
    lines = [f"`{TYPE_PREFIX}{slug}`: {KINDS[slug].title}" for slug in slugs]
    problem: dict[str, Any] = {
        "description": "; ".join(lines),
        "content": {MEDIA_TYPE: {"schema": _ref(Problem)}},
    }
    if status == 503:
        problem["headers"] = {"Retry-After": _RETRY_AFTER}
    return problem


def _parameters(route: Route) -> list[dict[str, Any]]:
    parameters: list[dict[str, Any]] = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in re.findall(r"<([a-z_]+)>", route.rule)
    ]
    if route.query is not None:
        _, components = msgspec.json.schema_components([route.query], ref_template=_REF)
        properties = components[route.query.__name__]["properties"]
        parameters += [
            {"name": name, "in": "query", "required": False, "schema": schema}
            for name, schema in properties.items()
        ]
    if route.body is not None:
        parameters.append(_IDEMPOTENCY_KEY)
    return parameters


def _ref(type_: type[msgspec.Struct]) -> dict[str, str]:
    return {"$ref": _REF.format(name=type_.__name__)}
