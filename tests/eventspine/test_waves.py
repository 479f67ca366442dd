"""Grouping that keeps every key's order."""

from collections import defaultdict

from hypothesis import given
from hypothesis import strategies as st

from eventspine.handlers import waves

items = st.lists(st.tuples(st.integers(0, 6), st.sampled_from("abc")), max_size=60).map(
    lambda keyed: [(key, kind, n) for n, (key, kind) in enumerate(keyed)]
)


def by_key(sequence: list[tuple[int, str, int]]) -> dict[int, list[tuple[int, str, int]]]:
    found = defaultdict(list)
    for item in sequence:
        found[item[0]].append(item)
    return found


@given(items)
def test_the_nth_item_of_each_key_stands_in_the_nth_wave(
    sequence: list[tuple[int, str, int]],
) -> None:
    cut = waves(sequence, key=lambda item: item[0])
    for key, own in by_key(sequence).items():
        assert [[item for item in wave if item[0] == key] for wave in cut[: len(own)]] == [
            [item] for item in own
        ]
    assert sum(map(len, cut)) == len(sequence)
    assert all(cut)


@given(items)
def test_within_a_wave_items_keep_the_order_they_came_in(
    sequence: list[tuple[int, str, int]],
) -> None:
    for wave in waves(sequence, key=lambda item: item[0]):
        assert wave == sorted(wave, key=lambda item: item[2])
