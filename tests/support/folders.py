"""Folders for a data directory."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def short_directory() -> Iterator[Path]:
    """Pytest's own are too long for a socket."""
    with tempfile.TemporaryDirectory(prefix="eventshop-e2e-") as directory:
        os.chmod(directory, 0o711)
        yield Path(directory)
