"""Scenario files: what is wrong is named, with key, line and remedy."""

from __future__ import annotations

import copy
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from mailactors.config import ConfigError, SmtpProviderSettings
from mailactors.sim.scenario.faults import KINDS, Later, Lie
from mailactors.sim.scenario.file import (
    FILE_BYTES_MAX,
    Scenario,
    ScenarioError,
    gateway_config,
    horizon_s,
    load_scenario,
    parse_scenario,
    scenario_schema,
)
from mailactors.sim.scenario.incidents import GATEWAY_KINDS
from tests.sim.makers import LIBRARY

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


def test_only_the_first_of_many_errors_are_reported() -> None:
    many = ", ".join(['{ at_s = -1, for_s = 1, kind = "refuse" }'] * 2_000)

    found = problems(GOOD.replace('{ at_s = 1, for_s = 1, kind = "refuse" }', many))

    assert found.count("at_s") == 20
    assert "and 1,980 more" in found


def test_good_file_is_read() -> None:
    scenario = parse_scenario("a.toml", GOOD)

    assert 2.0 == max(scenario.fault_ends_s)
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
        ("duration_s = 10", "", "duration_s: is missing"),
        ("duration_s = 10", "duration_s = nan", "duration_s (line 3): Input should be"),
        ("duration_s = 10", "duration_s = 10\nhorizon_s = 5", "ends before the traffic does"),
        ("story =", "story", "is not TOML"),
        ("[providers.primary]", "[providers.primary]\nlatency_s = { mean = 1 }", "latency_s.mean"),
        ('"refuse"', '"refuse", providers = ["x"]', "belongs to [[faults]] only"),
        ("duration_s = 10", 'duration_s = "10"', "duration_s (line 3): Input should be"),
        ("duration_s = 10", "duration_s = true", "duration_s (line 3): Input should be"),
        ("duration_s = 10", "duration_s = 1e300", "duration_s (line 3): Input should be"),
        ("rate_per_s = 5", "rate_per_s = 1e8", "rate_per_s (line 5): would be some 1,000,000,000"),
        ("rate_per_s = 5", f"a = {'[' * 5000}", "nested too deeply"),
        ("rate_per_s = 5", f"rate_per_s = {'9' * 5000}", "is not TOML: "),
        (
            "rate_per_s = 5",
            'rate_per_s = 5\nrecipient_domains = { "localhost" = 1 }',
            "traffic.recipient_domains (line 6): no mail can go to 'localhost'",
        ),
        (
            "rate_per_s = 5",
            'rate_per_s = 5\nrecipient_domains = { "a.example" = 1e308 }',
            "traffic.recipient_domains.a.example (line 6): Input should be",
        ),
        (
            "rate_per_s = 5",
            'rate_per_s = 5\npoison = { count = 51, kind = "crash_actor" }',
            "traffic.poison.count (line 6): is more than all messages, some 50",
        ),
        ('kind = "refuse"', 'kind = "defer_domain", domain = "a.b"', "no mail goes to 'a.b'"),
        (
            "[providers.secondary]",
            '[[crashes]]\nat_s = 1\nwhat = "process"\nevery_s = 1e-6\n[providers.secondary]',
            "crashes.0.every_s (line 11): would be more than 100,000 crashes",
        ),
    ],
)
def test_fault_of_a_file_is_named(before: str, after: str, words: str) -> None:
    message = problems(GOOD.replace(before, after, 1))

    assert message.startswith("a.toml:")
    assert words in message


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ("[expect]\npeak_attempts_per_s = { primari = 3 }", "did you mean 'primary'?"),
        (
            '[expect]\np99_s_by_domain = { "exampel.com" = 3 }',
            "no mail goes to 'exampel.com'; did you mean 'example.com'?",
        ),
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

    message = problems(
        GOOD.replace("rate_per_s = 5", f"rate_per_s = 5\nbursts = [{burst}, {burst}]")
    )

    assert "traffic.bursts (line 6): those at 1 and 1 s overlap" in message


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


