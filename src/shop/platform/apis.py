"""Where the services' APIs are."""

from shop.platform import discovery
from shop.platform.settings import Settings

# An API that listens on every address, or on one of this machine by name, is here.
_HERE = {"localhost": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - no socket binds here


def local_apis(settings: Settings) -> dict[str, str]:
    """The base URL of each service's API on this machine, by name."""
    host = _HERE.get(settings.host, settings.host)
    host = f"[{host}]" if ":" in host else host
    return {name: f"http://{host}:{settings.service(name).port}" for name in discovery.names()}
