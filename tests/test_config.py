"""The configuration: what wins over what, and errors that name the key and the nearest one."""

import os
from pathlib import Path

import pytest

from mailactors.config import (
    Config,
    ConfigError,
    SmtpProviderSettings,
    effective,
    load_config,
    stray_variables,
)
from mailactors.dispatch.retry import Failover, Preference

THREE_RELAYS = """
[service]
listen = "0.0.0.0:8625"
insecure = true
names = ["Mail.example.com", "gateway:8443"]
spool = "/var/lib/mailactors/spool.db"
default_from = "shop@example.com"
drain_s = 20

[log]
level = "warning"
format = "json"

[idempotency]
window_s = 172800
fingerprint_window_s = 30

[providers.postfix]
kind = "smtp"
host = "127.0.0.1"
port = 25
tls = "none"

[providers.ses]
kind = "smtp"
host = "email-smtp.eu-west-1.amazonaws.com"
username = "AKIA"
password = "a made-up secret"
concurrency_max = 8
quota = { per_s = 14, per_day = 50000 }

[providers.postmark]
kind = "smtp"
host = "smtp.postmarkapp.com"
tls = "implicit"
username = "token"
password = "another made-up secret"
breaker = { open_s = 10, probes = 1 }

[streams.transactional]
route = ["ses", "postmark", "postfix"]
share = 4

[streams.invoices]
route = ["postmark"]
failover = "after_retries"
on_uncertain = "hold"
expires_after_s = 86400
"""


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.upper().startswith("MAILACTORS_"):
            monkeypatch.delenv(name)


def load(folder: Path, text: str, **service: str) -> Config:
    file = folder / "mailactors.toml"
    file.write_text(text, encoding="utf-8")
    return load_config(str(file), service)


