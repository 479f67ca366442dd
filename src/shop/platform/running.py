"""Finds the shop that `shop up` runs in a data directory, for the other commands."""

import json
import os
from pathlib import Path

from shop.platform.libpq import forget_libpq_variables

RUNNING = "running.json"
"""The file in the data directory of `shop up` with the settings of its processes."""


def use_running_shop(data: Path) -> bool:
    """Use the settings of the shop that `shop up` runs there. Settings of this process override them.

    Returns whether a shop runs there.
    """
    with_settings = data / RUNNING
    if not with_settings.exists():
        return False
    settings = json.loads(with_settings.read_text())
    if not settings.keys() & os.environ.keys():
        # All databases belong to that shop, and need no password and no certificate.
        forget_libpq_variables()
    for name, value in settings.items():
        os.environ.setdefault(name, value)
    return True
