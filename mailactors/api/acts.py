"""What operators did: every handler that acts for one notes it here, before it acts."""

from __future__ import annotations

from quart import Response, request

from mailactors.api import schemas_control, views
from mailactors.api.exchange import answer, read_query
from mailactors.api.parts import ApiParts
from mailactors.spool.port import NoteAct, Way

CLI_AGENT = "mailactors-cli"


async def acts(parts: ApiParts) -> Response:
    """What operators asked for, oldest first, by pages: when, what, by which way."""
    query = read_query(schemas_control.ActsQuery)
    found = await parts.spool.read(lambda spool: spool.acts_after(query.after, query.limit + 1))
    shown = found[: query.limit]
    following = shown[-1].seq if len(found) > query.limit else None
    return answer(schemas_control.ActPage(tuple(map(views.act_view, shown)), following))


async def note_act(parts: ApiParts, what: str, subject: str = "", **facts: str | int) -> None:
    """Make durable what is about to be done for whoever asks. Raises: SpoolError."""
    kept = {name: value for name, value in facts.items() if value != ""}
    await parts.spool.ask(NoteAct(parts.ids.new_id(), what, way_of_request(), subject, kept))


def way_of_request() -> Way:
    """Return by which way a request came: our command line names itself."""
    return "cli" if request.headers.get("User-Agent", "").startswith(CLI_AGENT) else "api"
