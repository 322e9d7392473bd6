"""The document: every route and answer, no reference that leads nowhere, answers that fit."""

from __future__ import annotations

import json
import math
import re
from typing import Any

import jsonschema
from quart.typing import TestClientProtocol as Client

from mailactors.api.field_notes import NOTES
from mailactors.api.openapi import document
from mailactors.api.problems import KINDS, TYPE_PREFIX
from mailactors.api.routes import ROUTES
from mailactors.dispatch.lane import LimiterStatus
from tests.api.bodies import SHORT
from tests.api.rig import Rig

DOCUMENT = document(ROUTES)
JSON_TYPE, PROBLEM = "application/json", "application/problem+json"


def fits(answer: Any, path: str, method: str, status: int, media: str) -> None:
    """Check an answer against the schema that the document has for it."""
    response = DOCUMENT["paths"][path][method]["responses"][str(status)]
    schema = {**response["content"][media]["schema"], "components": DOCUMENT["components"]}
    jsonschema.Draft202012Validator(schema).validate(answer)


async def test_the_document_is_served_and_lists_every_route(rig: Rig) -> None:
    served = await (await rig.app.test_client().get("/openapi.json")).get_json()

    rules = {(rule.rule, *(rule.methods or set()) - {"HEAD", "OPTIONS"}) for rule in rules_of(rig)}
    assert served == json.loads(json.dumps(DOCUMENT))
    assert rules == {(route.rule, route.method) for route in ROUTES}
    assert {route.path for route in ROUTES} == set(DOCUMENT["paths"])


def rules_of(rig: Rig) -> list[Any]:
    return list(rig.app.url_map.iter_rules())


def test_no_reference_leads_nowhere() -> None:
    references = set(re.findall(r'"#/components/schemas/([^"]+)"', json.dumps(DOCUMENT)))

    assert references == set(DOCUMENT["components"]["schemas"])


def test_every_schema_is_a_schema() -> None:
    for schema in DOCUMENT["components"]["schemas"].values():
        jsonschema.Draft202012Validator.check_schema(schema)


def test_every_problem_that_a_route_may_answer_is_told() -> None:
    text = json.dumps(DOCUMENT["paths"])
    reserved = {"bad-request", "method-not-allowed"}

    told = {slug for slug in KINDS if f"`{TYPE_PREFIX}{slug}`" in text}

    assert told == set(KINDS) - reserved


async def test_answers_fit_the_document(rig: Rig) -> None:
    client = rig.app.test_client()
    short = {"id": "a", "to": "a@example.org", "subject": "s", "body": "b"}
    for status in (202, 200):
        response = await client.post("/send-email", json=short)
        fits(await response.get_json(), "/send-email", "post", status, "application/json")
    faulty = await client.post("/send-email", json={**short, "to": "x"})
    message = {"from": "a@example.org", "to": "b@example.org", "text": "x"}
    receipt = await client.post("/v1/messages", json=message)
    missing = await client.get("/v1/messages/none")
    batch = await client.post("/v1/messages/batch", json=[message, {**message, "to": "x"}])

    fits(await faulty.get_json(), "/send-email", "post", 422, PROBLEM)
    fits(await receipt.get_json(), "/v1/messages", "post", 202, JSON_TYPE)
    fits(await missing.get_json(), "/v1/messages/{name}", "get", 404, PROBLEM)
    fits(await batch.get_json(), "/v1/messages/batch", "post", 200, JSON_TYPE)
    for path, url in (
        ("/statuses", "/statuses"),
        ("/v1/messages", "/v1/messages"),
        ("/v1/messages/{name}", "/v1/messages/a"),
        ("/v1/providers", "/v1/providers"),
        ("/v1/suppressions", "/v1/suppressions"),
        ("/v1/ledger", "/v1/ledger"),
        ("/healthz", "/healthz"),
        ("/readyz", "/readyz"),
        ("/", "/"),
    ):
        fits(await (await client.get(url)).get_json(), path, "get", 200, JSON_TYPE)


