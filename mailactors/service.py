"""The service: a gateway as a process, with its HTTP server and its signals."""

from __future__ import annotations

import contextlib
import gc
import os
import resource
import shlex
import signal
import ssl
import sys
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Final

import trio

from mailactors import __version__
from mailactors.api.app import create_app
from mailactors.api.parts import ApiParts
from mailactors.api.server import ApiServer, Listening
from mailactors.config import Config, ConfigError, ServiceSettings
from mailactors.errors import MailactorsError
from mailactors.observe.logs import LogJournal, forward_library_logs
from mailactors.observe.metrics import expose
from mailactors.runtime.ports import system_ports
from mailactors.runtime.supervisor import SERVER_RESTARTS, Child, describe
from mailactors.spool.engines import open_store
from mailactors.spool.port import NoteAct, Store
from mailactors.wiring import Gateway, build

DESCRIPTORS_OF_OUR_OWN: Final = 64
"""For the spool and its readers, the log, the event loop and short-lived files; it has about 20."""
EXAMPLE: Final = (
    '{"id":"1","to":"chahak@example.com","subject":"Hello","body":"This is a test email."}'
)


class ServiceFailedError(MailactorsError):
    """The gateway cannot go on; what it accepted is in the spool."""


def serve_gateway(load: Callable[[], Config], *, is_demo: bool) -> None:
    """Run a gateway until a signal stops it.

    Args:
        load: reads the configuration, now and at each reload.
        is_demo: say what to try first.

    Raises: ServiceFailedError, when an actor crashed too often or the spool's disk failed;
        ConfigError, SpoolError and OSError, when it cannot start.
    """
    config = load()
    store = open_store(config.service.spool)
    try:
        trio.run(_serve, Service(config, load, store), is_demo)
    except ExceptionGroup as group:
        raise ServiceFailedError(why_it_ended(group, config)) from group
    finally:
        store.close()


def why_it_ended(group: ExceptionGroup[Exception], config: Config) -> str:
    """Return the reason in one line. An OSError that gets so far is the listener's first bind."""
    is_bind = group.subgroup(lambda error: isinstance(error, OSError)) is not None
    where = f"cannot listen on {config.service.listen}: " if is_bind else ""
    return where + describe(group)


class Service:
    """A gateway with its HTTP server, as signals and routes see it."""

    def __init__(self, config: Config, load: Callable[[], Config], store: Store) -> None:
        journal = LogJournal(config.log)
        forward_library_logs(journal)
        self.listening = Listening(
            *split_listen(config.service.listen),
            tls=tls_context(config.service),
            names=frozenset(config.service.names),
        )
        self.gateway = build(config, system_ports(journal), store, fronts=[self._http])
        self._load = load
        self._started = config
        self._reloading = trio.Lock()
        self._descriptors = raise_descriptor_limit()
        for note in self._too_few_descriptors(config):
            journal.note("service.descriptors", level="warning", note=note)

    async def reload(self) -> list[str]:
        """Read the configuration anew and take it over; return what needs a restart.

        Raises: ConfigError, and then nothing has changed.
        """
        async with self._reloading:
            config = self._load()
            await self.gateway.reload(config)
        return needs_restart(self._started, config) + self._too_few_descriptors(config)

    def _too_few_descriptors(self, config: Config) -> list[str]:
        return too_few_descriptors(self._descriptors, config, self.listening.connections_max)

    async def stop(self) -> None:
        """Stop gracefully."""
        drain_s = self.gateway.config.service.drain_s
        self.gateway.ports.journal.note("service.stopping", drain_s=drain_s)
        self.listening.shutdown.set()
        await self.gateway.stop()

    async def obey(self, signals: AsyncIterator[int]) -> None:
        """Stop at SIGTERM or SIGINT, at once at the second; reload at SIGHUP."""
        async with trio.open_nursery() as nursery:
            async for number in signals:
                if number == signal.SIGHUP:
                    nursery.start_soon(self._reload_and_log)
                elif self.listening.shutdown.is_set():
                    os._exit(128 + number)
                else:
                    self.listening.shutdown.set()
                    nursery.start_soon(self.stop)

    async def _reload_and_log(self) -> None:
        try:
            act = NoteAct(self.gateway.ports.ids.new_id(), "reload", "signal")
            await self.gateway.spool.ask(act)
            ignored = await self.reload()
        except MailactorsError as error:
            self.gateway.ports.journal.note("reload.refused", level="error", error=str(error))
        else:
            if ignored:
                self.gateway.ports.journal.note("reload.waits", level="warning", notes=ignored)

    def _http(self, gateway: Gateway) -> Child:
        ports = gateway.ports
        parts = ApiParts(
            door=gateway.door,
            spool=gateway.public_spool,
            lanes=gateway.lanes,
            clock=ports.clock,
            plan=gateway.lanes.plan,
            journal=ports.journal,
            decoding=ports.executor("decoding"),
            ids=ports.ids,
            stopping=self.listening.shutdown,
            reload=self.reload,
            metrics=lambda: expose(gateway),
            watch=gateway.watch,
        )
        shortages = gateway.lanes.shortages
        serve = partial(ApiServer, create_app(parts), self.listening, ports.journal, shortages)
        return Child("api", serve, restarts=SERVER_RESTARTS)


