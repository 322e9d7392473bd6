"""The service dies at every point at which that matters, and what follows is what it should be.

Each test kills the real service, on a real file, at one point of a message's way; starts another
one; and looks at what the client was told, what the spool holds and what the relay has got. Each is
run once more against a service from which the guard was taken that it is about, and has to fail.
"""

from __future__ import annotations

import time
from pathlib import Path

import msgspec
import pytest

from mailactors.model.lifecycle import State
from mailactors.spool.engines import open_store
from mailactors.spool.port import (
    Accept,
    Claim,
    Claimed,
    Progress,
    Recorded,
    SettleDoubt,
    Step,
)
from mailactors.spool.store import commands, deliver
from mailactors.spool.store.doubts import settle_late
from tests.servers import wait_until
from tests.spool.makers import (
    KEY_S,
    NOW,
    make_accept,
    make_intend,
    make_recover,
    make_settle,
    one,
    receive,
    send_one,
    states,
)
from tests.torture.mutations import MUTATIONS
from tests.torture.peer import StoringPeer
from tests.torture.scenes import Scene, read_events
from tests.torture.spools import dead_spool
from tests.torture.zygote import Zygote

pytestmark = pytest.mark.slow

BODY_BYTES = 20_000


@pytest.fixture
def scene(services: Zygote, peer: StoringPeer, tmp_path: Path) -> Scene:
    return Scene(services, peer, tmp_path)


# Before the commit: the client has no answer, and its repetition is the message.

BEFORE_THE_COMMIT = ["registry.submit", "apply:Accept", "commit:Accept", "written:Accept"]


def check_death_before_the_commit(scene: Scene, place: str) -> None:
    child = scene.start(place)
    answer = scene.submit(child, "one")
    scene.die(child)
    assert answer is None, "it was acknowledged before it was durable"
    with dead_spool(scene.path) as spool:
        assert [spool.count(table) for table in ("messages", "keys", "deliveries")] == [0, 0, 0]
        spool.check_integrity()

    child = scene.start()
    first, again = scene.submit(child, "one"), scene.submit(child, "one")
    assert first is not None
    assert again is not None
    assert (first.status, again.status) == (202, 200)
    assert again.body == first.body | {"replayed": True}
    assert scene.settle(child) == {"one": "sent"}
    assert child.stop() == 0
    assert scene.message("one").attempts == 1
    assert len(scene.copies("one")) == 1


@pytest.mark.parametrize("place", BEFORE_THE_COMMIT)
def test_dead_before_the_commit_it_was_never_accepted(scene: Scene, place: str) -> None:
    check_death_before_the_commit(scene, place)


@pytest.mark.parametrize("place", ["apply:Accept", "commit:Accept"])
def test_without_the_order_of_commit_and_answer_that_fails(scene: Scene, place: str) -> None:
    scene.mutations = ("answer_before_commit",)
    with pytest.raises(AssertionError, match="before it was durable"):
        check_death_before_the_commit(scene, place)


# After the commit, before the answer: the repetition is the same message.


def check_death_before_the_answer(scene: Scene, place: str) -> None:
    child = scene.start(place)
    assert scene.submit(child, "one") is None
    scene.die(child)
    stored = scene.message("one")

    child = scene.start()
    again = scene.submit(child, "one")
    assert again is not None
    assert again.status == 200, "it was accepted anew"
    assert again.headers["Idempotent-Replayed"] == "true"
    assert again.body["message_id"] == stored.id
    assert scene.settle(child) == {"one": "sent"}
    assert child.stop() == 0
    assert scene.message("one").id == stored.id
    assert len(scene.copies("one")) == 1


AFTER_THE_COMMIT = ["committed:Accept", "spool.committed:Accept"]


@pytest.mark.parametrize("place", AFTER_THE_COMMIT)
def test_dead_before_the_answer_the_repetition_finds_the_message(scene: Scene, place: str) -> None:
    check_death_before_the_answer(scene, place)