async def test_answers_to_commands_fit_the_document(rig: Rig, client: Client) -> None:
    await client.post("/send-email", json=SHORT)
    name = "/v1/messages/{name}"
    for method, path, url, status in (
        ("POST", f"{name}/retry", "/v1/messages/order-1/retry", 409),
        ("POST", f"{name}/cancel", "/v1/messages/order-1/cancel", 200),
        ("POST", f"{name}/retry", "/v1/messages/order-1/retry", 202),
        ("POST", "/v1/providers/{name}/pause", "/v1/providers/primary/pause", 200),
        ("POST", "/v1/providers/{name}/reset", "/v1/providers/none/reset", 404),
        ("POST", "/v1/suppressions", "/v1/suppressions", 200),
        ("POST", "/v1/reload", "/v1/reload", 200),
        ("DELETE", "/v1/suppressions", "/v1/suppressions?address=a@example.org", 200),
    ):
        body = {"address": "a@example.org"} if url == "/v1/suppressions" else None
        response = await client.open(url, method=method, json=body)

        assert response.status_code == status, url
        media = response.content_type
        assert media is not None
        fits(await response.get_json(), path, method.lower(), status, media)


def test_what_brings_messages_in_tells_of_the_limit() -> None:
    for route in ROUTES:
        for response in DOCUMENT["paths"][route.path][route.method.lower()]["responses"].values():
            assert ("RateLimit" in response.get("headers", {})) == route.is_limited


def test_what_must_be_asked_is_told_to_be_required() -> None:
    (address,) = DOCUMENT["paths"]["/v1/suppressions"]["delete"]["parameters"]

    assert (address["name"], address["required"]) == ("address", True)


async def test_a_paused_provider_fits_the_document(rig: Rig, client: Client) -> None:
    for wait_s in (math.inf, 3.0):
        rig.lanes["primary"].limiter_status.publish(LimiterStatus(next_permit_s=wait_s))
        response = await client.post("/v1/providers/primary/pause")
        answer = await response.get_json()

        fits(answer, "/v1/providers/{name}/pause", "post", 200, JSON_TYPE)
        assert (answer["next_permit_in_s"] is None) == math.isinf(wait_s)


def test_every_field_parameter_and_route_is_described() -> None:
    for name, schema in DOCUMENT["components"]["schemas"].items():
        for field, shape in schema.get("properties", {}).items():
            assert shape.get("description"), f"{name}.{field}"
    for path in DOCUMENT["paths"].values():
        for operation in path.values():
            assert operation["tags"]
            assert all(parameter["description"] for parameter in operation["parameters"])
    assert all(slug in DOCUMENT["info"]["description"] for slug in KINDS)


def test_no_note_describes_what_is_not_there() -> None:
    schemas = DOCUMENT["components"]["schemas"]
    fields = {name for shape in schemas.values() for name in shape.get("properties", {})}
    operations = [each for path in DOCUMENT["paths"].values() for each in path.values()]
    fields |= {each["name"] for operation in operations for each in operation["parameters"]}

    assert {name.rpartition(".")[2] for name in NOTES} == fields


async def test_every_example_is_accepted_as_it_stands(rig: Rig, client: Client) -> None:
    for path, method, url, expected in (
        ("/send-email", "post", "/send-email", 202),
        ("/v1/messages", "post", "/v1/messages", 202),
        ("/v1/messages/batch", "post", "/v1/messages/batch", 200),
        ("/v1/suppressions", "post", "/v1/suppressions", 200),
        ("/v1/messages/{name}/settle", "post", "/v1/messages/order-17/settle", 409),
    ):
        content = DOCUMENT["paths"][path][method]["requestBody"]["content"][JSON_TYPE]
        response = await client.open(url, method=method.upper(), json=content["example"])
        assert response.status_code == expected, url
