"""Which tests `make test` and `make test-fast` run."""

import os
import subprocess
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]


def commands(*words: str) -> str:
    # Of the `make` that runs this test, nothing is passed on.
    given = {"CI", "HEAVY", "MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEOVERRIDES"}
    plain = {name: value for name, value in os.environ.items() if name not in given}
    return subprocess.run(
        ["make", "--dry-run", *words],
        cwd=PROJECT, env=plain, capture_output=True, text=True, timeout=60, check=True,
    ).stdout  # fmt: skip


@pytest.mark.parametrize("all_of_them", ["HEAVY=true", "CI=true"])
def test_heavy_tests_are_run_where_they_are_asked_for(all_of_them: str) -> None:
    assert '-m "not heavy"' in commands("test")
    assert "pytest" in commands("test", all_of_them)
    assert "not heavy" not in commands("test", all_of_them)


def test_ci_runs_the_heavy_tests() -> None:
    assert (PROJECT / ".ci/run").read_text().endswith("\nmake test HEAVY=true\n")


def test_the_fast_tests_are_without_kafka_and_the_heavy_ones() -> None:
    assert '-m "not kafka and not heavy and not slow"' in commands("test-fast")
