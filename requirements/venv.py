"""Creates or updates .venv for `make`: `python3 -I requirements/venv.py local`, `dev` or `docs`.

It rebuilds a .venv that is incomplete, that was made in another folder (the clone was moved or copied), or whose
Python was removed or has another version now. One process works on .venv at a time; others wait.
"""

import fcntl
import hashlib
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
VENV = PROJECT / ".venv"
PYTHON = VENV / "bin" / "python"

STAGES = {
    "local": "what the shop needs",
    "dev": "what work on the shop needs",
    "docs": "what the documentation site needs",
}
"""The stages of packages. Each includes the one before."""

OLDEST_PYTHON = (3, 11)
EDITABLE = ("--no-deps", "--no-build-isolation", "--editable", ".")


class NotPossible(Exception):
    """.venv can't be created. The message is a sentence with the reason and what to do."""


def main(last_stage: str) -> None:
    os.chdir(PROJECT)
    with Path(__file__).open("rb") as lock:
        wait_for_others(lock.fileno())
        why = why_anew()
        if why:
            print(f"making .venv anew: {why}")
        if why or not VENV.exists():
            make()
        for stage in STAGES:
            install(stage)
            if stage == last_stage:
                return


def wait_for_others(lock: int) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print("another `make` is at work on .venv; waiting for it")
        fcntl.flock(lock, fcntl.LOCK_EX)
    except OSError:  # a network file system without locks
        pass


def why_anew() -> str:
    """Why .venv must be rebuilt; empty if it does not exist or can stay."""
    if not os.path.lexists(VENV):
        return ""
    if not (VENV / ".local").exists() or (VENV / ".local.begun").exists():
        return "it is only half made"
    settings = (VENV / "pyvenv.cfg").read_bytes() if (VENV / "pyvenv.cfg").exists() else b""
    # The last word of a line is the folder: `command = /usr/bin/python3 -m venv /home/jane/eventshop/.venv`.
    if not any(line.endswith(os.fsencode(f" {VENV}")) for line in settings.splitlines()):
        return "it was made in another folder"
    told = "import sys; print('version = %d.%d.' % sys.version_info[:2])"
    try:
        version = subprocess.run([PYTHON, "-I", "-c", told], capture_output=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return "its Python is gone"
    return "" if version.strip() in settings else "its Python is another version now"


def make() -> None:
    if sys.version_info < OLDEST_PYTHON:
        raise NotPossible(
            f"eventshop needs Python 3.11 or newer; {sys.executable} is older. Try: make PYTHON=python3.12 up"
        )
    unfit = set(':"$`\\\n') & set(str(PROJECT))
    if unfit:
        raise NotPossible(
            f"there is {' and '.join(sorted(map(repr, unfit)))} in the name of this folder, {str(PROJECT)!r}, "
            "which Python's virtual environments or PostgreSQL do not support: rename it"
        )
    require_write(VENV if os.path.lexists(VENV) else PROJECT)
    if VENV.is_symlink():
        VENV.unlink()
    shutil.rmtree(VENV, ignore_errors=True)
    made = subprocess.run([sys.executable, "-m", "venv", VENV], env=environment(), check=False)
    if made.returncode:
        shutil.rmtree(VENV, ignore_errors=True)
        raise NotPossible(
            "could not make .venv, see above; on Debian and Ubuntu it may need: apt-get install python3-venv"
        )


def install(stage: str) -> None:
    """Install the packages of a stage, if necessary. An interrupted installation is repeated."""
    requirements = Path("requirements") / f"{stage}.txt"
    inputs = [requirements, Path("pyproject.toml")] if stage == "local" else [requirements]
    wanted = hashlib.sha256(b"".join(each.read_bytes() for each in inputs)).hexdigest()
    stamp, begun = VENV / f".{stage}", VENV / f".{stage}.begun"
    if stamp.exists() and stamp.read_text() == wanted and not begun.exists():
        return
    require_write(VENV)
    print(f"installing {STAGES[stage]} into .venv (once)", flush=True)
    over = ["--force-reinstall"] if begun.exists() else []
    begun.touch()
    pip("--require-hashes", *over, "--requirement", str(requirements))
    if stage == "local":
        pip(*EDITABLE)
    stamp.write_text(wanted)
    begun.unlink()
    hand_over(VENV, PROJECT / "src" / "eventshop.egg-info")


def pip(*words: str) -> None:
    quietly = ("--quiet", "--disable-pip-version-check")
    done = subprocess.run(
        [PYTHON, "-m", "pip", "install", *quietly, *words], env=environment(), check=False
    )
    if done.returncode:
        raise NotPossible("pip could not install it, see above")


def environment() -> "dict[str, str]":
    """The caller's environment, without variables that change pip. The Makefile removes those of Python."""
    elsewhere = {"PIP_TARGET", "PIP_PREFIX", "PIP_ROOT"}
    kept = {name: value for name, value in os.environ.items() if name not in elsewhere}
    # pip writes paths into files that Python reads as UTF-8.
    return {**kept, "PIP_USER": "0", "PIP_REQUIRE_HASHES": "0", "PYTHONUTF8": "1"}


def require_write(folder: Path) -> None:
    if os.access(folder, os.W_OK | os.X_OK):
        return
    if folder == VENV:
        raise NotPossible(
            f".venv must be rebuilt, but you may not write it: `sudo rm -rf {shlex.quote(str(VENV))}`"
            " lets the next `make` do it"
        )
    raise NotPossible(f"{folder} can't be written: work in your own clone")


def hand_over(*folders: Path) -> None:
    """If root makes files in another user's folder, give them to that user."""
    owner = PROJECT.stat()
    if os.geteuid() != 0 or owner.st_uid == 0:
        return
    for folder in filter(Path.exists, folders):
        for path in (folder, *folder.rglob("*")):
            os.chown(path, owner.st_uid, owner.st_gid, follow_symlinks=False)


if __name__ == "__main__":
    try:
        main(sys.argv[1])
    except NotPossible as error:
        sys.exit(str(error))
    except OSError as error:
        sys.exit(f"could not make .venv: {error.strerror}: {error.filename or VENV}")
    except KeyboardInterrupt:
        sys.exit(130)
