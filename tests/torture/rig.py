"""The torture rig: the real service under load, killed again and again; then everything is counted.

Three ledgers that know nothing of each other are compared. The client's: a line for each answer
that it got, synced to disk before it counts. The relays': a line for each message that they have,
written before they answer for it. The spool's, read from its file after each death.

A run goes on in the folder of an earlier one, where all three are.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import msgspec

from mailactors.model.lifecycle import State
from mailactors.spool.port import MessageStatus, SpoolBusyError
from tests.torture.harm import DISK_TRIGGER, Harm
from tests.torture.peer import StoringPeer, storing_peer
from tests.torture.spools import DeadSpool, dead_spool
from tests.torture.stored import count_copies
from tests.torture.usurper import Taken, give_back, look_at, usurp
from tests.torture.zygote import Child, NotStartedError, Zygote, ask, zygote

CLIENTS: Final = 4
PAUSE_S: Final = 0.015
"""Between two submissions of a client."""
REPLAY_SHARE: Final = 0.05
"""Submissions that repeat one which was acknowledged shortly before."""
REPLAY_WITHIN_S: Final = 20.0
HOLD_SHARE: Final = 0.2
"""Messages of the stream that is never resent."""
DEATH_AFTER_S: Final = (0.005, 0.5)
"""When it is killed, from its first acknowledgement on."""
DEATH_WITHIN_S: Final = 4.0
"""How long a place may take to be reached; after that it is killed from outside."""
FIRST_ANSWER_WITHIN_S: Final = 20.0
CHECK_ALL_EVERY: Final = 50
"""Cycles between two checks of the whole file's integrity."""
DRAIN_WITHIN_S: Final = 1800.0
"""After a thousand deaths thousands are suspected, who go one at a time."""
BODY: Final = "All is well.\n" * 250

CONFIG: Final = """
[service]
default_from = "gateway@example.com"
listen = "127.0.0.1:0"
spool = "spool.db"
drain_s = 5
[log]
level = "error"
[idempotency]
window_s = 60
[retention]
bodies_after_s = 2
[streams.mail]
on_uncertain = "resend"
uncertain_wait_s = 0.5
[streams.invoice]
on_uncertain = "hold"
uncertain_wait_s = 0.5
[providers.primary]
kind = "smtp"
host = "127.0.0.1"
port = {primary}
tls = "none"
[providers.secondary]
kind = "smtp"
host = "127.0.0.1"
port = {secondary}
tls = "none"
"""

PURGING: Final[dict[str, int | float]] = {
    "mailactors.spool.keeper:PURGE_EVERY_S": 0.1,
    "mailactors.spool.keeper:LOOK_EVERY_S": 0.1,
}

GIVEN_UP: Final = "died"
"""In the error of a message that is suspected of killing whoever sends it."""

USURP: Final = "usurp"
PLACES: Final = (
    ("C1 before the accept commit", ("registry.submit", 10)),
    ("C1 before the accept commit", ("apply:Accept", 10)),
    ("C1 before the accept commit", ("commit:Accept", 10)),
    ("C1 before the accept commit", ("written:Accept", 20)),
    ("C2 after it, before the answer", ("committed:Accept", 10)),
    ("C2 after it, before the answer", ("spool.committed:Accept", 10)),
    ("C3 leased, no intent", ("provider.attempt", 10)),
    ("C3 leased, no intent", ("commit:Intend", 5)),
    ("C4 intended, nothing sent", ("committed:Intend", 5)),
    ("C4 intended, nothing sent", ("provider.intended", 10)),
    ("C5 in the middle of the body", ("body", 10)),
    ("C6 accepted, not recorded", ("provider.sent", 10)),
    ("C6 accepted, not recorded", ("dispatcher.outcome", 10)),
    ("C6 accepted, not recorded", ("commit:RecordOutcome", 5)),
    ("C7 recorded, not told", ("committed:RecordOutcome", 5)),
    ("C8 in a purge", ("delete:Purge", 6)),
    ("C8 in a purge", ("commit:Purge", 3)),
    ("C9 a failing disk", ("disk sync", 1)),
    ("C9 a failing disk", ("disk write", 1)),
    ("C9 a failing disk", ("disk short", 1)),
    ("C10 two owners, of which one is stale", (USURP, 1)),
)
"""Crash point, place, and the latest visit at which it dies there."""
PLACES_STRIDE: Final = 8
"""Has no factor in common with their number: a short run meets most of the points."""
OUTSIDE: Final = "SIGKILL from outside"
STOPPED: Final = "SIGSTOP, then SIGKILL"
STALE_FOR_S: Final = (0.3, 0.9)
"""How long an owner goes on that was taken over from: until its answers have come."""
MISSED: Final = "SIGKILL from outside, its place was not reached"
POINTS: Final = tuple(dict.fromkeys(point for point, _ in PLACES))


