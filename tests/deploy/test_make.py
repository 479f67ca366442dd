"""`make` in a scratch copy of the project: half made, moved, copied, or of a Python that is gone.

The copy has next to nothing to install, so that this takes seconds.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

PYTHONS = {"PYTHONDONTWRITEBYTECODE"}
"""Settings of Python's that are to be `make`'s own."""

PROJECT = Path(__file__).parents[2]


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A project whose `shop up` says where it runs from. Its folder's name is not of the plain ones."""
    folder = tmp_path / "Läden ☕, 1% #e='f'"
    (folder / "requirements").mkdir(parents=True)
    (folder / "src" / "shop" / "cli").mkdir(parents=True)
    for name in ("Makefile", "pyproject.toml", "README.md", "requirements/venv.py"):
        shutil.copy(PROJECT / name, folder / name)
    pinned = (PROJECT / "requirements" / "local.txt").read_text()
    setuptools = re.search(r"^setuptools==(?:.*\\\n)*.*\n", pinned, re.MULTILINE)
    assert setuptools
    (folder / "requirements" / "local.txt").write_text(setuptools[0])
    (folder / "requirements" / "prod.in").write_text("")
    (folder / "src" / "shop" / "cli" / "__init__.py").touch()
    (folder / "src" / "shop" / "cli" / "__main__.py").write_text(
        "import sys\ndef main(): print(sys.argv[1:], 'from', __file__)\n"
    )
    return folder


# What a `make` that runs these tests tells those that it starts.
LEFT_OUT = {*PYTHONS, "MAKEFLAGS", "MAKELEVEL", "MFLAGS", "MAKEOVERRIDES"}


def start(folder: Path, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        ["make", f"PYTHON={sys.executable}", "up"],
        cwd=folder,
        env={name: os.environ[name] for name in os.environ if name not in LEFT_OUT} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def said(make: subprocess.Popen[str]) -> list[str]:
    output, _ = make.communicate(timeout=100)
    assert make.returncode == 0, output
    return output.splitlines()


def from_here(folder: Path, *options: str) -> str:
    return f"{['up', *options]} from {folder}/src/shop/cli/__main__.py"


@pytest.mark.heavy
def test_make_makes_anew_what_is_not_right(clone: Path, tmp_path: Path) -> None:
    # Killed amid the first seconds, and everything below it too.
    killed = start(clone)
    deadline = time.monotonic() + 60
    while not (clone / ".venv" / "bin" / "python").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.communicate()

    # Two at once, in an environment that would lead both elsewhere.
    led = {"PYTHONPATH": "/nowhere", "PYTHONHOME": "/nowhere", "PIP_USER": "1", "PIP_TARGET": "/x"}
    both = [said(make) for make in [start(clone, **led), start(clone, **led)]]
    assert [lines[-1] for lines in both] == [from_here(clone)] * 2
    made = [lines for lines in both if "making .venv anew: it is only half made" in lines]
    assert len(made) == 1
    assert said(start(clone)) == [from_here(clone)]

    for kafka, option in [("1", "local"), ("broker:9091", "broker:9091")]:
        assert said(start(clone, KAFKA=kafka)) == [from_here(clone, "--kafka", option)]
    off = {"KAFKA": "0", "CDC": "no", "GATEWAY": "false"}
    assert said(start(clone, AUTH="1", **off)) == [from_here(clone, "--auth")]

    # Copied; the copy's code is another.
    copy = tmp_path / "copy"
    subprocess.run(["cp", "-a", clone, copy], check=True)
    for cache in list((copy / "src").rglob("__pycache__")):
        shutil.rmtree(cache)
    if (
        os.geteuid() == 0
    ):  # and somebody's: what root makes in there is theirs, and no cache is left
        subprocess.run(["chown", "-R", "65534", copy], check=True)
    lines = said(start(copy))
    assert [path for path in copy.rglob("*") if path.lstat().st_uid != copy.stat().st_uid] == []
    assert lines[0] == "making .venv anew: it was made in another folder"
    assert lines[-1] == from_here(copy)
    own = [str(copy / ".venv" / "bin" / "shop"), "up"]
    assert (
        subprocess.run(own, capture_output=True, text=True, check=True).stdout == f"{lines[-1]}\n"
    )
    assert said(start(clone)) == [from_here(clone)], "the first is as it was"


@pytest.fixture
def why_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Mapping[str, object]:
    """What `requirements/venv.py` thinks of `.venv` in `tmp_path`, which is right at first."""
    code: dict[str, object] = {
        "__name__": "venv",
        "__file__": str(tmp_path / "requirements/venv.py"),
    }
    exec((PROJECT / "requirements" / "venv.py").read_text(), code)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / ".venv"], check=True)
    (tmp_path / ".venv" / ".local").touch()
    return code


@pytest.mark.parametrize(
    ("trouble", "why"),
    [
        ("none", ""),
        ("no venv", ""),
        ("not finished", "it is only half made"),
        ("begun again", "it is only half made"),
        ("no settings", "it was made in another folder"),
        ("no Python", "its Python is gone"),
        ("a Python that does not run", "its Python is gone"),
        ("another Python", "its Python is another version now"),
    ],
)
def test_what_is_wrong_is_noticed(
    why_anew: Mapping[str, object], tmp_path: Path, trouble: str, why: str
) -> None:
    venv = tmp_path / ".venv"
    python = venv / "bin" / "python"
    if trouble == "no venv":
        shutil.rmtree(venv)
    elif trouble == "not finished":
        (venv / ".local").unlink()
    elif trouble == "begun again":
        (venv / ".local.begun").touch()
    elif trouble == "no settings":
        (venv / "pyvenv.cfg").unlink()
    elif trouble == "no Python":
        python.unlink()
        python.symlink_to("/nowhere/python3")
    elif trouble == "a Python that does not run":
        python.unlink()
        python.write_text("#!/bin/false\n")
        python.chmod(0o755)
    elif trouble == "another Python":
        settings = (venv / "pyvenv.cfg").read_text()
        (venv / "pyvenv.cfg").write_text(re.sub("version = 3.*", "version = 3.9.1", settings))
    found = why_anew["why_anew"]
    assert callable(found)
    assert found() == why


def test_a_folder_of_an_impossible_name_is_one_sentence(clone: Path) -> None:
    folder = clone.rename(clone.with_name("a:b$c"))
    make = start(folder)
    output, _ = make.communicate(timeout=90)
    assert make.returncode == 2
    assert output.startswith("there is '$' and ':' in the name of this folder, ")
    assert not (folder / ".venv").exists()
