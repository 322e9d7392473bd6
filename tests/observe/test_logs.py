"""Logs: lines for machines and people, without anybody's secrets."""

import ast
import dataclasses
import io
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

import mailactors
from mailactors.intake.submission import OverloadedError, Submission, SubmissionRejectedError
from mailactors.model.message import Address, Attachment
from mailactors.model.outcome import Accepted, Deferred, Phase, Reason, Rejected, Scope, Uncertain
from mailactors.observe.logs import (
    MASKED,
    TEXT_MAX,
    Level,
    LogJournal,
    LogSettings,
    forward_library_logs,
    hash_recipient,
    masked,
)
from tests.gateways import (
    CrashPlan,
    letter,
    make_config,
    make_ports,
    open_store,
    provider,
    running,
    simulated,
    status,
    wait_for_states,
)


def note(event: str = "some.event", **facts: Any) -> dict[str, Any]:
    """Return the line that a note becomes."""
    out = io.StringIO()
    LogJournal(LogSettings(format="json"), out).note(event, **facts)
    (line,) = out.getvalue().splitlines()
    return dict(json.loads(line))


def test_a_note_is_one_line_of_json() -> None:
    line = note("attempt.done", level="warning", id="17", attempt=2, ok=True, none=None)

    timestamp = line.pop("timestamp")
    assert timestamp.endswith("Z")
    assert line == {
        "event": "attempt.done",
        "level": "warning",
        "id": "17",
        "attempt": 2,
        "ok": True,
        "none": None,
    }


def test_without_a_terminal_auto_is_json() -> None:
    out = io.StringIO()

    LogJournal(LogSettings(), out).note("some.event")

    assert json.loads(out.getvalue())["event"] == "some.event"


def test_the_console_format_has_no_colours_without_a_terminal() -> None:
    out = io.StringIO()

    LogJournal(LogSettings(format="console"), out).note("some.event", id="17")

    assert "some.event" in out.getvalue()
    assert "id=17" in out.getvalue()
    assert "\x1b" not in out.getvalue()


LEVELS: list[Level] = ["debug", "info", "warning", "error"]


@pytest.mark.parametrize("least", LEVELS)
@pytest.mark.parametrize("level", LEVELS)
def test_only_what_is_loud_enough_is_written(least: Level, level: Level) -> None:
    out = io.StringIO()

    LogJournal(LogSettings(level=least), out).note("some.event", level=level)

    assert bool(out.getvalue()) == (LEVELS.index(level) >= LEVELS.index(least))


def test_a_recipient_can_be_joined_but_not_read() -> None:
    first, again = note(recipient="ann@Example.com"), note(recipient="ann@Example.com")
    other = note(recipient="bob@Example.com")

    assert first["recipient"] == again["recipient"] != other["recipient"]
    assert first["recipient"].endswith("@example.com")
    assert "ann" not in first["recipient"]


@pytest.mark.parametrize(
    "text",
    [
        "550 5.1.1 <ann.canary@example.com>: user unknown",
        "no mailbox ann.canary@example.com here",
        "to=ann.canary@example.com",
        "(ann.canary@example.com)",
        '"ann.canary@example.com", "bob.canary@example.com"',
        "ann.canary+tag=canary@xn--bcher-kva.example",
        "x" * (TEXT_MAX - 5) + " ann.canary@example.com",
    ],
)
def test_an_address_in_a_text_is_hashed(text: str) -> None:
    line = note(reason=text)

    assert "canary" not in line["reason"]


def test_a_hostile_text_is_searched_in_linear_time() -> None:
    line = note(reason="a" * 2_000_000 + " @ " + "a@" * 1000)

    assert len(line["reason"]) == TEXT_MAX + 1


@pytest.mark.parametrize(
    "name",
    ["password", "secret", "token", "authorization", "api_key", "body", "text", "html", "subject"],
)
def test_what_smells_of_a_secret_is_masked(name: str) -> None:
    names = (name, f"smtp_{name}", name.upper())

    line = note(tokens=3, **dict.fromkeys(names, "canary"))

    assert [line[each] for each in names] == ["***"] * 3
    assert line["tokens"] == 3