class Cycle(msgspec.Struct, frozen=True):
    """One life of the service. `point` is what ended it."""

    number: int
    point: str
    place: str
    is_fresh: bool
    acknowledged: int
    open_intents: int
    took_s: float


class Count(msgspec.Struct, frozen=True):
    """What a run came to. `violations` is empty, or a promise was broken."""

    cycles: int
    kills: int
    kills_with_open_intents: int
    by_point: dict[str, int]
    acknowledged: int
    messages: int
    """In the spool: those whose answer was lost, too."""
    states: dict[str, int]
    attempts: dict[str, int]
    uncertain: int
    declared_risks: int
    copies: int
    """Stored by the relays."""
    duplicates_declared: int
    duplicates_undeclared: int
    held: int
    held_stored: int
    """Of the held ones, those that a relay has."""
    given_up: int
    """Held, or failed, since the process died too often while it sent nothing but them."""
    missing_in_spool: int
    missing_at_relays: int
    took_s: float
    violations: list[str]


class BrokenError(Exception):
    """A promise was broken; the folder shows how."""


class Acknowledgements:
    """The client's ledger."""

    def __init__(self, path: Path) -> None:
        self.ids: dict[str, str] = {}
        self._recent: list[tuple[float, str]] = []
        self._lock = threading.Lock()
        lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
        for line in lines:
            name, id_ = json.loads(line)
            self.ids[name] = id_
        self._file = path.open("ab", buffering=0)

    def add(self, name: str, id_: str) -> None:
        """Note an answer; it counts when it is on the disk.

        Raises: BrokenError, when another answer was given before.
        """
        with self._lock:
            if self.ids.get(name, id_) != id_:
                raise BrokenError(f"{name} was accepted as {self.ids[name]} and as {id_}")
            if name not in self.ids:
                self._file.write(json.dumps([name, id_]).encode() + b"\n")
                os.fsync(self._file.fileno())
                self.ids[name] = id_
            self._recent.append((time.monotonic(), name))

    def recent(self, chance: random.Random) -> str | None:
        """Return one that was acknowledged shortly before."""
        with self._lock:
            after_s = time.monotonic() - REPLAY_WITHIN_S
            self._recent = [each for each in self._recent[-500:] if each[0] > after_s]
            return chance.choice(self._recent)[1] if self._recent else None

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class Load:
    """Clients that submit until the service is gone."""

    def __init__(
        self, child: Child, cycle: int, again: list[str], acks: Acknowledgements, seed: int
    ) -> None:
        self.first = threading.Event()
        self.unanswered: list[str] = []
        self.errors: list[str] = []
        self.acknowledged = 0
        self._netloc = urlsplit(child.url).netloc
        self._acks = acks
        self._is_over = threading.Event()
        self._threads = [
            threading.Thread(
                target=self._run, args=(f"{cycle}-{n}", again[n::CLIENTS], f"{seed}-{cycle}-{n}")
            )
            for n in range(CLIENTS)
        ]
        for thread in self._threads:
            thread.start()

    def end(self) -> None:
        """Wait for the clients, who go with the service."""
        self._is_over.set()
        for thread in self._threads:
            thread.join()

    def _run(self, prefix: str, again: list[str], seed: str) -> None:
        chance = random.Random(seed)
        connection = http.client.HTTPConnection(self._netloc, timeout=10)
        with contextlib.closing(connection):
            number = 0
            while not self._is_over.is_set():
                replayed = self._acks.recent(chance) if chance.random() < REPLAY_SHARE else None
                if again:
                    name = again.pop()
                elif replayed is not None:
                    name = replayed
                else:
                    name, number = f"{prefix}-{number}", number + 1
                if not self._submit(connection, name):
                    break
                self._is_over.wait(PAUSE_S)
        self.unanswered += again

    def _submit(self, connection: http.client.HTTPConnection, name: str) -> bool:
        """Submit once; whether it is worth going on."""
        is_known = name in self._acks.ids
        try:
            answer = ask(connection, "POST", "/v1/messages", body_of(name))
        except (OSError, http.client.HTTPException):
            if not is_known:
                self.unanswered.append(name)
            return False
        if answer.status == 503:  # a disk that fails
            if not is_known:
                self.unanswered.append(name)
            return not self._is_over.wait(0.05)
        if answer.status not in {200, 202} or (is_known and answer.status != 200):
            self.errors.append(f"{name} was answered {answer.status}: {answer.body}")
            return False
        try:
            self._acks.add(name, answer.body["id"])
        except BrokenError as broken:
            self.errors.append(str(broken))
            return False
        self.acknowledged += not is_known
        self.first.set()
        return True


