"""The routes of the suppression list: the addresses that get no mail."""

from __future__ import annotations

from typing import Final

import email_validator
import msgspec
from quart import Response

from mailactors.api import schemas_control, views
from mailactors.api.acts import note_act
from mailactors.api.exchange import answer, read_body, read_query
from mailactors.api.parts import ApiParts
from mailactors.api.problems import FaultView, bad_parameter, validation_problem
from mailactors.intake.admission import normal_address
from mailactors.spool.port import Suppress, Suppression, Unsuppress, Unsuppressed

SOURCE: Final = "api"
"""The `source` of an entry that a client made."""

_DECODER: Final = msgspec.json.Decoder(schemas_control.SuppressionIn)


async def suppressions(parts: ApiParts) -> Response:
    """The addresses that get no mail, by pages."""
    query = read_query(schemas_control.SuppressionsQuery)
    found = await parts.spool.read(lambda spool: spool.suppressions(query.limit + 1, query.cursor))
    shown = found[: query.limit]
    following = shown[-1].address if len(found) > query.limit else None
    listed = tuple(map(views.suppression_view, shown))
    return answer(schemas_control.SuppressionPage(listed, following))


async def suppress(parts: ApiParts) -> Response:
    """Send an address no mail from now on.

    The first reason and source stand.
    """
    body = await read_body(_DECODER, parts)
    reason = " ".join(body.reason.split())
    faults = [] if reason.isprintable() else [FaultView("is not printable", "/reason")]
    try:
        address = normal_address(body.address, special_use=True)
    except email_validator.EmailNotValidError as error:
        raise validation_problem([FaultView(str(error), "/address"), *faults]) from None
    if faults:
        raise validation_problem(faults)
    await note_act(parts, "suppress", address, reason=reason)
    result = await parts.spool.ask(Suppress(address, reason, SOURCE))
    assert isinstance(result, Suppression)
    return answer(views.suppression_view(result))


async def unsuppress(parts: ApiParts) -> Response:
    """Send an address mail again."""
    address = address_of("address", read_query(schemas_control.AddressQuery).address)
    await note_act(parts, "unsuppress", address)
    result = await parts.spool.ask(Unsuppress(address))
    assert isinstance(result, Unsuppressed)
    return answer(schemas_control.Unsuppression(result.address, result.was_suppressed))


def address_of(parameter: str, text: str) -> str:
    """Return the address that a query names, in the form in which addresses are stored.

    Raises: ProblemError.
    """
    try:
        return normal_address(text, special_use=True)
    except email_validator.EmailNotValidError as error:
        raise bad_parameter(parameter, str(error)) from None