def test_without_the_key_in_the_message_s_transaction_that_fails(scene: Scene) -> None:
    scene.mutations = ("key_after_commit",)
    with pytest.raises(AssertionError, match="accepted anew"):
        check_death_before_the_answer(scene, "committed:Accept")


# Leased, without an intent: ready again, and nothing has been counted.


def check_death_before_the_intent(scene: Scene, place: str) -> None:
    child = scene.start(place)
    scene.submit(child, "one")
    scene.die(child)
    stored = scene.message("one")
    assert [each.state for each in stored.deliveries] == [State.LEASED]
    with dead_spool(scene.path) as spool:
        assert spool.count("attempts") == 0
    assert scene.copies("one") == []

    child = scene.start()
    assert scene.settle(child, within_s=2.0) == {"one": "sent"}
    assert child.stop() == 0
    stored = scene.message("one")
    assert (stored.attempts, stored.deliveries[0].attempts, stored.declared_risks) == (1, 1, 0)
    assert len(scene.copies("one")) == 1


BEFORE_THE_INTENT = [
    *("limiter.attempt", "breaker.attempt", "provider.attempt"),
    *("apply:Intend", "commit:Intend", "written:Intend"),
]


@pytest.mark.parametrize("place", BEFORE_THE_INTENT)
def test_dead_before_the_intent_it_is_ready(scene: Scene, place: str) -> None:
    scene.preference = "hold"  # if it were uncertain, it would be held
    check_death_before_the_intent(scene, place)


@pytest.mark.parametrize("mutation", ["recover_leased_as_uncertain", "forget_leases"])
def test_without_the_release_of_leases_that_fails(scene: Scene, mutation: str) -> None:
    scene.preference, scene.mutations = "hold", (mutation,)
    with pytest.raises((AssertionError, TimeoutError), match=r"held|not within"):
        check_death_before_the_intent(scene, "provider.attempt")


# An intent without an outcome: uncertain, never ready, whatever the relay has got.

WITH_AN_INTENT = {
    "committed:Intend": 0,  # before the first byte
    "provider.intended": 0,
    "body": 0,  # in the middle of the message
    "whole": 1,  # the relay has accepted it, and its answer was not read
    "provider.sent": 1,
    "breaker.done": 1,
    "limiter.done": 1,
    "dispatcher.outcome": 1,
    "apply:RecordOutcome": 1,
    "commit:RecordOutcome": 1,
    "written:RecordOutcome": 1,
}
"""Where it dies, and how many copies the relay has got by then."""


def check_death_with_an_intent(scene: Scene, place: str) -> None:
    scene.wait_s = 3_600.0  # for evidence, which no relay can give: nothing waits for it
    child = scene.start(place)
    scene.submit(child, "one", size=BODY_BYTES)
    scene.die(child)
    at_death = scene.message("one")
    assert [each.state for each in at_death.deliveries] == [State.SENDING], "no intent is there"
    with dead_spool(scene.path) as spool:
        assert spool.open_intents == 1
    assert len(scene.copies("one")) == WITH_AN_INTENT[place]

    child = scene.start()
    if scene.preference == "hold":
        assert scene.settle(child) == {"one": "held"}
        assert child.stop() == 0
        expected, risks = WITH_AN_INTENT[place], 0
    else:
        assert scene.settle(child) == {"one": "sent"}
        assert child.stop() == 0
        expected, risks = WITH_AN_INTENT[place] + 1, 1
    stored = scene.message("one")
    assert stored.declared_risks == risks, "not declared"
    with dead_spool(scene.path) as spool:
        assert spool.ledger().declared_risks == risks
        assert spool.open_intents == 0
    copies = scene.copies("one")
    assert len(copies) == expected
    assert set(copies) <= {stored.message_id}, "another Message-ID"


@pytest.mark.parametrize("place", WITH_AN_INTENT)
def test_dead_with_an_intent_it_is_resent_as_declared(scene: Scene, place: str) -> None:
    check_death_with_an_intent(scene, place)


