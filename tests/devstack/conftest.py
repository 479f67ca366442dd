"""What tests of what `shop up` starts have in common."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder that others may pass through, with a path short enough for a socket: pytest's are neither."""
    with tempfile.TemporaryDirectory(prefix="es-") as directory:
        os.chmod(directory, 0o711)
        yield Path(directory)
