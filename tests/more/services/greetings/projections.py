"""The greeting service's tables that can be recomputed from the event log."""

from eventspine.projections import Projection
from shop.platform.auth.copies import IDENTITY_PROJECTIONS

GREETINGS = Projection(
    "greetings",
    topic="greetings",
    columns={"user_id": "bigint", "text": "text", "sent_at": "timestamptz"},
)

PEOPLE = Projection(
    "people",
    topic="users",
    columns={"name": "text"},
    computed={"erased": "name IS NULL"},
    personal=["name"],
)

PROJECTIONS = (GREETINGS, PEOPLE, *IDENTITY_PROJECTIONS)
