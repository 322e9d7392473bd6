"""The service: a gateway on the operating system, from the first line to the last signal."""

from __future__ import annotations

import os
import shlex
import signal
from collections.abc import AsyncIterator
from typing import Final

import trio

from mailactors import __version__
from mailactors.api.app import create_app
from mailactors.api.server import ApiServer, Listening
from mailactors.config import Config
from mailactors.errors import MailactorsError
from mailactors.observe.logs import LogJournal, forward_library_logs
from mailactors.runtime.ports import Ports, system_ports
from mailactors.runtime.supervisor import SERVER_RESTARTS, Child, describe
from mailactors.spool.sqlite import SqliteStore
from mailactors.wiring import Front, Gateway, build

EXAMPLE: Final = (
    '{"id":"1","to":"chahak@example.com","subject":"Hello","body":"This is a test email."}'
)


class ServiceFailedError(MailactorsError):
    """The gateway could not go on; what it had accepted is in the spool."""


def serve_gateway(config: Config, *, is_demo: bool) -> None:
    """Run a gateway until it is told to stop.

    Raises: ServiceFailedError, when an actor crashed too often or the spool's disk failed;
        SpoolError and OSError, when it cannot start.
    """
    store = SqliteStore.open(config.service.spool)
    try:
        trio.run(_serve, config, store, is_demo)
    except ExceptionGroup as group:
        raise ServiceFailedError(why_it_ended(group, config)) from group
    finally:
        store.close()


def why_it_ended(group: ExceptionGroup[Exception], config: Config) -> str:
    """Return the reason in one line. An OSError that gets so far is the listener's first bind."""
    is_bind = group.subgroup(lambda error: isinstance(error, OSError)) is not None
    where = f"cannot listen on {config.service.listen}: " if is_bind else ""
    return where + describe(group)


async def _serve(config: Config, store: SqliteStore, is_demo: bool) -> None:
    journal = LogJournal(config.log)
    forward_library_logs(journal)
    ports = system_ports(journal)
    listening = Listening(*split_listen(config.service.listen))
    gateway = build(config, ports, store, fronts=[http_front(listening, ports)])
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with trio.open_nursery() as nursery:
            await nursery.start(_run, gateway, nursery.cancel_scope)
            nursery.start_soon(_obey, signals, gateway, listening)  # also what came meanwhile
            announce(config, listening.bound.value[0], is_demo)


def http_front(listening: Listening, ports: Ports) -> Front:
    """Return the HTTP server as a way into a gateway."""

    def front(gateway: Gateway) -> Child:
        app = create_app(
            gateway.door,
            gateway.reader,
            gateway.lanes,
            ports.clock,
            signals=gateway.signals,
            journal=ports.journal,
            stopping=listening.shutdown,
        )
        return Child(
            "api", lambda: ApiServer(app, listening, ports.journal), restarts=SERVER_RESTARTS
        )

    return front


async def _run(
    gateway: Gateway, scope: trio.CancelScope, task_status: trio.TaskStatus[None]
) -> None:
    await gateway.run(task_status=task_status)
    scope.cancel()


async def _obey(signals: AsyncIterator[int], gateway: Gateway, listening: Listening) -> None:
    """Stop in order at the first signal, at once at the second: nothing is lost either way."""
    async with trio.open_nursery() as nursery:
        is_stopping = False
        async for number in signals:
            if is_stopping:
                os._exit(128 + number)
            is_stopping = True
            nursery.start_soon(_stop, gateway, listening)


async def _stop(gateway: Gateway, listening: Listening) -> None:
    gateway.ports.journal.note("service.stopping", drain_s=gateway.config.service.drain_s)
    listening.shutdown.set()
    await gateway.stop()


def split_listen(listen: str) -> tuple[str, int]:
    """Return host and port of HOST:PORT.

    >>> split_listen("127.0.0.1:8025"), split_listen("[::1]:0")
    (('127.0.0.1', 8025), ('::1', 0))
    """
    host, _, port = listen.rpartition(":")
    return host.removeprefix("[").removesuffix("]"), int(port)


def announce(config: Config, url: str, is_demo: bool) -> None:
    """Say on standard output where the gateway listens, and what to try first."""
    providers = ", ".join(f"{name} ({each.kind})" for name, each in config.providers.items())
    lines = [
        f"mailactors {__version__} is ready on {url}",
        f"  spool      {config.service.spool}",
        f"  providers  {providers}",
    ]
    if is_demo:
        lines += [
            "",
            "These providers are simulated: they fail a little and send nothing. Try:",
            f"  curl -i {url}/send-email -H 'Content-Type: application/json' \\",
            f"       -d {shlex.quote(EXAMPLE)}",
            f"  curl {url}/statuses",
            "",
            "Ctrl-C stops in order. A configuration of your own: mailactors serve --config FILE",
        ]
    print("\n".join(lines), flush=True)  # noqa: T201  # this is the command's output
