"""The console on one screen: what it reads, who may use it, its pages."""

from typing import TYPE_CHECKING

from shop.platform.service import Front, Served

if TYPE_CHECKING:
    from shop.platform.settings import Settings


def app(settings: "Settings") -> Served:
    # Imported here, so that the description of the console loads neither the web framework nor Jinja.
    from shop.services.console.access import Access  # noqa: PLC0415
    from shop.services.console.pages import routers  # noqa: PLC0415
    from shop.services.console.reading import Reading  # noqa: PLC0415
    from shop.services.console.site import Site  # noqa: PLC0415
    from shop.services.console.watching import Watch  # noqa: PLC0415

    reading = Reading(settings)
    return Site(settings, reading, Access(settings, reading), Watch(settings, reading), routers())


FRONT = Front(name="console", title="Console", app=app)
