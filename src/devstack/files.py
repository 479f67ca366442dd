"""The files that `shop up` keeps. They are written atomically, and the folder's owner can use them."""

import os
import pwd
import shlex
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from devstack.supervisor import StartFailed


@dataclass(frozen=True)
class Account:
    """The system user that a child runs as."""

    name: str
    uid: int
    gid: int


def write_whole(path: Path, text: str) -> None:
    """Write the file atomically. A full disk or the end of the process leaves the old content."""
    unfinished = path.with_name(f"{path.name}.unfinished")
    with unfinished.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)


def make_folder(path: Path, mode: int = 0o777) -> None:
    """Make the folder and its parents. If root makes it in another user's folder, that user owns it."""
    missing = [each for each in (path, *path.parents) if not each.exists()]
    path.mkdir(mode=mode, parents=True, exist_ok=True)
    if missing and os.geteuid() == 0:
        above = missing[-1].parent.stat()
        for each in missing:
            os.chown(each, above.st_uid, above.st_gid)


def hand_over(folder: Path) -> None:
    """Give files of root in another user's folder to that user. Does nothing unless root calls it."""
    owner = folder.stat()
    if os.geteuid() != 0 or owner.st_uid == 0:
        return
    for path in everything_in(folder):
        found = path.lstat()
        # A file with a second hard link may also be outside the folder, and not belong to the user.
        if found.st_uid == 0 and (stat.S_ISDIR(found.st_mode) or found.st_nlink == 1):
            os.chown(path, owner.st_uid, owner.st_gid, follow_symlinks=False)


def everything_in(folder: Path) -> Iterator[Path]:
    for where, folders, files in os.walk(folder):
        for name in (*folders, *files):
            yield Path(where) / name


def account_for(folder: Path) -> Account | None:
    """The user for programs that must not run as root; None if this process is not root.

    It is the owner of the parent folder, so that this user can later run without root. If that is root, it
    is the owner of the folder itself, and otherwise the system user `postgres` or `nobody`.
    """
    if os.geteuid() != 0:
        return None
    existing = next(each for each in folder.parents if each.exists())
    for owned in (existing, folder):
        if owned.exists() and (uid := owned.stat().st_uid):
            try:
                entry = pwd.getpwuid(uid)
            except KeyError:  # the folder comes from outside the container
                return Account(str(uid), uid, owned.stat().st_gid)
            return Account(entry.pw_name, uid, entry.pw_gid)
    for name in ("postgres", "nobody"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return Account(name, entry.pw_uid, entry.pw_gid)
    raise StartFailed(
        "PostgreSQL refuses to run as root, and this system has neither a user `postgres` nor a user "
        "`nobody`: run this as an ordinary user"
    )


def require_access(data: Path, servers: Path) -> None:
    """Raises `StartFailed` if something in `data` can't be read and written.

    Also raises it if `servers`, PostgreSQL's own directory, belongs to another user, because PostgreSQL
    refuses that.
    """
    if os.geteuid() == 0:
        return
    if servers.exists() and servers.stat().st_uid != os.geteuid():
        raise StartFailed(locked_out(servers, data))
    for path in everything_in(data):
        if servers in path.parents or path.is_symlink():
            continue
        if not os.access(path, os.R_OK | os.W_OK | (os.X_OK if path.is_dir() else 0)):
            raise StartFailed(locked_out(path, data))


def locked_out(path: Path, data: Path) -> str:
    """The message if `path` can't be used because of its permissions. It never suggests a change above `data`,
    because those directories do not belong to the shop.
    """
    me, way_out = _user(os.geteuid()), "or choose another directory with --data or SHOP_DATA_DIR"
    here = shlex.quote(str(data))
    seen = next(each for each in (path, *path.parents) if os.path.lexists(each))
    owner = seen.lstat().st_uid
    if data in (seen, *seen.parents):
        if owner == os.geteuid():
            return (
                f"{seen} can't be read and written: `chmod -R u+rwX {here}` mends that, {way_out}"
            )
        return (
            f"{seen} belongs to {_user(owner)}, and this is {me}: `sudo chown -R {shlex.quote(me)} {here}`"
            f" makes it yours, {way_out}"
        )
    if seen in data.parents and os.access(seen, os.X_OK):
        return (
            f"{seen} belongs to {_user(owner)}, and this is {me}: `sudo install -d -o {shlex.quote(me)} "
            f"{here}` makes the directory for you, {way_out}"
        )
    return f"{seen} belongs to {_user(owner)} and is closed to {me}: let {me} in, {way_out}"


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
