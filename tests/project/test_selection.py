"""Which tests `make test` and `make test-fast` run."""

import os
import re
import shlex
import signal
import subprocess
import sys
from contextlib import suppress
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
    assert "-m alone" in commands("test", all_of_them)


def test_ci_runs_the_heavy_tests_and_ends_if_they_hang() -> None:
    last = (PROJECT / ".ci/run").read_text().splitlines()[-1]
    assert re.fullmatch(r"timeout --kill-after 60 \d+ make test HEAVY=true", last)


@pytest.mark.heavy
@pytest.mark.timeout(170)
def test_a_test_that_crashes_its_process_ends_the_run_with_an_error(tmp_path: Path) -> None:
    """By itself pytest-xdist 3.8 then waits for ever, if there is nothing left for the others."""
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    for number in range(4):
        tests = "".join(f"def test_{each}(): pass\n" for each in range(6))
        (tmp_path / f"test_good_{number}.py").write_text(tests)
    (tmp_path / "test_last.py").write_text(
        "import os, time\ndef test_crash(): time.sleep(2); os._exit(3)\ndef test_next(): pass\n"
    )
    [line] = [line for line in commands("test").splitlines() if "-m pytest" in line]
    words = [word for word in shlex.split(line)[1:] if word not in {"-m", "not heavy"}]
    run = subprocess.Popen(
        [sys.executable, "-m", *words, "-p", "no:cacheprovider"],
        cwd=tmp_path, stdout=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        told, _ = run.communicate(timeout=150)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(run.pid, signal.SIGKILL)
        run.communicate()
    assert run.returncode == 1, told
    assert "crashed while running 'test_last.py::test_crash'" in told


def test_the_fast_tests_are_without_kafka_and_the_heavy_ones() -> None:
    assert '-m "not kafka and not heavy and not slow"' in commands("test-fast")
