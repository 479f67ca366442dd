"""docs/tutorial.md does what it says: a reader follows it, block by block, in a copy of the project.

A Python block goes into the file that its first line names; a `diff` is applied; `sh` is run, and what
follows as `text` is what it must print, where … stands for anything. Only ports are others.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from itertools import pairwise, takewhile
from pathlib import Path
from typing import NamedTuple

import pytest
from markdown_it import MarkdownIt

from tests.support.shop import Output, environment, free_ports

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/tutorial.md"
SERVICE = "src/shop/services/loyalty"
CONTRACTS = "src/shop/contracts/loyalty.py"
# What `make contracts` writes again when orders get a field.
WRITTEN = {
    "docs/asyncapi/asyncapi.json",
    "docs/contracts.md",
    "src/shop/contracts/recorded/order.cancelled.1.schema.json",
    "src/shop/contracts/recorded/order.placed.1.schema.json",
}
PORTS = {"users": "8001", "orders": "8002", "loyalty": "8003", "console": "8000"}


class Block(NamedTuple):
    language: str
    text: str
    line: int
    said: str
    """What it must print."""

    @property
    def path(self) -> str:
        """Of a Python block: the file that it is."""
        found = re.match(r"# ([\w/.]+\.py)\n", self.text)
        assert found, f"line {self.line}: a Python block begins with its path"
        return found[1]


def blocks() -> list[Block]:
    fences = [each for each in MarkdownIt().parse(PAGE.read_text()) if each.type == "fence"]
    return [
        Block(
            each.info,
            each.content,
            each.map[0] + 1 if each.map else 0,
            following.content if following is not None and following.info == "text" else "",
        )
        for each, following in pairwise([*fences, None])
        if each is not None and each.info != "text"
    ]


class Reader:
    """Someone with a copy of the project and a second terminal."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._ports = dict(zip(PORTS, free_ports(len(PORTS)), strict=True))
        self._up: subprocess.Popen[str] | None = None
        self._output: Output | None = None
        tracked = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        listed = subprocess.run(tracked, cwd=ROOT, capture_output=True, text=True, check=True)
        for name in filter(None, listed.stdout.split("\0")):
            if (ROOT / name).is_file():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, folder / name)
        if (ROOT / ".mypy_cache").is_dir():
            shutil.copytree(ROOT / ".mypy_cache", folder / ".mypy_cache")
        programs = folder / ".venv/bin"
        programs.mkdir(parents=True)
        for name in ("python", "shop", "ruff", "mypy", "lint-imports"):
            real = Path(sys.executable).parent / name
            (programs / name).write_text(
                f'#!/bin/sh\nPYTHONPATH="{folder}/src" exec "{real}" "$@"\n'
            )
            (programs / name).chmod(0o755)

    def follow(self, block: Block) -> None:
        match block.language:
            case "python":
                path = self.folder / block.path
                assert not path.exists(), f"line {block.line}: {block.path} is there already"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(block.text)
            case "diff":
                self._succeeds(block, ["git", "apply", "-C1"], block.text)
            case "sh" if block.text == "make up\n":
                self.stop()
                self._start(block)
            case "sh":
                self._run(block)
            case other:
                raise AssertionError(f"line {block.line}: a block of {other!r}")

    def files(self) -> Mapping[str, bytes]:
        """Of the project, as far as people wrote them."""
        return {
            str(path.relative_to(self.folder)): path.read_bytes()
            for path in self.folder.rglob("*")
            if path.is_file() and not _is_made(path.relative_to(self.folder))
        }

    def stop(self) -> None:
        """Ctrl-C."""
        if self._up is None or self._output is None:
            return
        os.killpg(self._up.pid, signal.SIGINT)
        self._up.wait(90)
        self._output.close()
        self._up = None

    def _start(self, block: Block) -> None:
        self._up = subprocess.Popen(
            self._bash(block.text), cwd=self.folder, env=self._environment(block), text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        self._output = Output(self._up)
        ready = self._output.until("eventshop is ready", timeout=150)
        assert not (missing := self._missing(block, ready)), missing

    def _run(self, block: Block) -> None:
        # What a service has heard is a moment behind, so whoever only looks may look again.
        looks = block.text.startswith((".venv/bin/shop", "curl")) and " -d " not in block.text
        deadline = time.monotonic() + (60 if looks else 0)
        while True:
            printed = self._succeeds(block, self._bash(block.text))
            missing = self._missing(block, printed)
            if not missing or time.monotonic() > deadline:
                break
            time.sleep(0.1)
        assert not missing, f"line {block.line}: it does not say {missing!r} but:\n{printed}"

    def _succeeds(self, block: Block, command: list[str], given: str = "") -> str:
        done = subprocess.run(
            command, cwd=self.folder, env=self._environment(block), input=given, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=300, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"line {block.line}: {block.text}\n{done.stdout}"
        return done.stdout

    def _missing(self, block: Block, printed: str) -> str:
        """The first line of what it must print that it did not."""
        at = 0
        for line in self._with_ports(block.said).splitlines():
            pattern = ".*".join(re.escape(part) for part in line.strip().split("…"))
            found = re.compile(pattern).search(printed, at)
            if found is None:
                return line
            at = found.end()
        return ""

    def _bash(self, script: str) -> list[str]:
        # The environment that make would build is here already.
        make = 'make() { command make -o installed-local -o installed-dev "$@"; }\n'
        return ["bash", "-ec", make + self._with_ports(script)]

    def _with_ports(self, text: str) -> str:
        for name, port in PORTS.items():
            text = re.sub(rf":{port}\b", f":{self._ports[name]}", text)
        return text

    def _environment(self, block: Block) -> dict[str, str]:
        """Of a service that is not there, or that the block deletes, a port is not a setting."""
        services = "src/shop/services"
        there = [
            name
            for name in PORTS
            if (self.folder / services / name).exists()
            and f"rm -r {services}/{name}" not in block.text
        ]
        ports = {f"SHOP_{name.upper()}__PORT": self._ports[name] for name in there}
        # A busy machine takes longer to tell one service of the other's user.
        return environment(SHOP_ORDERS__CUSTOMER_GRACE_MS=10_000, **ports)


def _is_made(path: Path) -> bool:
    return path.parts[0].startswith((".data", ".mypy", ".ruff", ".import")) or "__pycache__" in path.parts  # fmt: skip


@pytest.fixture
def reader() -> Iterator[Reader]:
    # Pytest's own folders have paths too long for a socket.
    with tempfile.TemporaryDirectory(prefix="eventshop-tutorial-") as directory:
        os.chmod(directory, 0o755)
        reader = Reader(Path(directory))
        try:
            yield reader
        finally:
            reader.stop()


@pytest.mark.heavy
@pytest.mark.timeout(900)  # some 20 s of computing, on cores that may be shared
def test_the_page_does_what_it_says_and_the_service_goes_without_a_trace(reader: Reader) -> None:
    before = reader.files()
    page = blocks()
    for block in page:
        reader.follow(block)
    after = reader.files()
    touched = {path for path in before.keys() | after.keys() if before.get(path) != after.get(path)}
    diffs = "".join(block.text for block in page if block.language == "diff")
    named = {
        *(block.path for block in page if block.language == "python"),
        *(path for path in touched if re.search(r"/migrations/\d{4}_note\.py$", path)),
        *re.findall(r"^\+\+\+ b/(.*)$", diffs, re.MULTILINE),
        *WRITTEN,
    }
    assert touched == {path for path in named if not path.startswith((SERVICE, CONTRACTS))}


def test_a_service_takes_less_than_150_lines() -> None:
    lines = [
        line
        for block in takewhile(lambda block: block.language != "diff", blocks())
        if block.language == "python" and block.path.startswith((SERVICE, CONTRACTS))
        for line in block.text.splitlines()[1:]
        if line
    ]
    assert 100 < len(lines) < 150
