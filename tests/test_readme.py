"""What the README says that the code decides: defaults, rules, and the names of keys."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pydantic
import pytest

from mailactors.client.calls import DEFAULT_URL
from mailactors.config.tree import (
    Config,
    IdempotencySettings,
    RetentionSettings,
    ServiceSettings,
    SimulatedProviderSettings,
    SmtpProviderSettings,
    StreamSettings,
)
from mailactors.dispatch import breaker, domains, lane, retry, waits
from mailactors.dispatch.breaker_settings import JITTER, BreakerSettings
from mailactors.runtime.supervisor import ACTOR_RESTARTS
from mailactors.spool.port.upkeep import CRASHES_MAX

README = (Path(__file__).parent.parent / "README.md").read_text()
RULES = README[README.index("## The rules that decide") : README.index("## Rehearse")]


def row(table: str) -> str:
    """Return the row of a table of the configuration."""
    (found,) = re.findall(rf"^\| `{re.escape(table)}` \|.*$", README, re.MULTILINE)
    return str(found)


def said(value: object) -> str | None:
    """Return a default as a row says it; None: in words."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return f"{value:g}" if value < 1000 else f"{value:.0f}"
    return f'"{value}"' if isinstance(value, str) else None


@pytest.mark.parametrize(
    ("table", "settings"),
    [
        ("[service]", ServiceSettings),
        ("[streams.X]", StreamSettings),
        ("[retention]", RetentionSettings),
        ("[idempotency]", IdempotencySettings),
        ("breaker", BreakerSettings),
        ("smtp", SmtpProviderSettings),
        ("simulated", SimulatedProviderSettings),
    ],
)
def test_the_tables_have_each_key_with_its_default(
    table: str, settings: type[pydantic.BaseModel]
) -> None:
    of_any_provider = {"kind", "concurrency_max", "quota", "breaker"}
    line, missing = row(table), []
    for name, field in settings.model_fields.items():
        if name in of_any_provider and table in {"smtp", "simulated"}:
            continue
        value: Any = field.get_default(call_default_factory=True)
        default = said(value)
        has_one = default is not None and f"`{name}` = " in line
        wanted = f"`{name}` = {default}" if has_one else f"`{name}`"
        if wanted not in line:
            missing.append(wanted)

    assert [] == missing


@pytest.mark.parametrize(
    "words",
    [
        f"{breaker.FAILURES_IN_A_ROW_MAX} failures in a row",
        f"none of its last {breaker.DEAD_IN_A_ROW}",
        f"disabled for {breaker.DISABLED_S / 60:.0f} minutes ± {JITTER:.0%}".replace("%", " %"),
        f"every {lane.PANIC_INTERVAL_S * 1000:.0f} ms at most, {lane.PANIC_IN_FLIGHT_MAX} at a",
        f"up to {retry.THROTTLES_MAX - 1} times in a row",
        f"at least {retry.RECIPIENT_WAIT_MIN_S:.0f} s",
        f"then up to {retry.TAIL_BASE_S:.0f} s, {2 * retry.TAIL_BASE_S:.0f} s, …"
        f" {retry.TAIL_CAP_S:.0f} s",
        f"has deferred {domains.DEFERRED_IN_A_ROW} times in a row",
        f"died {CRASHES_MAX} times during a message",
        f"more than {ACTOR_RESTARTS.count_max} times in {ACTOR_RESTARTS.within_s:.0f} s",
        "the next round after 1 s, "
        + ", ".join(f"{each.delay_s:.0f} to {each.wait_max_s:.0f} s" for each in retry.TABLE[1:]),
    ],
)
def test_the_rules_have_the_numbers_of_the_code(words: str) -> None:
    assert words in RULES
    assert (lane.PANIC_DEAD_INTERVAL_S, domains.ASK_EVERY_S, waits.RETRY_AFTER_MAX_S) == (
        60.0,
        1.0,
        3600.0,
    )


def test_the_port_is_one() -> None:
    listen = Config().service.listen

    assert f"http://{listen}" == DEFAULT_URL
    assert {listen.rpartition(":")[2]} == set(re.findall(r"127\.0\.0\.1:(\d+)", README))


def test_the_first_screen_says_what_it_is_for_and_what_it_is_not() -> None:
    screen = README.splitlines()[:20]

    assert any(line.startswith("**What it is for**") for line in screen)
    assert any(line.startswith("**What it is not yet**") for line in screen)


def test_files_that_are_named_are_there() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", README)
    scenarios = re.findall(r"scenarios/[\w-]+\.toml", README)

    assert links
    assert scenarios
    root = Path(__file__).parent.parent
    assert [] == [name for name in (*links, *scenarios) if not (root / name).exists()]
