"""The routes that show the providers, and pause, resume or reset one."""

from __future__ import annotations

import difflib
from collections.abc import Callable

from quart import Response

from mailactors.api import schemas, schemas_control, views
from mailactors.api.exchange import answer, read_query
from mailactors.api.parts import ApiParts
from mailactors.api.problems import ProblemError
from mailactors.dispatch.lane import CONTROL_ROOM, Lane


async def providers(parts: ApiParts) -> Response:
    """The providers as they are now."""
    now_s = parts.clock.now_s()
    shown = tuple(views.provider_view(lane, now_s) for lane in parts.lanes.values())
    return answer(schemas_control.Providers(shown))


async def pause_provider(parts: ApiParts, name: str) -> Response:
    """Give a provider nothing new; what is in flight goes on."""
    return _control(parts, name, Lane.pause)


async def resume_provider(parts: ApiParts, name: str) -> Response:
    """Give a paused provider messages again."""
    return _control(parts, name, Lane.resume)


async def reset_provider(parts: ApiParts, name: str) -> Response:
    """Forget what was learnt of a provider: its breaker closes."""
    return _control(parts, name, Lane.reset)


def _control(parts: ApiParts, name: str, act: Callable[[Lane], None]) -> Response:
    """Apply a command to a lane whose actors have room for it, and show the lane.

    Raises: ProblemError when there is no such provider, or its actors are behind.
    """
    read_query(schemas.NoQuery)
    lane = parts.lanes.get(name)
    if lane is None:
        near = difflib.get_close_matches(name[:100], parts.lanes, n=1)
        known = f"there are {', '.join(parts.lanes) or 'none'}"
        hint = f"did you mean {near[0]!r}?" if near else known
        raise ProblemError("not-found", f"there is no such provider; {hint}")
    # A command takes room in mailboxes that keep room for every attempt in flight.
    if max(lane.limiter_mailbox.waiting, lane.breaker_mailbox.waiting) >= CONTROL_ROOM:
        raise ProblemError("overloaded", "the provider's actors are behind", retry_after_s=1.0)
    act(lane)
    return answer(views.provider_view(lane, parts.clock.now_s()))
