"""The door before the application: what it may not see, or cannot handle, is answered here.

Refused are CONNECT, targets that cannot be read, hosts that are not ours, pages of other sites,
whatever the method, and bodies for which there is no room.
"""

from __future__ import annotations

import math
from http.client import METHOD_NOT_ALLOWED
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import msgspec
import trio

from mailactors.api.budget import BodyBudget, no_room, run_metered
from mailactors.api.names import OwnNames, gather, is_from_another_site, strange_host
from mailactors.api.problems import MEDIA_TYPE, ProblemError, problem_of

if TYPE_CHECKING:
    from hypercorn.typing import (
        ASGIFramework,
        ASGIReceiveCallable,
        ASGISendCallable,
        HTTPScope,
        Scope,
    )


def guard(app: ASGIFramework, names: OwnNames) -> ASGIFramework:
    """Return the application behind a guard that answers such requests itself."""
    budget = BodyBudget()

    async def guarded(scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        if scope["type"] != "http":
            await app(scope, receive, send)
        elif problem := refusal_of(scope, names):
            await _refuse(receive, send, problem)
        elif not await run_metered(app, budget, scope, receive, send):
            await _refuse(receive, send, no_room())

    return guarded


def refusal_of(scope: HTTPScope, names: OwnNames) -> ProblemError | None:
    """Return why a request goes no further, or None."""
    if scope["method"] == "CONNECT":
        return ProblemError("method-not-allowed", "this is no proxy")
    if not _is_readable(scope["path"]):
        return ProblemError("bad-request", "the request's target cannot be read")
    headers, local = gather(scope["headers"]), (scope["server"] or ("",))[0]
    strange = strange_host(headers, scope["path"], names, local)
    if strange is not None:
        detail = f"this gateway does not answer to {strange[:100]!r}; names of its own that"
        return ProblemError("misdirected", f"{detail} others call it by are in service.names")
    if is_from_another_site(scope["method"], headers, names):
        return ProblemError("cross-origin", "pages of other sites may not ask or change anything")
    return None


def _is_readable(path: str) -> bool:
    """Say whether a target has a path, be it in the absolute form (RFC 9112 §3.2.2)."""
    if path.startswith("/"):
        return True
    try:
        return urlsplit(path).path.startswith("/")
    except ValueError:
        return False


async def _refuse(
    receive: ASGIReceiveCallable, send: ASGISendCallable, error: ProblemError
) -> None:
    """Answer, and take in what still arrives meanwhile: hypercorn would wait for that, and hang."""

    async def drain() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    async with trio.open_nursery() as nursery:
        nursery.start_soon(drain)
        await _answer(send, error)
        nursery.cancel_scope.cancel()


async def _answer(send: ASGISendCallable, error: ProblemError) -> None:
    problem = problem_of(error)
    body = msgspec.json.encode(problem)
    headers = [
        (b"content-type", MEDIA_TYPE.encode()),
        (b"content-length", str(len(body)).encode()),
        (b"cache-control", b"no-store"),
        (b"x-content-type-options", b"nosniff"),
        (b"connection", b"close"),
    ]
    if problem.status == METHOD_NOT_ALLOWED:
        headers.append((b"allow", b"GET, POST"))
    if error.retry_after_s is not None:
        headers.append((b"retry-after", str(math.ceil(error.retry_after_s)).encode()))
    start: Any = {"type": "http.response.start", "status": problem.status, "headers": headers}
    await send(start)
    await send({"type": "http.response.body", "body": body, "more_body": False})
