"""What the rules need of an engine: its rows, and the few things that plain SQL cannot say."""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from typing import Any, Protocol, TypeAlias

Row: TypeAlias = tuple[Any, ...]


def distinct(column: str, table: str, where: str = "TRUE") -> str:
    """Return a query of an indexed column's values, in order: one seek for each of the few."""
    return f"""
        WITH RECURSIVE found (value) AS (
          SELECT min({column}) FROM {table} WHERE {where}
          UNION ALL
          SELECT (SELECT min({column}) FROM {table} WHERE {where} AND {column} > value)
          FROM found WHERE value IS NOT NULL
        )
        SELECT value FROM found WHERE value IS NOT NULL ORDER BY value
    """


class Dialect(Protocol):
    """All that an engine adds to plain SQL, and how each hook will look on PostgreSQL."""

    among: str
    """Test of a column against `listed` values, after its name. PostgreSQL: `= ANY(?)`."""
    skip_locked: str
    """End of the query by which a claim finds due deliveries; empty where writers take turns.

    PostgreSQL: ` FOR UPDATE OF messages SKIP LOCKED`, so that two claims never wait for each
    other. The rules read and then write: a group runs at SERIALIZABLE there, and is repeated
    after a serialization failure (40001).
    """

    def listed(self, values: Sequence[int]) -> object:
        """Return the value to bind for `among`. PostgreSQL: the list itself."""
        ...

    def along(self, index: str) -> str:
        """Return a hint, to stand after a table. PostgreSQL: empty, for it keeps statistics."""
        ...

    def next_epoch(self) -> int:
        """Return a lease's epoch, higher than all before. PostgreSQL: `nextval` of a sequence."""
        ...

    def message_seqs(self) -> Iterator[int]:
        """Yield the seqs of new messages, never used before. PostgreSQL: `nextval` for each."""
        ...

    def latest_event_seq(self) -> int:
        """Return the highest seq of an event that was ever visible, or 0.

        `Questions.events_after` promises their order. PostgreSQL: a group takes
        `pg_advisory_xact_lock` before its first event and draws `nextval` under it; the lock is
        released after the commit is visible, and the latest is `max(seq)`.
        """
        ...

    def give_space_back(self) -> bool:
        """Return some unused space; say whether there is more. PostgreSQL: partitions dropped."""
        ...


class Rows(Protocol):
    """An open transaction, as the rules use it.

    SQL is plain (SQLite and PostgreSQL read it alike). Parameters are positional, written `?`; no
    statement has another question mark, so that an engine may replace them by its own.
    """

    @property
    def dialect(self) -> Dialect:
        """The hooks of this engine."""
        ...

    @property
    def moved(self) -> Counter[tuple[str, str]]:
        """What this transaction adds to the kept sums, by stream and name (`store/sums.py`)."""
        ...

    def query(self, sql: str, values: Sequence[Any] = ()) -> list[Row]:
        """Return all rows of a query."""
        ...

    def each(self, sql: str, values: Sequence[Any] = ()) -> Generator[Row, None, None]:
        """Yield the rows of a query, and read no further than the caller does."""
        ...

    def value(self, sql: str, values: Sequence[Any] = ()) -> Any:
        """Return the only value of a query, or None if there is no row."""
        ...

    def run(self, sql: str, values: Sequence[Any] = ()) -> int:
        """Execute a change; return how many rows it changed."""
        ...

    def run_each(self, sql: str, values: Sequence[Sequence[Any]]) -> int:
        """Execute a change for each of the values; return how many rows changed in all."""
        ...
