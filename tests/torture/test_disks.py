"""Disks that fail, run full, cannot be written, or give back something else than was written.

The service says what is the matter and what to do, ends or waits as it must, and has lost nothing.
"""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

import apsw
import pytest

from mailactors.spool.sqlite import SqliteStore
from tests.providers.peers import unavailable
from tests.servers import wait_until
from tests.spool.makers import make_accept, receive
from tests.torture.harm import DISK_TRIGGER, Harm
from tests.torture.peer import StoringPeer
from tests.torture.scenes import Scene
from tests.torture.spools import dead_spool
from tests.torture.zygote import LOG, Answer, Child, NotStartedError, Zygote

pytestmark = pytest.mark.slow


@pytest.fixture
def scene(services: Zygote, peer: StoringPeer, tmp_path: Path) -> Scene:
    return Scene(services, peer, tmp_path)


def check_words(log: str, *words: str) -> None:
    """The last line says what is wrong, and what to do about it."""
    assert "Traceback" not in log
    last = log.splitlines()[-1]
    assert last.startswith("mailactors: "), last
    for word in words:
        assert word in last, last


# A disk that fails: the process ends, and never syncs again on that handle.


ENDS_WITHIN_S = 4.0


def check_failing_disk(scene: Scene, word: str, within_s: float = ENDS_WITHIN_S) -> None:
    scene.settings = scene.settings | {"mailactors.spool.sqlite.store:CHECKPOINT_PAGES": 30}
    child = scene.start(has_faulty_disk=True)
    acknowledged, answer = [], None
    for number in range(500):
        if number == 10:
            (scene.folder / DISK_TRIGGER).write_text(word)
        answer = scene.submit(child, str(number))
        if answer is None or answer.status != 202:
            break
        acknowledged.append(str(number))
    assert answer is None or answer.status == 503
    assert child.wait(within_s) == 1, "it went on"
    assert len(acknowledged) >= 10
    assert child.disk_log, "the disk did not fail"
    assert "sync after a failure" not in child.disk_log, "it synced again"
    check_words(child.log, "spool.db failed", "check the disk and start again")

    (scene.folder / DISK_TRIGGER).unlink()
    with dead_spool(scene.path) as spool:
        spool.check_integrity()
        spool.balanced_ledger()
        assert set(acknowledged) <= set(spool.messages_by_name)
    child = scene.start()
    assert set(scene.settle(child).values()) == {"sent"}
    assert child.stop() == 0
    for name in acknowledged:
        assert 1 <= len(scene.copies(name)) <= 1 + scene.message(name).declared_risks


@pytest.mark.parametrize("word", ["sync", "write", "short", "checkpoint"])
def test_a_disk_that_fails_ends_the_process(scene: Scene, word: str) -> None:
    check_failing_disk(scene, word)


@pytest.mark.parametrize("word", ["sync", "short"])
def test_a_disk_that_is_tried_again_fails_that(scene: Scene, word: str) -> None:
    scene.mutations = ("retry_on_a_broken_disk",)
    with pytest.raises((AssertionError, TimeoutError), match=r"went on|synced again|did not end"):
        check_failing_disk(scene, word, within_s=1.5)


# A disk that runs full: 503 at the door, nothing new goes out, and all goes on when there is room.


class Disk:
    """A disk that a test fills and frees."""

    def __init__(self, child: Child, *, is_real: bool) -> None:
        self._is_real = is_real
        root = f"/proc/{child.pid}/root" if is_real else ""
        self._file = Path(f"{root}{child.folder}", "ballast" if is_real else DISK_TRIGGER)

    def fill(self) -> None:
        if not self._is_real:
            self._file.write_text("full")
            return
        with self._file.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(4096))

    def free(self) -> None:
        self._file.unlink()


def check_disk_that_runs_full(scene: Scene, child: Child, disk: Disk) -> None:
    assert scene.submit(child, "before") is not None
    scene.wait_for_state(child, "before", "sent")
    assert scene.submit(child, "slow", fate="slow") is not None
    scene.wait_for_state(child, "slow", "processing")
    waiting = {
        "id": "waiting",
        "to": scene.recipient("waiting"),
        "from": "a@sender.example",
        "subject": "waiting",
        "text": "All is well.",
        "send_at": _rfc3339(time.time() + 0.5),
    }
    assert child.call("POST", "/v1/messages", waiting).status == 202

    disk.fill()
    refused = _submit_until_refused(scene, child)
    assert refused.status == 503
    assert int(refused.headers["Retry-After"]) >= 1
    wait_until(lambda: len(scene.copies("slow", "slow")) == 1, 6.0)
    time.sleep(1.5)  # both the outcome and the waiting one are due
    states = scene.states(child)
    assert (states["slow"], len(scene.copies("waiting"))) == ("processing", 0)
    assert not child.has_ended

    disk.free()
    wait_until(lambda: scene.states(child).get("waiting") == "sent", 6.0)
    assert scene.settle(child)["slow"] == "sent"
    assert scene.submit(child, "after") is not None
    states = scene.settle(child)
    assert set(states.values()) == {"sent"}
    assert {"before", "slow", "waiting", "after"} <= set(states)
    assert child.call("GET", "/v1/ledger").body["holds"]
    for name, fate in (("slow", "slow"), ("waiting", "plain"), ("after", "plain")):
        assert len(scene.copies(name, fate)) == 1
    assert child.stop() == 0


