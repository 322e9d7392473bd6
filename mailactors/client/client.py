"""The client: each method sends a request and retries it until there is a usable answer."""

from __future__ import annotations

import itertools
import os
import ssl
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, Self, Unpack

import anyio
import httpx2
import msgspec

from mailactors.client.events import Events
from mailactors.client.retry import Backoff, Patience
from mailactors.client.values import (
    ClientError,
    Key,
    Mail,
    NotAGatewayError,
    NotDoneError,
    NotFoundError,
    Problem,
    RejectedError,
    Sent,
    Status,
    UnavailableError,
)
from mailactors.client.wire import (
    BatchAnswer,
    Item,
    StatusPage,
    check,
    chunked,
    failure,
    read_as,
    read_json,
    read_receipt,
    read_result,
)

DEFAULT_URL: Final = "http://127.0.0.1:8025"
CLOSE_WITHIN_S: Final = 5.0
POLL_CAP_S: Final = 2.0
QUIET_S: Final = 60.0
"""After so long without a byte, the client closes an event stream and opens it again."""


class Client:
    """A connection pool to one gateway. Many tasks may share one."""

    def __init__(
        self,
        url: str | None = None,
        *,
        timeout_s: float = 10.0,
        retry_for_s: float = 30.0,
        ca_file: str | os.PathLike[str] | None = None,
        backoff: Backoff | None = None,
        agent: str = "mailactors-client",
    ) -> None:
        """Remember where the gateway is; nothing is opened yet.

        Args:
            url: where it listens; without one, MAILACTORS_URL, or loopback.
            timeout_s: for one try, from its first byte to the last of its answer.
            retry_for_s: no try begins later than this after the first; 0 means one try.
            ca_file: certificates (PEM) to trust, instead of the usual ones.
            backoff: the pauses between tries.
            agent: the User-Agent, by which the gateway's log of acts tells ways apart.
        """
        self._url = (url or os.environ.get("MAILACTORS_URL") or DEFAULT_URL).rstrip("/")
        self._timeout_s = timeout_s
        self._retry_for_s = retry_for_s
        self._backoff = backoff or Backoff()
        timeout = httpx2.Timeout(timeout_s, read=max(QUIET_S, timeout_s))
        trust = _trust(self._url, ca_file)
        self._http = httpx2.AsyncClient(
            verify=trust, trust_env=False, timeout=timeout, headers={"User-Agent": agent}
        )
        self._open: list[Events] = []

    async def __aenter__(self) -> Self:
        await self._http.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        with anyio.move_on_after(CLOSE_WITHIN_S, shield=True):
            for events in self._open:
                await events.aclose()
            await self._http.aclose()

    async def send(self, *, key: Key = Key.CONTENT, **mail: Unpack[Mail]) -> Sent:
        """Submit one message; returns once it is durable.

        Raises: RejectedError, KeyConflictError; UnavailableError, NotAGatewayError: it may have
            been accepted.
        """
        return await self._send(Item(mail, key))

    async def send_many(
        self, mails: Iterable[Mail], *, key: Key = Key.CONTENT
    ) -> list[Sent | ClientError]:
        """Submit many messages, up to a thousand a request; a failure of one stops no other.

        Equal messages in one call are one message, unless their keys are fresh.

        Returns: one entry for each message, in order: the receipt, or why there is none.
        """
        results: list[Sent | ClientError] = []
        for chunk in chunked([Item(mail, key) for mail in mails]):
            if results and isinstance(results[-1], UnavailableError):
                results += [results[-1]] * len(chunk)
            else:
                results += await self._send_chunk(chunk)
        return results

    async def status(self, name: str) -> Status:
        """Return a message's status, by the gateway's id or yours (then the newest with that id).

        Raises: NotFoundError, and as `request`.
        """
        page = await self.request("GET", "/statuses", query={"id": name})
        found = read_as(page, StatusPage).statuses
        if not found:
            raise NotFoundError(Problem(404, "There is no such message", repr(name)))
        return next((status for status in found if status.id == name), found[0])

    async def wait(self, name: str, *, timeout_s: float = 60.0) -> Status:
        """Return a message's status once nothing more happens to it by itself.

        Then it is final, or held for a person; `Status.is_final` tells which.

        Raises: NotDoneError after `timeout_s`; and as `status`.
        """
        status = None
        with anyio.move_on_after(timeout_s):
            for attempt in itertools.count():
                status = await self.status(name)
                if status.is_done:
                    return status
                await anyio.sleep(min(POLL_CAP_S, self._backoff.pause_s(attempt)))
        raise NotDoneError(name, status)

    def events(self, after: int | None = None) -> Events:
        """Return an async iterator over what happens, without end; each event once, in order.

        A lost connection is opened again after the last event. It is closed with the client, or
        sooner by `contextlib.aclosing`.

        Args: after: the `seq` of the last event known; without one, from where the gateway begins.
        Raises: while iterating, as `request`.
        """
        patience = Patience(self._retry_for_s, self._backoff)
        events = Events(self._http, self._url + "/v1/events", after, patience)
        self._open = [events, *(each for each in self._open if not each.is_closed)]
        return events

    async def request(
        self,
        method: str,
        path: str,
        body: object = None,
        query: Mapping[str, str | int] | None = None,
    ) -> Any:
        """Return the JSON that a route answers. The request may be repeated: see RETRIED.

        Raises: RejectedError, UnavailableError, NotAGatewayError.
        """
        content = None if body is None else msgspec.json.encode(body)
        return read_json(await self._ask(method, path, content, query=query))

    async def _send(self, item: Item) -> Sent:
        answer = await self._ask("POST", "/v1/messages", item.body(), item.headers())
        receipt = read_as(read_json(answer), dict[str, Any])
        return read_receipt(receipt, answer.status_code, item.key)

    async def _send_chunk(self, chunk: Sequence[Item]) -> list[Sent | ClientError]:
        """Submit up to a thousand; submit those again that the gateway had no room for."""
        patience = Patience(self._retry_for_s, self._backoff)
        results = await self._post_batch(chunk)
        with suppress(UnavailableError):
            while refused := {
                i: r for i, r in enumerate(results) if isinstance(r, UnavailableError)
            }:
                await patience.rest(next(iter(refused.values())))
                again = await self._post_batch([chunk[index] for index in refused])
                for index, result in zip(refused, again, strict=True):
                    results[index] = result
        return results

    async def _post_batch(self, items: Sequence[Item]) -> list[Sent | ClientError]:
        content = b"[" + b",".join(item.body_in_batch() for item in items) + b"]"
        try:
            answer = await self._ask("POST", "/v1/messages/batch", content)
            answers = read_as(read_json(answer), BatchAnswer).results
            if len(answers) != len(items):
                raise NotAGatewayError(f"{len(items)} messages got {len(answers)} results")
            return list(map(read_result, answers, items, itertools.count()))
        except RejectedError as error:
            if error.problem.status in {404, 405}:  # an older gateway, without this route
                return await self._post_each(items)
            return [error] * len(items)
        except ClientError as error:
            return [error] * len(items)

    async def _post_each(self, items: Sequence[Item]) -> list[Sent | ClientError]:
        results: list[Sent | ClientError] = []
        for item in items:
            try:
                results.append(await self._send(item))
            except UnavailableError as error:
                return results + [error] * (len(items) - len(results))
            except ClientError as error:
                results.append(error)
        return results

    async def _ask(
        self,
        method: str,
        path: str,
        content: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        query: Mapping[str, str | int] | None = None,
    ) -> httpx2.Response:
        """Send a request until its answer is final; return a good one, or raise."""
        headers = {"Content-Type": "application/json", **(headers or {})}
        patience = Patience(self._retry_for_s, self._backoff)
        while True:
            try:
                with anyio.fail_after(self._timeout_s):
                    answer = await self._http.request(
                        *(method, self._url + path),
                        content=content,
                        headers=headers,
                        params=query,
                        timeout=None,
                    )
                check(answer)
            except TimeoutError:
                lost = UnavailableError(f"there was no answer within {self._timeout_s:g} s")
            except (httpx2.HTTPError, httpx2.InvalidURL) as error:
                lost = failure(error)
            except UnavailableError as error:
                lost = error
            else:
                return answer
            await patience.rest(lost)


def _trust(url: str, ca_file: str | os.PathLike[str] | None) -> ssl.SSLContext | bool:
    """Return the certificates to trust; the usual ones take 0.1 s to read, so only for HTTPS."""
    if ca_file is not None:
        return ssl.create_default_context(cafile=ca_file)
    return url.lower().startswith("https:") or ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
