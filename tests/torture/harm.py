"""What a service under torture does to itself: it dies at a named place, or its disk fails.

Production code is not changed for it. The ports bring in the faults, the store and its disk are
wrapped, and the service is told nothing: it is the command line's own `serve` that runs.

Places, beside the fault points of the production code (`spool.commit`, `provider.sent`, …):

| place | when |
|---|---|
| `apply` | a group of commands is handed to the store; no transaction yet |
| `commit` | every statement of its transaction was executed; nothing is written |
| `written` | half of a write to the log was written in that commit: a torn tail |
| `committed` | it is durable; nobody was told |
| `delete` | before a DELETE in that transaction |
| `body` | half of a message's body was written to a provider |
| `whole` | a message was written with its dot in one write, and the answer was not read |

`apply:Accept` is a group with such a command in it, and so with the others and `spool.committed`.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import functools
import importlib
import os
import select
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import apsw
import msgspec
import trio

from mailactors import service
from mailactors.api.server import Listening, Timeouts
from mailactors.providers.port import Capabilities, Found, LookUpResult, NotFound
from mailactors.providers.smtp import SmtpProvider
from mailactors.runtime.plain import PlainSocket
from mailactors.runtime.ports import Journal, Ports, system_ports
from mailactors.spool.sqlite import SqliteStore
from tests.torture.mutations import MUTATIONS
from tests.torture.stored import read_log

BODY_BYTES_MIN: Final = 2_000
"""A write that is longer than this is a body: commands are short."""
ANSWERED_WITHIN_S: Final = 10.0
DIED_AT: Final = "died-at"
DISK_LOG: Final = "disk-log"
DISK_TRIGGER: Final = "disk-fails"
_DISKS: Final[list[FaultyDisk]] = []
"""SQLite does not keep them alive."""
_CLONE_NEWNS: Final = 0x00020000
_CLONE_NEWUSER: Final = 0x10000000


class Harm(msgspec.Struct, frozen=True):
    """What is done to one service.

    `place` and `hit`: where it kills itself, and at which visit. `linger_s`: how long it hesitates
    there, so that others may finish what they do. `mutations`: guards that are taken out.
    `settings`: constants of production modules (`module:NAME`) that a test cannot wait for.
    `has_faulty_disk`: the disk fails as the file `disk-fails` in the folder says, while it exists.
    `asks`: a relay's log that its providers look messages up in, as vendors let theirs be asked.
    `tmpfs_bytes`: the folder is a file system of its own of this size. `read_only`: what cannot be
    written, a file or `.` for the whole folder.
    """

    place: str = ""
    hit: int = 1
    linger_s: float = 0.0
    mutations: tuple[str, ...] = ()
    settings: dict[str, int | float] = {}
    has_faulty_disk: bool = False
    asks: str = ""
    tmpfs_bytes: int = 0
    read_only: str = ""


def suffer(harm: Harm) -> None:
    """Prepare this process, which is about to serve from the current folder."""
    if harm.tmpfs_bytes or harm.read_only:
        _mount(harm)
    for name, value in harm.settings.items():
        module, _, constant = name.partition(":")
        assert hasattr(importlib.import_module(module), constant), name
        setattr(importlib.import_module(module), constant, value)
    site = Site(harm)
    if harm.has_faulty_disk or harm.place.startswith("written"):
        _DISKS.append(FaultyDisk(site))
    # A spool that is dead answers nobody, and the server waits five seconds for those answers.
    vars(service)["Listening"] = functools.partial(Listening, timeouts=Timeouts(graceful_s=0.2))
    _wrap_ports(site)
    _wrap_store(site)
    _wrap_sockets(site)
    if harm.asks:
        _let_relays_be_asked(Path(harm.asks))
    for name in harm.mutations:
        MUTATIONS[name]()


class Site:
    """Counts visits to the place, and ends the process at the one that was asked for.

    It is the fault port as well.
    """

    def __init__(self, harm: Harm) -> None:
        self.harm = harm
        self.group: tuple[str, ...] = ()
        """The kinds of commands that the store has been given last."""
        self._visits = 0

    def point(self, name: str) -> None:
        """Die here, if this is the place."""
        if self.is_due(name):
            self.die()

    def is_due(self, name: str) -> bool:
        """Count a visit, and say whether it is the one; `name:Kind` is one with such a command."""
        place, _, kind = self.harm.place.partition(":")
        if name != place or (kind and kind not in self.group):
            return False
        self._visits += 1
        return self._visits == self.harm.hit

    def die(self) -> None:
        """End the process as the machine's own killers do; leave word of it."""
        time.sleep(self.harm.linger_s)
        Path(DIED_AT).write_text(self.harm.place)
        os.kill(os.getpid(), signal.SIGKILL)


def _let_relays_be_asked(log: Path) -> None:
    async def look_up(_self: SmtpProvider, marker: str) -> LookUpResult:
        await trio.lowlevel.checkpoint()
        found = [each for each in read_log(log) if each.message_id.startswith(f"{marker}@")]
        return Found("known") if found else NotFound()

    capabilities = Capabilities(own_envelope=True, look_up_lag_s=0.0, work_max_s=0.0)
    SmtpProvider.capabilities = property(lambda _self: capabilities)  # type: ignore[assignment]
    setattr(SmtpProvider, "look_up", look_up)  # noqa: B010  # a method, for all that mypy knows


