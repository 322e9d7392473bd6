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
    """One route. `problems` are slugs of `problems.KINDS`; `media` is a good answer's type.

    The handler's name is the operation's id, the first line of its docstring the summary.
    """

    method: str
    rule: str
    handler: Handler
    answers: dict[int, type[msgspec.Struct] | None]
    problems: tuple[str, ...] = ("internal",)
    query: type[msgspec.Struct] | None = None
    body: type[msgspec.Struct] | None = None
    is_limited: bool = False
    """It accepts messages, so each answer says what is left of the service's own limit."""
    media: str = JSON

    @property
    def operation_id(self) -> str:
        """The name of the route in OpenAPI and in Quart."""
        return self.handler.__name__

    @property
    def summary(self) -> str:
        """What the route does, in a line."""
        return (self.handler.__doc__ or "").partition("\n")[0].removesuffix(".")

    @property
    def path(self) -> str:
        """The rule as OpenAPI writes it: `/v1/messages/{name}`."""
        return re.sub(r"<([a-z_]+)>", r"{\1}", self.rule)
