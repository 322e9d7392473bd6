"""What never reaches the application: websockets, and CONNECT, which hypercorn would pass on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from mailactors.api.problems import KINDS, MEDIA_TYPE, TYPE_PREFIX, Problem

if TYPE_CHECKING:
    from hypercorn.typing import ASGIFramework, ASGIReceiveCallable, ASGISendCallable, Scope

_KIND = KINDS["method-not-allowed"]
_BODY = msgspec.json.encode(
    Problem(TYPE_PREFIX + "method-not-allowed", _KIND.title, _KIND.status, "this is no proxy")
)


def guard(app: ASGIFramework) -> ASGIFramework:
    """Return the application behind a guard, which refuses what the application has no word for."""

    async def guarded(scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1000, "reason": None})
        elif scope["type"] == "http" and scope["method"] == "CONNECT":
            await _refuse(send)
        else:
            await app(scope, receive, send)

    return guarded


async def _refuse(send: ASGISendCallable) -> None:
    headers = [
        (b"content-type", MEDIA_TYPE.encode()),
        (b"content-length", str(len(_BODY)).encode()),
        (b"allow", b"GET, POST"),
        (b"connection", b"close"),
    ]
    start: Any = {"type": "http.response.start", "status": _KIND.status, "headers": headers}
    await send(start)
    await send({"type": "http.response.body", "body": _BODY, "more_body": False})
