"""The steps of docs/operations.md, as an operator reads them, for tests that follow them to the letter."""

import re
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs/operations.md"


def section(heading: str) -> str:
    """What stands below `## heading`, up to the next heading of that level."""
    [found] = re.findall(
        rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", PAGE.read_text(), re.MULTILINE | re.DOTALL
    )
    return str(found)


def commands(heading: str, *groups: str) -> list[list[str]]:
    """The commands of these groups (`keys`, `users`) in that section, in order, each as its words without `shop`."""
    quoted = re.findall(r"`([^`]+)`", section(heading))
    words = [text.removeprefix("shop ").split() for text in quoted]
    return [each for each in words if len(each) > 1 and each[0] in groups]
