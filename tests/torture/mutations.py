"""Guards taken out, one at a time: a test that does not fail without its guard guards nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import msgspec

from mailactors.spool.actor import SpoolActor
from mailactors.spool.port import (
    Accept,
    Intend,
    Intended,
    Purge,
    Receipt,
    RecordOutcome,
    Recover,
    SpoolBrokenError,
    SpoolFullError,
)
from mailactors.spool.sqlite import SqliteStore
from mailactors.spool.store import accept as accepting
from mailactors.spool.store import commands as rules
from mailactors.spool.store import deliver, retention
from mailactors.spool.store.accept import accept_all
from mailactors.spool.store.events import record
from mailactors.spool.store.rows import Row, Rows

Apply = Callable[[Rows, Any, float], Any]


def _replace_command(kind: type[Any], make: Callable[[Apply], Apply]) -> None:
    usual = rules.RULES[kind]
    rules.RULES[kind] = make(usual)


def answer_before_commit() -> None:
    """A new message is acknowledged when it is handed to the store, not when it is durable."""
    usual = SpoolActor._apply

    async def apply(self: SpoolActor, group: list[Any]) -> Any:
        for write in group:
            if isinstance(write.command, Accept):
                message = write.command.message
                at = message.accepted_at
                write.reply.resolve(Receipt(0, message.id, message.message_id, "", at, False))
        return await usual(self, group)

    SpoolActor._apply = apply  # type: ignore[method-assign]


def key_after_commit() -> None:
    """The idempotency key gets a transaction of its own, after the message's."""
    usual_accept, usual_apply = accept_all, SqliteStore.apply
    late: list[tuple[Any, ...]] = []

    def accept(db: Rows, commands: Sequence[Accept], now: float) -> Any:
        results = usual_accept(db, commands, now)
        late.extend(db.query("DELETE FROM keys RETURNING scope, key, fingerprint, seq, expires_at"))
        return results

    def apply(self: SqliteStore, commands: Sequence[Any], now: float) -> list[Any]:
        results: list[Any] = usual_apply(self, commands, now)
        self._db.executemany("INSERT INTO keys VALUES (?, ?, ?, ?, ?)", late)
        late.clear()
        return results

    vars(accepting)["accept_all"] = accept
    SqliteStore.apply = apply  # type: ignore[method-assign]


def send_without_intent() -> None:
    """The intent is answered, but not written down."""

    def make(usual: Apply) -> Apply:
        def intend(db: Rows, command: Intend, now: float) -> Any:
            db.run("SAVEPOINT unwritten")
            result = usual(db, command, now)
            if isinstance(result, Intended):
                db.run("ROLLBACK TO unwritten")
            db.run("RELEASE unwritten")
            return result

        return intend

    _replace_command(Intend, make)


def recover_sending_as_ready() -> None:
    """After a crash, what was being sent is sent again, as if it had not been."""
    _before_recover("UPDATE deliveries SET state = 'leased' WHERE state = 'sending'")


def recover_leased_as_uncertain() -> None:
    """After a crash, what was only leased counts as perhaps sent."""
    _before_recover("UPDATE deliveries SET state = 'sending' WHERE state = 'leased'")


def forget_leases() -> None:
    """After a crash, what was leased is nobody's any more, and stays so."""
    _before_recover("UPDATE deliveries SET node = 'gone' WHERE state = 'leased'")


def _before_recover(sql: str) -> None:
    def make(usual: Apply) -> Apply:
        def recover(db: Rows, command: Recover, now: float) -> Any:
            db.run(sql)
            return usual(db, command, now)

        return recover

    _replace_command(Recover, make)


def event_after_commit() -> None:
    """An outcome's event gets a transaction of its own, after the outcome's."""
    usual_apply, usual_record = SqliteStore.apply, record
    late: list[tuple[Any, ...]] = []

    def record_late(_db: Rows, *facts: Any) -> None:
        late.append(facts)

    def apply(self: SqliteStore, commands: Sequence[Any], now: float) -> list[Any]:
        results: list[Any] = usual_apply(self, commands, now)
        for facts in late:
            usual_record(self._rows, *facts)
        late.clear()
        return results

    vars(deliver)["record"] = record_late
    SqliteStore.apply = apply  # type: ignore[method-assign]


