"""How fast the shop is, as ratios measured in one run. `make bench`; see `__main__`."""
