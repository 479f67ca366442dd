"""The pages. One module each: its `ENTRY` in the navigation, and `routes()`, its router.

To add a page: write its module, and name it in `_PAGES`, in the order of the navigation.
"""

from fastapi import APIRouter

from shop.services.console.layout import Entry
from shop.services.console.pages import checks, find, flow, log, login, parked, timeline

_PAGES = (flow, timeline, find, parked, log, checks)

ENTRIES: tuple[Entry, ...] = tuple(each.ENTRY for each in _PAGES)


def routers() -> list[APIRouter]:
    return [login.routes(), *(each.routes() for each in _PAGES)]
