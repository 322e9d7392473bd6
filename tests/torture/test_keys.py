"""One key, one message: under a hundred submissions at once, a kill, and the end of its window."""

from __future__ import annotations

import http.client
import json
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import trio

from mailactors.intake.submission import KeyConflictError
from mailactors.spool.port import Purge, Purged, Receipt
from mailactors.wiring import Gateway
from tests.gateways import EPOCH_S, letter, make_config, make_ports, open_store, running
from tests.torture.peer import StoringPeer
from tests.torture.scenes import Scene
from tests.torture.zygote import Answer, Child, Zygote, ask

AT_ONCE = 100


@pytest.fixture
def scene(services: Zygote, peer: StoringPeer, tmp_path: Path) -> Scene:
    return Scene(services, peer, tmp_path)


def submit_at_once(child: Child, bodies: list[dict[str, str]]) -> list[Answer]:
    """Submit each body over a connection of its own, all at the same moment."""
    barrier = threading.Barrier(len(bodies))

    def submit(body: dict[str, str]) -> Answer:
        connection = http.client.HTTPConnection(urlsplit(child.url).netloc, timeout=20)
        connection.connect()
        barrier.wait()
        try:
            return ask(connection, "POST", "/send-email", body)
        finally:
            connection.close()

    with ThreadPoolExecutor(len(bodies)) as pool:
        return list(pool.map(submit, bodies))


def body_of(scene: Scene, text: str = "All is well.") -> dict[str, str]:
    return {"id": "one", "to": scene.recipient("one"), "subject": "One", "body": text}


@pytest.mark.slow
def test_a_hundred_at_once_are_one_message_also_after_a_kill(scene: Scene) -> None:
    child = scene.start()
    answers = submit_at_once(child, [body_of(scene)] * AT_ONCE)
    child.kill()
    assert Counter(each.status for each in answers) == {202: 1, 200: AT_ONCE - 1}
    assert len({json.dumps(each.body | {"replayed": None}) for each in answers}) == 1
    assert [each.body["replayed"] for each in answers].count(False) == 1
    replayed = [each for each in answers if each.headers.get("Idempotent-Replayed") == "true"]
    assert len(replayed) == AT_ONCE - 1

    child = scene.start()
    after = submit_at_once(child, [body_of(scene)] * AT_ONCE)
    assert Counter(each.status for each in after) == {200: AT_ONCE}
    assert {json.dumps(each.body) for each in (*replayed, *after)} == {json.dumps(replayed[0].body)}
    scene.settle(child)
    assert child.stop() == 0
    stored = scene.message("one")
    assert len(scene.copies("one")) <= 1 + stored.declared_risks
    assert len(scene.copies("one")) >= 1


@pytest.mark.slow
def test_a_hundred_different_ones_under_one_key_are_one_message(scene: Scene) -> None:
    child = scene.start()
    answers = submit_at_once(child, [body_of(scene, f"Text {n}") for n in range(AT_ONCE)])
    assert Counter(each.status for each in answers) == {202: 1, 422: AT_ONCE - 1}
    (accepted,) = [each for each in answers if each.status == 202]
    refused = [each for each in answers if each.status == 422]
    assert {each.body["type"] for each in refused} == {
        "urn:mailactors:problem:idempotency-key-reused"
    }
    assert scene.settle(child) == {"one": "sent"}
    assert child.stop() == 0
    assert scene.message("one").id == accepted.body["message_id"]
    assert len(scene.copies("one")) == 1


WINDOW_S = 90.0


async def purge(gateway: Gateway, now: float) -> Purged:
    """Forget all that may be forgotten, by keys' windows alone."""

    purged = await gateway.spool.ask(Purge(now + 1, now + 1, 100))
    assert isinstance(purged, Purged)
    return purged


async def test_a_key_ends_with_its_window_and_not_before(autojump_clock: object) -> None:
    config = make_config(idempotency={"window_s": WINDOW_S})
    with open_store() as store:
        async with running(config, store, make_ports()) as gateway:
            first = await gateway.door.submit(letter("one"))
            await trio.sleep(WINDOW_S - 1)
            assert (await purge(gateway, EPOCH_S + trio.current_time())).messages == 0
            again = await gateway.door.submit(letter("one"))
            with pytest.raises(KeyConflictError):
                await gateway.door.submit(letter("one", text="Other"))

            await trio.sleep(1)
            fresh = await gateway.door.submit(letter("one", text="Other"))
            assert (await purge(gateway, EPOCH_S + trio.current_time())).messages == 1
            known = await gateway.door.submit(letter("one", text="Other"))

    assert isinstance(first, Receipt)
    assert (again.id, again.is_replay) == (first.id, True)
    assert (fresh.id != first.id, fresh.is_replay) == (True, False)
    assert (known.id, known.is_replay) == (fresh.id, True)


async def test_a_key_holds_past_its_window_while_its_message_is_open(
    autojump_clock: object,
) -> None:
    config = make_config(idempotency={"window_s": WINDOW_S})
    with open_store() as store:
        async with running(config, store, make_ports()) as gateway:
            later = EPOCH_S + trio.current_time() + 3 * WINDOW_S
            first = await gateway.door.submit(letter("one", send_at=later))
            await trio.sleep(2 * WINDOW_S)
            assert (await purge(gateway, EPOCH_S + trio.current_time())).messages == 0
            again = await gateway.door.submit(letter("one", send_at=later))
            await trio.sleep(2 * WINDOW_S)
            fresh = await gateway.door.submit(letter("one"))

    assert (again.id, again.is_replay) == (first.id, True)
    assert (fresh.id != first.id, fresh.is_replay) == (True, False)