FULL = """
story = "everything that a file may say"
duration_s = 3600
[traffic]
rate_per_s = 20
diurnal = { low_per_s = 5 }
size_bytes = { median = 5000 }
poison = { count = 10, kind = "crash_actor" }
[providers.primary]
idempotency_window_s = 86400
search_lag_s = 60
delivery_events = { delay_median_s = 5 }
faults = [
  { at_s = 1, kind = "auth", until = "reload" },
  { at_s = 1, for_s = 3, kind = "lie", rate = 0.3, then = "drop" },
  { at_s = 1, for_s = 3, kind = "lie", then = { delay_s = 7200 } },
]
[providers.secondary]
wire = "smtp"
[[faults]]
kind = "spool"
at_s = 5
for_s = 5
what = "enospc"
[[faults]]
kind = "clock"
at_s = 5
step_s = -3600
[[faults]]
kind = "pause"
at_s = 5
for_s = 60
[[faults]]
kind = "reject"
providers = ["primary", "secondary"]
at_s = 100
for_s = 3000
rate = 0.1
scope = "recipient"
[[crashes]]
at_s = 900
what = "actor:breaker:primary"
every_s = 60
until_s = 1000
[[crashes]]
at_s = 900
what = "process:spool.commit"
[[operations]]
at_s = 3050
what = "reload"
[[operations]]
at_s = 3000
what = "cancel:2.5%"
[expect]
oracle_gap = { p99_max = 1.2 }
"""


def test_full_file_is_read() -> None:
    scenario = parse_scenario("a.toml", FULL)

    assert 3100.0 == max(scenario.fault_ends_s)
    assert 0.025 == scenario.operations[1].cancel_share
    assert ("spool", "clock", "pause", "reject") == tuple(each.kind for each in scenario.faults)
    assert "enospc" == scenario.spool_faults[0].what
    assert -3600 == scenario.clock_faults[0].step_s
    assert 60 == scenario.pauses[0].for_s
    assert ["auth", "lie", "lie", "reject"] == [
        fault.__class__.__name__.lower() for fault in scenario.timeline("primary")
    ]
    lie = scenario.timeline("primary")[2]
    assert isinstance(lie, Lie)
    assert Later(delay_s=7200) == lie.then
    assert [100.0] == [fault.at_s for fault in scenario.timeline("secondary")]


def test_what_waits_for_a_reload_ends_with_it() -> None:
    scenario = parse_scenario("a.toml", FULL)

    waiting = scenario.timeline("primary")[0]
    assert (1.0, 3050.0) == (waiting.at_s, waiting.end_s)


