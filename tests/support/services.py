"""The shop's own services, without those of the tests."""

from shop.platform import discovery

SHIPPED = tuple(discovery._find("shop.services"))
"""The shop's own."""

FRONTS = tuple(discovery._find_fronts("shop.services"))
"""The pages over them."""