@pytest.mark.parametrize(
    "place", ["provider.intended", "body", "whole", "provider.sent", "commit:RecordOutcome"]
)
def test_dead_with_an_intent_it_is_held_as_declared(scene: Scene, place: str) -> None:
    scene.preference = "hold"
    check_death_with_an_intent(scene, place)


@pytest.mark.parametrize("place", ["provider.intended", "body", "provider.sent"])
@pytest.mark.parametrize("mutation", ["recover_sending_as_ready", "send_without_intent"])
def test_without_the_intent_s_guards_that_fails(scene: Scene, place: str, mutation: str) -> None:
    scene.mutations = (mutation,)
    with pytest.raises(AssertionError, match=r"never uncertain|not declared|no intent is there"):
        check_death_with_an_intent(scene, place)


# The relay can be asked, or a person knows: the doubt is settled without a risk.


@pytest.mark.parametrize(("place", "rule"), [("provider.sent", "found it"), ("body", "nothing")])
def test_what_the_relay_can_be_asked_is_no_risk(scene: Scene, place: str, rule: str) -> None:
    scene.asks, scene.wait_s = str(scene.peer.log), 60.0
    child = scene.start(place)
    scene.submit(child, "one", size=BODY_BYTES)
    scene.die(child)
    assert len(scene.copies("one")) == WITH_AN_INTENT[place]

    child = scene.start()
    assert scene.settle(child) == {"one": "sent"}
    timeline = child.call("GET", "/v1/messages/one").body["timeline"]
    assert child.stop() == 0
    assert scene.message("one").declared_risks == 0
    assert any(rule in (each["rule"] or "") for each in timeline), timeline
    assert len(scene.copies("one")) == 1


@pytest.mark.parametrize(("into", "state", "copies"), [("sent", "sent", 1), ("resend", "sent", 2)])
def test_what_a_person_knows_settles_what_is_held(
    scene: Scene, into: str, state: str, copies: int
) -> None:
    scene.preference = "hold"
    child = scene.start("provider.sent")
    scene.submit(child, "one")
    scene.die(child)
    child = scene.start()
    assert scene.settle(child) == {"one": "held"}
    answer = child.call("POST", "/v1/messages/one/settle", {"as": into, "note": "I asked them"})
    assert answer.status == 200
    assert scene.settle(child) == {"one": state}
    assert child.stop() == 0
    assert len(scene.copies("one")) == copies
    assert scene.message("one").declared_risks == copies - 1


# The outcome is durable, and nobody has heard of it: the event is there, and keeps its id.


def check_death_before_the_event_is_told(scene: Scene, place: str) -> None:
    child = scene.start(place)
    scene.submit(child, "one")
    scene.die(child)
    assert [each.state for each in scene.message("one").deliveries] == [State.SENT]
    with dead_spool(scene.path) as spool:
        (id_,) = [each.seq for each in spool.events_after(0, 100) if each.kind == "attempt"] or [0]
    assert id_, "the event is lost"

    child = scene.start()
    assert read_events(child, after=id_ - 1, count=1) == [id_]
    assert read_events(child, after=id_ - 1, count=1) == [id_]
    timeline = child.call("GET", "/v1/messages/one").body["timeline"]
    assert [each["kind"] for each in timeline] == ["accepted", "attempt"]
    assert child.stop() == 0
    assert len(scene.copies("one")) == 1


@pytest.mark.parametrize("place", ["committed:RecordOutcome", "spool.committed:RecordOutcome"])
def test_dead_before_an_event_is_told_it_is_told_after(scene: Scene, place: str) -> None:
    check_death_before_the_event_is_told(scene, place)


def test_without_the_event_in_the_outcome_s_transaction_that_fails(scene: Scene) -> None:
    scene.mutations = ("event_after_commit",)
    with pytest.raises(AssertionError, match="event is lost"):
        check_death_before_the_event_is_told(scene, "committed:RecordOutcome")