def _submit_until_refused(scene: Scene, child: Child) -> Answer:
    answers = (scene.submit(child, f"filling-{number}", size=3_000) for number in range(50))
    refused = next((each for each in answers if each is None or each.status != 202), None)
    assert refused is not None, "it was acknowledged on a full disk"
    return refused


def _rfc3339(at: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(at)) + f"{at % 1:.3f}Z"[1:]


def test_a_full_disk_is_waited_for(scene: Scene) -> None:
    child = scene.start(has_faulty_disk=True)
    check_disk_that_runs_full(scene, child, Disk(child, is_real=False))


def test_a_full_disk_that_goes_unnoticed_fails_that(scene: Scene) -> None:
    scene.mutations = ("answer_what_fits",)
    child = scene.start(has_faulty_disk=True)
    with pytest.raises(AssertionError, match="acknowledged on a full disk"):
        check_disk_that_runs_full(scene, child, Disk(child, is_real=False))


@pytest.fixture
def mounts(scene: Scene) -> Scene:
    """Skip where a process may have no file systems of its own."""
    (scene.folder / "probe").mkdir()
    try:
        scene.services.start(scene.folder / "probe", "", Harm(tmpfs_bytes=4096))
    except NotStartedError as error:
        if "unshare" in error.log or "mount" in error.log:
            unavailable(f"no mounting here: {error.log.splitlines()[-1]}")
    return scene


def test_a_real_full_disk_is_waited_for(mounts: Scene) -> None:
    mounts.settings = mounts.settings | {"mailactors.wiring:FREE_BYTES_MIN": 0}
    child = mounts.start(tmpfs_bytes=2_000_000)
    check_disk_that_runs_full(mounts, child, Disk(child, is_real=True))


# What cannot be written, and what is not what it was.


@pytest.mark.parametrize("what", [".", "spool.db"])
def test_a_spool_that_cannot_be_written_is_said_so(mounts: Scene, what: str) -> None:
    store = SqliteStore.open(str(mounts.path))
    now = time.time()
    receive(store, make_accept("m1", client_id="m1", stream="mail", at=now), now)
    store.close()
    before = mounts.path.read_bytes()

    with pytest.raises(NotStartedError) as caught:
        mounts.start(read_only=what)

    assert caught.value.code == 1
    check_words(caught.value.log, "spool.db", "let this user write there")
    assert mounts.path.read_bytes() == before
    child = mounts.start()
    assert mounts.settle(child) == {"m1": "sent"}
    assert child.stop() == 0


# A page that is not what it was: said so, and nothing is touched.

PAGE_BYTES = 4_096
COUNT = 60


def make_spool_of_many(path: Path) -> dict[str, int]:
    """A spool with messages that wait for their time; return each table's root page."""
    store = SqliteStore.open(str(path))
    later = time.time() + 3_600.0
    for number in range(COUNT):
        name = f"m{number}"
        receive(store, make_accept(name, client_id=name, stream="mail", at=later))
    store._checkpoint(apsw.SQLITE_CHECKPOINT_TRUNCATE)
    roots = dict(store._db.execute("SELECT name, rootpage FROM sqlite_schema WHERE rootpage > 0"))
    store.close()
    return roots


def flip(path: Path, page: int, offset: int) -> None:
    """Flip bytes of a page; once more, and they are as they were."""
    data = bytearray(path.read_bytes())
    start = (page - 1) * PAGE_BYTES + offset
    data[start : start + 64] = bytes(byte ^ 0xFF for byte in data[start : start + 64])
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("table", "offset"),
    [("header", 0), ("sqlite_schema", 100), ("deliveries", 0), ("messages", 0), ("contents", 0)],
)
def test_a_damaged_page_is_said_so(scene: Scene, table: str, offset: int) -> None:
    roots = make_spool_of_many(scene.path)
    page = roots.get(table, 1)
    flip(scene.path, page, offset)

    try:
        child = scene.start()
    except NotStartedError as error:
        code = error.code
    else:
        answer = scene.submit(child, "one")  # in its pages, too: it is met now, at the latest
        assert answer is None or answer.status == 503, "it was acknowledged"
        code = child.wait(ENDS_WITHIN_S)

    assert code == 1
    check_words((scene.folder / LOG).read_text(), "keep it and its -wal as they are", "backup")
    flip(scene.path, page, offset)
    child = scene.start()
    assert {f"m{number}" for number in range(COUNT)} <= set(scene.states(child))
    assert child.stop() == 0
    with dead_spool(scene.path) as spool:
        spool.check_integrity()
