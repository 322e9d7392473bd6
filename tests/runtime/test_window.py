"""Sliding windows never count too little."""

from hypothesis import given, settings
from hypothesis import strategies as st

from mailactors.runtime.window import BUCKETS, Window


@given(
    waits=st.lists(st.floats(0.0, 40.0), min_size=1, max_size=200),
    counts=st.lists(st.integers(1, 5), min_size=200, max_size=200),
)
@settings(deadline=None, max_examples=100)
def test_no_window_of_its_length_holds_more_than_its_maximum(
    waits: list[float], counts: list[int]
) -> None:
    window, now_s, given_at = Window(60.0, 5), 0.0, list[tuple[float, int]]()
    for wait_s, count in zip(waits, counts, strict=False):
        now_s += wait_s
        if window.opens_at_s(now_s, count) <= now_s:
            window.add(now_s, count)
            given_at.append((now_s, count))

    for end_s, _ in given_at:
        assert sum(n for at_s, n in given_at if end_s - 60.0 < at_s <= end_s) <= 5


@given(now_s=st.floats(0.0, 1e6), count=st.integers(1, 5))
@settings(deadline=None, max_examples=200)
def test_at_the_time_that_it_names_there_is_room(now_s: float, count: int) -> None:
    window = Window(60.0, 5)
    window.add(now_s, 5)

    opens_at_s = window.opens_at_s(now_s, count)

    assert now_s < opens_at_s <= now_s + 60.0 + 60.0 / BUCKETS + 1e-5
    assert window.opens_at_s(opens_at_s + 1e-5, count) <= opens_at_s + 1e-5