def body_of(name: str) -> dict[str, str]:
    """Return a message, always the same one for a name."""
    is_held = random.Random(name).random() < HOLD_SHARE
    return {
        "id": name,
        "from": "shop@sender.example",
        "to": f"r{name}@example.com",
        "subject": name,
        "text": BODY,
        "stream": "invoice" if is_held else "mail",
    }


@dataclass
class Rig:
    """One run, in a folder."""

    folder: Path
    seed: int = 1
    fresh_every: int = 5
    """Each so many-th service is a fresh `mailactors serve`; the others are forks of one."""
    place_every: int = 3
    """Each so many-th death is at a named place."""
    stop_every: int = 250
    stop_s: float = 30.0
    answer_s: tuple[float, float] = (0.05, 0.3)
    """How long the relays take for an answer."""
    mutations: tuple[str, ...] = ()
    """Guards taken out, to see that the rig would notice."""
    services: Zygote | None = None
    """What starts the services; without one it is started here."""
    cycles: list[Cycle] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    _unanswered: list[str] = field(default_factory=list)
    _taken: Taken | None = None
    """What a second owner holds of the present life's."""

    def run(
        self,
        cycles: int,
        until_s: float = float("inf"),
        tell: Callable[[Cycle], None] | None = None,
    ) -> Count:
        """Run so many lives, or until a time (monotonic), then drain and count.

        A broken promise ends the run; the count says which.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        began_s = time.monotonic()
        self._acks = Acknowledgements(self.folder / "acknowledged")
        self.cycles += read_cycles(self.folder / "cycles")
        with self._parts() as (services, peers):
            try:
                while len(self.cycles) < cycles and time.monotonic() < until_s:
                    cycle = self._cycle(services, len(self.cycles))
                    self.cycles.append(cycle)
                    with (self.folder / "cycles").open("ab") as file:
                        file.write(msgspec.json.encode(cycle) + b"\n")
                    if tell is not None:
                        tell(cycle)
                self._drain(services)
            except BrokenError as broken:
                self.violations.append(str(broken))
            count = self._count(peers, time.monotonic() - began_s)
        self._acks.close()
        return count

    @contextlib.contextmanager
    def _parts(self) -> Iterator[tuple[Zygote, list[StoringPeer]]]:
        with contextlib.ExitStack() as stack:
            services = self.services or stack.enter_context(zygote())
            peers = [
                stack.enter_context(
                    storing_peer(
                        self.folder / f"stored-{name}",
                        seed=self.seed,
                        answer_s=self.answer_s,
                        lose_share=0.01,
                        defer_share=0.02,
                    )
                )
                for name in ("primary", "secondary")
            ]
            primary, secondary = (peer.port for peer in peers)
            self._config = CONFIG.format(primary=primary, secondary=secondary)
            yield services, peers

    # One life

    def _cycle(self, services: Zygote, number: int) -> Cycle:
        chance = random.Random(f"{self.seed}-{number}")
        began_s = time.monotonic()
        point, place, hit = self._choose(number, chance)
        is_fresh = point == OUTSIDE and number % self.fresh_every == 0 and not self.mutations
        harm = None if is_fresh else self._harm(place, hit)
        services.children.clear()
        child = self._start(services, harm, is_fresh=is_fresh)
        load = Load(child, number, self._unanswered, self._acks, self.seed)
        try:
            self._end(child, load, point, place, chance)
        finally:
            child.kill()
            load.end()
        self._unanswered = load.unanswered
        self._remember(load.errors)
        point, place = self._ended_by(child, point, place)
        open_intents = self._check(is_whole=number % CHECK_ALL_EVERY == CHECK_ALL_EVERY - 1)
        took_s = round(time.monotonic() - began_s, 3)
        return Cycle(number, point, place, is_fresh, load.acknowledged, open_intents, took_s)

    def _choose(self, number: int, chance: random.Random) -> tuple[str, str, int]:
        """Return what is to end a life: crash point, place, and at which visit of it."""
        if number % self.stop_every == self.stop_every // 2:
            return STOPPED, "", 0
        if number % self.place_every == self.place_every - 1:
            turn = number // self.place_every * PLACES_STRIDE % len(PLACES)
            point, (place, hit_max) = PLACES[turn]
            return point, place, chance.randint(1, hit_max)
        return OUTSIDE, "", 0

    def _harm(self, place: str, hit: int) -> Harm:
        is_disk = place.startswith("disk")
        return Harm(
            "" if is_from_outside(place) else place,
            hit,
            linger_s=0.05 if self.mutations else 0.0,  # what is wrong has time to come out
            mutations=self.mutations,
            settings=PURGING,
            has_faulty_disk=is_disk,
        )

    def _start(self, services: Zygote, harm: Harm | None, *, is_fresh: bool) -> Child:
        for _ in range(10):
            try:
                return services.start(self.folder, self._config, harm, is_fresh=is_fresh)
            except NotStartedError as error:
                # Its place may come before it is ready: settling what is left is work, too.
                if error.code != -signal.SIGKILL:
                    raise BrokenError(f"it did not start: {error}") from None
                self._check(is_whole=False)
                harm = self._harm("", 0) if harm is not None else None
        raise BrokenError("it did not start")

    def _end(self, child: Child, load: Load, point: str, place: str, chance: random.Random) -> None:
        """Bring a life to its end."""
        if point in POINTS and not is_from_outside(place):
            wait_for_death(child)
            return
        deadline_s = time.monotonic() + FIRST_ANSWER_WITHIN_S
        while not load.first.wait(0.01):
            if time.monotonic() > deadline_s:
                raise BrokenError(f"nothing was acknowledged:\n{child.log[-2000:]}")
            if load.errors:
                return
        time.sleep(chance.uniform(*DEATH_AFTER_S))
        if point == STOPPED:
            child.signal(signal.SIGSTOP)
            time.sleep(self.stop_s)
            child.signal(signal.SIGCONT)
            time.sleep(chance.uniform(*DEATH_AFTER_S))
        if place == USURP:
            self._taken = self._usurp(child)
            time.sleep(chance.uniform(*STALE_FOR_S))
        if place.startswith("disk"):
            (self.folder / DISK_TRIGGER).write_text(place.partition(" ")[2])
            wait_for_death(child)
            (self.folder / DISK_TRIGGER).unlink()

    def _usurp(self, child: Child) -> Taken:
        """Let somebody else take over what the service has in hand, while it stands still."""
        deadline_s = time.monotonic() + DEATH_WITHIN_S
        while time.monotonic() < deadline_s:
            child.signal(signal.SIGSTOP)
            try:
                return usurp(self.folder / "spool.db", resent="mail", held="invoice")
            except SpoolBusyError:  # it stands in the middle of a transaction
                pass
            finally:
                child.signal(signal.SIGCONT)
            time.sleep(0.01)
        raise BrokenError("nobody else could write to the spool")

    def _restore(self, taken: Taken) -> bool:
        """Give back what was taken over; return whether its first owner met a closed door."""
        spool = self.folder / "spool.db"
        found = look_at(spool, taken)
        if found.faults:
            raise BrokenError(f"a stale owner did not keep still: {found.faults[:5]}")
        give_back(spool, taken)
        return found.stale_outcomes > 0

    def _ended_by(self, child: Child, point: str, place: str) -> tuple[str, str]:
        """Return what really ended a life."""
        if point not in POINTS:
            return point, place
        if place.startswith("disk"):
            if child.code == -signal.SIGKILL:
                raise BrokenError(f"it went on with a disk that fails: {place}")
            lines = child.disk_log
            (self.folder / "disk-log").unlink(missing_ok=True)
            if "sync after a failure" in lines:
                raise BrokenError("it synced again after a failure")
            return point, place
        is_reached = child.died_at == place
        if self._taken is not None:
            is_reached, self._taken = self._restore(self._taken), None
        return (point if is_reached else MISSED), place

    # What must hold

    def _remember(self, errors: list[str]) -> None:
        if errors:
            raise BrokenError("; ".join(errors[:5]))

    def _check(self, *, is_whole: bool) -> int:
        """Look at the spool of the dead; return its open intents."""
        with dead_spool(self.folder / "spool.db") as spool:
            if missing := self._missing(spool):
                raise BrokenError(f"acknowledged, and not in the spool: {missing[:5]}")
            if twice := accepted_twice(spool):
                raise BrokenError(f"accepted twice: {twice[:5]}")
            if not spool.ledger().is_balanced:
                raise BrokenError(f"the ledger does not balance: {spool.ledger()}")
            if is_whole:
                try:
                    spool.check_integrity()
                    spool.balanced_ledger()
                except AssertionError as error:
                    raise BrokenError(str(error)) from None
            return spool.open_intents

    def _missing(self, spool: DeadSpool) -> list[str]:
        there = dict(spool.rows("SELECT client_id, id FROM messages ORDER BY seq DESC"))
        return [name for name, id_ in self._acks.ids.items() if there.get(name) != id_]

    def _drain(self, services: Zygote) -> None:
        """Let a last service send what is left, in peace."""
        child = self._start(services, Harm(mutations=self.mutations), is_fresh=False)
        deadline_s = time.monotonic() + DRAIN_WITHIN_S
        while True:
            states = child.call("GET", "/v1/ledger").body["states"]
            final = sum(count for state, count in states.items() if state in DONE)
            if final == sum(states.values()):
                break
            if time.monotonic() > deadline_s:
                raise BrokenError(f"it does not end: {states}")
            time.sleep(0.2)
        if child.stop() != 0:
            raise BrokenError(f"it did not stop in order:\n{child.log[-2000:]}")
        self._check(is_whole=True)

    def _count(self, peers: list[StoringPeer], took_s: float) -> Count:
        copies = count_copies([stored for peer in peers for stored in peer.stored])
        with dead_spool(self.folder / "spool.db") as spool:
            messages = spool.statuses(10_000_000, None)
            outcomes = dict(
                spool.rows(
                    "SELECT outcome, count(*) FROM attempts GROUP BY outcome ORDER BY outcome"
                )
            )
            ledger = spool.ledger()
            missing = self._missing(spool)
        tally = tally_copies(messages, copies)
        kills = [each for each in self.cycles if each.point not in {"", "C9 a failing disk"}]
        violations = list(self.violations)
        if not violations:
            violations = tally.violations()
        return Count(
            cycles=len(self.cycles),
            kills=len(kills),
            kills_with_open_intents=sum(each.open_intents > 0 for each in kills),
            by_point=dict(sorted(Counter(each.point for each in self.cycles).items())),
            acknowledged=len(self._acks.ids),
            messages=len(messages),
            states=ledger.states,
            attempts=outcomes,
            uncertain=outcomes.get("unknown", 0) + outcomes.get("uncertain", 0),
            declared_risks=ledger.declared_risks,
            copies=sum(copies.values()),
            duplicates_declared=tally.declared,
            duplicates_undeclared=tally.undeclared,
            held=ledger.states.get("held", 0),
            held_stored=tally.held_stored,
            given_up=tally.given_up,
            missing_in_spool=len(missing),
            missing_at_relays=len(tally.missing),
            took_s=round(took_s, 1),
            violations=violations,
        )


DONE: Final = frozenset(
    {
        *(State.SENT, State.BOUNCED, State.FAILED, State.EXPIRED),
        *(State.SUPPRESSED, State.CANCELLED, State.HELD),
    }
)


@dataclass
class Tally:
    """What the relays have, set against what the spool says."""

    declared: int = 0
    undeclared: int = 0
    held_stored: int = 0
    given_up: int = 0
    unexplained: list[str] = field(default_factory=list)
    """Neither sent, nor held by preference, nor given up."""
    missing: list[str] = field(default_factory=list)
    strays: int = 0
    repeated_invoices: int = 0

    def violations(self) -> list[str]:
        """Return a line for each promise that was broken."""
        lines = []
        if self.missing:
            lines.append(f"sent, and no relay has it: {self.missing[:5]}")
        if self.undeclared:
            lines.append(f"{self.undeclared} duplicates that were not declared")
        if self.strays:
            lines.append(f"{self.strays} messages at the relays that nobody accepted")
        if self.repeated_invoices:
            lines.append(f"{self.repeated_invoices} messages repeated that are never to be resent")
        if self.unexplained:
            lines.append(f"neither sent nor held for a reason: {self.unexplained[:5]}")
        return lines


def tally_copies(messages: tuple[MessageStatus, ...], copies: Counter[str]) -> Tally:
    """Compare the spool's story with the relays'."""
    tally = Tally(strays=len(copies.keys() - {each.message_id for each in messages}))
    for each in messages:
        (delivery,) = each.deliveries
        state, count = delivery.state, copies[each.message_id]
        extra = max(0, count - 1)
        tally.declared += min(extra, each.declared_risks)
        tally.undeclared += max(0, extra - each.declared_risks)
        tally.repeated_invoices += each.stream == "invoice" and extra > 0
        tally.held_stored += state is State.HELD and count > 0
        is_given_up = GIVEN_UP in delivery.error
        tally.given_up += is_given_up
        if state is State.SENT and not count:
            tally.missing.append(each.client_id)
        is_preferred = state is State.HELD and each.stream == "invoice"
        if not (state is State.SENT or is_preferred or is_given_up):
            tally.unexplained.append(f"{each.client_id}: {state} {delivery.error}")
    return tally


def accepted_twice(spool: DeadSpool) -> list[str]:
    """Return the names under which there is more than one message."""
    sql = "SELECT client_id FROM messages GROUP BY client_id HAVING count(*) > 1 ORDER BY 1"
    return [name for (name,) in spool.rows(sql)]


def is_from_outside(place: str) -> bool:
    """Whether a life is ended there by the rig, and not by the service itself."""
    return place == USURP or place.startswith("disk")


def wait_for_death(child: Child) -> None:
    """Wait until a service ends itself, or long enough."""
    deadline_s = time.monotonic() + DEATH_WITHIN_S
    while not child.has_ended and time.monotonic() < deadline_s:
        time.sleep(0.003)
    if child.has_ended:
        child.wait()


def read_cycles(path: Path) -> list[Cycle]:
    """Return the cycles of an earlier run in the same folder."""
    lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    return [msgspec.json.decode(line, type=Cycle) for line in lines]
