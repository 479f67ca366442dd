"""What readers took for repeats, and which of it was lost."""

from eventspine.positions import Shown, dropped


def shown(*positions: int) -> Shown:
    partition = Shown()
    for offset, position in enumerate(positions):
        partition.add(position, offset)
    return partition


def test_a_stretch_that_comes_again_is_nothing_that_was_dropped() -> None:
    assert dropped(0, {0: shown(1, 4, 6, 4, 6, 9), 1: shown(2, 3, 5)}) == []


def test_what_came_behind_a_higher_position_and_stands_nowhere_else_was_dropped() -> None:
    assert dropped(0, {0: shown(1, 900, 4, 6), 1: shown(2, 3, 5)}) == [4, 6]


def test_a_position_that_another_partition_holds_in_its_turn_is_a_foreign_record() -> None:
    assert dropped(0, {0: shown(1, 4, 6, 3), 1: shown(2, 3, 5)}) == []