async def _serve(service: Service, is_demo: bool) -> None:
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    with trio.open_signal_receiver(*numbers) as signals:
        async with trio.open_nursery() as nursery:
            await nursery.start(_run, service.gateway, nursery.cancel_scope)
            gc.freeze()  # what is loaded stays: to look through all of it again takes 60 ms a time
            nursery.start_soon(service.obey, signals)  # those received meanwhile as well
            announce(service.gateway.config, service.listening.bound.value[0], is_demo)


async def _run(
    gateway: Gateway, scope: trio.CancelScope, task_status: trio.TaskStatus[None]
) -> None:
    await gateway.run(task_status=task_status)
    scope.cancel()


def raise_descriptor_limit() -> int:
    """Raise the process's limit of open descriptors as far as it may; return what it is then.

    A service manager starts a process with 1024, which is for programs that use select(2).
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):  # a system may have a limit below the hard one
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        soft = hard
    return sys.maxsize if soft == resource.RLIM_INFINITY else soft


def too_few_descriptors(limit: int, config: Config, connections_max: int) -> list[str]:
    """Return a note, if there are fewer than lanes and clients may need at once."""
    slots = sum(each.concurrency_max for each in config.providers.values())
    needed = slots + connections_max + DESCRIPTORS_OF_OUR_OWN
    if limit >= needed:
        return []
    return [
        f"this process may open {limit} files and connections, and may need {needed}:"
        f" {slots} for its providers (concurrency_max), {connections_max} for clients,"
        f" {DESCRIPTORS_OF_OUR_OWN} of its own; raise the hard limit (ulimit -Hn, LimitNOFILE=)"
    ]


def needs_restart(before: Config, after: Config) -> list[str]:
    """Return a note for each key that differs and is only read at the start."""
    keys = [
        f"service.{name}"
        for name in ("listen", "names", "insecure", "spool", "tls_cert", "tls_key")
        if getattr(before.service, name) != getattr(after.service, name)
    ]
    keys += ["log"] if before.log != after.log else []
    return [f"{key}: takes effect at the next start" for key in keys]


def tls_context(settings: ServiceSettings) -> ssl.SSLContext | None:
    """Return what the API speaks HTTPS with, or None for HTTP.

    Raises: ConfigError, when the files are no certificate and key.
    """
    if settings.tls_cert is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(settings.tls_cert, settings.tls_key)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError("service.tls_cert, service.tls_key", [str(error)]) from None
    return context


def split_listen(listen: str) -> tuple[str, int]:
    """Return host and port of HOST:PORT.

    >>> split_listen("127.0.0.1:8625"), split_listen("[::1]:0")
    (('127.0.0.1', 8625), ('::1', 0))
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
            "Ctrl-C stops gracefully. A configuration of your own: mailactors serve --config FILE",
        ]
    print("\n".join(lines), flush=True)  # noqa: T201  # this is the command's output
