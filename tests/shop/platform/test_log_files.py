"""What is put aside of a log file, and stays."""

import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from shop.platform import log_files
from shop.platform.logging import configure_logging


def test_log_files_cut_by_many_at_once_lose_nothing(tmp_path: Path) -> None:
    path, old = tmp_path / "users-api.log", tmp_path / "users-api.log.1"
    many, text = 4, "a line\n" * 500
    together = threading.Barrier(many)

    def cut() -> None:
        together.wait()
        log_files.cut(path, 1000)

    with ThreadPoolExecutor(many) as threads:
        for _ in range(100):
            path.write_text(text)
            for each in [threads.submit(cut) for _ in range(many)]:
                each.result()
            assert (path.read_text(), old.read_text()) == ("", text)


@pytest.mark.usefixtures("logging_as_it_was")
def test_a_log_file_keeps_within_its_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shop.platform.logging.cut", lambda path: log_files.cut(path, 10_000))
    configure_logging("users api", directory=tmp_path)
    for n in range(500):
        logging.getLogger("test").info("line %d", n)
    kept = [tmp_path / "users-api.log.1", tmp_path / "users-api.log"]
    assert sorted(tmp_path.iterdir()) == sorted(kept)
    assert all(file.stat().st_size < 10_200 for file in kept)
    lines = "".join(file.read_text() for file in kept).splitlines()
    assert [
        f'"line {n}"' in line for n, line in zip(range(500 - len(lines), 500), lines, strict=True)
    ] == ([True] * len(lines))
