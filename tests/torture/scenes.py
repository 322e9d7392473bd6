"""What the torture tests have in common: a service in a folder, a client, and the peer's memory."""

from __future__ import annotations

import http.client
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from mailactors.spool.port import MessageStatus
from tests.servers import wait_until
from tests.torture.harm import Harm
from tests.torture.peer import StoringPeer
from tests.torture.spools import dead_spool
from tests.torture.zygote import Answer, Child, Zygote

QUICK: Final[dict[str, int | float]] = {
    "mailactors.dispatch.settler:LOOK_EVERY_S": 0.05,
    "mailactors.dispatch.settling:APART_MIN_S": 0.1,
    "mailactors.dispatch.settling:DELAY_BASE_S": 0.1,
}
"""Doubts are looked at more often than in the service, for tests that wait for it."""
WAIT_S: Final = 0.15
SETTLED_WITHIN_S: Final = 6.0
DEATH_WITHIN_S: Final = 5.0
PENDING: Final = frozenset({"queued", "deferred", "processing", "uncertain"})

CONFIG: Final = """
[service]
default_from = "gateway@example.com"
listen = "127.0.0.1:0"
spool = "spool.db"
drain_s = 5
{service}
[log]
format = "json"

[streams.mail]
on_uncertain = "{preference}"
uncertain_wait_s = {wait_s}

[providers.primary]
kind = "smtp"
host = "127.0.0.1"
port = {port}
tls = "none"
{provider}
{more}
"""


@dataclass
class Scene:
    """A folder with a spool, which one service after another serves."""

    services: Zygote
    peer: StoringPeer
    folder: Path
    preference: str = "resend"
    wait_s: float = WAIT_S
    service: str = ""
    provider: str = ""
    more: str = ""
    mutations: tuple[str, ...] = ()
    asks: str = ""
    settings: dict[str, int | float] = field(default_factory=lambda: dict(QUICK))

    @property
    def config(self) -> str:
        """The text of the configuration."""
        return CONFIG.format(
            service=self.service,
            preference=self.preference,
            wait_s=self.wait_s,
            port=self.peer.port,
            provider=self.provider,
            more=self.more,
        )

    @property
    def path(self) -> Path:
        """The spool's file."""
        return self.folder / "spool.db"

    def start(self, place: str = "", *, is_awaited: bool = True, **harm: Any) -> Child:
        """Start a service that dies at a place, or at none."""
        harm = {
            "mutations": self.mutations,
            "settings": self.settings,
            "asks": self.asks,
            **harm,
        }
        if self.mutations and place:
            harm.setdefault("linger_s", 0.3)  # a wrong answer gets out before the end
        return self.services.start(
            self.folder, self.config, Harm(place, **harm), is_awaited=is_awaited
        )

    def recipient(self, name: str, fate: str = "plain") -> str:
        """Return an address that no other test uses; its first part is the peer's to obey."""
        return f"{fate}+{self.folder.name}-{name}@example.com".lower()

    def submit(self, child: Child, name: str, fate: str = "plain", size: int = 10) -> Answer | None:
        """Submit a message; None when there is no answer."""
        body = {
            "id": name,
            "to": self.recipient(name, fate),
            "subject": name,
            "body": "All is well.\n" * (size // 10),
        }
        try:
            return child.call("POST", "/send-email", body)
        except (OSError, http.client.HTTPException):
            return None

    def states(self, child: Child) -> dict[str, str]:
        """Return every message's status by the client's name."""
        page = child.call("GET", "/statuses?limit=1000").body
        return {each["client_id"]: each["status"] for each in page["statuses"]}

    def settle(self, child: Child, within_s: float = SETTLED_WITHIN_S) -> dict[str, str]:
        """Wait until nothing is on its way, and return every message's status."""
        wait_until(lambda: not PENDING & set(self.states(child).values()), within_s)
        return self.states(child)

    def wait_for_state(
        self, child: Child, name: str, state: str, within_s: float = SETTLED_WITHIN_S
    ) -> None:
        """Wait until a message is in a state."""
        wait_until(lambda: self.states(child).get(name) == state, within_s)

    def die(self, child: Child) -> None:
        """Wait until a service has killed itself at its place."""
        assert child.wait(DEATH_WITHIN_S) == -9, child.log
        assert child.died_at != "", "killed, but not by itself"

    def message(self, name: str) -> MessageStatus:
        """Return a message as it is in the spool of a service that has ended; all adds up."""
        with dead_spool(self.path) as spool:
            spool.balanced_ledger()
            return spool.messages_by_name[name]

    def copies(self, name: str, fate: str = "plain") -> list[str]:
        """Return the Message-IDs of the copies that the peer has of a message."""
        return self.peer.copies(self.recipient(name, fate))


def read_events(child: Child, after: int, count: int, within_s: float = 3.0) -> list[int]:
    """Return the ids of up to `count` events after one, as a client of the feed gets them."""
    host = child.url.removeprefix("http://")
    connection = http.client.HTTPConnection(host, timeout=within_s)
    deadline_s = time.monotonic() + within_s
    ids: list[int] = []
    try:
        connection.request("GET", "/v1/events", headers={"Last-Event-ID": str(after)})
        answer = connection.getresponse()
        while len(ids) < count + 1 and time.monotonic() < deadline_s:
            line = answer.readline().decode()
            if line.startswith("id: "):
                ids.append(int(line[4:]))
    except TimeoutError:
        pass
    finally:
        connection.close()
    return ids[1:]  # the first is the place that the client came with
