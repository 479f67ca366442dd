"""The entry of `shop`: which modules a command loads."""

import subprocess
import sys

import pytest

_RUN = """
import sys
from shop.cli.__main__ import main

sys.argv = ["shop", *sys.argv[1:]]
try:
    main()
finally:
    loaded = {name for name, module in sys.modules.items() if module is not None}
    print("loaded:", *sorted(loaded & {"rich", "pygments", "shop.cli.up", "shop.cli.worker"}))
"""


@pytest.mark.parametrize(
    ("words", "loaded"),
    [
        (["worker", "nowhere"], ["shop.cli.worker"]),
        (["api", "--help"], ["shop.cli.worker"]),
        (["audit", "--help"], ["pygments", "rich", "shop.cli.up", "shop.cli.worker"]),
    ],
)
def test_a_command_that_serves_loads_neither_the_others_nor_rich(
    words: list[str], loaded: list[str]
) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", _RUN, *words], capture_output=True, text=True, check=False
    )
    assert ran.stdout.splitlines()[-1].split() == ["loaded:", *loaded]


def test_a_serving_commands_help_names_its_options() -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "shop.cli", "api", "--help"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "--processes" in ran.stdout
