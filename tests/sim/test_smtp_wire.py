"""The gateway's own SMTP client against the world's server: what it makes of each fault."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from mailactors.model.outcome import (
    Accepted,
    Deferred,
    NotAttempted,
    Phase,
    Rejected,
    Scope,
    Uncertain,
    Why,
)
from mailactors.providers.smtp.transport import FINAL_TIMEOUT_S
from mailactors.sim.vendor.smtp_client import SENDING, WireConnector
from mailactors.sim.vendor.smtp_server import IDLE_S, SmtpServer
from tests.sim.vendors import NAME, Rig, fault, mail, with_vendor

WIRE = {"wire": "smtp"}


def on_wire(plan: dict[str, Any] | None = None) -> dict[str, Any]:
    return {**WIRE, **(plan or {})}


def test_message_goes_over_the_wire() -> None:
    async def body(rig: Rig) -> None:
        assert Accepted("primary-0-1") == await rig.send(0)
        assert Accepted("primary-1-1") == await rig.send(1)
        assert [0, 1] == list(rig.arrivals)
        assert 2 == rig.truth.attempts
        assert [("began", NAME), ("sending", NAME, 0), ("arrived", NAME, 0)] == rig.observer.calls[
            :3
        ]

    with_vendor(body, on_wire())


def test_connections_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    count = []
    serve = SmtpServer.serve

    async def counting(self: SmtpServer) -> None:
        count.append(self)
        await serve(self)

    monkeypatch.setattr(SmtpServer, "serve", counting)

    async def body(rig: Rig) -> None:
        for number in range(5):
            await rig.send(number)
        assert 1 == len(count)
        await trio.sleep(IDLE_S + 1)
        await rig.send(5)
        assert 2 == len(count)
        assert 6 == len(rig.arrivals)

    with_vendor(body, on_wire())


def test_session_that_is_given_back_was_no_attempt() -> None:
    async def body(rig: Rig) -> None:
        session: Any = await rig.client.connect()
        await session.aclose()
        assert 0 == rig.truth.attempts
        assert [] == rig.truth.attempted_s[NAME].tolist()
        assert "unused" == rig.observer.calls[-1][0]

    with_vendor(body, on_wire())


@pytest.mark.parametrize(
    ("plan", "words"),
    [
        (fault("refuse"), "connection refused"),
        (fault("flap", period_s=10, duty=0.5), "connection refused"),
        (fault("dns", answer="nxdomain"), "Name or service not known"),
        (fault("dns", answer="servfail"), "Temporary failure in name resolution"),
        (fault("dns", answer="slow"), "no connection within 30 s"),
        (fault("tls", why="expired"), "expired (not after 2027-01-15 08:00:00 UTC)"),
        (fault("tls", why="name"), "certificate is not valid for 'primary'"),
    ],
)
def test_there_is_no_connection(plan: dict[str, Any], words: str) -> None:
    async def body(rig: Rig) -> None:
        outcome = await rig.send(0)

        assert isinstance(outcome, Deferred)
        assert Scope.PROVIDER is outcome.scope
        assert words in outcome.reason.text
        assert {} == rig.arrivals

    with_vendor(body, on_wire(plan))


def test_refused_connections_also_drop_pooled_ones() -> None:
    async def body(rig: Rig) -> None:
        assert isinstance(await rig.send(0), Accepted)
        await trio.sleep_until(10.0)
        outcome = await rig.send(1)
        assert isinstance(outcome, Deferred)
        assert "connection refused" in outcome.reason.text

    with_vendor(body, on_wire(fault("refuse", at_s=10)))


@pytest.mark.parametrize(
    ("plan", "kind", "scope", "code"),
    [
        (fault("errors", rate=1.0), Deferred, Scope.PROVIDER, 451),
        (fault("errors", rate=1.0, code=421), Deferred, Scope.PROVIDER, 421),
        (fault("errors", rate=1.0, code=429), Deferred, Scope.PROVIDER, 451),
        (fault("errors", rate=1.0, code=401), Rejected, Scope.PROVIDER, 535),
        (fault("errors", rate=1.0, code=554), Rejected, Scope.MESSAGE, 554),
        (fault("auth"), Rejected, Scope.PROVIDER, 535),
        (fault("reject", rate=1.0, scope="recipient"), Rejected, Scope.RECIPIENT, 550),
        (fault("reject", rate=1.0, scope="message"), Rejected, Scope.MESSAGE, 554),
        (fault("defer_domain", domain="example.com"), Deferred, Scope.DOMAIN, 421),
        (fault("defer_domain", domain="example.com", code=450), Deferred, Scope.RECIPIENT, 450),
    ],
)
def test_refusal_is_translated_to_smtp(
    plan: dict[str, Any], kind: type[Any], scope: Scope, code: int
) -> None:
    async def body(rig: Rig) -> None:
        for number in range(2):
            outcome: Any = await rig.send(number)
            assert isinstance(outcome, kind), outcome
            assert (scope, code) == (outcome.scope, outcome.reason.code)
        assert {} == rig.arrivals
        await trio.sleep_until(1000.0)
        assert isinstance(await rig.send(2), Accepted)

    with_vendor(body, on_wire(plan))


def test_quota_is_a_throttle_with_a_time() -> None:
    async def body(rig: Rig) -> None:
        outcomes = await rig.send_many(4)

        late: list[Any] = [each for each in outcomes if isinstance(each, Deferred)]
        assert [(True, 60.0, 454)] == [
            (each.throttled, each.retry_after_s, each.reason.code) for each in late
        ]
        assert 3 == len(rig.arrivals)
        assert ("throttled", NAME, 60.0) in rig.observer.calls

    with_vendor(body, on_wire({"quota": {"per_minute": 3}}))


def test_relay_that_reads_too_slowly_gets_no_message() -> None:
    async def body(rig: Rig) -> None:
        outcome = await rig.send(0)

        assert isinstance(outcome, Deferred)
        assert outcome.reason.text.startswith("body: no write of ")
        assert {} == rig.arrivals

    with_vendor(body, on_wire(fault("trickle", octets_per_s=3)))


@pytest.mark.parametrize("wire", [WIRE, {}], ids=["smtp", "port"])
def test_our_own_shortage_is_no_attempt(wire: dict[str, Any]) -> None:
    async def body(rig: Rig) -> None:
        outcome = await rig.send(0)

        assert NotAttempted(Why.RESOURCES, text="connect: too many open files") == outcome
        assert 0 == rig.truth.attempts

    with_vendor(body, {**wire, **fault("short")})


def test_slow_answer_is_right() -> None:
    async def body(rig: Rig) -> None:
        assert isinstance(await rig.send(0), Accepted)
        assert 90.0 == pytest.approx(rig.took_s[0], abs=0.1)
        assert 1 == len(rig.arrivals[0])

    with_vendor(body, on_wire(fault("slow", latency_s=90)))


def test_stalled_message_goes_out_without_an_answer() -> None:
    async def body(rig: Rig) -> None:
        outcome = await rig.send(0)

        assert isinstance(outcome, Uncertain)
        assert Phase.FINAL is outcome.phase
        assert FINAL_TIMEOUT_S == pytest.approx(rig.took_s[0], abs=0.1)
        assert {0: [0.1]} == rig.arrivals

    with_vendor(body, on_wire(fault("stall", rate=1.0)))


@pytest.mark.slow
def test_connection_drops_after_the_final_dot() -> None:
    async def body(rig: Rig) -> None:
        outcomes = await rig.send_many(60)

        assert all(isinstance(each, Uncertain) for each in outcomes)
        assert {Phase.FINAL} == {each.phase for each in outcomes}
        assert 0.5 == pytest.approx(len(rig.arrivals) / 60, abs=0.2)

    with_vendor(body, on_wire(fault("ambiguous", rate=1.0, accepted=0.5)))


@pytest.mark.slow
def test_garbage_comes_in_two_shapes() -> None:
    async def body(rig: Rig) -> None:
        outcomes = await rig.send_many(20)

        assert all(isinstance(each, Uncertain) for each in outcomes)
        texts = {each.reason.text for each in outcomes}
        assert 2 == len(texts)
        assert any("a reply line longer than" in text for text in texts)
        assert any("not a reply" in text for text in texts)

    with_vendor(body, on_wire(fault("garbage", rate=1.0)))


def test_lie_works_on_the_smtp_wire() -> None:
    async def body(rig: Rig) -> None:
        assert isinstance(await rig.send(0), Accepted)
        await trio.sleep(1000.0)
        assert {} == rig.arrivals
        assert 0 in rig.truth.taken

    with_vendor(body, on_wire(fault("lie", then="drop")))


def test_capacity_serves_in_order() -> None:
    async def body(rig: Rig) -> None:
        await rig.send_many(5)
        waits = sorted(rig.took_s.values())
        assert [0.1, 1.1, 2.1, 3.1, 4.1] == pytest.approx(waits, abs=0.01)

    with_vendor(body, on_wire(fault("capacity", per_s=1)))


def test_delivery_event_has_the_marker_from_the_wire() -> None:
    async def body(rig: Rig) -> None:
        await rig.send(0)
        await trio.sleep(10.0)
        (event,) = rig.evidence
        assert mail(0).marker == event.marker

    with_vendor(body, on_wire({"delivery_events": {"delay_median_s": 5}}))


def test_message_that_hangs_is_bounded_by_the_client() -> None:
    async def body(rig: Rig) -> None:
        rig.truth.poison[0] = "hang_worker"
        assert isinstance(await rig.send(0), Uncertain)
        assert FINAL_TIMEOUT_S == pytest.approx(rig.took_s[0], abs=0.1)
        assert {} == rig.arrivals

    with_vendor(body, on_wire())


def test_process_that_dies_after_the_dot() -> None:
    async def body(rig: Rig) -> None:
        await rig.die(0, after_s=1.0)
        await trio.sleep_until(30.0)
        assert {0: [5.0]} == rig.arrivals
        assert {} == rig.sent

    with_vendor(body, on_wire(fault("slow", latency_s=5)))


@pytest.mark.slow
def test_two_messages_at_once_to_one_mailbox_are_distinguished() -> None:
    async def body(rig: Rig) -> None:
        outcomes = await rig.send_many(120)

        rejected = [n for n, each in enumerate(outcomes) if isinstance(each, Rejected)]
        assert sorted(rig.truth.rejected) == rejected
        assert 0.3 == pytest.approx(len(rejected) / 120, abs=0.1)
        assert sorted({*range(120)} - {*rejected}) == list(rig.arrivals)

    with_vendor(body, on_wire(fault("reject", rate=0.3, scope="recipient")))


@pytest.mark.slow
def test_the_same_seed_is_the_same_story() -> None:
    async def body(rig: Rig) -> list[Any]:
        await rig.send_many(50, gap_s=0.02)
        return [
            rig.observer.calls,
            rig.arrivals,
            rig.world.journal.digest,
            list(rig.took_s.items()),
        ]

    plan = on_wire({"latency_s": {"median": 0.1, "sigma": 0.5}, **fault("errors", rate=0.5)})
    assert with_vendor(body, plan) == with_vendor(body, plan)
    assert with_vendor(body, plan) != with_vendor(body, plan, seed=2)


async def converse(rig: Rig, *lines: str) -> list[str]:
    """Say lines to the server, and return what it answers to each; empty: it hung up."""
    stream = await WireConnector(rig.vendor, rig.observer).open_tcp("primary.smtp.example", 2525)
    said = [bytes(await stream.receive_some()).decode()]
    for line in lines:
        await stream.send_all(line.encode() + b"\r\n")
        said.append(bytes(await stream.receive_some()).decode())
    if said[-1].startswith("421"):
        said.append(bytes(await stream.receive_some()).decode())
    return [answer.strip() for answer in said]


def test_server_knows_its_protocol() -> None:
    async def body(rig: Rig) -> None:
        lines = [
            "HELO x",
            "RCPT TO:<a@b.example>",
            "DATA",
            "MAIL FROM:<>",
            "RSET",
            "DATA",
            "VRFY x",
        ]
        answers = await converse(rig, *lines, "NOOP", "QUIT")

        codes = [answer[:3] for answer in answers]
        assert ["220", "250", "503", "554", "250", "250", "554", "502", "250", "221"] == codes
        assert {} == rig.arrivals

    with_vendor(body, on_wire())


def test_421_takes_the_connection_with_it() -> None:
    async def body(rig: Rig) -> None:
        token = SENDING.set(0)
        answers = await converse(rig, "HELO x", "MAIL FROM:<>", "RCPT TO:<a@example.com>")
        SENDING.reset(token)

        assert answers[3].startswith("421 4.4.2 ")
        assert "" == answers[4]
        assert trio.current_time() < 1.0  # at once, not after a timeout

    with_vendor(body, on_wire(fault("defer_domain", domain="example.com")))
