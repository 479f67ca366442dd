"""Each advisory lock has a number of its own: two that share one would wait for each other."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
_LOCK = re.compile(r"advisory\w*_lock\w*\((\d+)")


def test_no_number_is_used_by_two_modules() -> None:
    used: dict[str, set[str]] = {}
    for path in (ROOT / "src").rglob("*.py"):
        for number in _LOCK.findall(path.read_text()):
            used.setdefault(number, set()).add(str(path.relative_to(ROOT)))
    assert len(used) > 5
    assert {number: files for number, files in used.items() if len(files) > 1} == {}
