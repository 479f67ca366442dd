"""Checks the positions of a topic's records, which are read from the beginning."""

from array import array
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass
class Seen:
    """Which of the positions 1…`head` a scan of the topic has found."""

    head: int
    highest: int = 0
    different: int = 0
    repeats: int = 0
    foreign: int = 0

    def __post_init__(self) -> None:
        self._met = bytearray(self.head + 1)

    def add(self, position: int) -> None:
        self.highest = max(self.highest, position)
        # It was published during the scan, or never given out. This scan does not check it.
        if position > self.head:
            return
        if self._met[position]:
            self.repeats += 1
        else:
            self._met[position] = 1
            self.different += 1

    def holds(self, position: int) -> bool:
        return position <= self.head and bool(self._met[position])

    def missing(self, up_to: int) -> list[tuple[int, int]]:
        """The ranges of positions from 1 to `up_to` that were not found."""
        ranges = []
        at = self._met.find(0, 1, up_to + 1)
        while at != -1:
            end = self._met.find(1, at, up_to + 1)
            ranges.append((at, (end if end != -1 else up_to + 1) - 1))
            at = self._met.find(0, end, up_to + 1) if end != -1 else -1
        return ranges


@dataclass
class Shown:
    """The positions of a partition, as its readers see them. A position that does not rise is a repeat."""

    highest: int = 0
    offset: int = 0
    """The offset of the highest position."""
    passed_over: list[int] = field(default_factory=list)
    """Positions that appeared for the first time, but after a higher one."""
    _rising: "array[int]" = field(default_factory=lambda: array("q"))

    def add(self, position: int, offset: int) -> bool:
        """Whether readers treat it as new."""
        if position > self.highest:
            self.highest, self.offset = position, offset
            self._rising.append(position)
            return True
        if not self.holds(position):
            self.passed_over.append(position)
        return False

    def holds(self, position: int) -> bool:
        """Whether it was found in this partition, in the right order."""
        at = bisect_left(self._rising, position)
        return at < len(self._rising) and self._rising[at] == position


def dropped(partition: int, shown: Mapping[int, Shown]) -> list[int]:
    """The positions of a partition that readers dropped as repeats, although no partition has them in order.

    If another partition has the position in the right order, the record here is a foreign one, and
    nothing was lost.
    """
    others = [other for at, other in shown.items() if at != partition]
    return [
        position
        for position in shown[partition].passed_over
        if not any(other.holds(position) for other in others)
    ]
