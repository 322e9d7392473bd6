"""The relay has the message and its answer is lost: the doubt is kept, and settled as declared."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.providers.peers import smtp_sink_peer
from tests.torture.peer import StoringPeer
from tests.torture.scenes import Scene
from tests.torture.spools import dead_spool
from tests.torture.zygote import Zygote

pytestmark = pytest.mark.slow


@pytest.fixture
def scene(services: Zygote, peer: StoringPeer, tmp_path: Path) -> Scene:
    return Scene(services, peer, tmp_path)


def test_held_it_is_delivered_once_and_shown(scene: Scene) -> None:
    scene.preference = "hold"
    child = scene.start()
    scene.submit(child, "one", fate="lose")
    assert scene.settle(child) == {"one": "held"}
    assert child.call("GET", "/v1/ledger").body["states"]["held"] == 1
    assert child.stop() == 0
    assert scene.message("one").declared_risks == 0
    assert len(scene.copies("one", "lose")) == 1


def test_resent_it_is_declared_and_carries_the_same_message_id(scene: Scene) -> None:
    scene.wait_s = 3_600.0  # for evidence, which no relay can give: nothing waits for it
    child = scene.start()
    scene.submit(child, "one", fate="lose1")
    assert scene.settle(child) == {"one": "sent"}
    view = child.call("GET", "/v1/messages/one").body
    ledger = child.call("GET", "/v1/ledger").body
    assert child.stop() == 0

    kinds = [(each["kind"], each["outcome"]) for each in view["timeline"]]
    assert kinds[:2] == [("accepted", None), ("attempt", "uncertain")]
    assert kinds[-2:] == [("resolved", None), ("attempt", "accepted")]
    assert (view["declared_risks"], ledger["declared_risks"]) == (1, 1)
    copies = scene.copies("one", "lose1")
    assert copies == [view["rfc_message_id"]] * 2, "one Message-ID, twice"


def test_a_third_party_s_relay_that_hangs_up_at_the_dot(
    services: Zygote, peer: StoringPeer, tmp_path: Path
) -> None:
    with smtp_sink_peer("-q", ".") as sink:
        scene = Scene(services, StoringPeer(sink.port, peer.log, peer.process), tmp_path)
        scene.preference = "hold"
        child = scene.start()
        scene.submit(child, "one")
        assert scene.settle(child) == {"one": "held"}
        assert child.stop() == 0
        arrivals = sink.arrivals
    assert len(arrivals) == 1
    with dead_spool(scene.path) as spool:
        outcomes = spool.rows("SELECT outcome FROM attempts")
    assert outcomes == [("uncertain",)]
    assert scene.message("one").message_id.encode() in arrivals[0].content
