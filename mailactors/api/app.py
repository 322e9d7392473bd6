"""The application: the routes, and what holds for every request.

A handler only waits for the spool's actor, which commits. A client that hangs up cancels only that
wait (quart-trio cancels its handler), and the same idempotency key returns the answer.
"""

from __future__ import annotations

import traceback
from functools import partial
from pathlib import Path
from typing import Final

from quart import Response, request
from quart_trio import QuartTrio
from werkzeug.exceptions import HTTPException, MethodNotAllowed

from mailactors.api.exchange import BODY_BYTES_MAX, LimitedRequest
from mailactors.api.parts import ApiParts
from mailactors.api.problems import SLUG_OF_STATUS, Problem, ProblemError, problem_response, respond
from mailactors.api.routes import LIMITED, ROUTES
from mailactors.intake.door import Door
from mailactors.runtime.ports import Journal
from mailactors.spool.port import SpoolError, SpoolFullError

BODY_WITHIN_S: Final = 30.0
"""How long a body may take to arrive."""
LIMIT_WINDOW_S: Final = 60
"""The service's own limit is a minute's."""


def create_app(parts: ApiParts) -> QuartTrio:
    """Build the ASGI application over the gateway's parts."""
    app = QuartTrio("mailactors.api", static_folder=None)
    app.request_class = LimitedRequest
    app.config["MAX_CONTENT_LENGTH"] = BODY_BYTES_MAX
    app.config["BODY_TIMEOUT"] = BODY_WITHIN_S
    app.url_map.merge_slashes = False  # a redirect would lose the body
    app.url_map.strict_slashes = False
    for route in ROUTES:
        handler = partial(route.handler, parts)
        app.add_url_rule(route.rule, route.operation_id, handler, methods=[route.method])
    _handle_errors(app, parts.journal)
    app.after_request(_harden)
    app.after_request(_tell_methods)
    _show_limits(app, parts.door)
    return app


async def _tell_methods(response: Response) -> Response:
    """Let OPTIONS name the methods of the route itself, and not of others that match its path."""
    if request.method == "OPTIONS" and request.url_rule is not None:
        methods = {route.method for route in ROUTES if route.rule == request.url_rule.rule}
        heads = {"HEAD"} if "GET" in methods else set()
        response.headers["Allow"] = ", ".join(sorted({*methods, *heads, "OPTIONS"}))
    return response


async def _harden(response: Response) -> Response:
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Cache-Control"] = "no-store"
    return response


def _show_limits(app: QuartTrio, door: Door) -> None:
    """Add what is left of the service's own limit to each answer of a route that accepts messages.

    The limit slides: `t` is when a refused request has room again, and else when all that was
    used up to now is given back.
    Source: draft-ietf-httpapi-ratelimit-headers-10.
    """

    async def add_headers(response: Response) -> Response:
        limit = door.minute_left()
        if limit is not None and request.endpoint in LIMITED:
            is_refused = response.status_code == 429
            seconds = response.headers["Retry-After"] if is_refused else LIMIT_WINDOW_S
            response.headers["RateLimit-Policy"] = f'"service";q={limit[0]};w={LIMIT_WINDOW_S}'
            response.headers["RateLimit"] = f'"service";r={limit[1]};t={seconds}'
        return response

    app.after_request(add_headers)


def _handle_errors(app: QuartTrio, journal: Journal) -> None:
    """Answer every error as problem+json; log a fault of ours, without the text of its error."""

    async def answer(error: Exception) -> Response:
        match error:
            case ProblemError():
                return problem_response(error)
            case HTTPException():
                return http_problem(error)
            case SpoolFullError():
                return problem_response(ProblemError("overloaded", str(error), retry_after_s=1.0))
            case SpoolError():
                journal.note("api.spool", level="error", error=str(error))
                return problem_response(ProblemError("spool-unavailable", retry_after_s=5.0))
        rule, kind = request.url_rule.rule if request.url_rule else "", type(error).__name__
        journal.note("api.fault", level="error", route=rule, error=kind, at=_place(error))
        return problem_response(ProblemError("internal"))

    app.register_error_handler(Exception, answer)


def http_problem(error: HTTPException) -> Response:
    """Return the framework's refusal as a problem."""
    status = error.code or 500
    slug = SLUG_OF_STATUS.get(status)
    if slug is None:  # no more than its HTTP status (RFC 9457 §4.2.1)
        return respond(Problem("about:blank", error.name, status), {})
    allowed = isinstance(error, MethodNotAllowed) and sorted(error.valid_methods or ())
    headers = {"Allow": ", ".join(allowed)} if allowed else {}
    details = {
        "too-large": f"at most {request.max_content_length} bytes are read",
        "request-timeout": f"a body has {BODY_WITHIN_S:g} s",
        "not-found": "there is no such route; GET / lists them",
    }
    return problem_response(ProblemError(slug, details.get(slug, "")), headers)


def _place(error: Exception) -> str:
    """Return the file and line where an exception was raised; its text may hold an address."""
    frames = traceback.extract_tb(error.__traceback__)
    return f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "?"