def problems(folder: Path, text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(folder, text, **({"default_from": "a@example.com"} if "smtp" in text else {}))
    assert str(caught.value).splitlines() == [
        f"{folder / 'mailactors.toml'}:",
        *(f"  {problem}" for problem in caught.value.problems),
    ]
    return caught.value.problems


def test_without_a_file_three_simulated_providers_serve_on_loopback() -> None:
    config = load_config(None)

    assert config.service.listen == "127.0.0.1:8625"
    assert config.service.spool == "mailactors.db"
    assert {name: each.kind for name, each in config.providers.items()} == {
        "primary": "simulated",
        "secondary": "simulated",
        "tertiary": "simulated",
    }
    assert list(config.streams) == ["transactional", "otp", "bulk"]
    assert {config.route(name) for name in config.streams} == {("primary", "secondary", "tertiary")}


def test_three_relays_are_read_in_order(tmp_path: Path) -> None:
    config = load(tmp_path, THREE_RELAYS)

    ses, postmark = config.providers["ses"], config.providers["postmark"]
    assert isinstance(ses, SmtpProviderSettings)
    assert isinstance(postmark, SmtpProviderSettings)
    assert list(config.providers) == ["postfix", "ses", "postmark"]
    assert (ses.port, ses.tls, ses.concurrency_max) == (587, "starttls", 8)
    assert (ses.quota.per_s, ses.quota.per_day, ses.quota.per_hour) == (14.0, 50_000, None)
    assert (postmark.port, postmark.breaker.open_s, postmark.breaker.probes) == (465, 10.0, 1)
    assert config.route("transactional") == ("ses", "postmark", "postfix")
    assert config.streams["invoices"].failover is Failover.AFTER_RETRIES
    assert config.streams["invoices"].on_uncertain is Preference.HOLD
    assert config.service.names == ("mail.example.com", "gateway:8443")
    assert (config.service.drain_s, config.log.level) == (20.0, "warning")
    assert (config.idempotency.window_s, config.idempotency.fingerprint_window_s) == (172_800, 30)


@pytest.mark.parametrize("listen", ["127.0.0.1:0", "127.8.9.1:0", "localhost:0", "[::1]:0"])
def test_loopback_needs_no_leave(listen: str, tmp_path: Path) -> None:
    assert load(tmp_path, f"[service]\nlisten = '{listen}'").service.listen == listen


SIMULATED = '[providers.p]\nkind = "simulated"\n'
SMTP = '[providers.p]\nkind = "smtp"\nhost = "mx.example"\n'


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # a key that does not exist, at every level, with the nearest one that does
        ("[servce]\nx = 1", "servce: there is no such key; did you mean 'service'?"),
        ("[service]\nlisen = '1'", "service.lisen: there is no such key; did you mean 'listen'?"),
        ("[log]\nlevl = '1'", "log.levl: there is no such key; did you mean 'level'?"),
        (
            "[idempotency]\nwindow = 1",
            "idempotency.window: there is no such key; did you mean 'window_s'?",
        ),
        (
            "[streams.bulk]\nexpires = 1",
            "streams.bulk.expires: there is no such key; did you mean 'expires_after_s'?",
        ),
        (
            "[streams.service]\nshre = 1",  # named like a table
            "streams.service.shre: there is no such key; did you mean 'share'?",
        ),
        (
            "[streams.share]\nshre = 1",  # named like a key of its own
            "streams.share.shre: there is no such key; did you mean 'share'?",
        ),
        (
            SIMULATED + "latency = 1",
            "providers.p.latency: there is no such key; did you mean 'latency_s'?",
        ),
        (SMTP + "hots = 1", "providers.p.hots: there is no such key; did you mean 'host'?"),
        (
            SIMULATED + "quota = { per_sec = 1 }",
            "providers.p.quota.per_sec: there is no such key; did you mean 'per_s'?",
        ),
        (
            SMTP + "breaker = { probe = 1 }",
            "providers.p.breaker.probe: there is no such key; did you mean 'probes'?",
        ),
        ("[log]\nxyz = 'else'", "log.xyz: there is no such key"),
        # kinds
        (
            "[providers.p]\nkind = 'smpt'",
            "providers.p.kind: there is no kind 'smpt'; did you mean 'smtp'?",
        ),
        (
            "[providers.p]\nhost = 'mx.example'",
            "providers.p.kind: is missing; it is one of simulated, smtp",
        ),
        # routes
        (
            "[streams.bulk]\nroute = ['primry']",
            "streams.bulk.route: no provider 'primry'; did you mean 'primary'?",
        ),
        (
            "[streams.bulk]\nroute = ['primary', 'primary']",
            "streams.bulk.route: names a provider twice",
        ),
        # values
        ("service = 3", "service: Input should be a valid dictionary or instance of"),
        ("providers = 'p'", "providers: Input should be a valid dictionary"),
        ("[providers]\np = 3", "providers.p: Input should be a valid dictionary"),
        ("[providers]", "providers: Dictionary should have at least 1 item"),
        ("[streams]", "streams: Dictionary should have at least 1 item"),
        ("[idempotency]\nwindow_s = 'long'", "idempotency.window_s: Input should be a valid num"),
        ("[service]\ndrain_s = -1", "service.drain_s: Input should be greater than or equal to 0"),
        ("[service]\nlisten = '8625'", "service.listen: is HOST:PORT, such as 127.0.0.1:8625"),
        ("[service]\nlisten = 'localhost:99999'", "service.listen: is HOST:PORT, such as"),
        ("[service]\nlisten = '::1:8625'", "service.listen: is HOST:PORT, such as"),
        ("[service]\nlisten = '0.0.0.0:0'", "service.listen: 0.0.0.0:0 is open to other machines"),
        ("[service]\nlisten = '[::]:0'", "service.listen: [::]:0 is open to other machines"),
        ("[service]\nlisten = '10.1.2.3:0'", "service.listen: 10.1.2.3:0 is open to other mach"),
        ("[service]\nlisten = 'host.example:0'", "service.listen: host.example:0 is open to oth"),
        ("[service]\nnames = ['http://a.example']", "service.names: 'http://a.example' is no HOST"),
        ("[service]\nnames = ['*']", "service.names: '*' is no HOST or HOST:PORT"),
        ("[service]\nlisten = 8625", "service.listen: Input should be a valid string"),
        ("[service]\ndefault_from = 'shop'", "service.default_from: An email address must have"),
        ("[log]\nlevel = 'loud'", "log.level: Input should be 'debug', 'info', 'warning' or"),
        ("[streams.bulk]\nfailover = 'maybe'", "streams.bulk.failover: Input should be"),
        (SIMULATED + "error_rate = 2", "providers.p.error_rate: Input should be less than or eq"),
        (SMTP + "username = 'u'", "providers.p.password: username and password go together"),
        (
            SMTP + "tls = 'none'\nusername = 'u'\npassword = 'p'",
            "providers.p: credentials over tls",
        ),
        ("[providers.p]\nkind = 'smtp'", "providers.p.host: Field required"),
    ],
)
def test_an_error_names_its_key_and_the_nearest_that_exists(
    text: str, expected: str, tmp_path: Path
) -> None:
    (problem,) = problems(tmp_path, text)

    assert problem.startswith(expected)
    if "did you mean" not in expected:
        assert "did you mean" not in problem


def test_all_errors_are_reported_at_once(tmp_path: Path) -> None:
    text = "[service]\nlisen = '1'\n[log]\nlevel = 'loud'\n[providers.p]\nkind = 'smtp'\nport = 0"

    found = problems(tmp_path, text)

    keys = [problem.partition(":")[0] for problem in found]
    assert keys == ["service.lisen", "log.level", "providers.p.host", "providers.p.port"]


def test_an_error_never_repeats_a_secret(tmp_path: Path) -> None:
    text = SMTP + "username = 'u'\npassword = 'hunter2\\u0000hunter2'\nport = 'hunter2'"

    found = problems(tmp_path, text.replace("'hunter2\\u0000hunter2'", '"hunter2\\u0000hunter2"'))

    assert [problem for problem in found if "hunter2" in problem] == []
    assert len(found) == 2