# In the middle of a purge: all of a portion or nothing, and only what may go.

GOING = 45
PURGING: dict[str, int | float] = {
    "mailactors.spool.keeper:PURGE_EVERY_S": 0.02,
    "mailactors.spool.keeper:LOOK_EVERY_S": 0.02,
    "mailactors.spool.keeper:PURGE_PAUSE_S": 0.0,
    "mailactors.spool.keeper:PURGE_LIMIT": 10,
}
STAYING = ("deferred", "held", "keyed", "uncertain", "young")


def make_old_spool(path: Path) -> None:
    """A spool of what may go, and of everything that is nearly so."""
    now = time.time()
    old = now - 10 * 86_400.0
    store = open_store(str(path))

    def accept(name: str, at: float, key_until: float) -> Accept:
        plain = make_accept(name, at=at, client_id=name, stream="mail")
        message = msgspec.structs.replace(plain.message, expires_at=now + 86_400.0)
        key = msgspec.structs.replace(plain.key, expires_at=key_until)
        return msgspec.structs.replace(plain, message=message, key=key)

    def end(name: str, state: State, at: float, key_until: float) -> None:
        receive(store, accept(name, at, key_until), at)
        claimed = one(store, Claim("mail", 1_000, "node"), at)
        assert isinstance(claimed, Claimed)
        (lease,) = claimed.leases
        attempt_id = f"attempt of {name}"
        one(store, make_intend(lease, attempt_id), at)
        is_held = state is State.HELD
        step = Step(0, State.UNCERTAIN if is_held else state, now + 86_400.0)
        one(store, make_settle(lease, step, attempt_id=attempt_id), at)
        if is_held:
            one(store, SettleDoubt(lease.seq, (Step(0, state),), Progress(), "hold", {}), at)

    for number in range(GOING):
        end(f"going-{number}", State.SENT, old, old + KEY_S)
    end("keyed", State.SENT, old, now + 3_600.0)
    end("young", State.SENT, now, now - 1.0)
    for state in (State.DEFERRED, State.HELD, State.UNCERTAIN):
        end(state.value, state, old, old + KEY_S)
    assert store.ledger().accepted == GOING + len(STAYING)
    store.close()


def check_death_in_a_purge(scene: Scene, place: str, hit: int) -> None:
    make_old_spool(scene.path)
    scene.preference = "hold"  # the uncertain one is held at once, and stays as well
    scene.settings = scene.settings | PURGING
    scene.more = "[retention]\nfinal_after_s = 86400\nbodies_after_s = 3600"
    child = scene.start(place, hit=hit, is_awaited=False)  # it may die before it is ready
    scene.die(child)
    with dead_spool(scene.path) as spool:
        spool.check_integrity()
        assert spool.balanced_ledger().accepted == GOING + len(STAYING)
        left = set(spool.messages_by_name)
    assert left >= set(STAYING), "something went that should stay"
    assert 0 < len(left) - len(STAYING) <= GOING, "it was not in the middle"

    child = scene.start()
    wait_until(lambda: len(scene.states(child)) <= len(STAYING), 6.0)
    assert scene.states(child) == {
        "deferred": "deferred",
        "held": "held",
        "uncertain": "held",
        **dict.fromkeys(("keyed", "young"), "sent"),
    }, "something went that should stay"
    assert child.stop() == 0
    with dead_spool(scene.path) as spool:
        spool.check_integrity()
        ledger = spool.balanced_ledger()
        keys = {key for (key,) in spool.rows("SELECT key FROM keys")}
    assert (ledger.accepted, ledger.purged) == (GOING + len(STAYING), GOING)
    assert keys >= {"keyed", "deferred", "held", "uncertain"}, "a key went that should stay"


IN_A_PURGE = [
    *(("apply:Purge", 2), ("delete:Purge", 3), ("delete:Purge", 9), ("commit:Purge", 2)),
    *(("written:Purge", 2), ("committed:Purge", 2)),
]


