"""What ruff's security rules (bandit's) say is mended, or has a reason beside it."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_each_security_rule_that_is_set_aside_has_a_reason() -> None:
    without = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in sorted((ROOT / "src").rglob("*.py"))
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if re.search(r"# noqa:[^-]*\bS\d{3}", line)
        and not re.search(r"# noqa: [A-Z0-9, ]+ - \w", line)
    ]
    assert not without, "\n".join(without)


def test_each_vulnerability_that_is_accepted_has_a_reason() -> None:
    for line in (ROOT / ".ci/accepted").read_text().splitlines():
        if line and not line.startswith("#"):
            assert len(line.split()) > 4, line
