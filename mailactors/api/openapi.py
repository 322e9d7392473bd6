"""The OpenAPI 3.1 document, generated from the table of routes and the schemas."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final

import msgspec

import mailactors
from mailactors.api import schemas
from mailactors.api.batch import NDJSON_MEDIA_TYPE
from mailactors.api.field_notes import EXAMPLES, note_of
from mailactors.api.problems import DOOR, KINDS, MEDIA_TYPE, TYPE_PREFIX, Problem
from mailactors.api.route import JSON, Route

_TAGS: Final = {
    **dict.fromkeys(("send-email", "statuses", "messages"), "messages"),
    **{name: name for name in ("providers", "suppressions", "events")},
}
_REF: Final = "#/components/schemas/{name}"
_RETRY_AFTER: Final = {
    "description": "Seconds after which to try again.",
    "schema": {"type": "integer", "minimum": 1},
}
_LIMITS: Final = {
    "RateLimit-Policy": {
        "description": 'The service\'s own limit, if it has one: `"service";q=100;w=60`.',
        "schema": {"type": "string"},
    },
    "RateLimit": {
        "description": "What is left of it, and seconds until it is whole again, or open at all.",
        "schema": {"type": "string"},
    },
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
_LAST_EVENT_ID: Final = {
    "name": "Last-Event-ID",
    "in": "header",
    "required": False,
    "description": "The last event known, as browsers say it; goes before `after`.",
    "schema": {"type": "string"},
}


def document(routes: Sequence[Route]) -> dict[str, Any]:
    """Return the document: every route, every answer, every problem."""
    queries = {route.query for route in routes if route.query is not None}
    types = {each for route in routes for each in (route.body, *route.answers.values()) if each}
    in_order = sorted(queries | types | {Problem}, key=lambda type_: type_.__name__)
    _, components = msgspec.json.schema_components(in_order, ref_template=_REF)
    for query in queries:
        del components[query.__name__]  # they are listed parameter by parameter
    for name, shape in components.items():
        for field, schema in shape.get("properties", {}).items():
            schema.setdefault("description", note_of(name, field))
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "mailactors",
            "version": mailactors.__version__,
            "description": _description(),
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "tags": [{"name": name} for name in dict.fromkeys(map(tag_of, routes))],
        "paths": paths,
        "components": {"schemas": components},
    }


def _operation(route: Route) -> dict[str, Any]:
    answers = {str(each): _answer(route, each, type_) for each, type_ in route.answers.items()}
    by_status: dict[int, list[str]] = {}
    for slug in (*route.problems, *DOOR):
        by_status.setdefault(KINDS[slug].status, []).append(slug)
    problems = {str(each): _problem(route, each, by_status[each]) for each in sorted(by_status)}
    operation: dict[str, Any] = {
        "operationId": route.operation_id,
        "summary": route.summary,
        "tags": [tag_of(route)],
        "parameters": _parameters(route),
        "responses": answers | problems,
    }
    if route.body is not None:
        operation["requestBody"] = {"required": True, "content": _content(route.body)}
    return operation


def tag_of(route: Route) -> str:
    """Return what a route is about: the noun in its path."""
    parts = [part for part in route.rule.split("/") if part and part != "v1"]
    return _TAGS.get(parts[0] if parts else "", "operation")


def _description() -> str:
    lines = [
        f"- `{TYPE_PREFIX}{slug}` ({kind.status}): {kind.title}" for slug, kind in KINDS.items()
    ]
    return "\n".join(
        ["One durable endpoint in front of several email providers.", "", "Problem types:", *lines]
    )


def _content(body: type[msgspec.Struct]) -> dict[str, Any]:
    if body is not schemas.BatchItem:
        return {JSON: {"schema": _ref(body), "example": EXAMPLES[body.__name__]}}
    array = {"type": "array", "items": _ref(body), "maxItems": schemas.BATCH_MAX}
    lines = {"type": "string", "description": "A message as JSON on each line."}
    example = EXAMPLES[body.__name__]
    return {JSON: {"schema": array, "example": example}, NDJSON_MEDIA_TYPE: {"schema": lines}}


def _answer(route: Route, status: int, type_: type[msgspec.Struct] | None) -> dict[str, Any]:
    schema = _ref(type_) if type_ else {"type": "object" if route.media == JSON else "string"}
    answer: dict[str, Any] = {
        "description": "Accepted, durably" if status == 202 else "As asked for",
        "content": {route.media: {"schema": schema}},
    }
    headers: dict[str, Any] = dict(_LIMITS) if route.is_limited else {}
    if 202 in route.answers:
        headers["Location"] = {"schema": {"type": "string"}}
        if status == 200:
            answer["description"] = "Accepted before under this key: the first answer again"
            headers["Idempotent-Replayed"] = {"schema": {"type": "string", "const": "true"}}
    return {**answer, "headers": headers} if headers else answer


def _problem(route: Route, status: int, slugs: list[str]) -> dict[str, Any]:
    lines = [f"`{TYPE_PREFIX}{slug}`: {KINDS[slug].title}" for slug in slugs]
    problem: dict[str, Any] = {
        "description": "; ".join(lines),
        "content": {MEDIA_TYPE: {"schema": _ref(Problem)}},
    }
    headers: dict[str, Any] = dict(_LIMITS) if route.is_limited else {}
    if status in {429, 503}:
        headers["Retry-After"] = _RETRY_AFTER
    return {**problem, "headers": headers} if headers else problem


def _parameters(route: Route) -> list[dict[str, Any]]:
    parameters: list[dict[str, Any]] = [
        {
            "name": name,
            "in": "path",
            "required": True,
            "description": note_of(tag_of(route), "id" if "messages" in route.rule else name),
            "schema": {"type": "string"},
        }
        for name in re.findall(r"<([a-z_]+)>", route.rule)
    ]
    if route.query is not None:
        _, components = msgspec.json.schema_components([route.query], ref_template=_REF)
        shape = components[route.query.__name__]
        parameters += [
            {
                "name": name,
                "in": "query",
                "required": name in shape["required"],
                "description": note_of(route.query.__name__, name),
                "schema": schema,
            }
            for name, schema in shape["properties"].items()
        ]
    if route.body in (schemas.ShortMessage, schemas.MessageIn):
        parameters.append(_IDEMPOTENCY_KEY)
    if route.media == "text/event-stream":
        parameters.append(_LAST_EVENT_ID)
    return parameters


def _ref(type_: type[msgspec.Struct]) -> dict[str, str]:
    return {"$ref": _REF.format(name=type_.__name__)}
