"""The user service's HTTP interface: schema in, schema or problem out."""

from fastapi import APIRouter

from eventspine.batching import Batcher
from eventspine.database import Database
from shop.kit.fields import PathId, Traceparent
from shop.kit.web import pages
from shop.kit.web.etag import IfMatch, versions
from shop.kit.web.problems import (
    BodyTooLarge,
    Invalid,
    MalformedBody,
    PreconditionFailed,
    TemporarilyUnavailable,
    UnknownOutcome,
    UnsupportedMediaType,
    documented,
)
from shop.kit.web.route import FastRoute, Reply
from shop.services.users import queries
from shop.services.users.errors import EmailTaken, UserNotFound
from shop.services.users.schemas import (
    CreateUser,
    EraseUser,
    NewUser,
    UpdateUser,
    User,
    UserChanges,
    UserOrders,
)

_READS = (Invalid, TemporarilyUnavailable)
_WRITES = (Invalid, TemporarilyUnavailable, UnknownOutcome)
_TAKES_JSON = (MalformedBody, BodyTooLarge, UnsupportedMediaType)


def routes(
    database: Database,
    *,
    creating: Batcher[CreateUser, User],
    updating: Batcher[UpdateUser, User],
    erasing: Batcher[EraseUser, None],
    getting: Batcher[int, User],
) -> APIRouter:
    router = APIRouter(route_class=FastRoute, tags=["users"])

    @router.post(
        "/users",
        status_code=201,
        response_model=User,
        responses=documented(EmailTaken, *_WRITES, *_TAKES_JSON),
    )
    async def create_user(new: NewUser, traceparent: Traceparent = None) -> Reply:
        """Create a user. Two may share a name, never an e-mail address."""
        user = await creating.submit(CreateUser(new.email, new.name, traceparent))
        return Reply(user, etag=user.version, location=f"/users/{user.id}")

    @router.get(
        "/users/{user_id}", response_model=User, responses=documented(UserNotFound, *_READS)
    )
    async def get_user(user_id: PathId) -> Reply:
        """A user, by id."""
        user = await getting.submit(user_id)
        return Reply(user, etag=user.version)

    @router.patch(
        "/users/{user_id}",
        response_model=User,
        responses=documented(UserNotFound, EmailTaken, PreconditionFailed, *_WRITES, *_TAKES_JSON),
    )
    async def update_user(
        user_id: PathId,
        changes: UserChanges,
        if_match: IfMatch = None,
        traceparent: Traceparent = None,
    ) -> Reply:
        """Change a user's e-mail, name, or both."""
        given = changes.model_fields_set
        command = UpdateUser(
            user_id,
            changes.email if "email" in given else None,
            changes.name if "name" in given else None,
            versions(if_match),
            traceparent,
        )
        user = await updating.submit(command)
        return Reply(user, etag=user.version)

    @router.delete(
        "/users/{user_id}",
        status_code=204,
        response_model=None,
        responses=documented(UserNotFound, PreconditionFailed, *_WRITES),
    )
    async def erase_user(
        user_id: PathId, if_match: IfMatch = None, traceparent: Traceparent = None
    ) -> None:
        """Erase the person's e-mail and name, here and, through the event, everywhere."""
        await erasing.submit(EraseUser(user_id, versions(if_match), traceparent))

    @router.get(
        "/users/{user_id}/orders",
        response_model=UserOrders,
        responses=documented(UserNotFound, *_READS),
    )
    async def get_user_orders(
        user_id: PathId, limit: pages.Limit = pages.DEFAULT_LIMIT, cursor: pages.Cursor = None
    ) -> UserOrders:
        """A user's orders as this service knows them from events: a moment behind, at most."""
        below = pages.decode_cursor(cursor)
        await getting.submit(user_id)
        return await queries.orders_of(database, user_id, below=below, limit=limit)

    return router
