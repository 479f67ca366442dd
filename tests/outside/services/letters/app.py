"""The letter service, on one screen."""

from pathlib import Path
from typing import TYPE_CHECKING

from eventspine.database import Database
from eventspine.handlers import Handlers
from eventspine.projections import Projection
from eventspine.reactions import Reaction
from shop.platform.service import Endpoints, Service
from shop.platform.settings import Settings
from tests.outside.services.letters.settings import LettersSettings

if TYPE_CHECKING:
    from sqlalchemy import MetaData


def tables() -> "MetaData":
    from tests.outside.services.letters.tables import metadata

    return metadata


def endpoints(settings: Settings, database: Database) -> Endpoints:
    from fastapi import APIRouter

    return Endpoints(APIRouter(), ())


def reactions(settings: Settings) -> tuple[Reaction, ...]:
    from tests.outside.services.letters.reactions import post_letters

    own = settings.section(LettersSettings)
    if not own.provider_url:
        return ()
    return (post_letters(own.provider_url, own.provider_timeout_s),)


SERVICE = Service(
    name="letters",
    title="Letter service",
    topic="letters",
    source="/letters",
    handlers=Handlers("letters", {}),
    projections=(
        Projection("letters", topic="letters", columns={"address": "text", "status": "text"}),
    ),
    migrations=Path(__file__).parent / "migrations",
    tables=tables,
    endpoints=endpoints,
    reactions=reactions,
)
