"""The application: its routes with their handlers, and what holds for every request.

A handler only waits. The commit happens in the spool's actor, so a client that hangs up cancels
nothing but the wait, and the same key returns the answer (quart-trio cancels the handler then).
"""

from __future__ import annotations

import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import trio
from quart import Response, request
from quart_trio import QuartTrio
from werkzeug.exceptions import HTTPException, MethodNotAllowed

from mailactors.api.accepting import Accepting
from mailactors.api.asking import Asking
from mailactors.api.events import Feeding
from mailactors.api.exchange import BODY_BYTES_MAX, LimitedRequest
from mailactors.api.operating import Operating
from mailactors.api.parts import ApiParts, Metrics, Reload
from mailactors.api.problems import (
    SLUG_OF_STATUS,
    ProblemError,
    plain_response,
    problem_response,
)
from mailactors.api.routes import LIMITED, ROUTES
from mailactors.api.settling import Settling
from mailactors.dispatch.lane import Lane
from mailactors.intake.door import Door
from mailactors.observe.watchdog import WatchdogStatus
from mailactors.runtime.ports import Clock, Ids, Journal, SystemIds
from mailactors.spool.actor import SpoolSignals
from mailactors.spool.client import SpoolClient
from mailactors.spool.port import SpoolError, SpoolFullError

BODY_WITHIN_S: Final = 30.0
"""How long a body may take to arrive."""
LIMIT_WINDOW_S: Final = 60
"""The service's own limit is a minute's."""
SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})


def create_app(
    door: Door,
    reader: SpoolClient,
    lanes: Mapping[str, Lane],
    clock: Clock,
    *,
    signals: SpoolSignals,
    journal: Journal,
    stopping: trio.Event | None = None,
    writer: SpoolClient | None = None,
    ids: Ids | None = None,
    reload: Reload | None = None,
    metrics: Metrics | None = None,
    watch: WatchdogStatus | None = None,
) -> QuartTrio:
    """Build the ASGI application.

    Args:
        door: where messages are accepted.
        reader: where the spool is asked.
        lanes: the providers' desks, by name, in the configuration's order.
        clock: for lanes' times, and for how long the disk has been full.
        signals: the spool's; tells that its disk is full, and that something was committed.
        journal: where faults of ours are noted, without anything that a client sent.
        stopping: set when the service begins to stop; it is not ready then, and streams end.
        writer: takes commands by hand; without it there are none.
        ids: names messages that are retried by hand.
        reload: takes over the configuration; without it there is nothing to reload.
        metrics: returns them all; without it there are none.
        watch: what the watchdog found; without it the ledger says that nobody watches.
    """
    parts = ApiParts(
        door=door,
        reader=reader,
        lanes=lanes,
        clock=clock,
        signals=signals,
        journal=journal,
        stopping=trio.Event() if stopping is None else stopping,
        ids=SystemIds(clock) if ids is None else ids,
        writer=writer,
        reload=reload,
        metrics=metrics,
        watch=watch,
    )
    return _build(parts)


def _build(parts: ApiParts) -> QuartTrio:
    app = QuartTrio("mailactors.api", static_folder=None)
    app.request_class = LimitedRequest
    app.config["MAX_CONTENT_LENGTH"] = BODY_BYTES_MAX
    app.config["BODY_TIMEOUT"] = BODY_WITHIN_S
    app.url_map.merge_slashes = False  # a redirect would lose the body
    app.url_map.strict_slashes = False
    _add_routes(app, parts)
    _handle_errors(app, parts.journal)
    app.before_request(_refuse_other_sites)
    app.after_request(_harden)
    _tell_limits(app, parts.door)
    return app


def _add_routes(app: QuartTrio, parts: ApiParts) -> None:
    groups = (Accepting(parts), Asking(parts), Operating(parts), Settling(parts), Feeding(parts))
    for route in ROUTES:
        name = route.operation_id
        (handler,) = (getattr(group, name) for group in groups if hasattr(group, name))
        app.add_url_rule(route.rule, name, handler, methods=[route.method])


async def _refuse_other_sites() -> None:
    """Refuse to act for another site's page: a browser lets any page post here without asking.

    Source: Fetch Metadata (Sec-Fetch-Site), and Origin for browsers before it.
    """
    if request.method in SAFE_METHODS:
        return
    site, origin = request.headers.get("Sec-Fetch-Site"), request.headers.get("Origin")
    if site is not None:
        is_ours = site in {"same-origin", "none"}
    else:
        is_ours = origin is None or origin.partition("://")[2] == request.headers.get("Host")
    if not is_ours:
        raise ProblemError("cross-origin", "pages of other sites may not send or change anything")


async def _harden(response: Response) -> Response:
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Cache-Control"] = "no-store"
    return response


def _tell_limits(app: QuartTrio, door: Door) -> None:
    """Add what is left of the service's own limit to whatever brings messages in.

    The limit slides: `t` is when a refused request has room again, and else when all that was
    used up to now is given back.
    Source: draft-ietf-httpapi-ratelimit-headers-10.
    """

    async def tell(response: Response) -> Response:
        limit = door.minute_left()
        if limit is not None and request.endpoint in LIMITED:
            is_refused = response.status_code == 429
            seconds = response.headers["Retry-After"] if is_refused else LIMIT_WINDOW_S
            response.headers["RateLimit-Policy"] = f'"service";q={limit[0]};w={LIMIT_WINDOW_S}'
            response.headers["RateLimit"] = f'"service";r={limit[1]};t={seconds}'
        return response

    app.after_request(tell)


def _handle_errors(app: QuartTrio, journal: Journal) -> None:
    """Let every error end as problem+json; what is a fault of ours is noted, without its words."""

    async def on_problem(error: ProblemError) -> Response:
        return problem_response(error)

    async def on_http(error: HTTPException) -> Response:
        return http_problem(error)

    async def on_spool(error: SpoolError) -> Response:
        if isinstance(error, SpoolFullError):
            return problem_response(ProblemError("overloaded", str(error), retry_after_s=1.0))
        journal.note("api.spool", level="error", error=str(error))
        return problem_response(ProblemError("spool-unavailable", retry_after_s=5.0))

    async def on_fault(error: Exception) -> Response:
        rule = request.url_rule.rule if request.url_rule else ""
        journal.note(
            "api.fault", level="error", route=rule, error=type(error).__name__, at=_place(error)
        )
        return problem_response(ProblemError("internal"))

    app.register_error_handler(ProblemError, on_problem)
    app.register_error_handler(HTTPException, on_http)
    app.register_error_handler(SpoolError, on_spool)
    app.register_error_handler(Exception, on_fault)


def http_problem(error: HTTPException) -> Response:
    """Return what the framework refused as a problem."""
    headers = {}
    if isinstance(error, MethodNotAllowed) and error.valid_methods:
        headers["Allow"] = ", ".join(sorted(error.valid_methods))
    status = error.code or 500
    slug = SLUG_OF_STATUS.get(status)
    if slug is None:
        return plain_response(status, error.name)
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
