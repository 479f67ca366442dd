"""A storm over all services, one more than the shop's own among them (`tests.more`)."""

import os

os.environ.setdefault("SHOP_SERVICES", "shop.services,tests.more.services")
