"""The user service's HTTP interface: schema in, schema or problem out."""

from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import SecretStr

from eventspine.answers import Answer
from eventspine.batching import Batcher
from eventspine.context import Request
from shop.platform.auth.caller import WhoAsks, reads, writes
from shop.platform.auth.rules import OWN, PUBLIC, allowed
from shop.platform.http import paging as pages
from shop.platform.http.context import Asked
from shop.platform.http.etag import IfMatch, versions
from shop.platform.http.fields import Email, PathId
from shop.platform.http.idempotency import answer_once
from shop.platform.http.route import FastRoute, Reply, admitted_by
from shop.platform.problems import READS, TAKES_JSON, WRITES, PreconditionFailed, documented
from shop.services.users.errors import EmailTaken, UserGone, UserNotFound
from shop.services.users.identity.passwords import Passwords
from shop.services.users.schemas import (
    CreateUser,
    EraseUser,
    GetUser,
    HashedPassword,
    ListUserOrders,
    ListUsers,
    NewUser,
    UpdateUser,
    User,
    UserChanges,
    UserOrders,
    Users,
)


def routes(
    *,
    creating: Batcher[Request[CreateUser], User | Answer],
    updating: Batcher[Request[UpdateUser], User | Answer],
    erasing: Batcher[Request[EraseUser], Answer | None],
    getting: Batcher[GetUser, User],
    finding: Batcher[ListUsers, Users],
    listing: Batcher[ListUserOrders, UserOrders],
    passwords: Passwords,
) -> APIRouter:
    router = APIRouter(route_class=FastRoute, tags=["users"])

    @router.post(
        "/users",
        status_code=201,
        response_model=User,
        responses=documented(EmailTaken, UserGone, *WRITES, *TAKES_JSON),
    )
    @allowed(PUBLIC)
    @admitted_by(creating.admit)
    async def create_user(new: NewUser, context: Asked) -> Reply | Answer:
        """Create a user. Two may share a name, never an e-mail address."""
        hashed = None
        if new.password is not None:
            made = await passwords.hash(new.password.get_secret_value(), context.deadline)
            hashed = HashedPassword(hash=SecretStr(made))
        command = CreateUser(new.email, new.name, hashed)
        return await answer_once(creating, command, _created, context)

    @router.get("/users", response_model=Users, responses=documented(*READS))
    @allowed("users:read", rows=OWN)
    @admitted_by(finding.admit)
    async def get_users(
        email: Annotated[
            Email | None, Query(description="the user who has it, without regard to case")
        ] = None,
        limit: pages.Limit = pages.DEFAULT_LIMIT,
        cursor: pages.Cursor = None,
        caller: WhoAsks = None,
    ) -> Users:
        """Users, newest first; who was erased is not among them."""
        return await finding.submit(
            ListUsers(email, pages.decode_cursor(cursor), limit, reads(caller))
        )

    @router.get("/users/{user_id}", response_model=User, responses=documented(UserNotFound, *READS))
    @allowed("users:read", rows=OWN)
    @admitted_by(getting.admit)
    async def get_user(user_id: PathId, caller: WhoAsks = None) -> Reply:
        """A user, by id."""
        return _shown(await getting.submit(GetUser(user_id, reads(caller))))

    @router.patch(
        "/users/{user_id}",
        response_model=User,
        responses=documented(
            UserNotFound, EmailTaken, UserGone, PreconditionFailed, *WRITES, *TAKES_JSON
        ),
    )
    @allowed("users:write", rows=OWN)
    @admitted_by(updating.admit)
    async def update_user(
        user_id: PathId,
        changes: UserChanges,
        context: Asked,
        if_match: IfMatch = None,
        caller: WhoAsks = None,
    ) -> Reply | Answer:
        """Change a user's e-mail, name, or both."""
        given = changes.model_fields_set
        command = UpdateUser(
            user_id,
            changes.email if "email" in given else None,
            changes.name if "name" in given else None,
            versions(if_match),
            writes(caller),
        )
        return await answer_once(updating, command, _shown, context)

    @router.delete(
        "/users/{user_id}",
        status_code=204,
        response_model=None,
        responses=documented(UserNotFound, UserGone, PreconditionFailed, *WRITES),
    )
    @allowed("users:write", rows=OWN)
    @admitted_by(erasing.admit)
    async def erase_user(
        user_id: PathId,
        context: Asked,
        if_match: IfMatch = None,
        caller: WhoAsks = None,
    ) -> Reply | Answer:
        """Erase the person's e-mail and name, here and, through the event, everywhere."""
        command = EraseUser(user_id, versions(if_match), writes(caller))
        return await answer_once(erasing, command, _erased, context)

    @router.get(
        "/users/{user_id}/orders",
        response_model=UserOrders,
        responses=documented(UserNotFound, *READS),
    )
    @allowed("orders:read", rows=OWN)
    @admitted_by(listing.admit)
    async def get_user_orders(
        user_id: PathId,
        limit: pages.Limit = pages.DEFAULT_LIMIT,
        cursor: pages.Cursor = None,
        caller: WhoAsks = None,
    ) -> UserOrders:
        """A user's orders as this service knows them from events: a moment behind, at most."""
        below = pages.decode_cursor(cursor)
        deadline = getting.deadline()
        await getting.submit(GetUser(user_id, reads(caller)), deadline)
        return await listing.submit(ListUserOrders(user_id, below, limit), deadline)

    return router


def _created(user: User) -> Reply:
    return Reply(user, 201, user.version, f"/users/{user.id}", about=user.id)


def _shown(user: User) -> Reply:
    return Reply(user, etag=user.version, about=user.id)


def _erased(_: None) -> Reply:
    return Reply(None, 204)
