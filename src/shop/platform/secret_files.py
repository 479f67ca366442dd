"""Files that hold settings, mainly secrets: finds them, and reads their current content.

A setting's file is found in this order:

1. the variable `SHOP_…_FILE` names it;
2. `$CREDENTIALS_DIRECTORY` (systemd's `LoadCredential=`) has a file of the setting's name;
3. `/run/secrets` (Docker, Podman, Kubernetes) has one.

The name may be in lower case: `shop_users__database_password`.
"""

import os
from collections.abc import Mapping
from pathlib import Path

import structlog

_LOG = structlog.get_logger("shop.secrets")

FILE = "_FILE"
RUN_SECRETS = Path("/run/secrets")


def files(variables: Mapping[str, str], prefix: str) -> dict[str, Path]:
    """The file of each setting that comes from a file, by the name of its variable."""
    found: dict[str, Path] = {}
    for directory in (RUN_SECRETS, variables.get("CREDENTIALS_DIRECTORY")):
        found |= _in_directory(Path(directory), prefix) if directory else {}
    for name, path in variables.items():
        if name.startswith(prefix) and name.endswith(FILE):
            found[name.removesuffix(FILE)] = Path(path)
    return found


def _in_directory(directory: Path, prefix: str) -> dict[str, Path]:
    try:
        entries = sorted(directory.iterdir())
    except OSError:
        return {}
    return {
        entry.name.upper(): entry
        for entry in entries
        if entry.name.upper().startswith(prefix) and entry.is_file()
    }


def content(path: Path) -> str:
    """The text without the last newline. Raises `OSError` and `UnicodeDecodeError`."""
    return path.read_text(encoding="utf-8").removesuffix("\n")


class Current:
    """The current value of a setting. If it comes from a file, each call reads the file again.

    If the file can't be read, because it is being replaced, the value stays the last one.
    """

    def __init__(self, variable: str, first: str, prefix: str = "SHOP_") -> None:
        self._variable = variable
        self._path = files(os.environ, prefix).get(variable)
        self._last = first
        self._unreadable = False

    @property
    def from_file(self) -> bool:
        return self._path is not None

    def __call__(self) -> str:
        if self._path is None:
            return self._last
        try:
            # An empty file is being written.
            self._last = content(self._path) or self._last
        except (OSError, UnicodeDecodeError) as error:
            if not self._unreadable:
                why = getattr(error, "strerror", None) or "it is not text"
                _LOG.warning("secrets.reading_failed", setting=self._variable, reason=why)
            self._unreadable = True
        else:
            self._unreadable = False
        return self._last


def passwords(text: str) -> list[str]:
    """The passwords in a text, one on each line: the current one, then its replacement."""
    return [line for line in text.split("\n") if line] or [""]
