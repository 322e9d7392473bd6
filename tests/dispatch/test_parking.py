"""What is parked beside a free lane: the decision as a table."""

from __future__ import annotations

import pytest

from mailactors.dispatch.claims import LOW_WATER
from mailactors.dispatch.parking import KEPT, decide_parking

P, S, PS = ("primary",), ("secondary",), ("primary", "secondary")
FULL = LOW_WATER


@pytest.mark.parametrize(
    ("sizes", "free", "expected"),
    [
        ({P: FULL}, {"secondary"}, {P: KEPT}),
        ({P: FULL}, {"primary"}, {}),
        ({P: FULL}, set(), {}),
        ({P: FULL - 1}, {"secondary"}, {}),
        ({PS: FULL, P: 10}, {"secondary"}, {}),
        ({PS: 400, P: 300}, {"secondary"}, {P: KEPT}),
        ({P: 400, ("tertiary",): 300}, {"secondary"}, dict.fromkeys((P, ("tertiary",)), KEPT // 2)),
        ({P: 400, ("tertiary",): 100}, {"secondary"}, {P: KEPT // 2}),
        ({P: FULL, S: FULL}, {"secondary", "tertiary"}, {P: KEPT}),
    ],
)
def test_what_no_free_lane_may_take_makes_room(
    sizes: dict[tuple[str, ...], int],
    free: set[str],
    expected: dict[tuple[str, ...], int],
) -> None:
    assert expected == dict(decide_parking(sizes, free))
