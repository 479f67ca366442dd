"""Sessions, passwords and tokens over HTTP."""

from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Path
from pydantic import BaseModel
from pydantic_core import to_json

from eventspine.answers import Answer
from eventspine.batching import Batcher
from eventspine.context import Context, Request
from shop.platform.auth.caller import Caller, WhoAsks, reads, writes
from shop.platform.auth.rules import OWN, PUBLIC, allowed
from shop.platform.auth.settings import AuthSettings
from shop.platform.http.fields import PathId
from shop.platform.http.form import FORM, form_route
from shop.platform.http.peer import PeerRoute, asking
from shop.platform.http.route import admitted_by
from shop.platform.problems import (
    READS,
    TAKES_JSON,
    Invalid,
    TemporarilyUnavailable,
    UnknownOutcome,
    documented,
)
from shop.services.users.errors import (
    AccountLocked,
    NoSigningKey,
    SessionNotFound,
    TooManyAttempts,
    UserNotFound,
    WrongCredentials,
)
from shop.services.users.identity import oauth
from shop.services.users.identity.errors import NO_STORE
from shop.services.users.identity.logins import Logins
from shop.services.users.identity.schemas import (
    Command,
    EndSession,
    EndSessions,
    ListSessions,
    MakeReset,
    NewSession,
    OpenedSession,
    PasswordChange,
    PasswordReset,
    Sessions,
    TokenRequest,
    Tokens,
    UserTokens,
)
from shop.services.users.identity.well_known import KEYS_MAX_AGE, metadata

_JSON = ("content-type", "application/json")

_DOES = (Invalid, TemporarilyUnavailable, UnknownOutcome)

SessionId = Annotated[UUID, Path(description="`session_id` of the login, `sid` of its tokens")]


def session_routes(
    logins: Logins,
    issuing: Batcher[Request[Command], Any],
    listing: Batcher[ListSessions, Sessions],
) -> APIRouter:
    router = APIRouter(route_class=PeerRoute, tags=["sessions"])

    @router.post(
        "/sessions",
        status_code=201,
        response_model=OpenedSession,
        responses=documented(
            WrongCredentials, AccountLocked, TooManyAttempts, NoSigningKey, *_DOES, *TAKES_JSON
        ),
    )
    @allowed(PUBLIC)
    @admitted_by(logins.admit)
    async def open_session(new: NewSession) -> Answer:
        """Log in: an access token and a refresh token. To log in again opens another session."""
        return _private(201, await logins.open(new, asking()))

    @router.delete(
        "/sessions/{session_id}",
        status_code=204,
        response_model=None,
        responses=documented(SessionNotFound, *_DOES),
    )
    @allowed("users:write", rows=OWN)
    @admitted_by(issuing.admit)
    async def end_session(session_id: SessionId, caller: WhoAsks = None) -> Answer:
        """Log out: the session's tokens are refused from now on."""
        command = EndSession(session_id, writes(caller))
        await issuing.submit(Request(command, _context(caller)))
        return _NOTHING

    @router.get(
        "/users/{user_id}/sessions",
        response_model=Sessions,
        responses=documented(UserNotFound, *READS),
    )
    @allowed("users:read", rows=OWN)
    @admitted_by(listing.admit)
    async def get_user_sessions(user_id: PathId, caller: WhoAsks = None) -> Sessions:
        """A user's sessions that have not ended, a hundred at most."""
        return await listing.submit(ListSessions(user_id, reads(caller)))

    @router.delete(
        "/users/{user_id}/sessions",
        status_code=204,
        response_model=None,
        responses=documented(UserNotFound, *_DOES),
    )
    @allowed("users:write", rows=OWN)
    @admitted_by(issuing.admit)
    async def end_user_sessions(user_id: PathId, caller: WhoAsks = None) -> Answer:
        """Log out everywhere: all tokens of the user are refused from now on."""
        command = EndSessions(user_id, writes(caller))
        await issuing.submit(Request(command, _context(caller)))
        return _NOTHING

    @router.post(
        "/users/{user_id}/password",
        status_code=204,
        response_model=None,
        responses=documented(WrongCredentials, TooManyAttempts, *_DOES, *TAKES_JSON),
    )
    @allowed(PUBLIC)
    @admitted_by(logins.admit)
    async def change_password(user_id: PathId, change: PasswordChange) -> Answer:
        """Change a password, by the current one or by a reset token. All the user's sessions end."""
        await logins.change(user_id, change, asking())
        return _NOTHING

    @router.post(
        "/users/{user_id}/password-reset",
        status_code=201,
        response_model=PasswordReset,
        responses=documented(UserNotFound, *_DOES),
    )
    @allowed("users:write", roles=["admin"])
    @admitted_by(issuing.admit)
    async def reset_password(user_id: PathId, caller: WhoAsks = None) -> Answer:
        """A token by which the user can set a password, once. Staff hand it over."""
        made = await issuing.submit(Request(MakeReset(user_id), _context(caller)))
        return _private(201, made)

    return router