def test_what_is_inside_of_a_fact_is_masked_as_well() -> None:
    line = note(
        settings={"host": "mx.example", "login": {"user": "u", "password": "canary"}},
        passed=[{"recipient": "canary@example.com"}, ("canary@example.com", 1)],
    )

    assert "canary" not in json.dumps(line)
    assert line["settings"] == {"host": "mx.example", "login": {"user": "u", "password": "***"}}
    assert line["passed"][1] == [hash_recipient("canary@example.com"), 1]


def test_a_long_text_is_cut() -> None:
    line = note(error="x" * (TEXT_MAX + 1))

    assert line["error"] == "x" * TEXT_MAX + "…"


@pytest.mark.parametrize("text", ["a\nb", "a\r\nb", "a\u2028b", "a\x1b[31mb", "a\x00b", "\ud800"])
def test_nothing_in_a_fact_starts_a_line_or_moves_a_terminal(text: str) -> None:
    out = io.StringIO()

    LogJournal(LogSettings(format="json"), out).note("some.event", error=text)

    assert out.getvalue().count("\n") == 1
    assert out.getvalue().rstrip("\n").isprintable()
    assert out.getvalue().isascii()


def test_what_json_does_not_know_is_written_all_the_same() -> None:
    line = note(error=ValueError("no"), path=object)

    assert line["error"] == "ValueError('no')"


@pytest.fixture
def _root_logger() -> Iterator[None]:
    root = logging.getLogger()
    before = root.level, list(root.handlers)
    yield
    root.setLevel(before[0])
    root.handlers[:] = before[1]


@pytest.mark.usefixtures("_root_logger")
def test_warnings_of_libraries_become_notes() -> None:
    out = io.StringIO()
    forward_library_logs(LogJournal(LogSettings(format="json"), out))
    library = logging.getLogger("some.library")

    library.info("not this")
    library.warning("%s of %s", "this", "canary@example.com")
    library.critical("and this")

    first, second = map(json.loads, out.getvalue().splitlines())
    assert (first["event"], first["level"]) == ("library.some.library", "warning")
    assert first["message"] == f"this of {hash_recipient('canary@example.com')}"
    assert (second["level"], second["message"]) == ("error", "and this")


CANARIES = (
    *("canary-to", "canary-cc", "canary-bcc", "canary-from", "canary-subject", "canary-text"),
    *("canary-html", "canary-file", "canary-key", "canary-password", "canary-name"),
)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["json", "console"])
async def test_a_whole_gateway_at_level_debug_tells_nobodys_secrets(
    form: str, autojump_clock: MockClock
) -> None:
    out = io.StringIO()
    journal = LogJournal(LogSettings.model_validate({"level": "debug", "format": form}), out)
    plan = CrashPlan(spool__commit=1, registry__submit=1, provider__sent=1)
    ports = dataclasses.replace(make_ports(plan), journal=journal)
    unknown = Reason("<canary-to@example.com>: canary-cc@example.com unknown", 550)
    relay = {
        "kind": "smtp",
        "host": "127.0.0.1",
        "port": 1,
        "tls": "none",
        "username": "canary-name",
        "password": "canary-password",
    }
    config = make_config(
        {"relay": relay, "primary": simulated(), "secondary": simulated()},
        streams={"mail": {"route": ["primary", "secondary", "relay"], "uncertain_wait_s": 5}},
    )
    with open_store() as store:
        async with running(config, store, ports) as gateway:
            provider(gateway, "primary").behaviour.script.extend(
                [
                    Rejected(Scope.MESSAGE, unknown),
                    Deferred(Scope.PROVIDER, unknown),
                    Uncertain(Phase.FINAL, unknown),
                    Accepted("1", {"canary-to@example.com": Rejected(Scope.RECIPIENT, unknown)}),
                ]
                * 3
            )
            provider(gateway, "secondary").behaviour.script.extend(
                [Deferred(Scope.PROVIDER, unknown)] * 12
            )
            accepted = 0
            while accepted < 8:
                accepted += await submit_canaries(gateway, str(accepted))
            with pytest.raises(SubmissionRejectedError):
                await gateway.door.submit(letter(to=(Address("canary-to@@example.com"),)))
            await trio.sleep(900)
            assert await is_settled(gateway, accepted)

    lines = out.getvalue()
    assert [canary for canary in CANARIES if canary in lines] == []
    for event in ("message.accepted", "attempt.done", "actor.crashed", "uncertain.settled"):
        assert event in lines


