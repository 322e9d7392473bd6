"""The sync client behind the names of the async one, so that each test holds for both."""

from __future__ import annotations

from typing import Any, Self

from mailactors.client import sync
from mailactors.client.values import ClientError, Event, Sent, Status


class AwaitedClient:
    """Its methods can be awaited, and never let another task run."""

    def __init__(self, *args: Any, **options: Any) -> None:
        self._client = sync.Client(*args, **options)

    async def __aenter__(self) -> Self:
        self._client.__enter__()
        return self

    async def __aexit__(self, *error: object) -> None:
        self._client.__exit__(*error)

    async def send(self, **mail: Any) -> Sent:
        return self._client.send(**mail)

    async def send_many(self, *args: Any, **options: Any) -> list[Sent | ClientError]:
        return self._client.send_many(*args, **options)

    async def status(self, name: str) -> Status:
        return self._client.status(name)

    async def wait(self, name: str, **options: Any) -> Status:
        return self._client.wait(name, **options)

    async def request(self, *args: Any, **options: Any) -> Any:
        return self._client.request(*args, **options)

    def events(self, after: int | None = None) -> AwaitedEvents:
        return AwaitedEvents(self._client.events(after))


class AwaitedEvents:
    """The same for a stream of events."""

    def __init__(self, events: sync.Events) -> None:
        self._events = events

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        for event in self._events:
            return event
        raise StopAsyncIteration

    async def aclose(self) -> None:
        self._events.close()
