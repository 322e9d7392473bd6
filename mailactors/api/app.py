"""The routes: each decodes, asks the door or the spool, and shows. It owns no state.

A handler only waits. The commit happens in the spool's actor, so a client that hangs up cancels
nothing but the wait, and the same key returns the answer (quart-trio cancels the handler then).
"""

from __future__ import annotations

import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec
import trio
from quart import Response, request
from quart_trio import QuartTrio
from werkzeug.exceptions import HTTPException, MethodNotAllowed

import mailactors
from mailactors.api import openapi, schemas, views
from mailactors.api.decoding import check_content_type, decode_body, decode_query
from mailactors.api.problems import (
    SLUG_OF_STATUS,
    ProblemError,
    plain_response,
    problem_response,
)
from mailactors.api.submissions import (
    full_submission,
    locate,
    parse_key,
    short_submission,
    validation_problem,
)
from mailactors.dispatch.lane import Lane
from mailactors.intake.door import Door
from mailactors.intake.submission import (
    KeyConflictError,
    OverloadedError,
    StoppingError,
    Submission,
    SubmissionRejectedError,
)
from mailactors.runtime.ports import Clock, Journal
from mailactors.spool.actor import SpoolSignals
from mailactors.spool.port import Receipt, SpoolError
from mailactors.spool.questions import MessageStatus, Questions
from mailactors.spool.reader import SpoolReader

T = TypeVar("T", bound=msgspec.Struct)

BODY_BYTES_MAX: Final = 16 * 1024 * 1024
"""A message of admission's 10 MiB, its attachments in base64, and JSON around them."""
BODY_WITHIN_S: Final = 30.0
"""How long a body may take to arrive."""
SHORT_MESSAGE: Final = "Email process initiated."

_SHORT_DECODER: Final = msgspec.json.Decoder(schemas.ShortMessage)
_MESSAGE_DECODER: Final = msgspec.json.Decoder(schemas.MessageIn)


class Api:
    """The handlers, and what they ask."""

    def __init__(
        self,
        door: Door,
        reader: SpoolReader,
        lanes: Mapping[str, Lane],
        signals: SpoolSignals,
        clock: Clock,
        stopping: trio.Event,
    ) -> None:
        self._door = door
        self._reader = reader
        self._lanes = lanes
        self._signals = signals
        self._clock = clock
        self._stopping = stopping

    async def send_email(self) -> Response:
        """Accept a message in the short form."""
        body = await _body(_SHORT_DECODER)
        submission = short_submission(body, parse_key(request.headers.getlist("Idempotency-Key")))
        receipt = await self._submit(submission, body)
        status_url = f"/v1/messages/{receipt.id}"
        view = schemas.ShortReceipt(SHORT_MESSAGE, body.id, receipt.id, status_url)
        return _accepted(view, receipt)

    async def statuses(self) -> Response:
        """Return every message's status, newest first, by pages; or those that one name means."""
        query = decode_query(request.args.items(multi=True), schemas.StatusesQuery)
        if isinstance(name := query.id, str):
            found = await self._reader.ask(lambda spool: spool.status(name))
            return _answer(schemas.StatusPage(tuple(map(views.status_view, found)), None))
        limit, before = query.limit, query.cursor if isinstance(query.cursor, int) else None
        found = await self._reader.ask(lambda spool: spool.statuses(limit + 1, before))
        shown = found[:limit]
        following = str(shown[-1].seq) if len(found) > limit else None
        return _answer(schemas.StatusPage(tuple(map(views.status_view, shown)), following))

    async def post_message(self) -> Response:
        """Accept a message."""
        body = await _body(_MESSAGE_DECODER)
        submission = full_submission(body, parse_key(request.headers.getlist("Idempotency-Key")))
        receipt = await self._submit(submission, body)
        rules = self._door.rules
        if submission.key is None:
            idempotency = schemas.Idempotency("fingerprint", rules.fingerprint_window_s)
        else:
            idempotency = schemas.Idempotency("key", rules.key_window_s)
        view = schemas.MessageReceipt(
            id=receipt.id,
            message_id=receipt.message_id,
            status="accepted",
            status_url=f"/v1/messages/{receipt.id}",
            idempotency=idempotency,
        )
        return _accepted(view, receipt)

    async def message(self, name: str) -> Response:
        """Return a message's deliveries and its timeline; `name` is our id or the client's."""
        decode_query(request.args.items(multi=True), schemas.NoQuery)

        def ask(spool: Questions) -> tuple[MessageStatus, Any] | None:
            named = spool.status(name)
            status = next((s for s in named if s.id == name), next(iter(named), None))
            return None if status is None else (status, spool.timeline(status.seq))

        found = await self._reader.ask(ask)
        if found is None:
            raise ProblemError("not-found", "no message has this id, ours or the client's")
        return _answer(views.message_view(*found))

    async def providers(self) -> Response:
        """Return the lanes as they are now."""
        now_s = self._clock.now_s()
        lanes = tuple(views.provider_view(lane, now_s) for lane in self._lanes.values())
        return _answer(schemas.Providers(lanes))

    async def healthz(self) -> Response:
        """Say that the process is alive: it answered."""
        return _answer(schemas.Health("ok"))

    async def readyz(self) -> Response:
        """Say whether a message would be accepted now."""
        if self._stopping.is_set():
            raise ProblemError("stopping", "the service is shutting down", retry_after_s=5.0)
        full_s = self._signals.full_until_s.value - self._clock.now_s()
        if full_s > 0:
            raise ProblemError("not-ready", "the spool's disk is full", retry_after_s=full_s)
        await self._reader.ask(lambda spool: spool.status(""))
        return _answer(schemas.Health("ready"))

    async def openapi(self) -> Response:
        """Return the description of all this."""
        return Response(openapi.document_json(), content_type="application/json")

    async def index(self) -> Response:
        """Say what is served here."""
        routes = {f"{r.method} {r.path}": r.summary for r in openapi.ROUTES}
        return _answer(schemas.Index("mailactors", mailactors.__version__, routes))

    async def _submit(self, submission: Submission, body: msgspec.Struct) -> Receipt:
        """Pass a submission through the door; its refusals become problems.

        Raises: ProblemError.
        """
        try:
            return await self._door.submit(submission)
        except SubmissionRejectedError as error:
            faults = dict.fromkeys(locate(fault, body) for fault in error.faults)
            raise validation_problem([*faults]) from None
        except KeyConflictError as error:
            detail = f"message {error.message_id} has this key and other content"
            raise ProblemError("idempotency-key-reused", detail) from None
        except StoppingError as error:
            raise ProblemError("stopping", str(error), retry_after_s=error.retry_after_s) from None
        except OverloadedError as error:
            raise ProblemError(
                "overloaded", str(error), retry_after_s=error.retry_after_s
            ) from None


