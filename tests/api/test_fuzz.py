"""Whatever is sent, the answer is never a 500, and every fault points into the body."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any
from urllib.parse import quote, urlencode

import msgspec
import pytest
import trio
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mailactors.api.batch import cut_array, cut_lines
from mailactors.api.bodies import full_submission, parse_key, parse_mailbox
from mailactors.api.decoding import decode_body
from mailactors.api.openapi import document
from mailactors.api.problems import ProblemError
from mailactors.api.routes import ROUTES
from mailactors.api.schemas import MessageIn, ShortMessage
from tests.api.rig import open_rig

DOCUMENT = document(ROUTES)
SHORT_DECODER = msgspec.json.Decoder(ShortMessage)
MESSAGE_DECODER = msgspec.json.Decoder(MessageIn)
FIELDS = (*MessageIn.__struct_encode_fields__, *ShortMessage.__struct_encode_fields__, "x")

scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12)
values = st.recursive(
    scalars | st.sampled_from(["a@b.example", "Ann <a@b.example>", "YQ==", "2030-01-01T00:00:00Z"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=5) | st.sampled_from(FIELDS), inner, max_size=4)
    ),
    max_leaves=8,
)
bodies = st.dictionaries(st.sampled_from(FIELDS), values, max_size=6).map(json.dumps)
valid_parts: dict[str, Any] = {
    "id": "a", "to": "a@b.example", "subject": "s", "body": "b", "from": "s@b.example", "text": "t"
}  # fmt: skip
changed = st.tuples(st.sampled_from(FIELDS), values).map(
    lambda change: json.dumps({**valid_parts, change[0]: change[1]})
)
anything = st.binary(max_size=60) | bodies.map(str.encode) | changed.map(str.encode)


@given(anything)
@settings(max_examples=300, deadline=None)
@pytest.mark.slow
def test_any_bytes_become_a_message_or_a_problem(body: bytes) -> None:
    refusals = {None, "malformed-json", "validation"}

    assert refusal(lambda: decode_body(body, SHORT_DECODER)) in refusals
    assert refusal(lambda: full_submission(decode_body(body, MESSAGE_DECODER), None)) in refusals


def refusal(work: Callable[[], object]) -> str | None:
    """Return the problem in which the work ends, if any; what else it raises is a bug."""
    try:
        work()
    except ProblemError as problem:
        return problem.slug
    return None


@given(st.text(max_size=30) | st.from_regex(r'"?[A-Za-z ,.@"\\]*"? ?<[^ ]*>', fullmatch=True))
@settings(deadline=None)
@example("<" * 50_000)
@example('"' + "\\" * 50_000 + '" <a@b.example>')
@example(" " * 50_000 + "<a@b.example>")
def test_any_text_is_a_mailbox_or_none(text: str) -> None:
    mailbox = parse_mailbox(text)

    assert mailbox is None or mailbox.address in text


@given(st.lists(st.text(max_size=20), max_size=2))
@settings(deadline=None)
def test_any_header_is_a_key_or_a_problem(values: list[str]) -> None:
    assert refusal(lambda: parse_key(values)) in {None, "idempotency-key-invalid"}


@given(st.lists(changed | bodies, min_size=20, max_size=20))
@settings(max_examples=10, deadline=None)
@pytest.mark.slow
def test_no_json_is_answered_with_a_500(texts: list[str]) -> None:
    trio.run(post_all, texts)


async def post_all(texts: list[str]) -> None:
    async with open_rig() as rig:
        client = rig.app.test_client()
        headers = {"Content-Type": "application/json"}
        for text in texts:
            for path in ("/send-email", "/v1/messages"):
                response = await client.post(path, data=text.encode(), headers=headers)
                answer = await response.get_json()
                assert response.status_code in {200, 202, 400, 422}, answer
                for error in answer.get("errors", ()):
                    assert_points_into(error["pointer"], json.loads(text))


@given(st.binary(max_size=60) | st.lists(anything, max_size=5).map(b"\n".join))
@settings(deadline=None)
def test_any_bytes_are_cut_into_messages_or_refused(body: bytes) -> None:
    assert refusal(lambda: cut_lines(body)) is None
    assert refusal(lambda: cut_array(body)) in {None, "malformed-json", "validation"}


@given(st.lists(bodies | changed | st.just("17"), max_size=20))
@settings(max_examples=20, deadline=None)
@pytest.mark.slow
def test_every_message_of_any_batch_has_its_result(texts: list[str]) -> None:
    trio.run(post_batches, texts)


async def post_batches(texts: list[str]) -> None:
    array, lines = f"[{','.join(texts)}]", "\n".join(texts)
    async with open_rig() as rig:
        client = rig.app.test_client()
        for text, media in ((array, "application/json"), (lines, "application/x-ndjson")):
            headers = {"Content-Type": media}
            response = await client.post("/v1/messages/batch", data=text.encode(), headers=headers)
            if response.status_code == 400:  # NaN, or half a surrogate pair, is no JSON
                assert media == "application/json"
                assert refusal(lambda: cut_array(array.encode())) == "malformed-json"
                continue
            results = (await response.get_json())["results"]
            assert len(results) == len(texts)
            for result in results:
                assert result["status"] in {200, 202, 400, 422}, result
                for error in result.get("problem", {}).get("errors", ()):
                    assert_points_into(error["pointer"], json.loads(array))


PARAMETERS = ("limit", "cursor", "stream", "state", "recipient", "since", "until", "after", "id")
texts = st.text(max_size=8) | st.sampled_from(
    ["1", "0", "sent", "a@b.example", "2030-01-01T00:00:00Z", "primary", "order-1", "null", "batch"]
)
queries = st.lists(st.tuples(st.sampled_from([*PARAMETERS, "address", "x"]), texts), max_size=3)
requests = st.tuples(st.sampled_from(ROUTES), texts, queries, anything, st.booleans())


@given(st.lists(requests, min_size=30, max_size=30))
@settings(max_examples=15, deadline=None)
@pytest.mark.slow
def test_whatever_is_asked_the_answer_is_one_that_the_document_has(asked: list[Any]) -> None:
    trio.run(ask_all, asked)


async def ask_all(asked: list[Any]) -> None:
    """Ask each route, with any name, query and body; a stream only for its headers."""
    async with open_rig() as rig:
        client = rig.app.test_client()
        for route, name, query, body, is_json in asked:
            path = route.rule.replace("<name>", quote(name, safe="") or "x")
            method = "HEAD" if route.operation_id == "events" else route.method
            headers = {"Content-Type": "application/json"} if is_json else {}
            data = body if method == "POST" else None
            url = f"{path}?{urlencode(query)}"
            response = await client.open(url, method=method, data=data, headers=headers)  # type: ignore[call-arg]
            documented = DOCUMENT["paths"][route.path][route.method.lower()]["responses"]
            is_elsewhere = "/" in name or name in {".", ".."}  # another route, or none
            assert is_elsewhere or str(response.status_code) in documented, (route.path, response)
            assert response.status_code != 500
        assert "api.fault" not in rig.journal.events()


def assert_points_into(pointer: str, body: Any) -> None:
    """Check that a pointer leads to something in the body, but for its last step (a lack)."""
    steps = [step.replace("~1", "/").replace("~0", "~") for step in pointer.split("/")[1:]]
    for step in steps[:-1]:
        body = body[int(step)] if isinstance(body, list) else body[step]
