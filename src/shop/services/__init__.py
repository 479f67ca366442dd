"""The shop's services. They never import each other; they meet only in `shop.contracts`.

A new service is a folder beside these, a contracts file, and a line here.
"""

from importlib import import_module

from shop.platform.service import Service

NAMES = ("users", "orders")


def load(name: str) -> Service:
    """Imported only when asked for, so that a process loads no service but its own."""
    service = import_module(f"shop.services.{name}.app").SERVICE
    assert isinstance(service, Service)
    return service
