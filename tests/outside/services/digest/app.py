"""The digest service, on one screen: it counts what was posted, and publishes nothing."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from eventspine.batching import Batcher
from eventspine.database import Database
from eventspine.handlers import Handlers
from eventspine.outbox import Transaction
from eventspine.projections import Aggregate
from eventspine.received import Received
from shop.platform.service import Endpoints, Service
from shop.platform.settings import Settings
from tests.outside.contracts.letters import LetterPosted

if TYPE_CHECKING:
    from sqlalchemy import MetaData

DIGEST = Aggregate(
    "digest",
    topics=["letters"],
    key=["status"],
    values=["letters"],
    rows="SELECT data->>'status' AS status, count(*) AS letters FROM events"
    " WHERE type = 'letter.posted' GROUP BY 1",
)


def tables() -> "MetaData":
    from tests.outside.services.digest.tables import metadata

    return metadata


async def count_letters(tx: Transaction, received: Sequence[Received[LetterPosted]]) -> None:
    for one in received:
        await tx.execute(
            "INSERT INTO digest AS d VALUES (%(status)s, 1)"
            " ON CONFLICT (status) DO UPDATE SET letters = d.letters + 1",
            {"status": one.event.status},
        )


def endpoints(settings: Settings, database: Database) -> Endpoints:
    from fastapi import APIRouter

    from shop.platform.auth.rules import PUBLIC, allowed
    from shop.platform.http.fields import View
    from shop.platform.http.route import FastRoute, Reply, admitted_by
    from shop.platform.problems import READS, documented

    class Digest(View):
        letters: dict[str, int]

    async def read(asked: Sequence[None]) -> list[Digest]:
        letters: dict[str, int] = dict(await database.fetch("SELECT status, letters FROM digest"))
        return [Digest(letters=letters) for _ in asked]

    reading: Batcher[None, Digest] = Batcher(read, **settings.bounds())
    router = APIRouter(route_class=FastRoute, tags=["digest"])

    @router.get("/digest", response_model=Digest, responses=documented(*READS))
    @allowed(PUBLIC)
    @admitted_by(reading.admit)
    async def get_digest() -> Reply:
        """How many letters came to which status."""
        return Reply(await reading.submit(None))

    return Endpoints(router, (reading,))


SERVICE = Service(
    name="digest",
    title="Digest service",
    topic="",
    source="",
    handlers=Handlers("digest", {LetterPosted: count_letters}),
    projections=(DIGEST,),
    migrations=Path(__file__).parent / "migrations",
    tables=tables,
    endpoints=endpoints,
)