@pytest.mark.parametrize(
    ("more", "end_s"),
    [
        ("at_s = 5", 5.0),
        ("at_s = 5\nevery_s = 2", 10.0),
        ("at_s = 5\nevery_s = 2\nuntil_s = 8", 8.0),
    ],
)
def test_last_fault_may_be_a_crash(more: str, end_s: float) -> None:
    text = GOOD + f'[[crashes]]\nwhat = "process"\n{more}'

    assert end_s == max(parse_scenario("a.toml", text).fault_ends_s, default=None)


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        ('"enospc"', '"enospace"', "faults.0.what (line 24): Input should be 'enospc'"),
        ('"spool"', '"spoool"', "faults.0 (line 21): there is no fault kind 'spoool'; did you"),
        ("step_s", "stp_s", "faults.1.stp_s (line 28): there is no such key; did you mean 'step_s"),
        ("step_s = -3600", "step_s = 1\ndrift_per_s = 1", "either step_s or drift_per_s"),
        ("step_s = -3600", "step_s = 1\nfor_s = 1", "for_s (line 29): does not go with step_s"),
        ("for_s = 60", 'for_s = 60\nnode = "B"', "faults.2.node (line 33): Input should"),
        ("breaker:primary", "braker:primary", "crashes.0.what (line 42): there is no actor"),
        ("breaker:primary", "breaker:primry", "no provider 'primry' in this file; did you mean"),
        ('"actor:breaker:primary"', '"node:B"', "'node:B' is none of"),
        ("spool.commit", "spool.comit", "crashes.1.what (line 47): there is no point 'spool.co"),
        ("every_s = 60\n", "", "until_s (line 43): is for a crash that is repeated"),
        ("until_s = 1000", "until_s = 900", "until_s (line 44): is not later than at_s"),
        ("{ delay_s = 7200 }", "{ delays = 7200 }", "then.delays (line 16): there is no such key"),
        ("{ delay_s = 7200 }", "{}", "faults.2.then (line 16): says either"),
        ('then = "drop"', 'the = "drop"', "faults.1.then (line 15): is missing"),
        ('"drop"', '"lose"', "faults.1.then (line 15): Input should be 'drop'"),
        (', until = "reload"', "", "faults.0.for_s (line 14): is missing; without it there"),
        ('until = "r', 'for_s = 3, until = "r', "for_s (line 14): does not go with until"),
        ('"reload"\n', '"pause:primary"\n', "waits for a reload, but no operation reloads"),
        ("at_s = 3050", "at_s = 1", "until (line 14): waits for a reload, but no operation"),
        ('"reload"\n', '"reloda"\n', "operations.0.what (line 50): 'reloda' is none of"),
        ('"reload"\n', '"pause:secundary"\n', "'secundary' in this file; did you mean"),
        ("2.5%", "101%", "at most 100%"),
        ("2.5%", "0%", "more than nothing"),
        ("at_s = 900\nwhat = \"pro", "at_s = -1\nwhat = \"pro", "crashes.1.at_s (line 46): Input"),
        ("duration_s = 3600", "duration_s = 600\nhorizon_s = 800", "0.at_s (line 42): is after"),
        ('"crash_actor"', '"crash"', "traffic.poison.kind (line 8): Input should be"),
        ("p99_max", "p99", "oracle_gap.p99 (line 55): there is no such key; did you mean 'p"),
        ("{ p99_max = 1.2 }", "{}", "asks nothing; it has p50_max"),
        ('"smtp"', '"smtp"\nsearch_lag_s = 0', "search_lag_s (line 20): there is none over SMTP"),
        ('"smtp"', '"smtp"\nidempotency_window_s = 1', "there is none over SMTP"),
        ("low_per_s = 5", "low_per_s = 21", "low_per_s (line 6): is higher than rate_per_s"),
        ("delay_median_s", "delay_s", "delivery_events.delay_median_s (line 12): is missing"),
        ("[[operations]]", "[[operation]]", "operation (line 48): there is no such key; did you"),
        ("= 20", "= 20\nbursts = [{ at_s = 3600, for_s = 1, rate_per_s = 1 }]",
         "traffic.bursts.0.at_s (line 6): begins after the traffic"),
        ('[[faults]]\nkind = "pause"\n', '[[faults]]\nkind = "pause"\nat_s = 64\nfor_s = 2\n'
         '[[faults]]\nkind = "pause"\n', "faults: pauses at 5 and 64 s overlap"),
    ],
)  # fmt: skip
def test_fault_of_a_full_file_is_named(before: str, after: str, words: str) -> None:
    assert before in FULL

    assert words in problems(FULL.replace(before, after, 1))


def test_all_faults_are_named_at_once() -> None:
    text = FULL.replace("breaker:primary", "breaker:primry").replace('"reload"\n', '"reset:x"\n')

    message = problems(text)

    assert "crashes.0.what" in message
    assert "operations.0.what" in message
    assert "until (line 14): waits for a reload" in message