def _wrap_ports(site: Site) -> None:
    def ports(journal: Journal) -> Ports:
        usual = system_ports(journal)
        return dataclasses.replace(usual, faults=site)

    service.system_ports = ports  # type: ignore[attr-defined]


def _wrap_sockets(site: Site) -> None:
    usual = PlainSocket.write_now

    def write_now(self: PlainSocket, data: bytes | memoryview) -> int:
        is_body = len(data) >= BODY_BYTES_MIN
        if is_body and site.is_due("body"):
            usual(self, data[: len(data) // 2])
            site.die()
        taken = usual(self, data)
        if is_body and taken == len(data) and site.is_due("whole"):
            select.select([self._descriptor], [], [], ANSWERED_WITHIN_S)
            site.die()
        return taken

    PlainSocket.write_now = write_now  # type: ignore[method-assign]


def _wrap_store(site: Site) -> None:
    usual = SqliteStore.apply

    def apply(self: SqliteStore, commands: Sequence[Any], now: float) -> list[Any]:
        site.group = tuple(dict.fromkeys(type(command).__name__ for command in commands))
        if site.harm.place.partition(":")[0] in {"commit", "delete"}:
            _hook(self._db, site)
        site.point("apply")
        results: list[Any] = usual(self, commands, now)
        site.point("committed")
        return results

    SqliteStore.apply = apply  # type: ignore[method-assign]


def _hook(db: apsw.Connection, site: Site) -> None:
    def on_commit() -> bool:
        site.point("commit")
        return False

    def on_statement(_cursor: Any, sql: str, _bindings: Any) -> bool:
        if sql.startswith("DELETE"):
            site.point("delete")
        return True

    db.set_commit_hook(on_commit)
    db.set_exec_trace(on_statement)


class FaultyDisk(apsw.VFS):
    """The default file system, which fails as the file `disk-fails` says while that exists.

    | word | what fails |
    |---|---|
    | `sync` | every fsync, with EIO |
    | `write` | every write, with EIO |
    | `short` | every write, with EIO after its first half |
    | `checkpoint` | the fsync of the database itself, with EIO |
    | `full` | every write, with ENOSPC |

    `disk-log` gets a line for each failure, and for each fsync that is tried after one.
    """

    def __init__(self, site: Site) -> None:
        self.usual = apsw.vfs_names()[0]
        self.folder = os.getcwd()
        self.site = site
        self.has_failed = False
        super().__init__("faulty", self.usual, makedefault=True)

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> apsw.VFSFile:  # noqa: N802
        disk = self

        class File(apsw.VFSFile):
            def __init__(self) -> None:
                super().__init__(disk.usual, name, flags)
                self.is_log = bool(flags[0] & apsw.SQLITE_OPEN_WAL)

            def xSync(self, flags: int) -> None:  # noqa: N802
                if disk.has_failed:
                    disk.note("sync after a failure")
                if (word := disk.word()) == "sync" or (word == "checkpoint" and not self.is_log):
                    raise disk.failure("sync")
                super().xSync(flags)

            def xWrite(self, data: Any, offset: int) -> None:  # noqa: N802
                word = disk.word()
                if word == "full":
                    raise apsw.FullError("no space left on device")
                half = bytes(data)[: len(data) // 2]
                if word in {"write", "short"}:
                    if word == "short":
                        super().xWrite(half, offset)
                    raise disk.failure("write")
                if self.is_log and disk.site.is_due("written"):
                    super().xWrite(half, offset)
                    disk.site.die()
                super().xWrite(data, offset)

        return File()

    def word(self) -> str:
        """Return how the disk fails now."""
        with contextlib.suppress(FileNotFoundError):
            return Path(self.folder, DISK_TRIGGER).read_text()
        return ""

    def failure(self, what: str) -> Exception:
        """Note a failure and return what SQLite is told."""
        self.has_failed = True
        self.note(f"{what} failed")
        return apsw.IOError(f"{what}: input/output error")

    def note(self, line: str) -> None:
        """Write to the log of the disk."""
        with Path(self.folder, DISK_LOG).open("a") as log:
            log.write(line + "\n")


def _mount(harm: Harm) -> None:
    """Give this process a view of the file system of its own, with another disk at the folder."""
    folder, uid, gid = os.getcwd(), os.getuid(), os.getgid()
    is_root = uid == 0
    unshare_namespaces(_CLONE_NEWNS if is_root else _CLONE_NEWNS | _CLONE_NEWUSER)
    if not is_root:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {uid} 1")
        Path("/proc/self/gid_map").write_text(f"0 {gid} 1")
    run = _runner()
    run("mount", "--make-rprivate", "/")
    if harm.tmpfs_bytes:
        kept = {path.name: path.read_bytes() for path in Path(folder).iterdir() if path.is_file()}
        run("mount", "-t", "tmpfs", "-o", f"size={harm.tmpfs_bytes}", "tmpfs", folder)
        os.chdir(folder)  # what is mounted there now, not what was
        for name, data in kept.items():
            Path(name).write_bytes(data)
    else:
        path = os.path.realpath(harm.read_only)
        run("mount", "--bind", path, path)
        run("mount", "-o", "remount,bind,ro", path)
        os.chdir(folder)


def _runner() -> Callable[..., None]:
    def run(*command: str) -> None:
        subprocess.run(command, check=True)

    return run


def unshare_namespaces(flags: int) -> None:
    """Leave the namespaces of the parent; Python has this from 3.12 on.

    Raises: PermissionError where the machine does not allow it.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(flags):
        raise PermissionError(ctypes.get_errno(), "unshare")
