"""The report of a final failure: an event and a log record with the whole story."""

from typing import Any

import trio
from trio.testing import MockClock

from mailactors.model.outcome import Deferred, Reason, Rejected, Scope
from mailactors.wiring import Gateway
from tests.gateways import (
    NotingJournal,
    letter,
    make_config,
    open_store,
    provider,
    running,
    simulated,
    wait_for_states,
)

BUSY = Deferred(Scope.PROVIDER, Reason("busy", 503))
GONE = Rejected(Scope.RECIPIENT, Reason("no such user", 550, "5.1.1"))


async def report_of(gateway: Gateway) -> dict[str, Any]:
    """Return the one report that the journal heard of."""
    await trio.sleep(1.1)
    journal = gateway.ports.journal
    assert isinstance(journal, NotingJournal)
    (report,) = journal.named("message.failed")
    return report


async def test_a_bounce_is_reported_with_each_attempt_and_answer(
    autojump_clock: MockClock,
) -> None:
    with open_store() as store:
        async with running(
            make_config({"primary": simulated(), "secondary": simulated()}), store
        ) as gateway:
            provider(gateway, "primary").behaviour.script.append(BUSY)
            provider(gateway, "secondary").behaviour.script.append(GONE)
            receipt = await gateway.door.submit(letter())
            await wait_for_states(gateway, bounced=1)
            report = await report_of(gateway)
            story = [(each["kind"], each.get("provider")) for each in report["story"]]

            assert receipt.id == report["id"]
            assert [("accepted", None), ("attempt", "primary"), ("attempt", "secondary")] == story
            assert "503 busy" == report["story"][1]["reason"]
            assert {"0": "queued"} == report["story"][1]["next"]
            assert "the provider failed: next lane at once" == report["story"][1]["rule"]
            assert [{"n": 0, "state": "bounced", "error": "550 5.1.1 no such user"}] == report[
                "deliveries"
            ]


async def test_what_expires_is_reported(autojump_clock: MockClock) -> None:
    with open_store() as store:
        async with running(make_config({"only": simulated()}), store) as gateway:
            provider(gateway, "only").behaviour.is_refusing = True
            await gateway.door.submit(letter(expires_in_s=20))
            await wait_for_states(gateway, expired=1)
            report = await report_of(gateway)

            assert "expired" == report["deliveries"][0]["state"]
            assert "expired" == report["story"][-1]["kind"]
            assert 3 <= len(report["story"])


async def test_the_report_is_in_the_timeline_too(autojump_clock: MockClock) -> None:
    with open_store() as store:
        async with running(make_config({"only": simulated()}), store) as gateway:
            provider(gateway, "only").behaviour.script.append(GONE)
            await gateway.door.submit(letter())
            await wait_for_states(gateway, bounced=1)
            events = await gateway.reader.ask(lambda spool: spool.timeline(1))

            assert ["accepted", "attempt", "final_failure"] == [event.kind for event in events]


async def test_what_is_sent_is_not_reported(autojump_clock: MockClock) -> None:
    with open_store() as store:
        async with running(make_config(), store) as gateway:
            await gateway.door.submit(letter())
            await wait_for_states(gateway, sent=1)
            await trio.sleep(5)
            journal = gateway.ports.journal

            assert isinstance(journal, NotingJournal)
            assert [] == journal.named("message.failed")