def test_what_is_not_toml_is_reported_with_its_line(tmp_path: Path) -> None:
    (problem,) = problems(tmp_path, "[service]\nlisten = \n")

    assert problem.startswith("is not TOML: ")
    assert "line 2" in problem


def test_what_is_not_text_is_reported(tmp_path: Path) -> None:
    file = tmp_path / "mailactors.toml"
    file.write_bytes(b"\xff\xfe\x00")

    with pytest.raises(ConfigError, match="is not TOML"):
        load_config(str(file))


def test_a_missing_file_is_reported(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(str(tmp_path / "none.toml"))

    assert (
        str(caught.value) == f"{tmp_path}/none.toml:\n  cannot be read: No such file or directory"
    )


def test_the_environment_wins_over_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MAILACTORS_SERVICE__LISTEN", "127.0.0.1:1")
    monkeypatch.setenv("MAILACTORS_PROVIDERS__SES__PASSWORD", "12345")

    config = load(tmp_path, THREE_RELAYS)

    ses = config.providers["ses"]
    assert isinstance(ses, SmtpProviderSettings)
    assert ses.password is not None
    assert ses.password.get_secret_value() == "12345"
    assert ses.username == "AKIA"
    assert config.service.listen == "127.0.0.1:1"
    assert config.service.drain_s == 20


def test_the_command_line_wins_over_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MAILACTORS_SERVICE__LISTEN", "127.0.0.1:1")
    monkeypatch.setenv("MAILACTORS_SERVICE__DRAIN_S", "3")

    config = load(tmp_path, THREE_RELAYS, listen="127.0.0.1:2")

    assert config.service.listen == "127.0.0.1:2"
    assert config.service.drain_s == 3
    assert config.service.default_from == "shop@example.com"


def test_a_variable_for_no_table_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAILACTORS_SERVCE__LISTEN", "127.0.0.1:1")

    with pytest.raises(ConfigError) as caught:
        load_config(None)

    assert caught.value.problems == [
        "MAILACTORS_SERVCE__LISTEN: there is no table 'SERVCE'; did you mean 'SERVICE'?"
    ]


def test_a_variable_for_no_key_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAILACTORS_SERVICE__LISEN", "127.0.0.1:1")

    with pytest.raises(ConfigError) as caught:
        load_config(None)

    assert caught.value.problems == ["service.lisen: there is no such key; did you mean 'listen'?"]


def test_variables_of_other_programs_are_ignored() -> None:
    others = {"MAILACTORS_URL": "http://x", "MAILACTORS_PORT": "tcp://10.0.0.1:80", "A__B": "1"}

    assert list(stray_variables(others)) == []


def test_a_tree_built_in_place_does_not_read_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MAILACTORS_SERVICE__LISTEN", "127.0.0.1:1")

    assert Config().service.listen == "127.0.0.1:8625"


def test_the_effective_configuration_shows_everything_but_secrets(tmp_path: Path) -> None:
    config = load(tmp_path, THREE_RELAYS)

    shown = config.model_dump(mode="json")

    assert "made-up" not in str(shown)
    assert shown["providers"]["ses"]["password"] == "**********"
    assert shown["providers"]["ses"]["username"] == "AKIA"
    assert shown["providers"]["ses"]["breaker"]["window_s"] == 30.0
    assert shown["streams"]["invoices"]["on_uncertain"] == "hold"


def test_the_evidence_that_there_can_be_is_shown_by_stream_and_provider() -> None:
    config = Config.model_validate(
        {
            "providers": {
                "relay": {"kind": "smtp", "host": "mx.example"},
                "keyed": {"kind": "simulated", "idempotency_window_s": 3600},
                "asked": {"kind": "simulated", "look_up_lag_s": 20},
                "reporting": {"kind": "simulated", "delivery_events": True},
            },
            "streams": {
                "mail": {},
                "invoices": {"route": ["relay", "keyed", "reporting"], "on_uncertain": "hold"},
            },
        }
    )

    shown = effective(config)["evidence"]

    key = "a repeat under its key, for 3600 s"
    assert shown["mail"] == {
        "relay": {"evidence": [], "then": "resend at once"},
        "keyed": {"evidence": [key], "then": "resend after 60 s"},
        "asked": {
            "evidence": ["two look-ups, from 20 s on"],
            "then": "resend when look-ups have failed for 60 s",
        },
        "reporting": {"evidence": ["a delivery event"], "then": "resend after 60 s"},
    }
    assert shown["invoices"] == {
        "relay": {"evidence": [], "then": "hold at once"},
        "keyed": {"evidence": [key], "then": "hold when its key is forgotten"},
        "reporting": {"evidence": ["a delivery event"], "then": "hold after 60 s"},
    }
