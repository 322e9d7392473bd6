"""One budget of bytes for all bodies that are being read, decoded or made durable.

A body is counted before it is read, by its length, or chunk by chunk where it has none; what does
not fit is refused with 503 at once, and the client comes again. Small bodies have room of their
own, so that a few large ones that never end do not shut out the common message.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from mailactors.api.exchange import bytes_max_of
from mailactors.api.problems import ProblemError

if TYPE_CHECKING:
    from hypercorn.typing import ASGIFramework, ASGIReceiveCallable, ASGISendCallable, HTTPScope

LARGE_BYTES_MAX: Final = 16 * 1024 * 1024
"""For all large bodies at once; one that is alone may be as large as its route allows. A body takes
several times its length until its message is durable: as text, as a message, and packed."""
SMALL_BYTES: Final = 64 * 1024
SMALL_BYTES_MAX: Final = 8 * 1024 * 1024
"""For small ones, beside that."""
RETRY_S: Final = 1.0


class BodyBudget:
    """Counts the bytes of bodies in flight."""

    def __init__(self) -> None:
        self.small_bytes = self.large_bytes = 0


class MeteredBody:
    """The body of one request on its way to the application; `close` gives its bytes back."""

    def __init__(self, budget: BodyBudget, scope: HTTPScope, receive: ASGIReceiveCallable) -> None:
        self._budget = budget
        self._receive = receive
        self._taken = self._arrived = 0
        declared = declared_length(scope)
        # The application refuses what is longer than its route allows without reading it.
        self.is_refused = declared <= bytes_max_of(scope["path"]) and not self._take(declared)

    async def receive(self) -> Any:
        """Return the next part of the body, or the end of the connection if there is no room."""
        message = await self._receive()
        if message["type"] == "http.request" and not self.is_refused:
            self._arrived += len(message["body"])
            self.is_refused = not self._take(self._arrived)
        return {"type": "http.disconnect"} if self.is_refused else message

    def close(self) -> None:
        """Give back what the body took."""
        self._count(-self._taken)
        self._taken = 0

    def _take(self, total: int) -> bool:
        """Hold so many bytes in all; return False, and hold what it was, if there is no room."""
        if total <= self._taken:
            return True
        before, self._taken = self._taken, total
        self._count(-before)
        self._count(total)
        if self._fits():
            return True
        self._count(-total)
        self._count(before)
        self._taken = before
        return False

    def _fits(self) -> bool:
        if self._taken <= SMALL_BYTES:
            return self._budget.small_bytes <= SMALL_BYTES_MAX
        is_alone = self._budget.large_bytes == self._taken
        return is_alone or self._budget.large_bytes <= LARGE_BYTES_MAX

    def _count(self, count: int) -> None:
        if abs(count) <= SMALL_BYTES:
            self._budget.small_bytes += count
        else:
            self._budget.large_bytes += count
        assert self._budget.small_bytes >= 0
        assert self._budget.large_bytes >= 0


def declared_length(scope: HTTPScope) -> int:
    """Return the Content-Length, which h11 has checked, or 0."""
    return int(next((value for name, value in scope["headers"] if name == b"content-length"), 0))


def no_room() -> ProblemError:
    """Return the refusal of a body that does not fit."""
    detail = "too many bodies are being read; send this one again"
    return ProblemError("overloaded", detail, retry_after_s=RETRY_S)


async def run_metered(
    app: ASGIFramework,
    budget: BodyBudget,
    scope: HTTPScope,
    receive: ASGIReceiveCallable,
    send: ASGISendCallable,
) -> bool:
    """Run the application; return False if the body did not fit and nothing was answered."""
    body, is_answered = MeteredBody(budget, scope, receive), False

    async def note_answer(message: Any) -> None:
        nonlocal is_answered
        is_answered = True
        await send(message)

    try:
        if not body.is_refused:
            await app(scope, body.receive, note_answer)
    finally:
        body.close()
    return is_answered or not body.is_refused
