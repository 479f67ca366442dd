"""The entry of `shop`. `python -m shop.cli` runs the `shop` of this installation, independent of PATH."""

import os
import sys


def main() -> None:
    # structlog and Typer import Rich, and Rich imports Pygments. A process that serves draws nothing in a terminal.
    # Without them and the other commands, it needs 4 MB less.
    if sys.argv[1:2] in (["api"], ["worker"]):
        sys.modules["rich"] = None  # type: ignore[assignment]
        os.environ["TYPER_USE_RICH"] = "0"
        from shop.cli.serving import main as run  # noqa: PLC0415 - after Rich was left out
    else:
        from shop.cli.main import main as run  # noqa: PLC0415

    run()


if __name__ == "__main__":
    main()
