"""Every fault of a body is told at once, each with its place, and none that only follows."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from mailactors.api.decoding import decode_body
from mailactors.api.faults import FAULTS_TOLD, MENDED_BYTES_MAX
from mailactors.api.problems import ProblemError
from mailactors.api.schemas import BatchItem, MessageIn, ShortMessage
from mailactors.api.schemas_control import SettleIn, SuppressionIn


def faults(shape: type[msgspec.Struct], body: Any) -> list[str]:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    with pytest.raises(ProblemError) as caught:
        decode_body(data, msgspec.json.Decoder(shape))
    assert caught.value.slug == "validation"
    return [f"{each.pointer}: {each.detail}" for each in caught.value.errors]


@pytest.mark.parametrize(
    ("shape", "body", "expected"),
    [
        (
            ShortMessage,
            {},
            ["/to: is required", "/subject: is required", "/body: is required"],
        ),
        (
            ShortMessage,
            {"id": "", "to": 5, "subject": "x", "bdy": "x"},
            [
                "/id: expected a string of length >= 1",
                "/to: expected a string or an array, got an integer",
                "/bdy: is not known; did you mean 'body'?",
            ],
        ),
        (
            MessageIn,
            {"to": [1, "bob@example.com", None], "text": 3, "expires_in_s": "x", "send_at": "soon"},
            [
                "/to/0: expected a string or an object, got an integer",
                "/to/2: expected a string or an object, got null",
                "/text: expected a string or null, got an integer",
                "/expires_in_s: expected `float | null`, got a string",
                "/send_at: invalid RFC3339 encoded datetime",
            ],
        ),
        (
            MessageIn,
            {"attachments": [{"filename": 1}, {"content": "!"}, 5], "subjct": "x", "tags": [1] * 2},
            [
                "/attachments/0/filename: expected a string, got an integer",
                "/attachments/0/content: is required",
                "/attachments/1/content: invalid base64 encoded string",
                "/attachments/1/filename: is required",
                "/attachments/2: expected an object, got an integer",
                "/subjct: is not known; did you mean 'subject'?",
                "/tags/0: expected a string, got an integer",
                "/tags/1: expected a string, got an integer",
            ],
        ),
        (
            BatchItem,
            {"idempotency_key": "", "metadata": {"a": 1}, "headers": 1},
            [
                "/idempotency_key: expected a string of length >= 1",
                "/metadata: expected a string, got an integer",
                "/headers: expected an object, got an integer",
            ],
        ),
        (SettleIn, {"as": "gone", "note": 1}, ["/as: is none of", "/note: expected a string, got"]),
        (
            SuppressionIn,
            {"reason": 1},
            ["/reason: expected a string, got", "/address: is required"],
        ),
        (MessageIn, [], [": expected an object, got an array"]),
    ],
)
def test_every_fault_of_a_body_is_told(
    shape: type[msgspec.Struct], body: Any, expected: list[str]
) -> None:
    found = faults(shape, body)

    assert len(found) == len(expected)
    for line in expected:
        assert [each for each in found if each.startswith(line)], (line, found)


def test_faults_that_are_told_are_bounded() -> None:
    assert len(faults(MessageIn, {f"x{n}": n for n in range(1000)})) == FAULTS_TOLD


def test_of_a_large_body_the_first_fault_is_told() -> None:
    body = {"subjct": "x", "text": 5, "html": "x" * MENDED_BYTES_MAX}

    assert len(faults(MessageIn, body)) == 1


def test_of_what_is_no_json_further_on_the_first_fault_is_told() -> None:
    assert len(faults(MessageIn, b'{"to": 5, "text": 5, broken')) == 1