@pytest.mark.parametrize(("place", "hit"), IN_A_PURGE)
def test_dead_in_a_purge_nothing_is_half_gone(scene: Scene, place: str, hit: int) -> None:
    check_death_in_a_purge(scene, place, hit)


@pytest.mark.parametrize(
    ("mutation", "why"),
    [
        ("purge_what_is_open", "should stay"),
        ("purge_keys_that_hold", "should stay"),
        ("purge_in_pieces", "without deliveries"),
    ],
)
def test_without_the_purge_s_guards_that_fails(scene: Scene, mutation: str, why: str) -> None:
    scene.mutations = (mutation,)
    with pytest.raises(AssertionError, match=why):
        check_death_in_a_purge(scene, "delete:Purge", 3)


# Two owners of one message: the one whose lease is over writes nothing.


def check_stale_owner(path: Path) -> None:
    store = open_store(str(path))
    first = send_one(store)
    one(store, make_recover(), NOW + 1)
    risk = SettleDoubt(first.seq, (Step(0, State.READY),), Progress(), "resend", {}, is_risk=True)
    one(store, risk, NOW + 100)
    claimed = one(store, Claim("main", 1, "other"), NOW + 101)
    assert isinstance(claimed, Claimed)
    (second,) = claimed.leases
    assert second.epoch > first.epoch
    one(store, make_intend(second, "a2"), NOW + 102)

    late = make_settle(first, Step(0, State.DEFERRED, NOW + 999), outcome="deferred")
    assert one(store, late, NOW + 103) == Recorded(is_stale=True), "a stale write was taken"

    assert states(store) == ["sending"]
    seq = store.status("m1")[0].seq
    assert [event.kind for event in store.timeline(seq)].count("evidence") == 1
    finish = make_settle(second, Step(0, State.SENT), attempt_id="a2")
    assert one(store, finish, NOW + 104) == Recorded()
    assert states(store) == ["sent"]
    assert store.ledger().is_balanced
    store.close()


def test_a_stale_owner_writes_nothing_but_evidence(tmp_path: Path) -> None:
    check_stale_owner(tmp_path / "spool.db")


def check_late_acceptance(path: Path, state: State) -> None:
    store = open_store(str(path))
    lease = send_one(store)
    one(store, make_recover(), NOW + 1)
    if state is not State.UNCERTAIN:
        is_risk = state is State.READY
        step = Step(0, state, NOW + 999)
        one(store, SettleDoubt(lease.seq, (step,), Progress(), "", {}, is_risk=is_risk), NOW + 100)

    late = make_settle(lease, Step(0, State.SENT))
    assert isinstance(settled := one(store, late, NOW + 103), Recorded)

    assert settled.is_stale
    assert states(store) == ["sent"], "what came late did not settle it"
    claimed = one(store, Claim("main", 1, "node"), NOW + 2_000)
    assert isinstance(claimed, Claimed)
    assert claimed.leases == (), "it would be sent again"
    assert store.ledger().is_balanced
    store.close()


@pytest.mark.parametrize("state", [State.UNCERTAIN, State.HELD, State.READY])
def test_a_stale_acceptance_settles_what_was_given_up(tmp_path: Path, state: State) -> None:
    check_late_acceptance(tmp_path / "spool.db", state)


def test_without_what_comes_late_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(vars(deliver), "settle_late", settle_late)  # to be put back
    MUTATIONS["ignore_what_comes_late"]()
    with pytest.raises(AssertionError, match="did not settle it"):
        check_late_acceptance(tmp_path / "spool.db", State.UNCERTAIN)


def test_without_epochs_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands, "RULES", dict(commands.RULES))
    MUTATIONS["drop_epochs"]()
    with pytest.raises(AssertionError, match="a stale write was taken"):
        check_stale_owner(tmp_path / "spool.db")
