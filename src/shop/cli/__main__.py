"""`python -m shop.cli` runs the `shop` of this installation, independent of PATH."""

from shop.cli.main import main

main()
