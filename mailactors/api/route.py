"""What a row of the table of routes says."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import Final, TypeAlias

import msgspec
from quart import Response

JSON: Final = "application/json"

Handler: TypeAlias = Callable[..., Awaitable[Response]]
"""Takes the `ApiParts`, and `name` where the rule has one."""


class Route(msgspec.Struct, frozen=True):
    """One route. `problems` are slugs of `problems.KINDS`."""

    method: str
    rule: str
    operation_id: str
    handler: Handler
    summary: str
    answers: dict[int, type[msgspec.Struct] | None]
    problems: tuple[str, ...] = ("internal",)
    body: type[msgspec.Struct] | None = None
    query: type[msgspec.Struct] | None = None
    is_limited: bool = False
    """It accepts messages, so each answer says what is left of the service's own limit."""
    media: str = JSON
    """The media type of a good answer."""

    @property
    def path(self) -> str:
        """The rule as OpenAPI writes it: `/v1/messages/{name}`."""
        return re.sub(r"<([a-z_]+)>", r"{\1}", self.rule)
