"""Names that are not ours, and pages of other sites: nothing is shown, nothing is changed."""

from __future__ import annotations

import json

import pytest

from mailactors.api.names import OwnNames
from mailactors.api.server import Listening
from tests.api.rig import Rig, Served, problem, serve

PAUSE = "POST /v1/providers/primary/pause"
READS = ("GET /statuses", "HEAD /statuses", "GET /", "GET /metrics", "GET /healthz")
ASKED = (*READS, PAUSE, "OPTIONS /send-email", "GET /nowhere", "DELETE /v1/suppressions?address=a")


def a_request(line: str, *headers: str) -> bytes:
    lines = [f"{line} HTTP/1.1", *headers, "Connection: close"]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def refusal(answer: bytes) -> tuple[int, str]:
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)["type"] if body else ""


@pytest.mark.parametrize("line", ASKED)
async def test_a_name_that_is_not_ours_gets_nothing(rig: Rig, served: Served, line: str) -> None:
    for host in ("evil.example", f"evil.example:{served.port}", "localhost.evil.example", ""):
        answer = await served.ask(a_request(line, f"Host: {host}"))

        expected = "" if line.startswith("HEAD") else problem("misdirected")
        assert refusal(answer) == (421, expected), host
    assert not rig.lanes["primary"].is_paused


@pytest.mark.parametrize(
    "host",
    [
        *("evil.example", "127.0.0.1.evil.example", "169.254.169.254", "10.0.0.1", "[::2]", "a@b"),
        *("localhost:80:80", "localhost/", "localhost, evil.example", "\xe9vil.example", "0x7f1"),
    ],
)
async def test_a_host_that_is_only_like_ours_is_refused(served: Served, host: str) -> None:
    answer = await served.ask(a_request("GET /statuses", f"Host: {host}"))

    assert refusal(answer) == (421, problem("misdirected"))


@pytest.mark.parametrize(
    "host",
    ["localhost", "LOCALHOST:1", "localhost.", "127.0.0.1", "127.0.0.1:8625", "127.0.0.9", "[::1]"],
)
async def test_our_own_addresses_are_answered_on_whatever_port(served: Served, host: str) -> None:
    answer = await served.ask(a_request("GET /statuses", f"Host: {host}"))

    assert answer.startswith(b"HTTP/1.1 200")


async def test_a_target_in_the_absolute_form_must_be_ours_too(served: Served) -> None:
    ours = await served.ask(a_request("GET http://localhost/healthz", "Host: localhost"))
    theirs = await served.ask(a_request("GET http://evil.example/healthz", "Host: localhost"))

    assert b"421" not in ours.splitlines()[0]
    assert refusal(theirs) == (421, problem("misdirected"))


async def test_a_client_that_names_no_host_is_no_browser(served: Served) -> None:
    assert (await served.ask(b"GET /healthz HTTP/1.0\r\n\r\n")).startswith(b"HTTP/1.1 200")


async def test_names_of_the_configuration_are_ours(rig: Rig) -> None:
    names = frozenset({"mail.example", "mail.example:8443"})
    listening = Listening("127.0.0.1", 0, names=names)
    async with serve(rig.app, rig.journal, listening) as served:
        for host in ("mail.example", "Mail.Example:8443", "mail.example."):
            answer = await served.ask(a_request("GET /statuses", f"Host: {host}"))
            assert answer.startswith(b"HTTP/1.1 200"), host
        proxied = ("Host: localhost", "Origin: https://mail.example:8443")
        assert (await served.ask(a_request(PAUSE, *proxied))).startswith(b"HTTP/1.1 200")
        other_port = ("Host: localhost", "Origin: https://mail.example:9999")
        assert refusal(await served.ask(a_request(PAUSE, *other_port)))[0] == 403


def test_the_address_that_a_connection_came_in_on_is_ours() -> None:
    names = OwnNames("0.0.0.0")

    assert names.answer_to("10.0.0.7:8625", "10.0.0.7")
    assert names.answer_to("[fd00::7]:8625", "fd00::7")
    assert not names.answer_to("10.0.0.8:8625", "10.0.0.7")


@pytest.mark.parametrize(
    "header",
    [
        *("Origin: https://evil.example", "Origin: null", "Origin: ", "Origin: http://127.0.0.1"),
        *("Origin: http://localhost:3000", "Sec-Fetch-Site: cross-site"),
        *("Sec-Fetch-Site: same-site", "Sec-Fetch-Site: none\r\nSec-Fetch-Site: cross-site"),
    ],
)
@pytest.mark.parametrize("line", ["GET /statuses", "OPTIONS /send-email", "GET /v1/events", PAUSE])
async def test_pages_of_other_sites_neither_see_nor_change_anything(
    rig: Rig, served: Served, line: str, header: str
) -> None:
    answer = await served.ask(a_request(line, "Host: localhost", header))

    assert refusal(answer) == (403, problem("cross-origin"))
    assert not rig.lanes["primary"].is_paused


@pytest.mark.parametrize(
    "headers",
    [
        (),
        ("Sec-Fetch-Site: none",),
        ("Sec-Fetch-Site: same-origin", "Origin: http://localhost"),
        ("Origin: http://LocalHost",),
    ],
)
async def test_our_own_pages_and_programs_may(
    rig: Rig, served: Served, headers: tuple[str, ...]
) -> None:
    answer = await served.ask(a_request(PAUSE, "Host: localhost", *headers))

    assert answer.startswith(b"HTTP/1.1 200")
    assert rig.lanes["primary"].is_paused


async def test_a_link_may_be_followed_but_only_to_look(served: Served) -> None:
    link = ("Host: localhost", "Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: navigate")

    assert (await served.ask(a_request("GET /statuses", *link))).startswith(b"HTTP/1.1 200")
    assert refusal(await served.ask(a_request(PAUSE, *link)))[0] == 403
