"""The simulated provider: latency, failures and scripts that are what the numbers say."""

from __future__ import annotations

import random
import statistics
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from mailactors.model.message import Address, Content, Envelope
from mailactors.model.outcome import (
    Accepted,
    Deferred,
    Outcome,
    Phase,
    Reason,
    Rejected,
    Scope,
    Uncertain,
)
from mailactors.providers.port import Found, LookUpFailed, Mail, NotFound
from mailactors.providers.simulated import (
    RECEIVED_MAX,
    SimulatedProvider,
    SimulatedSession,
    SimulatedSettings,
)
from tests.gateways import VirtualClock

GONE = Rejected(Scope.RECIPIENT, Reason("no such user", 550))


class KeyedEntropy:
    """The same key is the same number under the same seed, in any order of draws."""

    def __init__(self, seed: int = 1) -> None:
        self._seed = seed

    def draw(self, *key: str | int) -> float:
        return random.Random(repr((self._seed, key))).random()


class FixedEntropy:
    """Always the same number."""

    def __init__(self, number: float) -> None:
        self._number = number

    def draw(self, *_key: str | int) -> float:
        return self._number


def make(name: str = "p", entropy: Any = None, **settings: Any) -> SimulatedProvider:
    return SimulatedProvider(
        name, SimulatedSettings(**settings), VirtualClock(), entropy or KeyedEntropy()
    )


def mail(marker: str = "m1", *recipients: str) -> Mail:
    envelope = Envelope("ann@example.com", recipients or ("bob@example.com",))
    content = Content(Address("ann@example.com"), subject="Hello")
    return Mail(marker, f"{marker}@example.com", 0.0, envelope, content)


async def send(provider: SimulatedProvider, what: Mail | None = None) -> Outcome:
    session = await provider.connect()
    assert isinstance(session, SimulatedSession)
    return await session.send(what or mail())


async def send_many(provider: SimulatedProvider, count: int) -> tuple[list[Outcome], list[float]]:
    """Return outcomes and latencies."""
    outcomes, latencies_s = [], []
    for n in range(count):
        before_s = trio.current_time()
        outcomes.append(await send(provider, mail(f"m{n}")))
        latencies_s.append(trio.current_time() - before_s)
    return outcomes, latencies_s


async def test_it_accepts_and_remembers(autojump_clock: MockClock) -> None:
    provider = make()

    outcome = await send(provider, mail("m1", "bob@example.com", "carl@example.com"))

    assert outcome == Accepted("p-1")
    assert list(provider.received) == [("m1", ("bob@example.com", "carl@example.com"))]
    assert provider.calls == 1


async def test_the_latency_is_log_normal_around_its_median(autojump_clock: MockClock) -> None:
    provider = make(latency_s=0.2, latency_sigma=0.5)

    _, latencies_s = await send_many(provider, 1000)

    quartiles = statistics.quantiles(latencies_s, n=4)
    assert quartiles == pytest.approx([0.143, 0.2, 0.280], rel=0.1)
    assert min(latencies_s) > 0


@pytest.mark.parametrize(
    ("number", "expected_s"), [(0.5, 0.2), (0.0, 0.2 * 0.0183), (1 - 2**-53, 0.2 * 54.6)]
)
async def test_the_latency_is_cut_at_four_sigma(
    number: float, expected_s: float, autojump_clock: MockClock
) -> None:
    provider = make(entropy=FixedEntropy(number), latency_s=0.2, latency_sigma=1.0)

    _, (latency_s,) = await send_many(provider, 1)

    assert latency_s == pytest.approx(expected_s, rel=0.06)


async def test_without_sigma_every_latency_is_the_median(autojump_clock: MockClock) -> None:
    provider = make(latency_s=0.2, latency_sigma=0.0)

    _, latencies_s = await send_many(provider, 20)

    assert latencies_s == pytest.approx([0.2] * 20)


@pytest.mark.parametrize("rate", [0.0, 0.1, 1.0])
async def test_it_fails_at_the_set_rate(rate: float, autojump_clock: MockClock) -> None:
    provider = make(error_rate=rate)

    outcomes, _ = await send_many(provider, 1000)

    failed = [outcome for outcome in outcomes if isinstance(outcome, Deferred)]
    assert len(failed) == pytest.approx(rate * 1000, abs=30 if 0 < rate < 1 else 0)
    assert {(o.scope, o.reason.code) for o in failed} <= {(Scope.PROVIDER, 503)}
    assert len(provider.received) == 1000 - len(failed)


async def test_a_script_comes_first_and_chance_after(autojump_clock: MockClock) -> None:
    provider = make(error_rate=1.0)
    provider.behaviour.script.extend([GONE, lambda mail: Accepted(f"for {mail.marker}")])

    outcomes, _ = await send_many(provider, 3)

    assert outcomes[:2] == [GONE, Accepted("for m1")]
    assert isinstance(outcomes[2], Deferred)
    assert [marker for marker, _ in provider.received] == ["m1"]


async def test_only_recipients_that_were_not_refused_receive_it(autojump_clock: MockClock) -> None:
    provider = make()
    provider.behaviour.script.append(Accepted("1", {"gone@example.com": GONE}))

    await send(provider, mail("m1", "gone@example.com", "bob@example.com"))

    assert list(provider.received) == [("m1", ("bob@example.com",))]


