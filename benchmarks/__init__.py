"""Measures the speed of the shop, as ratios from one run: `make bench`. See `__main__`."""