_TOKEN_DOCUMENT: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            FORM: {
                "schema": {
                    "type": "object",
                    "required": ["grant_type"],
                    "properties": {
                        "grant_type": {"type": "string", "enum": list(oauth.GRANTS)},
                        "refresh_token": {"type": "string"},
                        "scope": {"type": "string"},
                        "client_id": {"type": "string"},
                        "client_secret": {"type": "string"},
                    },
                }
            }
        },
    }
}

_OAUTH_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {"error": {"type": "string"}, "error_description": {"type": "string"}},
}


def _oauth_errors(*statuses: int | str) -> dict[int | str, dict[str, Any]]:
    content = {"application/json": {"schema": _OAUTH_ERROR}}
    return {
        status: {"description": "An error of OAuth 2 (RFC 6749, 5.2)", "content": content}
        for status in statuses
    }


def token_routes(issuing: Batcher[Request[Command], Any]) -> APIRouter:
    router = APIRouter(route_class=form_route(oauth.refused), tags=["sessions"])

    @router.post(
        "/token",
        response_model=UserTokens | Tokens,
        # "4XX", or FastAPI would add its own 422, which is never answered here.
        responses=_oauth_errors(400, 401, 429, 503, "4XX"),
        openapi_extra=_TOKEN_DOCUMENT,
    )
    @allowed(PUBLIC)
    @admitted_by(issuing.admit)
    async def token(form: TokenRequest) -> Answer:
        """OAuth's token endpoint: `refresh_token` for users, `client_credentials` for other services."""
        asks = asking()
        authorization = asks.headers.get(b"authorization")
        answer = await oauth.token(issuing, form, authorization, asks.context)
        return Answer(200, (_JSON, NO_STORE), answer)

    return router


def well_known_routes(auth: AuthSettings, key_sets: Batcher[None, dict[str, Any]]) -> APIRouter:
    router = APIRouter(route_class=PeerRoute, tags=["sessions"])
    issuer = _public(metadata(auth))

    @router.get(
        "/.well-known/jwks.json", response_model=dict[str, Any], responses=documented(*READS)
    )
    @allowed(PUBLIC)
    @admitted_by(key_sets.admit)
    async def get_keys() -> Answer:
        """The public keys of access tokens (RFC 7517)."""
        return _public(await key_sets.submit(None))

    @router.get("/.well-known/oauth-authorization-server", response_model=dict[str, Any])
    @allowed(PUBLIC)
    async def get_metadata() -> Answer:
        """What this issuer can do (RFC 8414)."""
        return issuer

    return router


_NOTHING = Answer(204, (), b"")


def _context(caller: Caller | None) -> Context:
    """The request's trace and its caller."""
    trace = asking().context
    return trace if caller is None else trace._replace(caller=caller.subject)


def _private(status: int, body: BaseModel) -> Answer:
    return Answer(status, (_JSON, NO_STORE), to_json(body))


def _public(body: Any) -> Answer:
    cached = ("cache-control", f"public, max-age={KEYS_MAX_AGE}")
    return Answer(200, (_JSON, cached), to_json(body))
