"""The process is stopped in mid-load, as a machine that swaps or a debugger does, and goes on."""

from __future__ import annotations

import signal
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.servers import wait_until
from tests.torture.peer import StoringPeer
from tests.torture.scenes import Scene
from tests.torture.spools import dead_spool
from tests.torture.zygote import Zygote

pytestmark = pytest.mark.slow

STOPPED_S = 3.5
COUNT = 24


@pytest.mark.parametrize("preference", ["resend", "hold"])
def test_a_stop_longer_than_every_wait_loses_and_repeats_nothing(
    services: Zygote, peer: StoringPeer, tmp_path: Path, preference: str
) -> None:
    """Each timeout, the wait of the uncertain, and the breaker's patience end while it is stopped.

    The relay answers meanwhile, or has hung up: what is known and what is not is found out after.
    """
    scene = Scene(services, peer, tmp_path, preference)
    scene.provider = "connect_timeout_s = 1\ncommand_timeout_s = 1\nidle_s = 1"
    scene.settings = scene.settings | {
        "mailactors.providers.smtp.transport:FINAL_TIMEOUT_S": 2.5,
        "mailactors.dispatch.provider:INTENT_WITHIN_S": 1.0,
    }
    child = scene.start()
    fates = {}
    for number in range(COUNT):
        fates[str(number)] = ("slow", "plain", "lose1")[number % 3]
        answer = scene.submit(child, str(number), fates[str(number)])
        assert answer is not None
        assert answer.status == 202
    wait_until(lambda: "processing" in scene.states(child).values())

    child.signal(signal.SIGSTOP)
    time.sleep(STOPPED_S)
    child.signal(signal.SIGCONT)

    states = scene.settle(child, within_s=12.0)
    assert child.stop() == 0
    with dead_spool(scene.path) as spool:
        ledger = spool.balanced_ledger()
        messages = spool.messages_by_name
    copies = {name: len(scene.copies(name, fate)) for name, fate in fates.items()}
    assert set(states) == set(fates)
    for name, count in copies.items():
        assert count <= 1 + messages[name].declared_risks, "an undeclared duplicate"
        assert count >= 1 or states[name] == "held", "lost"
    found = Counter(states.values())
    if preference == "resend":
        assert found == {"sent": COUNT}
    else:
        assert ledger.declared_risks == 0
        assert set(copies.values()) <= {0, 1}
        assert found["held"] >= COUNT // 3  # whose answers were lost