def test_end_of_the_run_is_known_only_with_the_policy() -> None:
    text = GOOD + '[[crashes]]\nat_s = 40\nwhat = "process"\n'
    short = "\n".join(f"[config.streams.{name}]\nexpires_after_s = 5" for name in STREAMS)
    scenario = parse_scenario("a.toml", text + short)

    assert 10 + 300 + 5 + 120 == horizon_s(scenario, gateway_config("a.toml", scenario, None))
    wire = (text + short).replace("[providers.primary]", '[providers.primary]\nwire = "smtp"')
    smtp = parse_scenario("a.toml", wire)
    assert 10 + 300 + 5 + 900 == horizon_s(smtp, gateway_config("a.toml", smtp, None))
    late = parse_scenario("a.toml", (text + short).replace("at_s = 40", "at_s = 436"))
    with pytest.raises(
        ScenarioError, match=r"crashes\.0\.at_s: is after the end of the run, 435 s"
    ):
        gateway_config("a.toml", late, None)


STREAMS = ("transactional", "otp", "bulk")


def test_provider_on_an_smtp_wire_is_one_of_the_client(tmp_path: Path) -> None:
    path = tmp_path / "gateway.toml"
    path.write_text(
        '[service]\ndefault_from = "shop@example.com"\n'
        '[providers.primary]\nkind = "simulated"\nlatency_s = 9\nconcurrency_max = 7\n'
        '[providers.secondary]\nkind = "smtp"\nhost = "relay.example"\nidle_s = 9\n'
        'username = "u"\npassword = "p"\n'
    )
    wire = GOOD.replace("[providers.primary]", '[providers.primary]\nwire = "smtp"')
    scenario = parse_scenario("a.toml", wire + 'wire = "smtp"\n')

    config = gateway_config("a.toml", scenario, str(path))

    primary, secondary = config.providers["primary"], config.providers["secondary"]
    assert isinstance(primary, SmtpProviderSettings)
    assert isinstance(secondary, SmtpProviderSettings)
    assert (7, "primary.smtp.example", "none") == (
        primary.concurrency_max, primary.host, primary.tls
    )  # fmt: skip
    assert (9.0, None, "secondary.smtp.example") == (
        secondary.idle_s, secondary.password, secondary.host
    )  # fmt: skip


def test_schema_describes_every_key() -> None:
    schema = scenario_schema()
    tables = [("", schema), *schema["$defs"].items()]

    mute = [
        f"{name}.{key}"
        for name, table in tables
        for key, value in table.get("properties", {}).items()
        if "description" not in value and "description" not in resolved(value, schema)
    ]

    assert [] == mute
    jsonschema.Draft202012Validator.check_schema(schema)


def resolved(value: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    name = value.get("$ref", "").rpartition("/")[2]
    found: dict[str, Any] = schema["$defs"].get(name, {})
    return found


def test_schema_and_reader_agree() -> None:
    checker = jsonschema.Draft202012Validator(scenario_schema())
    good = [tomllib.loads(GOOD), tomllib.loads(FULL)]
    good += [tomllib.loads(path.read_text()) for path in sorted(LIBRARY.glob("*.toml"))]

    for raw in good:
        checker.validate(raw)
        Scenario.model_validate(raw)
    bad = copy.deepcopy(good[1])
    bad["providers"]["primary"]["faults"][0]["kind"] = "explode"
    assert not checker.is_valid(bad)


def test_example_of_the_reference_is_sound() -> None:
    text = (LIBRARY / "README.md").read_text()
    example = text.partition("```toml\n")[2].partition("```")[0]

    scenario = parse_scenario("README.md", example)

    gateway_config("README.md", scenario, None)
    assert "tls" == scenario.providers["primary"].faults[0].kind


def test_reference_names_every_kind() -> None:
    text = (LIBRARY / "README.md").read_text()

    for kind in (*KINDS, *GATEWAY_KINDS):
        assert f"| `{kind}`" in text, kind
