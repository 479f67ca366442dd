"""Finds the shop that `shop up` runs in a data directory, for the other commands."""

import json
import os
from pathlib import Path

from shop.platform.libpq import forget_libpq_variables
from shop.platform.settings import NotConfigured

RUNNING = "running.json"
"""The file in the data directory of `shop up` with the settings of its processes."""

LOCK = "lock"
"""The file that `shop up` locks; it has the process id of the last holder, unless that ended by itself."""


def use_running_shop(data: Path) -> bool:
    """Use the settings of the shop that `shop up` runs there. Settings of this process override them.

    Returns whether a shop runs there. Raises `NotConfigured` if its settings can't be read.
    """
    with_settings = data / RUNNING
    try:
        settings = json.loads(with_settings.read_text())
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise NotConfigured(
            f"cannot read {with_settings}: {error.strerror}; run this as the user who runs `shop up`, or name"
            " another folder with --data"
        ) from error
    if _was_killed(data):
        return False
    if not settings.keys() & os.environ.keys():
        # All databases belong to that shop, and need no password and no certificate.
        forget_libpq_variables()
    for name, value in settings.items():
        os.environ.setdefault(name, value)
    return True


def _was_killed(data: Path) -> bool:
    """Whether the `shop up` that wrote the settings is gone. It removes them itself, unless it is killed."""
    try:
        os.kill(int((data / LOCK).read_text()), 0)
    except ProcessLookupError:
        return True
    except (OSError, ValueError, OverflowError):  # it belongs to another user, or nobody can say
        return False
    return False