def create_app(
    door: Door,
    reader: SpoolReader,
    lanes: Mapping[str, Lane],
    clock: Clock,
    *,
    signals: SpoolSignals,
    journal: Journal,
    stopping: trio.Event | None = None,
) -> QuartTrio:
    """Build the ASGI application.

    Args:
        door: where messages are accepted.
        reader: where the spool is asked.
        lanes: the providers' desks, by name, in the configuration's order.
        clock: for lanes' times, and for how long the disk has been full.
        signals: the spool's; tells that its disk is full.
        journal: where faults of ours are noted, without anything that a client sent.
        stopping: set when the service begins to stop; from then on it is not ready.
    """
    app = QuartTrio("mailactors.api", static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = BODY_BYTES_MAX
    app.config["BODY_TIMEOUT"] = BODY_WITHIN_S
    app.url_map.merge_slashes = False  # a redirect would lose the body
    app.url_map.strict_slashes = False
    stopping = trio.Event() if stopping is None else stopping
    api = Api(door, reader, lanes, signals, clock, stopping)
    for route in openapi.ROUTES:
        handler = getattr(api, route.operation_id)
        app.add_url_rule(route.rule, route.operation_id, handler, methods=[route.method])
    _handle_errors(app, journal)
    app.after_request(_harden)
    return app


async def _body(decoder: msgspec.json.Decoder[T]) -> T:
    check_content_type(request.headers.get("Content-Type"))
    data = await request.get_data(cache=False, as_text=False, parse_form_data=False)
    return decode_body(data, decoder)


def _answer(view: msgspec.Struct, status: int = 200) -> Response:
    return Response(msgspec.json.encode(view), status, content_type="application/json")


def _accepted(view: msgspec.Struct, receipt: Receipt) -> Response:
    """Answer 202, or 200 with the same body when it was accepted before under this key."""
    response = _answer(view, 200 if receipt.is_replay else 202)
    response.headers["Location"] = f"/v1/messages/{receipt.id}"
    if receipt.is_replay:
        response.headers["Idempotent-Replayed"] = "true"
    return response


async def _harden(response: Response) -> Response:
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Cache-Control"] = "no-store"
    return response


def _handle_errors(app: QuartTrio, journal: Journal) -> None:
    """Let every error end as problem+json; what is a fault of ours is noted, without its words."""

    async def on_problem(error: ProblemError) -> Response:
        return problem_response(error)

    async def on_http(error: HTTPException) -> Response:
        return http_problem(error)

    async def on_spool(error: SpoolError) -> Response:
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
    return problem_response(ProblemError(slug, _DETAILS.get(slug, "")), headers)


_DETAILS: Final = {
    "too-large": f"at most {BODY_BYTES_MAX} bytes are read",
    "request-timeout": f"a body has {BODY_WITHIN_S:g} s",
    "not-found": "there is no such route; GET / lists them",
}


def _place(error: Exception) -> str:
    """Return the file and line where an exception was raised; its text may hold an address."""
    frames = traceback.extract_tb(error.__traceback__)
    return f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "?"
