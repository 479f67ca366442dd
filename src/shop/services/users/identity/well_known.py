"""The public documents of the issuer: its metadata (RFC 8414) and its keys (RFC 7517)."""

from collections.abc import Sequence
from typing import Any

from eventspine.database import Database
from shop.platform.auth.settings import AuthSettings
from shop.services.users.identity.oauth import GRANTS
from shop.services.users.identity.schemas import USER_SCOPES

KEYS_MAX_AGE = 300
"""Seconds that a copy of the keys may be used. A key is published well before it signs."""

_KEYS = "SELECT public_jwk FROM signing_keys WHERE state <> 'gone' ORDER BY kid"


def metadata(auth: AuthSettings) -> dict[str, Any]:
    """There is no authorization endpoint, so there are no response types. This is OAuth, not OpenID Connect."""
    issuer = auth.issuer.rstrip("/")
    return {
        "issuer": auth.issuer,
        "token_endpoint": f"{issuer}/token",
        "jwks_uri": f"{issuer}/.well-known/jwks.json",
        "scopes_supported": list(USER_SCOPES),
        "response_types_supported": [],
        "grant_types_supported": list(GRANTS),
        "token_endpoint_auth_methods_supported": [
            "client_secret_basic",
            "client_secret_post",
            "none",
        ],
    }


async def key_sets(database: Database, asked: Sequence[None]) -> list[dict[str, Any]]:
    """All concurrent requests share one query."""
    keys = [jwk for (jwk,) in await database.fetch(_KEYS)]
    return [{"keys": keys}] * len(asked)
