"""The reference model of deliveries: whom its judgement of the order accuses."""

from __future__ import annotations

import msgspec
import pytest

from mailactors.sim.check.deliveries import FAIR_S, DeliveryModel
from mailactors.spool.port import Command, Intend, Intended, Receipt, Result
from tests.spool.makers import NOW, make_accept


class Commits:
    """Commits by a clock of their own."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.found: list[str] = []
        self.model = DeliveryModel(
            lambda invariant, _detail, _number: self.found.append(invariant),
            lambda _seq: None,
            lambda: self.now_s,
            set,
        )

    def apply(self, command: Command, result: Result) -> None:
        self.model.commit([command], [result], NOW + self.now_s)

    def accept(self, number: int, life_s: float) -> None:
        id_, now = f"{number:032x}", NOW + self.now_s
        accept = make_accept(id_, at=now)
        content = msgspec.structs.replace(accept.message.content, subject=str(number))
        message = msgspec.structs.replace(accept.message, content=content, expires_at=now + life_s)
        accept = msgspec.structs.replace(accept, message=message)
        self.apply(accept, Receipt(number + 1, id_, id_, "", now, False))

    def intend(self, number: int) -> None:
        intended = Intended("", 0.0, "", ((0, "ann@example.com"),), b"")
        self.apply(Intend("a1", number + 1, (0,), 1, "primary"), intended)


@pytest.mark.parametrize(
    ("life_s", "expected"), [(600.0, ["first come, first served"]), (FAIR_S, [])]
)
def test_what_is_past_its_deadline_is_not_overtaken(life_s: float, expected: list[str]) -> None:
    commits = Commits()
    commits.accept(0, life_s)
    commits.now_s = FAIR_S + 1
    commits.accept(1, life_s)

    commits.intend(1)

    assert expected == commits.found
