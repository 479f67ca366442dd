"""How the tests are laid out."""

import ast
from pathlib import Path

TESTS = Path(__file__).parents[1]
MOST_LINES = 500


def test_what_tests_share_is_in_support() -> None:
    """Neither a conftest nor another test is imported."""
    found = [
        f"{path.relative_to(TESTS)} imports {node.module}"
        for path in TESTS.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom)
        and (node.module or "").startswith("tests.")
        and (node.module or "").rpartition(".")[2].startswith(("conftest", "test_"))
    ]
    assert found == []


def test_no_file_of_tests_is_longer_than_500_lines() -> None:
    lines = {path: len(path.read_text().splitlines()) for path in TESTS.rglob("*.py")}
    assert [str(path) for path, count in lines.items() if count > MOST_LINES] == []