def purge_what_is_open() -> None:
    """Whatever is old enough is purged, final or not."""

    def final(
        db: Rows, kept: tuple[int, ...], before: float, limit: int
    ) -> list[tuple[float, int]]:
        places = ", ".join("?" * len(kept))
        rows: list[Row] = db.query(
            f"SELECT accepted_at, seq FROM messages WHERE kept IN ({places}) AND accepted_at < ?"
            " ORDER BY accepted_at, seq LIMIT ?",
            (*kept, before, limit),
        )
        return [(at, seq) for at, seq in rows]

    retention._final = final


def purge_keys_that_hold() -> None:
    """A key goes with its message, whatever its window."""
    retention._unkeyed = lambda db, rows, now: rows


def purge_in_pieces() -> None:
    """A purge is no transaction: each of its statements is one."""

    def make(usual: Apply) -> Apply:
        def purge(db: Rows, command: Purge, now: float) -> Any:
            db.run("COMMIT")
            result = usual(db, command, now)
            db.run("BEGIN IMMEDIATE")
            return result

        return purge

    _replace_command(Purge, make)


def retry_on_a_broken_disk() -> None:
    """A disk that failed is tried again, as a full one is."""
    usual = SqliteStore.apply

    def apply(self: SqliteStore, commands: Sequence[Any], now: float) -> list[Any]:
        try:
            return usual(self, commands, now)
        except SpoolBrokenError as error:
            self._broken = ""
            raise SpoolFullError(str(error)) from error

    SqliteStore.apply = apply  # type: ignore[method-assign]


def drop_epochs() -> None:
    """Whoever settles a delivery owns it: no epoch is compared."""

    def make(usual: Apply) -> Apply:
        def settle(db: Rows, command: RecordOutcome, now: float) -> Any:
            db.run_each(
                "UPDATE deliveries SET epoch = ?, attempt_id = ? WHERE seq = ? AND n = ?",
                [(command.epoch, command.attempt_id, command.seq, s.n) for s in command.steps],
            )
            return usual(db, command, now)

        return settle

    _replace_command(RecordOutcome, make)


def intend_under_any_epoch() -> None:
    """Whoever once leased a message may send it."""

    def make(usual: Apply) -> Apply:
        def intend(db: Rows, command: Intend, now: float) -> Any:
            epoch = db.value("SELECT epoch FROM deliveries WHERE seq = ?", (command.seq,))
            return usual(db, msgspec.structs.replace(command, epoch=epoch), now)

        return intend

    _replace_command(Intend, make)


def ignore_what_comes_late() -> None:
    """An answer that comes after its attempt was given up is evidence, and settles nothing."""
    vars(deliver)["settle_late"] = lambda db, command, now: None


def answer_what_fits() -> None:
    """A full disk is not noticed: what could not be written counts as written."""
    usual = SqliteStore.apply

    def apply(self: SqliteStore, commands: Sequence[Any], now: float) -> list[Any]:
        try:
            return usual(self, commands, now)
        except SpoolFullError:
            return [
                Receipt(0, c.message.id, c.message.message_id, "", now, False)
                if isinstance(c, Accept)
                else None
                for c in commands
            ]

    SqliteStore.apply = apply  # type: ignore[method-assign]


MUTATIONS: Final[Mapping[str, Callable[[], None]]] = {
    mutation.__name__: mutation
    for mutation in (
        answer_before_commit,
        answer_what_fits,
        drop_epochs,
        event_after_commit,
        forget_leases,
        ignore_what_comes_late,
        intend_under_any_epoch,
        key_after_commit,
        purge_in_pieces,
        purge_keys_that_hold,
        purge_what_is_open,
        recover_leased_as_uncertain,
        recover_sending_as_ready,
        retry_on_a_broken_disk,
        send_without_intent,
    )
}