DAY = 10_000
"""Messages of a day's log."""
BATCH = 1000


@pytest.mark.slow
@pytest.mark.timeout(180)
async def test_a_days_worth_of_log_lines_tells_nobodys_secrets(autojump_clock: MockClock) -> None:
    out = io.StringIO()
    journal = LogJournal(LogSettings(level="debug", format="json"), out)
    ports = dataclasses.replace(make_ports(), journal=journal)
    flaky = simulated(error_rate=0.2, concurrency_max=64)
    with open_store() as store:
        async with running(make_config({"a": flaky, "b": flaky}), store, ports) as gateway:
            for start in range(0, DAY, BATCH):
                numbers = range(start, start + BATCH)
                await gateway.door.submit_many([canary_letter(str(n)) for n in numbers])
            await wait_for_states(gateway, sent=3 * DAY)

    lines = out.getvalue()
    assert lines.count("\n") > 2 * DAY
    assert [canary for canary in CANARIES if canary in lines] == []


def canary_letter(name: str) -> Submission:
    """Return a letter full of canaries."""
    fields: dict[str, Any] = {
        "sender": Address("canary-from@example.com", "canary-name"),
        "to": (Address("canary-to@example.com", "canary-name"),),
        "cc": (Address("canary-cc@example.com"),),
        "bcc": (Address("canary-bcc@example.com"),),
        "subject": "canary-subject",
        "text": "canary-text",
        "html": "<p>canary-html</p>",
        "attachments": (Attachment("canary-file.txt", b"canary-file"),),
        "key": f"canary-key-{name}",
    }
    return letter(name, **fields)


async def submit_canaries(gateway: Any, name: str) -> int:
    """Submit a letter full of canaries; 0 when an actor crashed over it."""
    try:
        await gateway.door.submit(canary_letter(name))
    except OverloadedError:
        return 0
    return 1


async def is_settled(gateway: Any, count: int) -> bool:
    """Say whether nothing is on its way any more."""
    found = [await status(gateway, str(n)) for n in range(count)]
    pending = {"ready", "leased", "sending", "uncertain", "deferred"}
    return not any(d.state.value in pending for each in found for d in each.deliveries)


def test_no_fact_of_ours_has_a_name_that_the_log_masks() -> None:
    package = Path(mailactors.__file__).parent
    named = {
        f"{path.name}: {keyword.arg}"
        for path in package.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("note")
        for keyword in node.keywords
        if keyword.arg is not None and MASKED.fullmatch(keyword.arg)
    }

    assert set() == named


@pytest.mark.parametrize(
    ("no_color", "expected"), [(None, True), ("", True), ("1", False), ("0", False)]
)
def test_no_color_holds_for_the_log(
    no_color: str | None, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    if no_color is not None:
        monkeypatch.setenv("NO_COLOR", no_color)
    out = io.StringIO()
    monkeypatch.setattr(out, "isatty", lambda: True)

    LogJournal(LogSettings(), out).note("started")

    assert ("\x1b[" in out.getvalue()) == expected


def test_an_attempts_line_has_its_recipients_as_tokens() -> None:
    said = masked("recipients", ["bob@example.com", "Bob@example.com"])

    assert said == [hash_recipient("bob@example.com"), hash_recipient("Bob@example.com")]
