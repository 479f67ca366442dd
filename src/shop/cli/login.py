"""`shop login`, `shop token`, `shop logout`: for a person at a terminal.

The tokens are in a file that only its owner can read: `$XDG_STATE_HOME/eventshop/login.json`, or
`~/.local/state/eventshop/login.json`. While one command refreshes them, others wait.
"""

import fcntl
import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from shop.cli.common import DEFAULT_DATA, NOT_DONE, DataDir, settings_or_stop, stop
from shop.cli.identity import issuer, password_from, refuse
from shop.platform.apis import local_apis
from shop.platform.running import use_running_shop

_WITHIN = 30  # seconds
_SPARE = 30
"""Seconds that a token must be valid for, or it is refreshed: what is done with it takes its time."""

Server = Annotated[
    str | None,
    typer.Option(
        "--server",
        metavar="URL",
        envvar="SHOP_AUTH__ISSUER",
        help="the user service's API; default: the one on this machine",
    ),
]


def login(
    email: Annotated[str, typer.Argument(metavar="EMAIL")],
    server: Server = None,
    password_stdin: Annotated[
        bool,
        typer.Option("--password-stdin", help="read the password from the first line of stdin"),
    ] = False,
    data: DataDir = DEFAULT_DATA,
) -> None:
    """Log in, and keep the tokens in a file that only you can read. `shop token` prints one."""
    if server is None:
        use_running_shop(data)
        own = issuer() or stop("there is no service that issues tokens")
        server = os.environ.get("SHOP_AUTH__ISSUER") or local_apis(settings_or_stop())[own]
    if password_stdin:
        password = password_from("", from_stdin=True)
    else:
        password = typer.prompt("Password", hide_input=True, err=True)
    with _kept() as kept:
        known = kept.read()
        body = {"email": email, "password": password}
        if known and known["server"] == server and known["email"] == email.lower():
            body["device_token"] = known["device_token"]
        status, answer = _send(f"{server}/sessions", body)
        if status != 201:  # noqa: PLR2004
            refuse(f"{answer.get('title', 'no session')}. {answer.get('detail', '')}".rstrip(" ."))
        kept.write({**answer, "server": server, "email": email.lower()})
    typer.echo(f"logged in as user {answer['user_id']}; `shop token` prints an access token")


def token() -> None:
    """Print an access token that is valid for at least half a minute: `curl -H "Authorization: Bearer $(shop token)"`."""
    with _kept() as kept:
        known = kept.read()
        if known is None:
            refuse("nobody is logged in here; `shop login EMAIL` logs in")
            return
        if said := _freshen(kept, known):
            refuse(f"the tokens could not be refreshed: {said}; `shop login` logs in again")
        typer.echo(known["access_token"])


def kept_token(server: str) -> str | None:
    """The access token of the person who is logged in here, at this user service and no other.

    None if nobody is, or if it can't be refreshed.
    """
    with _kept() as kept:
        known = kept.read()
        if known is None or known["server"] != server or _freshen(kept, known):
            return None
        return str(known["access_token"])


def _freshen(kept: "_Kept", known: dict[str, Any]) -> str:
    """Refresh the tokens if they expire soon. Why that was refused, if it was."""
    if known["until"] >= time.time() + _SPARE:
        return ""
    form = {"grant_type": "refresh_token", "refresh_token": known["refresh_token"]}
    status, answer = _send(f"{known['server']}/token", form, form=True)
    if status != 200:  # noqa: PLR2004
        return str(answer.get("error_description", status))
    known |= answer
    kept.write(known)
    return ""


def logout() -> None:
    """End the session, and delete the tokens."""
    with _kept() as kept:
        known = kept.read()
        if known is None:
            return
        status, answer = 204, dict[str, Any]()
        if not _freshen(kept, known):
            url = f"{known['server']}/sessions/{known['session_id']}"
            status, answer = _send(url, None, bearer=known["access_token"], method="DELETE")
        kept.delete()
    if status not in {204, 401, 404}:
        refuse(f"the session could not be ended: {answer.get('title', status)}")


class _Kept:
    """The file, while nobody else uses it."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> dict[str, Any] | None:
        try:
            found = json.loads(self._path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except ValueError:
            return None  # half written by a machine that stopped
        return dict(found)

    def write(self, known: Mapping[str, Any]) -> None:
        until = time.time() + known["expires_in"]
        unfinished = self._path.with_name(f"{self._path.name}.unfinished")
        unfinished.unlink(missing_ok=True)
        with os.fdopen(
            os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8"
        ) as file:
            json.dump({**known, "until": until}, file)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(self._path)

    def delete(self) -> None:
        self._path.unlink(missing_ok=True)


@contextmanager
def _kept() -> Iterator[_Kept]:
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    folder = Path(state) / "eventshop"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        stop(f"cannot keep tokens in {folder}: {error.strerror}")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield _Kept(folder / "login.json")
    finally:
        os.close(lock)


def _send(
    url: str,
    body: Mapping[str, str] | None,
    *,
    form: bool = False,
    bearer: str = "",
    method: str = "POST",
) -> tuple[int, dict[str, Any]]:
    # Each process of the shop loads this module, and only this command needs these.
    import urllib.error  # noqa: PLC0415
    import urllib.parse  # noqa: PLC0415
    import urllib.request  # noqa: PLC0415

    if not url.startswith(("http://", "https://")):
        stop(f"{url} is no address of a user service: it begins with http:// or https://")
    headers = {"Content-Type": "application/json", "User-Agent": "shop"}
    content = None if body is None else json.dumps(body).encode()
    if form and body is not None:
        headers["Content-Type"] = "application/x-www-form-urlencoded"
        content = urllib.parse.urlencode(body).encode()
    if bearer:
        headers["Authorization"] = f"Bearer {bearer}"
    request = urllib.request.Request(url, content, headers, method=method)  # noqa: S310 - looked at above
    try:
        with urllib.request.urlopen(request, timeout=_WITHIN) as answer:  # noqa: S310 - looked at above
            return answer.status, _json(answer.read())
    except urllib.error.HTTPError as error:
        with error:
            return error.code, _json(error.read())
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        typer.echo(
            f"shop: cannot reach {url}: {reason}; --server names another user service", err=True
        )
        raise typer.Exit(NOT_DONE) from None


def _json(body: bytes) -> dict[str, Any]:
    try:
        found = json.loads(body or b"{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
