"""The files that `shop up` keeps: there as a whole or not at all, and whoever owns the folder can go on."""

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
    """The system user a child runs as."""

    name: str
    uid: int
    gid: int


def write_whole(path: Path, text: str) -> None:
    """A full disk, or the end of the process, leaves what was there before."""
    unfinished = path.with_name(f"{path.name}.unfinished")
    with unfinished.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)


def make_folder(path: Path, mode: int = 0o777) -> None:
    """With those above it. What root makes in somebody's folder is theirs."""
    missing = [each for each in (path, *path.parents) if not each.exists()]
    path.mkdir(mode=mode, parents=True, exist_ok=True)
    if missing and os.geteuid() == 0:
        above = missing[-1].parent.stat()
        for each in missing:
            os.chown(each, above.st_uid, above.st_gid)


def hand_over(folder: Path) -> None:
    """What root has left in somebody's folder becomes theirs. Does nothing unless root calls it."""
    owner = folder.stat()
    if os.geteuid() != 0 or owner.st_uid == 0:
        return
    for path in everything_in(folder):
        found = path.lstat()
        # A second name may stand outside of the folder, for a file that is none of theirs.
        if found.st_uid == 0 and (stat.S_ISDIR(found.st_mode) or found.st_nlink == 1):
            os.chown(path, owner.st_uid, owner.st_gid, follow_symlinks=False)


def everything_in(folder: Path) -> Iterator[Path]:
    for where, folders, files in os.walk(folder):
        for name in (*folders, *files):
            yield Path(where) / name


def account_for(folder: Path) -> Account | None:
    """Whom to run as what must not run as root; None if this is not root.

    Whoever owns the folder above, so that they can go on without root; if that is root, who owns the
    folder itself; or else the system user `postgres`, or `nobody`.
    """
    if os.geteuid() != 0:
        return None
    existing = next(each for each in folder.parents if each.exists())
    for owned in (existing, folder):
        if owned.exists() and (uid := owned.stat().st_uid):
            try:
                entry = pwd.getpwuid(uid)
            except KeyError:  # a folder from outside of a container
                return Account(str(uid), uid, owned.stat().st_gid)
            return Account(entry.pw_name, uid, entry.pw_gid)
    for name in ("postgres", "nobody"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return Account(name, entry.pw_uid, entry.pw_gid)
    raise StartFailed(
        "PostgreSQL refuses to run as root, and there is neither a user postgres nor nobody to run "
        "it as: run as an ordinary user"
    )


def require_access(data: Path, servers: Path) -> None:
    """Raises `StartFailed` if something in `data` can't be read and written, or if `servers`, where
    PostgreSQL keeps its files, belongs to somebody else: it refuses that.
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
    """What to say when `path` can't be used for want of rights. What is above `data` is never to be
    changed: it is not the shop's.
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
