"""The shop that `shop up` runs in a data directory, for the commands that are run beside it."""

import json
import os
from pathlib import Path

from shop.platform.libpq import forget_libpq_variables

RUNNING = "running.json"
"""In the data directory of `shop up`: the settings its parts run with."""


def use_running_shop(data: Path) -> bool:
    """Take the settings of the shop that `shop up` runs there; those that are set win.

    Whether there is one.
    """
    with_settings = data / RUNNING
    if not with_settings.exists():
        return False
    settings = json.loads(with_settings.read_text())
    if not settings.keys() & os.environ.keys():
        # All databases are that shop's, which asks for no password and no certificate.
        forget_libpq_variables()
    for name, value in settings.items():
        os.environ.setdefault(name, value)
    return True
