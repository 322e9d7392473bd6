"""Scenario files: what is wrong is named, with key, line and remedy."""

from __future__ import annotations

from pathlib import Path

import pytest

from mailactors.config import ConfigError
from mailactors.sim.scenario import (
    FILE_BYTES_MAX,
    ScenarioError,
    gateway_config,
    horizon_s,
    load_scenario,
    parse_scenario,
)

GOOD = """
story = "a test"
duration_s = 10
[traffic]
rate_per_s = 5
[providers.primary]
faults = [{ at_s = 1, for_s = 1, kind = "refuse" }]
[providers.secondary]
"""


def problems(text: str) -> str:
    with pytest.raises(ScenarioError) as caught:
        parse_scenario("a.toml", text)
    return str(caught.value)


def test_good_file_is_read() -> None:
    scenario = parse_scenario("a.toml", GOOD)

    assert 2.0 == scenario.last_fault_end_s
    assert ["primary", "secondary"] == list(scenario.providers)


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        ("duration_s", "duratoin_s", "duratoin_s (line 3): there is no such key; did you mean"),
        ("rate_per_s = 5", "rate_pers = 5", "traffic.rate_pers (line 5): there is no such key"),
        ("at_s = 1", "at = 1", "providers.primary.faults.0.at (line 7): there is no such key"),
        ("at_s = 1", "at_s = -1", "providers.primary.faults.0.at_s (line 7): Input should be"),
        ("for_s = 1", "for_s = 0", "providers.primary.faults.0.for_s (line 7): Input should be"),
        ('"refuse"', '"refuses"', "no fault kind 'refuses'; did you mean 'refuse'?"),
        (', kind = "refuse"', "", "has no kind; it is one of refuse, errors"),
        ("duration_s = 10", "", "duration_s: Field required"),
        ("duration_s = 10", "duration_s = nan", "duration_s (line 3): Input should be"),
        ("duration_s = 10", "duration_s = 10\nhorizon_s = 5", "ends before the traffic does"),
        ("story =", "story", "is not TOML"),
        ("[providers.primary]", "[providers.primary]\nlatency_s = { mean = 1 }", "latency_s.mean"),
        ('"refuse"', '"refuse", providers = ["x"]', "belongs to [[faults]] only"),
    ],
)
def test_fault_of_a_file_is_named(before: str, after: str, words: str) -> None:
    told = problems(GOOD.replace(before, after, 1))

    assert told.startswith("a.toml:")
    assert words in told


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ("[expect]\npeak_attempts_per_s = { primari = 3 }", "did you mean 'primary'?"),
        ('[[faults]]\nat_s=1\nfor_s=1\nkind="refuse"', "faults.0.providers (line 9): is missing"),
        (
            '[[faults]]\nat_s=1\nfor_s=1\nkind="refuse"\nproviders=["second"]',
            "no provider 'second' in this file; did you mean 'secondary'?",
        ),
        ("[expect]\ndelivered_min = 2", "expect.delivered_min (line"),
        ("[expect.within]\np98_s = 2", "expect.within.p98_s (line 10): there is no such key; did"),
    ],
)
def test_names_must_exist(more: str, words: str) -> None:
    assert words in problems(GOOD + more)


def test_bursts_may_not_overlap() -> None:
    burst = "{ at_s = 1, for_s = 5, rate_per_s = 9 }"

    told = problems(GOOD.replace("rate_per_s = 5", f"rate_per_s = 5\nbursts = [{burst}, {burst}]"))

    assert "traffic.bursts (line 6): those at 1 and 1 s overlap" in told


def test_file_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "large.toml"
    path.write_bytes(b"#" * (FILE_BYTES_MAX + 1))

    with pytest.raises(ScenarioError, match="is larger than 1,000,000 bytes"):
        load_scenario(str(path))


def test_file_that_is_no_text_or_not_there(tmp_path: Path) -> None:
    path = tmp_path / "binary.toml"
    path.write_bytes(b"\xff\xfe\x00")

    with pytest.raises(ScenarioError, match="is not TOML"):
        load_scenario(str(path))
    with pytest.raises(ScenarioError, match="cannot be read"):
        load_scenario(str(tmp_path / "none.toml"))


def test_overrides_are_those_of_the_gateway() -> None:
    scenario = parse_scenario("a.toml", GOOD + "[config.streams.bulk]\nexpires_after_s = 5")

    config = gateway_config("a.toml", scenario, None)

    assert 5 == config.streams["bulk"].expires_after_s
    assert ":memory:" == config.service.spool
    assert ("primary", "secondary") == config.route("bulk")
    assert 10 + 120 < horizon_s(scenario, config)


def test_override_that_does_not_exist() -> None:
    scenario = parse_scenario("a.toml", GOOD + "[config.streams.bulk]\nexpires = 5")

    with pytest.raises(ScenarioError, match=r"config\.streams\.bulk\.expires: there is no such"):
        gateway_config("a.toml", scenario, None)


def test_stream_that_does_not_exist() -> None:
    scenario = parse_scenario("a.toml", GOOD.replace("[tr", "[traffic.streams]\nbulky=1\n[tr"))

    with pytest.raises(ScenarioError, match=r"traffic\.streams\.bulky: there is no such stream"):
        gateway_config("a.toml", scenario, None)


def test_providers_of_scenario_and_configuration_must_match(tmp_path: Path) -> None:
    path = tmp_path / "gateway.toml"
    path.write_text(
        '[providers.primary]\nkind = "simulated"\n[providers.backup]\nkind = "simulated"\n'
    )

    with pytest.raises(ConfigError) as caught:
        gateway_config("a.toml", parse_scenario("a.toml", GOOD), str(path))

    assert "providers.backup: is missing" in str(caught.value)
    assert "providers.secondary: the gateway's configuration has no such" in str(caught.value)
