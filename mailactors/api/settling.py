"""The route by which a person settles what nobody else could: uncertain and held deliveries."""

from __future__ import annotations

from typing import Final

import msgspec
from quart import Response

from mailactors.api import schemas, schemas_control
from mailactors.api.asking import find_message
from mailactors.api.exchange import answer, read_body, read_query
from mailactors.api.parts import ApiParts
from mailactors.api.problems import FaultView, ProblemError
from mailactors.api.submissions import validation_problem
from mailactors.spool.port import SettleByHand, SettledByHand

_DECODER: Final = msgspec.json.Decoder(schemas_control.SettleIn)


class Settling:
    """The handler."""

    def __init__(self, parts: ApiParts) -> None:
        self._parts = parts

    async def settle_message(self, name: str) -> Response:
        """Settle as sent, failed, or to be sent again, which declares the risk of a duplicate."""
        read_query(schemas.NoQuery)
        writer = self._parts.writer
        if writer is None:
            raise ProblemError("not-found", "this gateway takes no commands here")
        body = await read_body(_DECODER)
        note = " ".join(body.note.split())
        if not note.isprintable():
            raise validation_problem([FaultView("is not printable", "/note")])
        status = await find_message(self._parts.reader, name)
        result = await writer.ask(SettleByHand(status.id, body.into, note))
        assert isinstance(result, SettledByHand)
        if not result.is_known:
            raise ProblemError("not-found", "there is no such message any more")
        if not result.settled:
            raise ProblemError("not-settled", result.why)
        view = schemas_control.SettleReceipt(status.id, body.into, result.settled, result.left)
        return answer(view)
