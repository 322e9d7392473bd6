"""What people have today: loops in memory, for comparison with the gateway on the same faults.

No spool, no idempotency, no breaker. A submission is answered at once and sent by a task; a call
that does not end in an acceptance has failed, a timeout like any other, and is made again, each
with a new key. A process that dies takes its tasks with it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec
import trio

from mailactors.config import Config, SmtpProviderSettings
from mailactors.intake.submission import OverloadedError, Submission
from mailactors.model.message import Content, Envelope
from mailactors.model.outcome import Accepted, Deferred, Outcome, Rejected
from mailactors.providers.port import Mail, Provider
from mailactors.runtime.ports import SystemClock
from mailactors.sim.report.report import Report, expectations_of, figures_of
from mailactors.sim.report.series import EventLog, record_of, stories_of
from mailactors.sim.scenario.file import Scenario, horizon_s
from mailactors.sim.scenario.incidents import Crash, Operation, crash_times
from mailactors.sim.vendor.client import Vendor
from mailactors.sim.world.scheduling import JumpingClock, run_seeded
from mailactors.sim.world.traffic import Clients
from mailactors.sim.world.truth import Truth
from mailactors.sim.world.world import make_world
from mailactors.spool.port import Receipt

TICK_S: Final = 1.0
RESTART_S: Final = 1.0
"""How long whoever watches the process takes to start it again."""
LINES_MAX: Final = 60


class Loop(msgspec.Struct, frozen=True):
    """A policy: rounds over providers, with a doubling pause between them."""

    providers_max: int | None
    """How many of the route, from its beginning; None: all."""
    rounds: int
    base_s: float
    cap_s: float

    def pause_s(self, round_: int) -> float:
        """Return the pause after a round, counted from 1.

        >>> [Loop(1, 5, 1.0, 60.0).pause_s(n) for n in (1, 2, 3, 4, 9)]
        [1.0, 2.0, 4.0, 8.0, 60.0]
        """
        return float(min(self.cap_s, self.base_s * 2.0 ** (round_ - 1)))


LOOPS: Final[dict[str, Loop]] = {
    "naive": Loop(providers_max=1, rounds=5, base_s=1.0, cap_s=60.0),
    "retry": Loop(providers_max=1, rounds=20, base_s=1.0, cap_s=300.0),
    "fallback": Loop(providers_max=None, rounds=5, base_s=1.0, cap_s=60.0),
}
"""By name: five attempts with one provider within fifteen seconds; twenty within an hour; five
rounds over all providers."""


class _Process:
    """The process, one after the other, as clients see it: a door, and tasks behind it."""

    def __init__(
        self, loop: Loop, scenario: Scenario, config: Config, seed: int, clock: JumpingClock
    ) -> None:
        self.world = make_world(seed, clock, scenario)
        self.truth = Truth(tuple(config.providers))
        self.events = EventLog(self.world.clock, has_breakers=False)
        self.world.journal.listen(self.events.noted, EventLog.NOTED)
        self.vendors = {
            name: Vendor(name, plan, scenario.timeline(name), self.world, self.truth)
            for name, plan in scenario.providers.items()
        }
        self.starts = 1
        self.ended_s = 0.0
        self._loop = loop
        self._scenario = scenario
        self._config = config
        self._tries: dict[int, list[tuple[float, str, str]]] = {}
        """When, with whom and how attempts failed, by the message's number."""
        self._sending: trio.Nursery | None = None
        self._tasks: dict[trio.CancelScope, None] = {}
        self._ways: dict[str, Provider] = {}
        self._is_down = False
        self._count = 0

    async def main(self, tell: Callable[[int], None]) -> None:
        """Serve until every task has ended, or the horizon is reached."""
        clients = Clients(self._scenario, self, self.world, self.truth, self._told)
        async with trio.open_nursery() as nursery:
            self.world.spawn = nursery.start_soon
            self._begin()
            self._await_fate(nursery)
            with trio.move_on_at(horizon_s(self._scenario, self._config)):
                async with trio.open_nursery() as ticking:
                    ticking.start_soon(self._tell, tell)
                    async with trio.open_nursery() as self._sending:
                        await clients.run()
                    ticking.cancel_scope.cancel()
            self.ended_s = self.world.clock.now_s()
            self.world.finish()
            nursery.cancel_scope.cancel()

    async def submit(self, submission: Submission) -> Receipt:
        """Take a message: it is in memory, and in nothing else.

        Raises: OverloadedError while no process runs.
        """
        if self._is_down:
            raise OverloadedError("nobody listens", RESTART_S)
        await trio.lowlevel.checkpoint()
        self._count += 1
        id_ = f"{self._count:032x}"
        assert self._sending is not None
        self._sending.start_soon(self._send, submission)
        return Receipt(self._count, id_, id_, "", self.world.clock.wall_time(), False)

    def story_of(self, number: int) -> tuple[str, ...]:
        """Return how a message fared."""
        lines = [
            f"{at_s:.3f} s  {provider}  {what}"
            for at_s, provider, what in self._tries.get(number, ())
        ]
        if (taken_s := self.truth.taken.first_s(number)) is not None:
            lines.append(f"{taken_s:.3f} s  taken over by a provider")
        return tuple(sorted(lines, key=lambda line: float(line.split()[0]))[:LINES_MAX])

    # Sending

    async def _send(self, submission: Submission) -> None:
        """Try in rounds until one call is accepted, or none is left; forget it then."""
        number = int(submission.subject)
        if self.truth.poison.get(number) == "crash_actor":
            return  # the task dies of it, and nobody hears
        scope = trio.CancelScope()
        self._tasks[scope] = None
        with scope:
            await self._rounds(number, submission)
        self._tasks.pop(scope, None)

    async def _rounds(self, number: int, submission: Submission) -> None:
        route = self._config.route(submission.stream or next(iter(self._config.streams)))
        attempt = 0
        for round_ in range(1, self._loop.rounds + 1):
            for name in route[: self._loop.providers_max]:
                attempt += 1
                mail = mail_of(submission, f"{number}-{attempt}", self.world.clock.wall_time())
                outcome = await self._attempt(name, mail)
                if isinstance(outcome, Accepted):
                    return
                failed = (self.world.clock.now_s(), name, type(outcome).__name__.lower())
                self._tries.setdefault(number, []).append(failed)
            if round_ < self._loop.rounds:
                await trio.sleep(self._loop.pause_s(round_))

    async def _attempt(self, name: str, mail: Mail) -> Outcome:
        session = await self._ways[name].connect()
        if isinstance(session, Deferred | Rejected):
            return session
        return await session.send(mail)

    # What befalls it

    def _begin(self) -> None:
        for name, vendor in self.vendors.items():
            settings = self._config.providers[name]
            is_smtp = isinstance(settings, SmtpProviderSettings)
            self._ways[name] = vendor.client(None, settings if is_smtp else None)
        self._is_down = False

    def _await_fate(self, nursery: trio.Nursery) -> None:
        for index, crash in enumerate(self._scenario.crashes):
            if crash.actor is None:
                nursery.start_soon(self._crash_again, index, crash)
        for operation in self._scenario.operations:
            if operation.verb == "reload":
                nursery.start_soon(self._reload, operation)
        for pause in self._scenario.pauses:
            nursery.start_soon(self._pause, pause.at_s, pause.for_s)

    async def _crash_again(self, index: int, crash: Crash) -> None:
        end_s = self._scenario.duration_s
        for at_s in crash_times(crash, index, self.world.entropy, end_s):
            await trio.sleep_until(at_s)
            self.world.journal.note("world.process_died", why="killed")
            self._is_down = True
            for scope in list(self._tasks):
                scope.cancel()
            await trio.sleep(RESTART_S)
            self._begin()
            self.starts += 1

    async def _reload(self, operation: Operation) -> None:
        await trio.sleep_until(operation.at_s)
        for vendor in self.vendors.values():
            vendor.reloaded()

    async def _pause(self, at_s: float, for_s: float) -> None:
        await trio.sleep_until(at_s)
        self.world.leap(for_s)

    async def _tell(self, tell: Callable[[int], None]) -> None:
        while True:
            tell(len(self.truth.accepted))
            await trio.sleep(TICK_S)

    def _told(self, number: int, id_: str) -> None:
        self.truth.accepted.setdefault(number, id_)


