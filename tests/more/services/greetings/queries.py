"""What the greeting service reads."""

from collections.abc import Sequence

from sqlalchemy import bindparam, func, select

from eventspine.database import Database, query
from tests.more.services.greetings.errors import GreetingNotFound
from tests.more.services.greetings.schemas import Greeting
from tests.more.services.greetings.tables import greetings

_MANY = query(select(greetings).where(greetings.c.id == func.any(bindparam("ids"))))


async def get(database: Database, ids: Sequence[int]) -> list[Greeting | GreetingNotFound]:
    rows = await database.fetch(_MANY, {"ids": list(ids)})
    found = {
        id_: Greeting(id=id_, user_id=user_id, text=text, version=version, sent_at=sent_at)
        for id_, user_id, text, version, sent_at in rows
    }
    return [found.get(id_) or GreetingNotFound(f"No greeting has the id {id_}") for id_ in ids]
