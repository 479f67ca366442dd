"""`python -m shop.cli`: this installation's `shop`, whatever the PATH says."""

from shop.cli.main import main

main()
