"""Commands as tests need them, and short ways to a state of the spool."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from mailactors.model.lifecycle import State
from mailactors.model.message import Address, Content, Envelope, Message, pack_content
from mailactors.spool.port import (
    Accept,
    Claim,
    Claimed,
    Command,
    IdempotencyKey,
    Intend,
    Intended,
    Lease,
    Progress,
    Receipt,
    RecordOutcome,
    Recover,
    Result,
    Step,
    Store,
)

NOW = 1_800_000_000.0
LIFE_S = 3_600.0
KEY_S = 600.0


def make_accept(
    id_: str = "m1",
    *,
    recipients: Sequence[str] = ("ann@example.com",),
    key: str | None = None,
    fingerprint: str = "same",
    client_id: str = "",
    stream: str = "main",
    at: float = NOW,
    not_before: float = 0.0,
    tags: tuple[str, ...] = (),
    metadata: dict[str, str] | None = None,
) -> Accept:
    content = Content(
        Address("shop@example.com"),
        subject=f"About {id_}",
        text="Hello",
        tags=tags,
        metadata=metadata or {},
    )
    message = Message(
        id=id_,
        message_id=f"{id_}@mail.example",
        date_s=at,
        envelope=Envelope("bounces@example.com", tuple(recipients)),
        content=content,
        stream=stream,
        accepted_at=at,
        not_before=not_before,
        expires_at=at + LIFE_S,
    )
    key_ = IdempotencyKey("scope", id_ if key is None else key, fingerprint, at + KEY_S)
    return Accept(message, pack_content(content), f"digest of {id_}", key_, client_id)


def make_intend(lease: Lease, attempt_id: str = "a1", ns: tuple[int, ...] | None = None) -> Intend:
    all_ns = tuple(n for n, _ in lease.recipients)
    return Intend(attempt_id, lease.seq, all_ns if ns is None else ns, lease.epoch, "primary")


def make_settle(
    lease: Lease, *steps: Step, attempt_id: str = "a1", **changes: Any
) -> RecordOutcome:
    settle = RecordOutcome(
        attempt_id=attempt_id,
        seq=lease.seq,
        epoch=lease.epoch,
        provider="primary",
        steps=steps,
        progress=Progress(tried=("primary",)),
        outcome="accepted",
        facts={"rule": "it said so"},
    )
    return msgspec.structs.replace(settle, **changes)


def make_recover(node: str = "node", **changes: Any) -> Recover:
    recover = Recover(node, frozenset(), frozenset(), {"": 60.0})
    return msgspec.structs.replace(recover, **changes)


def one(store: Store, command: Command, now: float = NOW) -> Result:
    (result,) = store.apply([command], now)
    return result


def receive(store: Store, accept: Accept, now: float = NOW) -> Receipt:
    receipt = one(store, accept, now)
    assert isinstance(receipt, Receipt)
    return receipt


def lease_all(store: Store, stream: str = "main", now: float = NOW) -> tuple[Lease, ...]:
    claimed = one(store, Claim(stream, 1_000, "node"), now)
    assert isinstance(claimed, Claimed)
    return claimed.leases


def lease_one(store: Store, accept: Accept | None = None, now: float = NOW) -> Lease:
    receive(store, accept or make_accept(), now)
    (lease,) = lease_all(store, now=now)
    return lease


def send_one(store: Store, accept: Accept | None = None, now: float = NOW) -> Lease:
    lease = lease_one(store, accept, now)
    assert isinstance(one(store, make_intend(lease), now), Intended)
    return lease


def doubt_one(store: Store, *, due_at: float, accept: Accept | None = None) -> Lease:
    lease = send_one(store, accept)
    steps = [Step(n, State.UNCERTAIN, due_at) for n, _ in lease.recipients]
    one(store, make_settle(lease, *steps, outcome="uncertain"))
    return lease


def states(store: Store, name: str = "m1") -> list[str]:
    (status,) = store.status(name)
    return [delivery.state.value for delivery in status.deliveries]


def kinds(store: Store, name: str = "m1") -> list[str]:
    (status,) = store.status(name)
    return [event.kind for event in store.timeline(status.seq)]


def end_one(
    store: Store, state: State, accept: Accept | None = None, now: float = NOW, **changes: Any
) -> Lease:
    """Bring each delivery of a message, through one attempt of its own, to the same state."""
    accept = accept or make_accept()
    attempt_id = f"attempt of {accept.message.id}"
    lease = lease_one(store, accept, now)
    assert isinstance(one(store, make_intend(lease, attempt_id), now), Intended)
    steps = [Step(n, state, now + 1_000_000, **changes) for n, _ in lease.recipients]
    one(store, make_settle(lease, *steps, attempt_id=attempt_id), now)
    return lease
