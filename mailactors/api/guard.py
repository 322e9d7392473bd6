"""Refuses what the application cannot handle: websockets, CONNECT, and unreadable targets."""

from __future__ import annotations

from http.client import METHOD_NOT_ALLOWED
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import msgspec

from mailactors.api.problems import MEDIA_TYPE, ProblemError, problem_of

if TYPE_CHECKING:
    from hypercorn.typing import ASGIFramework, ASGIReceiveCallable, ASGISendCallable, Scope


def guard(app: ASGIFramework) -> ASGIFramework:
    """Return the application behind a guard that answers such requests itself."""

    async def guarded(scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1000, "reason": None})
        elif scope["type"] == "http" and scope["method"] == "CONNECT":
            await _refuse(send, "method-not-allowed", "this is no proxy")
        elif scope["type"] == "http" and not _is_readable(scope["path"]):
            await _refuse(send, "bad-request", "the request's target cannot be read")
        else:
            await app(scope, receive, send)

    return guarded


def _is_readable(path: str) -> bool:
    """Say whether a target has a path, be it in the absolute form (RFC 9112 §3.2.2)."""
    if path.startswith("/"):
        return True
    try:
        return urlsplit(path).path.startswith("/")
    except ValueError:
        return False


async def _refuse(send: ASGISendCallable, slug: str, detail: str) -> None:
    problem = problem_of(ProblemError(slug, detail))
    body = msgspec.json.encode(problem)
    headers = [
        (b"content-type", MEDIA_TYPE.encode()),
        (b"content-length", str(len(body)).encode()),
        (b"connection", b"close"),
    ]
    if problem.status == METHOD_NOT_ALLOWED:
        headers.append((b"allow", b"GET, POST"))
    start: Any = {"type": "http.response.start", "status": problem.status, "headers": headers}
    await send(start)
    await send({"type": "http.response.body", "body": body, "more_body": False})
