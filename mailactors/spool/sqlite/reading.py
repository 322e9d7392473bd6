"""Read-only questions to a spool's file, whether or not a service has it open.

It does not take the service's lock and makes no file beside the spool. The log beside the file
(`-wal`) counts, even if no process has it open: one that was killed leaves it behind.

Source: SQLite, "Write-Ahead Logging", section 5 (read-only databases), and the URI parameters
`immutable` and `readonly_shm`.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from typing import Final, TypeVar
from urllib.parse import quote

import apsw

from mailactors.spool.port import Questions, SpoolBrokenError, SpoolError, SpoolSchemaError
from mailactors.spool.sqlite.backup import BUSY_MS
from mailactors.spool.sqlite.migrations import Migration, find_missing, load_migrations
from mailactors.spool.sqlite.rows import SqliteQuestions

T = TypeVar("T")

TRIES: Final = 3
_STAND_INS: Final = {
    3: ("CREATE TEMP TABLE risks (stream TEXT, provider TEXT, count INTEGER)",),
    5: ("{sql}",),
}
"""By migration, what stands in for the tables that a question of a file reads."""


class _FileQuestions(SqliteQuestions):
    """Of a file that may be older than this program: what it lacks is made in memory."""

    def __init__(self, db: apsw.Connection, missing: Sequence[Migration]) -> None:
        super().__init__(db)
        for each in missing:
            for script in _STAND_INS.get(each.number, ()):
                db.execute(script.format(sql=each.sql.replace("CREATE TABLE", "CREATE TEMP TABLE")))
        if missing:
            self._rows.dialect.along = lambda _index: ""  # type: ignore[assignment, method-assign]


def read_spool(path: str, question: Callable[[Questions], T]) -> T:
    """Ask a spool's file one question.

    Raises: SpoolSchemaError if it is no spool, or of a newer or older program; SpoolBrokenError
        if it is damaged; SpoolError if there is no file, or it cannot be read.
    """
    if not os.path.isfile(path):
        raise SpoolError(f"there is no file {path}; name a spool's, or ask its service")
    path = os.path.realpath(path)  # the log is beside the file itself
    for _ in range(TRIES):
        is_open = os.path.exists(f"{path}-shm")
        try:
            with _uri(path) as uri:
                answer = _ask(path, uri, question)
        except (SpoolError, FileNotFoundError):
            if is_open == os.path.exists(f"{path}-shm"):
                raise
            continue  # a process has opened or closed it meanwhile
        if is_open or not os.path.exists(f"{path}-shm"):
            return answer
    raise SpoolError(f"{path} is being opened by others all the time; ask the service instead")


@contextlib.contextmanager
def _uri(path: str) -> Iterator[str]:
    # With the log's index (`-shm`) SQLite reads beside a writer. Without it there is no writer:
    # then the file is all there is, or it is copied together with its log.
    name = quote(path)
    if os.path.exists(f"{path}-shm"):
        yield f"file:{name}?mode=ro&readonly_shm=1"
    elif not os.path.exists(f"{path}-wal") or os.path.getsize(f"{path}-wal") == 0:
        yield f"file:{name}?mode=ro&immutable=1"
    else:
        with tempfile.TemporaryDirectory() as folder:
            copy = os.path.join(folder, "spool")
            for suffix in ("", "-wal"):
                shutil.copyfile(path + suffix, copy + suffix)
            yield f"file:{quote(copy)}"


def _ask(path: str, uri: str, question: Callable[[Questions], T]) -> T:
    try:
        flags = apsw.SQLITE_OPEN_URI | apsw.SQLITE_OPEN_READWRITE
        if "mode=ro" in uri:
            flags = apsw.SQLITE_OPEN_URI | apsw.SQLITE_OPEN_READONLY
        with contextlib.closing(apsw.Connection(uri, flags=flags)) as db:
            db.set_busy_timeout(BUSY_MS)
            missing = find_missing(db, load_migrations())
            if missing and missing[0].number == 1:
                raise SpoolSchemaError(f"{path} is empty: no gateway has used it yet")
            try:
                return question(_FileQuestions(db, missing))
            except apsw.SQLError as error:
                if not missing:
                    raise
                raise SpoolSchemaError(
                    f"{path} was written by an older mailactors;"
                    " serve it once with this one, which brings it up to date"
                ) from error
    except apsw.NotADBError as error:
        raise SpoolSchemaError(f"{path} is not a database") from error
    except (apsw.CorruptError, SpoolBrokenError) as error:
        raise SpoolBrokenError(
            f"{path} is damaged ({error}); keep it as it is, and go on from a backup"
        ) from error
    except apsw.Error as error:
        raise SpoolError(f"{path} cannot be read: {error}") from error
