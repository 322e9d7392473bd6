"""Every refusal and fault: RFC 9457 problem details with a stable `type`.

A problem says what the client can do about it, and nothing of the implementation. The table below
is the whole list; a `type` in it is never renamed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import msgspec
from quart import Response

from mailactors.errors import MailactorsError

MEDIA_TYPE: Final = "application/problem+json"
TYPE_PREFIX: Final = "urn:mailactors:problem:"
ERRORS_MAX: Final = 100
"""Faults in one answer; further ones are left out."""


class ProblemType(NamedTuple):
    """A type of problem: its HTTP status, and its title, which is the same each time."""

    status: int
    title: str


KINDS: Final[Mapping[str, ProblemType]] = {
    "bad-request": ProblemType(400, "The request is not well-formed"),
    "malformed-json": ProblemType(400, "The body is not JSON"),
    "invalid-parameter": ProblemType(400, "A query parameter is not valid"),
    "idempotency-key-invalid": ProblemType(400, "The Idempotency-Key header is not valid"),
    "idempotency-key-mismatch": ProblemType(400, "The message has two different keys"),
    "cross-origin": ProblemType(403, "The request comes from another site's page"),
    "not-found": ProblemType(404, "There is no such resource"),
    "method-not-allowed": ProblemType(405, "The resource does not know this method"),
    "request-timeout": ProblemType(408, "The body did not arrive in time"),
    "too-late": ProblemType(409, "It is too late to cancel the message"),
    "not-retried": ProblemType(409, "The message cannot be sent once more"),
    "not-settled": ProblemType(409, "There is nothing to settle"),
    "too-large": ProblemType(413, "The body is too large"),
    "unsupported-media-type": ProblemType(415, "The body is not declared as JSON"),
    "misdirected": ProblemType(421, "The request names a host that is not this gateway"),
    "validation": ProblemType(422, "The body is not valid"),
    "configuration": ProblemType(422, "The configuration is not valid; nothing has changed"),
    "idempotency-key-reused": ProblemType(422, "The key was used with other content before"),
    "rate-limited": ProblemType(429, "Too many requests"),
    "internal": ProblemType(500, "Something went wrong on our side"),
    "overloaded": ProblemType(503, "There is no room now"),
    "stopping": ProblemType(503, "The service is shutting down"),
    "not-ready": ProblemType(503, "The service cannot accept messages"),
    "spool-unavailable": ProblemType(503, "The spool does not answer"),
}
SLUG_OF_STATUS: Final[Mapping[int, str]] = {
    KINDS[slug].status: slug
    for slug in (
        *("bad-request", "not-found", "method-not-allowed", "request-timeout", "too-large"),
        *("unsupported-media-type", "rate-limited", "overloaded"),
    )
}
"""For requests that the framework refuses before a handler runs."""
DOOR: Final = ("cross-origin", "misdirected")
"""What any route may be answered with, before its handler runs."""
CLOSING: Final = frozenset({408, 413})
"""After these the rest of the body is still arriving, so the connection is closed."""


class FaultView(msgspec.Struct, frozen=True, omit_defaults=True):
    """One fault: where (a JSON pointer into the body, or a query parameter), and what it is."""

    detail: str
    pointer: str | None = None
    parameter: str | None = None


class Problem(msgspec.Struct, frozen=True, omit_defaults=True):
    """Problem details (RFC 9457 §3.1).

    `errors` has one entry for each fault of a body; `counts` say how much was done.
    """

    type: str
    title: str
    status: int
    detail: str = ""
    errors: tuple[FaultView, ...] = ()
    counts: dict[str, int] = {}


class ProblemError(MailactorsError):
    """Refuses a request; becomes its answer."""

    def __init__(
        self,
        slug: str,
        detail: str = "",
        *,
        errors: tuple[FaultView, ...] = (),
        counts: dict[str, int] | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(f"{slug}: {detail}")
        assert slug in KINDS, slug
        self.slug = slug
        self.detail = detail
        self.errors = errors
        self.counts = counts or {}
        self.retry_after_s = retry_after_s


def bad_parameter(name: str, detail: str) -> ProblemError:
    """Return the problem of a query parameter."""
    fault = FaultView(detail, parameter=name)
    return ProblemError("invalid-parameter", f"{name}: {detail}", errors=(fault,))


def validation_problem(faults: Sequence[FaultView]) -> ProblemError:
    """Return the problem that lists faults."""
    first = faults[0]
    detail = f"{first.pointer}: {first.detail}" if first.pointer else first.detail
    if len(faults) > 1:
        detail += f" (and {len(faults) - 1} more)"
    return ProblemError("validation", detail, errors=tuple(faults))


def problem_of(error: ProblemError) -> Problem:
    """Return a refusal as a document."""
    kind, type_ = KINDS[error.slug], TYPE_PREFIX + error.slug
    errors = error.errors[:ERRORS_MAX]
    return Problem(type_, kind.title, kind.status, error.detail, errors, error.counts)


def problem_response(error: ProblemError, headers: Mapping[str, str] | None = None) -> Response:
    """Return the answer that says what the problem is."""
    extra = dict(headers or {})
    if error.retry_after_s is not None:
        extra["Retry-After"] = str(max(1, math.ceil(error.retry_after_s)))
    return respond(problem_of(error), extra)


def respond(problem: Problem, headers: Mapping[str, str]) -> Response:
    """Return a problem as an HTTP response."""
    body = msgspec.json.encode(problem)
    response = Response(body, problem.status, dict(headers), content_type=MEDIA_TYPE)
    if problem.status in CLOSING:
        response.headers["Connection"] = "close"
    return response
