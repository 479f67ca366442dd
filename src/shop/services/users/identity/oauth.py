"""`POST /token`: the two grants of OAuth 2.1 that the shop needs, and errors in the form of RFC 6749."""

import re
from base64 import b64decode
from typing import Any
from urllib.parse import unquote_plus

from eventspine.batching import Batcher
from eventspine.context import Context, Request
from eventspine.errors import OutcomeUnknown, Unavailable
from shop.platform.problems import Problem
from shop.services.users.errors import NoSigningKey
from shop.services.users.identity.errors import OAuthRefused, invalid_client, invalid_grant
from shop.services.users.identity.refresh_tokens import opaque_hash, parse
from shop.services.users.identity.schemas import (
    FIRST_PARTY,
    USER_SCOPES,
    ClientToken,
    Command,
    Refresh,
    TokenRequest,
    Tokens,
)

GRANTS = ("refresh_token", "client_credentials")

_LONGEST_ID = 200


async def token(
    issuing: Batcher[Request[Command], Any],
    form: TokenRequest,
    authorization: bytes | None,
    context: Context,
) -> bytes:
    """The answer, as JSON. Raises `OAuthRefused`."""
    match form.grant_type:
        case None:
            raise OAuthRefused("invalid_request", "grant_type is missing")
        case "refresh_token":
            return await _refreshed(issuing, form, authorization, context)
        case "client_credentials":
            return await _for_client(issuing, form, authorization, context)
    raise OAuthRefused("unsupported_grant_type", f"The grants are: {', '.join(GRANTS)}")


async def _refreshed(
    issuing: Batcher[Request[Command], Any],
    form: TokenRequest,
    authorization: bytes | None,
    context: Context,
) -> bytes:
    if authorization is not None or form.client_secret is not None:
        raise invalid_client(by_header=authorization is not None)
    if form.client_id not in {None, FIRST_PARTY}:
        raise invalid_client(by_header=False)
    if form.refresh_token is None:
        raise OAuthRefused("invalid_request", "refresh_token is missing")
    given = parse(form.refresh_token.get_secret_value())
    if given is None:
        raise invalid_grant("The refresh token is unknown, or its session has ended")
    wanted = _scope(form.scope)
    if wanted is not None and not set(wanted.split(" ")) <= set(USER_SCOPES):
        raise OAuthRefused("invalid_scope", f"A user may ask for: {' '.join(USER_SCOPES)}")
    answer: bytes = await issuing.submit(Request(Refresh(given, wanted), context))
    return answer


async def _for_client(
    issuing: Batcher[Request[Command], Any],
    form: TokenRequest,
    authorization: bytes | None,
    context: Context,
) -> bytes:
    if authorization is not None:
        if form.client_secret is not None:
            raise OAuthRefused("invalid_request", "The client's secret is given twice")
        client_id, secret = _basic(authorization)
        if form.client_id not in {None, client_id}:
            raise OAuthRefused("invalid_request", "Two clients are named")
    elif form.client_id is not None and form.client_secret is not None:
        client_id, secret = form.client_id, form.client_secret.get_secret_value()
    else:
        raise invalid_client(by_header=False)
    by_header = authorization is not None
    if "\x00" in client_id or len(client_id) > _LONGEST_ID:
        raise invalid_client(by_header=by_header)
    command = ClientToken(client_id, opaque_hash(secret), _scope(form.scope), by_header)
    tokens: Tokens = await issuing.submit(Request(command, context))
    return tokens.model_dump_json().encode()


def _basic(authorization: bytes) -> tuple[str, str]:
    """Both parts are form-encoded (RFC 6749, 2.3.1)."""
    scheme, _, encoded = authorization.strip().partition(b" ")
    try:
        decoded = b64decode(encoded.strip(), validate=True).decode()
    except ValueError:
        decoded = ""
    client_id, colon, secret = decoded.partition(":")
    if scheme.lower() != b"basic" or not colon:
        raise invalid_client(by_header=True)
    return unquote_plus(client_id), unquote_plus(secret)


def _scope(given: str | None) -> str | None:
    # RFC 6749, 3.3.
    if given is not None and not re.fullmatch(
        r"[\x21\x23-\x5b\x5d-\x7e]+( [\x21\x23-\x5b\x5d-\x7e]+)*", given
    ):
        raise OAuthRefused("invalid_scope", "A scope is words with single spaces between them")
    return given


def refused(error: Exception) -> Exception:
    """Turn any refusal into an OAuth error. Errors of the server stay as they are."""
    match error:
        case OAuthRefused():
            return error
        case NoSigningKey():
            return _later(str(error.detail))
        case Problem() if error.status in {400, 408, 413, 415, 422}:
            return OAuthRefused("invalid_request", _what(error), 400)
        case Problem() if error.status == 503:  # noqa: PLR2004
            return _later(error.detail)
        case Unavailable() | OutcomeUnknown():
            # A refresh may be repeated either way: a repeat gets the same answer.
            return _later("The request may be sent again")
    return error


def _later(description: str) -> OAuthRefused:
    return OAuthRefused("temporarily_unavailable", description, 503, [(b"retry-after", b"1")])


def _what(problem: Problem) -> str:
    wrong = problem.extra.get("errors") or ()
    told = "; ".join(f"{each['field']}: {each['detail']}" for each in wrong)
    return told or problem.detail or problem.title()