def mail_of(submission: Submission, marker: str, now: float) -> Mail:
    """Return what a provider is handed; every attempt is a message of its own to it."""
    assert submission.sender is not None
    content = Content(
        sender=submission.sender, to=submission.to, subject=submission.subject, text=submission.text
    )
    recipients = tuple(address.address for address in submission.to)
    envelope = Envelope(submission.sender.address, recipients)
    return Mail(marker, f"{marker}@loop.example", now, envelope, content)


def run_loop(
    policy: str,
    name: str,
    scenario: Scenario,
    config: Config,
    seed: int,
    tell: Callable[[int], None],
) -> Report:
    """Run a scenario under one of `LOOPS`; the gateway's configuration names the providers."""
    stopwatch = SystemClock()
    begun_at = stopwatch.wall_time()
    clock = JumpingClock()

    async def main() -> _Process:
        process = _Process(LOOPS[policy], scenario, config, seed, clock)
        await process.main(tell)
        return process

    process = run_seeded(main, clock, seed)
    truth = process.truth
    figures = figures_of(scenario, truth, {}, process.world.entropy)
    wall_s = stopwatch.wall_time() - begun_at
    return Report(
        scenario=name,
        seed=seed,
        policy=policy,
        hash=process.world.journal.digest,
        breaker_moves=0,
        panics=0,
        starts=process.starts,
        fault_points={},
        ended_s=round(process.ended_s, 3),
        violations=(),
        record=record_of(scenario, truth, process.events, stories_of(truth, process.story_of)),
        expectations=expectations_of(scenario.expect, figures),
        wall_s=round(wall_s, 3),
        messages_per_wall_s=round(figures["accepted"] / wall_s, 1) if wall_s > 0 else 0.0,
        **figures,
    )
