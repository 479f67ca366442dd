"""An API takes tokens of the active key alone, and not of the one before it.

A client holds its token for some seconds after the next key has begun to sign. So a rotation brings it
to light: a good token is refused.
"""

from eventspine.interceptors import Interceptor
from shop.platform.auth import known
from tests.storm.mutations import replace_text

FAULTS = ("rotate-keys",)


def apply() -> Interceptor | None:
    for statement in ("_FIRST", "_NEXT"):
        replace_text(known, statement, "state <> 'gone'", "state = 'active'")
    return None
