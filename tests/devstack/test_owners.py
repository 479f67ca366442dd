"""Once as root, once as the user: whoever owns the folder can go on, or is told how."""

import os
import pwd
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from devstack.files import everything_in, hand_over
from tests.support.up import read_until, stop

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which("useradd"),
    reason="left out, since only root can make a second user, with useradd",
)


def as_user(uid: int) -> list[str]:
    """What to put before a command. A Python in root's home, which is closed to others, is opened to
    them by a mount that only this command sees.
    """
    if not uid:
        return []
    home, closed = (
        Path(sys.base_prefix),
        [each for each in Path(sys.base_prefix).parents if not each.stat().st_mode & 0o001],
    )
    opened = (
        f"mount --bind {home} /mnt &&"
        f" mount -t tmpfs none {closed[-1]} && mkdir -p {home} &&"
        f" mount --bind /mnt {home} &&"
        if closed
        else ""
    )
    become = f"setpriv --reuid {uid} --regid {uid} --clear-groups"
    return ["unshare", "--mount", "sh", "-c", f'{opened} exec {become} -- "$@"', "sh"]


@pytest.fixture(scope="module")
def jane() -> Iterator[int]:
    """A user beside root, for as long as these tests run."""
    name = f"eventshop-{os.getpid()}"
    subprocess.run(["useradd", "--system", "--user-group", name], check=True, capture_output=True)
    try:
        user = pwd.getpwnam(name)
        words = [*as_user(user.pw_uid), sys.executable, "-c", "import devstack.up"]
        tried = subprocess.run(words, capture_output=True, text=True, check=False)
        if tried.returncode:
            pytest.skip(f"left out, since other users can't run Python here: {tried.stderr}")
        yield user.pw_uid
    finally:
        subprocess.run(["userdel", name], check=True, capture_output=True)


@pytest.fixture
def hers(jane: int, place: Path) -> Path:
    """A folder of hers."""
    folder = place / "her folder"
    folder.mkdir(mode=0o700)
    os.chown(folder, jane, jane)
    return folder


def give(folder: Path, uid: int) -> None:
    for path in (folder, *everything_in(folder)):
        os.chown(path, uid, uid, follow_symlinks=False)


@pytest.mark.heavy
def test_root_and_the_owner_take_turns(
    start: Callable[..., subprocess.Popen[str]], hers: Path, jane: int
) -> None:
    data = hers / "data"

    def visits(user: int) -> None:
        up = start(data, as_user(user))
        read_until(up, "eventshop is ready")
        stop(up)

    def what_mends_it() -> str:
        up = start(data, as_user(jane))
        said, _ = up.communicate(timeout=90)
        assert up.returncode == 1
        found = re.search(r"belongs to \S+, and this is \S+: `sudo (chown -R \S+ '.+?')`", said)
        assert found, said
        return found[1]

    visits(0)
    assert {path.lstat().st_uid for path in everything_in(hers)} == {jane}
    visits(jane)

    # As a release left it that ran PostgreSQL as `postgres`.
    give(data / "postgres", pwd.getpwnam("nobody").pw_uid)
    what_mends_it()
    # Root can go on with that; and killed, could not hand anything over.
    up = start(data)
    read_until(up, "eventshop is ready")
    up.kill()
    up.communicate()
    subprocess.run(what_mends_it(), shell=True, check=True)
    visits(jane)

    # In a folder of root's own.
    give(data, 0)
    give(data / "postgres", pwd.getpwnam("nobody").pw_uid)
    subprocess.run(what_mends_it(), shell=True, check=True)
    assert {path.lstat().st_uid for path in everything_in(hers)} == {jane}


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ("missing/data", "`sudo install -d -o {me} '{data}'` makes the directory for you"),
        ("closed/data", "is closed to {me}"),
    ],
)
def test_what_is_not_the_shops_is_not_to_be_changed(
    start: Callable[..., subprocess.Popen[str]], hers: Path, jane: int, where: str, said: str
) -> None:
    os.chown(hers, 0, 0)
    hers.chmod(0o711)
    (hers / "closed").mkdir(mode=0o700)
    up = start(hers / where, as_user(jane))
    output, _ = up.communicate(timeout=90)
    assert said.format(me=pwd.getpwuid(jane).pw_name, data=hers / where) in output
    assert "chown" not in output


def test_root_hands_over_only_what_is_in_the_folder(hers: Path, tmp_path: Path) -> None:
    for outside in ("linked", "named twice"):
        (tmp_path / outside).touch()
    (hers / "link").symlink_to(tmp_path / "linked")
    (hers / "name").hardlink_to(tmp_path / "named twice")
    hand_over(hers)
    assert (tmp_path / "linked").stat().st_uid == 0
    assert (tmp_path / "named twice").stat().st_uid == 0
