"""The routes that show the providers, and pause, resume or reset one."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection
from typing import Final

from quart import Response

from mailactors.api import schemas, schemas_control, views
from mailactors.api.acts import note_act
from mailactors.api.exchange import answer, read_query
from mailactors.api.parts import ApiParts
from mailactors.api.problems import ProblemError
from mailactors.dispatch.flush import flush_deferred
from mailactors.dispatch.lane import CONTROL_ROOM, Lane, Obeyed
from mailactors.runtime.reply import ActorCrashedError, DeadlineError
from mailactors.spool.port import SetPaused

OBEYED_WITHIN_S: Final = 5.0
"""How long a command to a lane may take to have its effect."""


async def providers(parts: ApiParts) -> Response:
    """The providers as they are now."""
    now_s = parts.clock.now_s()
    shown = tuple(views.provider_view(lane, now_s) for lane in parts.lanes.values())
    return answer(schemas_control.Providers(shown))


async def pause_provider(parts: ApiParts, name: str) -> Response:
    """Give a provider nothing new; what is in flight goes on."""
    return await _control(parts, name, Lane.pause, "pause", SetPaused(name, True))


async def resume_provider(parts: ApiParts, name: str) -> Response:
    """Give a paused provider messages again."""
    return await _control(parts, name, Lane.resume, "resume", SetPaused(name, False))


async def reset_provider(parts: ApiParts, name: str) -> Response:
    """Forget what was learnt of a provider: its breaker closes."""
    return await _control(parts, name, Lane.reset, "reset")


async def flush(parts: ApiParts) -> Response:
    """Make deferred deliveries due now, all or one provider's or stream's."""
    query = read_query(schemas_control.FlushQuery)
    streams: Collection[str] = sorted({*parts.door.rules.streams, *parts.spool.signals.streams})
    if query.provider and query.provider not in parts.lanes:
        raise _unknown("provider", query.provider, parts.lanes)
    if query.stream and query.stream not in streams:
        raise _unknown("stream", query.stream, streams)
    if query.stream:
        streams = (query.stream,)
    await note_act(parts, "flush", provider=query.provider, stream=query.stream)
    count = await flush_deferred(parts.spool, parts.clock, streams, query.provider)
    parts.journal.note("service.flushed", count=count, streams=list(streams))
    return answer(schemas_control.FlushView(count))


async def _control(
    parts: ApiParts,
    name: str,
    act: Callable[[Lane], Obeyed],
    what: str,
    lasting: SetPaused | None = None,
) -> Response:
    """Apply a command to a lane whose actors have room for it; show the lane once it took effect.

    Raises: ProblemError when there is no such provider, its actors are behind, or did not answer.
    """
    read_query(schemas.NoQuery)
    lane = parts.lanes.get(name)
    if lane is None:
        raise _unknown("provider", name, parts.lanes)
    # A command takes room in mailboxes that keep room for every attempt in flight.
    if max(lane.limiter_mailbox.waiting, lane.breaker_mailbox.waiting) >= CONTROL_ROOM:
        raise ProblemError("overloaded", "the provider's actors are behind", retry_after_s=1.0)
    try:
        for reply in act(lane):
            await reply.wait(OBEYED_WITHIN_S)
    except (ActorCrashedError, DeadlineError) as error:
        detail = f"the provider's actors did not answer: {error}"
        raise ProblemError("overloaded", detail, retry_after_s=1.0) from None
    # Afterwards: on a full disk as well a provider can be paused, though not for long.
    await note_act(parts, what, name)
    if lasting is not None:
        await parts.spool.ask(lasting)
    return answer(views.provider_view(lane, parts.clock.now_s()))


def _unknown(what: str, name: str, known: Collection[str]) -> ProblemError:
    near = difflib.get_close_matches(name[:100], known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known) or 'none'}"
    return ProblemError("not-found", f"there is no such {what}; {hint}")
