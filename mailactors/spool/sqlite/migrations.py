"""Numbered SQL files, each applied once, in order, in a transaction of its own.

An applied file is never edited: its checksum is kept in the spool and compared at every start, so
that two spools of the same version are the same.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from importlib import resources
from typing import Any, Final

import apsw
import msgspec

from mailactors.spool.port import SpoolSchemaError
from mailactors.spool.store.suppressions import normalize

APPLICATION_ID: Final = 0x6D616374
"""In the header of each spool ("mact"), so that another program's file is recognized."""

_NAME = re.compile(r"(\d{4})_\w+\.sql")


class Migration(msgspec.Struct, frozen=True):
    """One file. `number` counts from 1 without gaps."""

    number: int
    name: str
    sql: str

    @property
    def sha256(self) -> str:
        """The checksum that a spool records."""
        return hashlib.sha256(self.sql.encode()).hexdigest()


def load_migrations() -> tuple[Migration, ...]:
    """Return the migrations of this program, in order."""
    folder = resources.files("mailactors.spool.sqlite") / "sql"
    found = sorted((entry.name, entry) for entry in folder.iterdir() if _NAME.match(entry.name))
    migrations = tuple(
        Migration(int(name[:4]), name, entry.read_text("utf-8")) for name, entry in found
    )
    assert [one.number for one in migrations] == list(range(1, len(migrations) + 1))
    return migrations


def find_missing(db: apsw.Connection, migrations: Sequence[Migration]) -> tuple[Migration, ...]:
    """Return the migrations that a spool, or an empty file, lacks. Changes nothing.

    Raises: SpoolSchemaError for another program's file, a newer spool, or a changed migration.
    """
    applied = _applied(db)
    for number, name, sha256 in applied:
        if number > len(migrations):
            raise SpoolSchemaError(
                f"the spool has migration {name}, which this program does not know:"
                " it was written by a newer mailactors; run that one"
            )
        if sha256 != migrations[number - 1].sha256:
            raise SpoolSchemaError(
                f"migration {name} is not the one that made this spool;"
                " restore the program's original files"
            )
    return tuple(migrations[len(applied) :])


def apply_migration(db: apsw.Connection, migration: Migration) -> None:
    """Apply one migration and record it, both or neither."""
    db.create_scalar_function("normal_address", lambda *values: normalize(str(values[0])), 1)
    with db:
        db.execute(
            "CREATE TABLE IF NOT EXISTS migrations"
            " (number INTEGER PRIMARY KEY, name TEXT NOT NULL, sha256 TEXT NOT NULL) STRICT"
        )
        db.execute(migration.sql)
        db.execute(
            "INSERT INTO migrations VALUES (?, ?, ?)",
            (migration.number, migration.name, migration.sha256),
        )


def _applied(db: apsw.Connection) -> list[tuple[Any, ...]]:
    if db.pragma("application_id") != APPLICATION_ID:
        if db.execute("SELECT count(*) FROM sqlite_schema").get:
            raise SpoolSchemaError("the file is a database, but no spool of mailactors")
        return []
    return db.execute("SELECT number, name, sha256 FROM migrations ORDER BY number").fetchall()
