"""Retry loops in memory, as many services have them, to compare with the gateway.

They have no spool, no idempotency and no breaker. A submission is answered at once and sent by a
task. A call that does not end in an acceptance has failed, a timeout included, and is made again
under a new key. A process that dies loses its tasks.
"""

from __future__ import annotations

from typing import Final

import trio

from mailactors.config import Config
from mailactors.intake.submission import OverloadedError, Submission
from mailactors.model.message import Content, Envelope
from mailactors.model.outcome import Accepted, Deferred, NotAttempted, Outcome, Rejected
from mailactors.providers.port import Mail, Provider
from mailactors.sim.report.report import Report
from mailactors.sim.run.simulation import Progress, Simulation, report_of
from mailactors.sim.scenario.file import Scenario, horizon_s
from mailactors.sim.scenario.incidents import Crash, Operation
from mailactors.sim.scenario.policies import LOOPS, Loop
from mailactors.sim.vendor.call import AttemptObserver
from mailactors.sim.vendor.client import client_of
from mailactors.sim.world.traffic import Clients
from mailactors.spool.port import Receipt

TICK_S: Final = 1.0
RESTART_S: Final = 1.0
"""How long it takes to start the process again."""
LINES_MAX: Final = 60


class LoopRun(Simulation):
    """One run of a loop: a process that accepts submissions and sends each in a task."""

    has_actors = False
    starts = 1

    def __init__(self, loop: Loop, scenario: Scenario, config: Config, seed: int) -> None:
        super().__init__(scenario, config, seed)
        self._loop = loop
        self._failures: dict[int, list[tuple[float, str, str]]] = {}
        """(time, provider, outcome) of each failed attempt, by the message's number."""
        self._sending: trio.Nursery | None = None
        self._tasks: dict[trio.CancelScope, None] = {}
        self._providers: dict[str, Provider] = {}
        self._is_down = False
        self._count = 0

    async def main(self, progress: Progress) -> None:
        """Serve until every task has ended, or the horizon is reached."""
        on_receipt = self.truth.accepted.setdefault
        clients = Clients(self.scenario, self, self.world, self.truth, on_receipt)
        async with trio.open_nursery() as nursery:
            self.world.spawn = nursery.start_soon
            self._start_process()
            self.inject_faults(nursery)
            with trio.move_on_at(horizon_s(self.scenario, self.config)):
                async with trio.open_nursery() as ticking:
                    ticking.start_soon(self._report_progress, progress)
                    async with trio.open_nursery() as self._sending:
                        await clients.run()
                    ticking.cancel_scope.cancel()
            self.ended_s = self.world.clock.now_s()
            self.world.finish()
            nursery.cancel_scope.cancel()

    async def submit(self, submission: Submission) -> Receipt:
        """Accept a message into memory. Raises: OverloadedError while no process runs."""
        if self._is_down:
            raise OverloadedError("no process serves", RESTART_S)
        await trio.lowlevel.checkpoint()
        self._count += 1
        id_ = f"{self._count:032x}"
        assert self._sending is not None
        self._sending.start_soon(self._send, submission)
        return Receipt(self._count, id_, id_, "", self.world.clock.wall_time(), False)

    def timeline_of(self, number: int) -> tuple[str, ...]:
        """Return a message's failed attempts, and when a provider accepted it."""
        lines = [
            f"{at_s:.3f} s  {provider}  {what}"
            for at_s, provider, what in self._failures.get(number, ())
        ]
        if (taken_s := self.truth.taken.first_s(number)) is not None:
            lines.append(f"{taken_s:.3f} s  taken over by a provider")
        return tuple(sorted(lines, key=lambda line: float(line.split()[0]))[:LINES_MAX])

    # Sending

    async def _send(self, submission: Submission) -> None:
        """Try in rounds until one call is accepted or no round is left."""
        number = int(submission.subject)
        if self.truth.poison.get(number) == "crash_actor":
            return  # the task dies of it without a trace
        scope = trio.CancelScope()
        self._tasks[scope] = None
        with scope:
            await self._rounds(number, submission)
        self._tasks.pop(scope, None)

    async def _rounds(self, number: int, submission: Submission) -> None:
        route = self.config.route(submission.stream or next(iter(self.config.streams)))
        attempt = 0
        for round_ in range(1, self._loop.rounds + 1):
            for name in route[: self._loop.providers_max]:
                attempt += 1
                mail = mail_of(submission, f"{number}-{attempt}", self.world.clock.wall_time())
                outcome = await self._attempt(name, mail)
                if isinstance(outcome, Accepted):
                    return
                failed = (self.world.clock.now_s(), name, type(outcome).__name__.lower())
                self._failures.setdefault(number, []).append(failed)
            if round_ < self._loop.rounds:
                await trio.sleep(self._loop.pause_s(round_))

    async def _attempt(self, name: str, mail: Mail) -> Outcome:
        session = await self._providers[name].connect()
        if isinstance(session, Deferred | Rejected | NotAttempted):
            return session
        return await session.send(mail)

    # Incidents

    def _start_process(self) -> None:
        for name, vendor in self.vendors.items():
            settings = self.config.providers[name]
            self._providers[name] = client_of(vendor, AttemptObserver(), settings)
        self._is_down = False

    async def crash(self, crash: Crash) -> None:
        """Lose every task, and start again a second later; the point of the crash is ignored."""
        self.world.journal.note("world.process_died", why="killed")
        self._is_down = True
        for scope in list(self._tasks):
            scope.cancel()
        await trio.sleep(RESTART_S)
        self._start_process()
        self.starts += 1

    async def operate(self, index: int, operation: Operation) -> None:
        """Reload: new credentials work."""
        for vendor in self.vendors.values():
            vendor.reloaded()

    async def _report_progress(self, progress: Progress) -> None:
        while True:
            progress(len(self.truth.accepted))
            await trio.sleep(TICK_S)


def mail_of(submission: Submission, marker: str, now: float) -> Mail:
    """Return the mail of one attempt; each attempt is a message of its own to the provider."""
    assert submission.sender is not None
    content = Content(
        sender=submission.sender, to=submission.to, subject=submission.subject, text=submission.text
    )
    recipients = tuple(address.address for address in submission.to)
    envelope = Envelope(submission.sender.address, recipients)
    return Mail(marker, f"{marker}@loop.example", now, envelope, content)


def run_loop(
    policy: str, name: str, scenario: Scenario, config: Config, seed: int, progress: Progress
) -> Report:
    """Run a scenario under one of `LOOPS`; the gateway's configuration names the providers."""
    return report_of(LoopRun(LOOPS[policy], scenario, config, seed), name, policy, progress)
