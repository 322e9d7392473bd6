"""kill -9 in mid-load: what was acknowledged is there, and what was intended is not forgotten."""

import http.client
import threading
from collections import Counter
from pathlib import Path

import pytest

from mailactors.model.lifecycle import State
from mailactors.spool.engines import open_store
from mailactors.spool.port import MessageStatus
from tests.providers.peers import Peer, aiosmtpd_peer
from tests.servers import Served, serving, wait_until

ACKNOWLEDGED_MIN = 60
CLIENTS = 4

CONFIG = """
[service]
default_from = "gateway@example.com"
listen = "127.0.0.1:0"
spool = "spool.db"
drain_s = 5

[streams.mail]
on_uncertain = "{preference}"
uncertain_wait_s = 0.3

[providers.primary]
kind = "smtp"
host = "127.0.0.1"
port = {port}
tls = "none"
"""


class Load:
    """Clients that submit until the service is gone, and remember what it acknowledged."""

    def __init__(self, served: Served) -> None:
        self.acknowledged: list[str] = []
        self._served = served
        self._threads = [threading.Thread(target=self._run, args=(n,)) for n in range(CLIENTS)]
        for thread in self._threads:
            thread.start()

    def join(self) -> None:
        for thread in self._threads:
            thread.join()

    def _run(self, client: int) -> None:
        for n in range(10_000):
            name = f"{client}-{n}"
            body = {"id": name, "to": f"r{name}@example.com", "subject": name, "body": name}
            try:
                status, _ = self._served.call("POST", "/send-email", body)
            except (OSError, http.client.HTTPException):  # killed before, or within, its answer
                return
            assert status == 202
            self.acknowledged.append(name)


def kill_in_mid_load(served: Served) -> list[str]:
    """Return the names that were acknowledged before the service was killed."""
    load = Load(served)
    wait_until(lambda: len(load.acknowledged) >= ACKNOWLEDGED_MIN)
    served.kill()
    load.join()
    return load.acknowledged


def is_settled(served: Served) -> bool:
    """Whether every message is final or held."""
    open_states = {"queued", "deferred", "processing", "uncertain"}
    _, page = served.call("GET", "/statuses?limit=1000")
    return not open_states & {each["status"] for each in page["statuses"]}


def read_spool(path: Path) -> dict[str, MessageStatus]:
    """Return every message of a spool that nobody serves; its ledger balances."""
    store = open_store(str(path))
    try:
        assert store.ledger().is_balanced
        return {each.client_id: each for each in store.statuses(100_000, None)}
    finally:
        store.close()


def arrivals_by_name(peer: Peer) -> Counter[str]:
    return Counter(arrival.recipients[0][1:].partition("@")[0] for arrival in peer.arrivals)


@pytest.mark.slow
@pytest.mark.parametrize("preference", ["resend", "hold"])
def test_every_acknowledged_message_survives_a_kill(preference: str, tmp_path: Path) -> None:
    with aiosmtpd_peer(answer_after_s=0.05) as peer:
        config = CONFIG.format(preference=preference, port=peer.port)
        with serving(tmp_path, config) as served:
            acknowledged = kill_in_mid_load(served)
        at_death = read_spool(tmp_path / "spool.db")
        with serving(tmp_path, config) as served:
            wait_until(lambda: is_settled(served))
            exit_code = served.stop()
        arrivals = arrivals_by_name(peer)
    messages = read_spool(tmp_path / "spool.db")
    states = {name: message.deliveries[0].state for name, message in messages.items()}
    intended = {n for n, m in at_death.items() if m.deliveries[0].state is State.SENDING}
    declared = {name for name, message in messages.items() if message.declared_risks}

    assert 0 == exit_code
    assert set(acknowledged) <= set(messages)
    assert intended  # the kill was in mid-load, or this test shows nothing
    if preference == "resend":
        assert {State.SENT} == set(states.values())
        assert intended == declared
        assert set(messages) == set(arrivals)
    else:
        assert {name for name, state in states.items() if state is State.HELD} == intended
        assert {State.SENT, State.HELD} == set(states.values())
        assert not declared
    assert {name for name, count in arrivals.items() if count > 1} <= declared
