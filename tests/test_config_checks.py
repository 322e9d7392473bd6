"""What a configuration may get wrong beyond its keys, and that all of it is told at once."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import trustme

from mailactors.config import (
    Config,
    ConfigError,
    as_toml,
    check_files,
    effective,
    load_config,
    unused_providers,
)

SMTP = '[providers.p]\nkind = "smtp"\nhost = "mx.example"\n'
SIMULATED = '[providers.p]\nkind = "simulated"\n'


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.upper().startswith("MAILACTORS_"):
            monkeypatch.delenv(name)


def load(folder: Path, text: str, missing: list[str] | None = None) -> Config:
    file = folder / "mailactors.toml"
    file.write_text(text, encoding="utf-8")
    is_ours = "smtp" in text and "default_from" not in text
    given = {"default_from": "a@example.com"} if is_ours else {}
    return load_config(str(file), given, missing)


def problems(folder: Path, text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(folder, text)
    return caught.value.problems


# Types


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[service]\ndrain_s = true", "service.drain_s: is true; a number is wanted"),
        ("[service]\nper_minute = false", "service.per_minute: is false; a number is wanted"),
        ("[service]\ndrain_s = '20'", "service.drain_s: is a text in quotes; a number is wanted"),
        ("[streams.bulk]\nshare = true", "streams.bulk.share: is true; a number is wanted"),
        (SMTP + "port = true", "providers.p.port: is true; a number is wanted"),
        (SMTP + "port = '25'", "providers.p.port: is a text in quotes; a number is wanted"),
        (SMTP + "breaker = { probes = true }", "providers.p.breaker.probes: is true; a number is"),
        (SMTP + "quota = { per_s = true }", "providers.p.quota.per_s: is true; a number is wanted"),
        (SIMULATED + "own_envelope = 1", "providers.p.own_envelope: is a number; true or false is"),
        (SIMULATED + "own_envelope = 'yes'", "providers.p.own_envelope: is a text in quotes; true"),
        (SIMULATED + "look_up_lag_s = true", "providers.p.look_up_lag_s: is true; a number is"),
    ],
)
def test_a_value_of_another_type_is_not_converted(text: str, expected: str, tmp_path: Path) -> None:
    (problem,) = problems(tmp_path, text)

    assert problem.startswith(expected)


def test_a_variable_is_text_and_is_converted(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MAILACTORS_SERVICE__DRAIN_S", "3")

    assert load(tmp_path, "[service]\ndrain_s = true").service.drain_s == 3


def test_whole_numbers_are_numbers(tmp_path: Path) -> None:
    config = load(tmp_path, "[service]\ndrain_s = 3\n[idempotency]\nwindow_s = 1e5")

    assert (config.service.drain_s, config.idempotency.window_s) == (3.0, 100_000.0)


# Contradictions


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            SIMULATED + "breaker = { open_s = 90 }",
            "providers.p.breaker: open_s = 90 is more than open_cap_s = 60",
        ),
        (
            SIMULATED + "breaker = { open_cap_s = 2 }",
            "providers.p.breaker: open_s = 5 is more than open_cap_s = 2",
        ),
        (
            SIMULATED + "quota = { per_minute = 9, per_hour = 8 }",
            "providers.p.quota: per_minute = 9 is more than per_hour = 8",
        ),
        (
            SIMULATED + "quota = { per_hour = 9, per_day = 8 }",
            "providers.p.quota: per_hour = 9 is more than per_day = 8",
        ),
        (
            SIMULATED + "quota = { per_s = 9, per_minute = 8 }",
            "providers.p.quota: per_s = 9 is more than per_minute = 8",
        ),
        (
            SIMULATED + "quota = { burst = 3 }",
            "providers.p.quota: burst is of per_s, which is not given",
        ),
        (
            SIMULATED + "concurrency_max = 2",
            "providers.p: breaker.probes = 3 is more than concurrency_max = 2",
        ),
        (
            SMTP + "attempt_timeout_s = 20\ncommand_timeout_s = 10",
            "providers.p: connect_timeout_s = 30 is more than attempt_timeout_s = 20",
        ),
        (
            SMTP + "command_timeout_s = 400",
            "providers.p: command_timeout_s = 400 is more than attempt_timeout_s = 300",
        ),
        (
            SMTP + "tls = 'none'\nca_file = 'x.pem'",
            'providers.p: ca_file has no effect with tls = "none"',
        ),
        (
            SMTP + "port = 465",
            'providers.p: port = 465 speaks TLS from its first byte: tls = "implicit"',
        ),
        (
            "[retention]\nbodies_after_s = 99\nfinal_after_s = 9",
            "retention: bodies_after_s = 99 is more than final_after_s = 9",
        ),
        (
            "[idempotency]\nwindow_s = 9",
            "idempotency: fingerprint_window_s = 60 is more than window_s = 9",
        ),
        (
            "[streams.x]\nuncertain_wait_s = 9\nexpires_after_s = 8",
            "streams.x: uncertain_wait_s = 9 is more than expires_after_s = 8",
        ),
        (
            "[streams.x]\nspill_after_s = 9\nfailover = 'after_retries'",
            'streams.x: spill_after_s has no effect with failover = "after_retries"',
        ),
        ("[streams.x]\nroute = []", "streams.x.route: is empty; leave it out for all providers"),
        ("[service]\ntls_cert = 'x.pem'", "service: tls_cert and tls_key go together"),
    ],
)
def test_keys_that_contradict_each_other_are_a_fault(
    text: str, expected: str, tmp_path: Path
) -> None:
    assert problems(tmp_path, text) == [expected]


def test_defaults_contradict_nothing_by_themselves(tmp_path: Path) -> None:
    config = load(tmp_path, "[streams.x]\nexpires_after_s = 30\n[streams.otp]\n")

    assert config.streams["x"].uncertain_wait_s == 60.0


# All at once


def test_faults_of_every_kind_are_told_at_once(tmp_path: Path) -> None:
    text = """
    [service]
    lisen = "x"
    drain_s = true
    tls_cert = "x.pem"
    [log]
    level = "loud"
    [providers.p]
    kind = "smtp"
    port = 0
    username = "u"
    breaker = { open_s = 90 }
    [providers.q]
    kind = "smpt"
    [streams.a]
    route = ["p", "nobody"]
    [streams.b]
    route = ["p", "p", "elsewhere"]
    share = -1
    """

    assert sorted(problems(tmp_path, text)) == sorted(
        [
            "service.lisen: there is no such key; did you mean 'listen'?",
            "service.drain_s: is true; a number is wanted",
            "service: tls_cert and tls_key go together",
            "log.level: Input should be 'debug', 'info', 'warning' or 'error'",
            "providers.p.host: Field required",
            "providers.p.port: Input should be greater than or equal to 1",
            "providers.p.breaker: open_s = 90 is more than open_cap_s = 60",
            "providers.p.password: username and password go together; set the variable"
            " MAILACTORS_PROVIDERS__P__PASSWORD",
            "providers.q.kind: there is no kind 'smpt'; did you mean 'smtp'?",
            "streams.a.route: no provider 'nobody'",
            "streams.b.route: no provider 'elsewhere'",
            "streams.b.route: names a provider twice",
            "streams.b.share: Input should be greater than 0",
        ]
    )


def test_what_follows_from_another_fault_is_not_told(tmp_path: Path) -> None:
    text = (
        "[service]\ntls_cert = 5\ntls_key = 'k.pem'\n[providers.p]\nkind = 'smtp'\n"
        "[streams.x]\nroute = ['p']\n"
    )

    found = problems(tmp_path, text)

    assert sorted(found) == [
        "providers.p.host: Field required",
        "service.tls_cert: Input should be a valid string",
    ]


@pytest.mark.parametrize(
    "text",
    ["service = 3\nlog = 4", "providers = 'p'\nstreams = 3", "[providers]\np = 3\nq = 4", "x = 1"],
)
def test_whatever_is_wrong_the_checks_come_to_an_end(text: str, tmp_path: Path) -> None:
    assert len(problems(tmp_path, text)) == (1 if text == "x = 1" else 2)


# Secrets


def test_a_missing_secret_is_a_fault_that_names_its_variable(tmp_path: Path) -> None:
    (problem,) = problems(tmp_path, SMTP + "username = 'u'")

    assert problem.startswith("providers.p.password: ")
    assert problem.endswith("set the variable MAILACTORS_PROVIDERS__P__PASSWORD")


def test_a_check_goes_on_without_secrets_and_names_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MAILACTORS_PROVIDERS__Q__PASSWORD", "there")
    missing: list[str] = []
    text = SMTP + 'username = "u"\n' + SMTP.replace(".p]", ".q]") + 'username = "v"\n'

    load(tmp_path, text, missing)

    assert missing == [
        "providers.p.password: username and password go together; set the variable"
        " MAILACTORS_PROVIDERS__P__PASSWORD"
    ]


# Files, and who uses what


def test_files_and_folders_are_looked_for(tmp_path: Path) -> None:
    text = f"""
    [service]
    spool = "{tmp_path}/none/spool.db"
    tls_cert = "{tmp_path}/none.pem"
    tls_key = "{tmp_path}/key.pem"
    [providers.p]
    kind = "smtp"
    host = "mx.example"
    username = "u"
    ca_file = "{tmp_path}/empty.pem"
    token_command = ["no-such-program-here"]
    """
    (tmp_path / "key.pem").write_text("key")
    (tmp_path / "empty.pem").write_text("")

    found = check_files(load(tmp_path, text))

    assert [line.partition(":")[0] for line in found] == [
        "service.spool",
        "service.tls_cert",
        "providers.p.ca_file",
        "providers.p.token_command",
    ]
    assert found[0] == f"service.spool: there is no folder {tmp_path}/none"
    assert found[1].endswith("none.pem: No such file or directory")


def test_files_that_are_there_are_no_fault(tmp_path: Path) -> None:
    authority = trustme.CA()
    authority.issue_cert("gateway.example").private_key_and_cert_chain_pem.write_to_path(
        str(tmp_path / "both.pem")
    )
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    both = f"'{tmp_path}/both.pem'"
    text = f"[service]\nspool = '{tmp_path}/s.db'\ntls_cert = {both}\ntls_key = {both}\n"

    assert check_files(load(tmp_path, text + SMTP + f"ca_file = '{tmp_path}/ca.pem'\n")) == []


def test_a_folder_is_no_spool(tmp_path: Path) -> None:
    (found,) = check_files(load(tmp_path, f"[service]\nspool = '{tmp_path}'"))

    assert found == f"service.spool: {tmp_path} is a folder; name a file"


def test_a_provider_that_nobody_uses_is_noted(tmp_path: Path) -> None:
    text = SIMULATED + SIMULATED.replace(".p]", ".q]") + "[streams.x]\nroute = ['q']\n"

    assert unused_providers(load(tmp_path, text)) == ["providers.p: no stream's route names it"]
    assert unused_providers(load(tmp_path, text + "[streams.y]\n")) == []


# What is printed


def test_what_is_printed_is_toml_that_means_the_same(tmp_path: Path) -> None:
    text = SMTP + (
        'username = "u"\npassword = "canary"\nquota = { per_s = 2.5 }\n'
        '[providers."odd name"]\nkind = "simulated"\n'
        "[streams.slow]\nfailover = 'after_retries'\n[streams.otp]\n"
    )
    config = load(tmp_path, text)

    printed = as_toml(config)
    again = load(tmp_path, printed.replace('username = "u"', 'username = "u"\npassword = "canary"'))

    assert "canary" not in printed
    assert "# providers.p.password: not shown" in printed
    assert "#   with 'p': no evidence can come; then resend at once" in printed
    before, after = effective(config), effective(again)
    for name, stream in before["streams"].items():
        stream["route"] = list(config.route(name))
    assert before == after


def test_the_defaults_are_printed_and_read_again(tmp_path: Path) -> None:
    assert effective(load(tmp_path, as_toml(load_config(None))))["providers"]


@pytest.mark.parametrize("kind", ["smtp", "simulated"])
def test_what_a_relay_sends_has_a_sender_of_its_own(kind: str, tmp_path: Path) -> None:
    file = tmp_path / "mailactors.toml"
    file.write_text(SMTP if kind == "smtp" else SIMULATED)
    if kind == "simulated":
        load_config(str(file))
        return

    with pytest.raises(ConfigError) as caught:
        load_config(str(file))

    assert caught.value.problems == [
        "service.default_from: is needed, for providers.p sends: the sender of what names none"
    ]


def test_a_sender_from_the_environment_will_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MAILACTORS_SERVICE__DEFAULT_FROM", "shop@example.com")
    file = tmp_path / "mailactors.toml"
    file.write_text(SMTP)

    assert load_config(str(file)).service.default_from == "shop@example.com"