@pytest.mark.parametrize("phase", Phase)
async def test_only_what_was_lost_at_the_end_was_received(
    phase: Phase, autojump_clock: MockClock
) -> None:
    provider = make()
    provider.behaviour.script.append(Uncertain(phase, Reason("lost")))

    await send(provider)

    assert len(provider.received) == (1 if phase is Phase.FINAL else 0)


async def test_it_refuses_connections_while_it_is_refusing() -> None:
    provider = make()
    provider.behaviour.is_refusing = True

    refusal = await provider.connect()

    assert refusal == Deferred(Scope.PROVIDER, Reason("connection refused"))
    assert provider.calls == 0


async def test_a_stall_takes_the_message_and_never_answers(autojump_clock: MockClock) -> None:
    provider = make()
    provider.behaviour.is_stalling = True

    with trio.move_on_after(3600) as scope:
        await send(provider)

    assert scope.cancelled_caught
    assert [marker for marker, _ in provider.received] == ["m1"]


async def test_its_behaviour_may_change_while_it_runs(autojump_clock: MockClock) -> None:
    provider = make(latency_s=0.1, latency_sigma=0.0)
    before, _ = await send_many(provider, 1)

    provider.behaviour.error_rate = 1.0
    provider.behaviour.latency_s = 5.0
    after, (latency_s,) = await send_many(provider, 1)

    assert isinstance(before[0], Accepted)
    assert isinstance(after[0], Deferred)
    assert latency_s == pytest.approx(5.0)


async def test_the_same_seed_gives_the_same_outcomes(autojump_clock: MockClock) -> None:
    first = await send_many(make(error_rate=0.3, entropy=KeyedEntropy(1)), 50)
    again = await send_many(make(error_rate=0.3, entropy=KeyedEntropy(1)), 50)
    other = await send_many(make(error_rate=0.3, entropy=KeyedEntropy(2)), 50)

    assert first[0] == again[0] != other[0]
    assert first[1] == pytest.approx(again[1])


async def test_two_providers_under_one_seed_do_not_move_in_step(autojump_clock: MockClock) -> None:
    entropy = KeyedEntropy()

    _, here = await send_many(make("here", entropy), 5)
    _, there = await send_many(make("there", entropy), 5)

    assert here != pytest.approx(there)


async def test_the_oldest_deliveries_are_forgotten_first() -> None:
    provider = make()

    for n in range(RECEIVED_MAX + 1):
        provider._receive(mail(str(n)))

    assert len(provider.received) == RECEIVED_MAX
    assert provider.received[0][0] == "1"


@pytest.mark.parametrize("own_envelope", [True, False])
def test_the_settings_say_whether_it_carries_an_envelope(own_envelope: bool) -> None:
    capabilities = make(own_envelope=own_envelope).capabilities

    assert capabilities.own_envelope is own_envelope
    assert capabilities.idempotency_window_s == 0


async def test_closing_is_a_checkpoint_only() -> None:
    provider = make()
    session = await provider.connect()

    assert isinstance(session, SimulatedSession)
    await session.aclose()
    await provider.aclose()
    assert provider.calls == 0


# Evidence


def mail_to(*recipients: str, is_partial: bool = False) -> Mail:
    content = Content(Address("ann@sender.example"), subject="s", text="t")
    return Mail("m1", "m1@mail.example", 0.0, Envelope("", recipients), content, is_partial)


async def test_a_repeated_key_is_known_for_its_window_and_not_delivered_again(
    autojump_clock: MockClock,
) -> None:
    provider = make(idempotency_window_s=100.0, latency_s=0.0)

    first = await provider.answer(mail_to("a@example.com"))
    await trio.sleep(99)
    again = await provider.answer(mail_to("a@example.com"))
    other = await provider.answer(mail_to("b@example.com", is_partial=True))
    await trio.sleep(1)
    late = await provider.answer(mail_to("a@example.com"))

    assert provider.capabilities.idempotency_window_s == 100.0
    assert Accepted("p-1") == first == again
    assert [Accepted("p-3"), Accepted("p-4")] == [other, late]
    assert [("a@example.com",), ("b@example.com",), ("a@example.com",)] == [
        who for _, who in provider.received
    ]


async def test_without_a_window_each_repetition_is_delivered(autojump_clock: MockClock) -> None:
    provider = make(latency_s=0.0)

    for _ in range(2):
        await provider.answer(mail_to("a@example.com"))

    assert len(provider.received) == 2


async def test_a_look_up_finds_what_was_taken_after_the_lag(autojump_clock: MockClock) -> None:
    provider = make(look_up_lag_s=20.0, latency_s=0.0)
    provider.behaviour.script.append(Uncertain(Phase.FINAL, Reason("lost")))
    await provider.answer(mail_to("a@example.com"))

    sightings = [await provider.look_up("m1"), await provider.look_up("m2")]
    await trio.sleep(20)
    sightings += [await provider.look_up("m1"), await provider.look_up("m2")]

    assert provider.capabilities.look_up_lag_s == 20.0
    assert [NotFound(), NotFound(), Found("p-1"), NotFound()] == sightings


async def test_without_look_ups_a_look_up_fails(autojump_clock: MockClock) -> None:
    silent, refusing = make(), make(look_up_lag_s=0.0)
    refusing.behaviour.is_refusing = True

    assert isinstance(await silent.look_up("m1"), LookUpFailed)
    assert isinstance(await refusing.look_up("m1"), LookUpFailed)
