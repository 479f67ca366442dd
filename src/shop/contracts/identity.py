"""Events about keys, access and sessions. The user service publishes them to topic `users`.

Every service keeps a copy (`shop.platform.auth.copies`), so it can verify tokens while the user service
is down. `id` is the record's key. It begins with a word, so it is never equal to the id of a user.
"""

from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import Field

from eventspine.event import Event
from shop.contracts.values import Id, Line

KeyState = Literal["initial", "active", "verifying", "gone"]
"""`initial`: published, but does not sign yet. `active`: signs. `verifying`: no longer signs, and its tokens are
still accepted. `gone`: its tokens are refused."""


class IdentityEvent(Event):
    topic = "users"
    source = "/users"

    id: Line


class SigningKeyChanged(IdentityEvent):
    """`id` is `key:<kid>`."""

    type = "signing_key.changed"

    kid: Line
    state: KeyState
    public_jwk: dict[str, Any]
    """RFC 7517, without any private member. Empty when the key is gone."""


class AccessChanged(IdentityEvent):
    """`id` is `access:17` for a user and `access:client:billing` for a client. Each event raises `generation`."""

    type = "access.changed"

    subject: Line
    """As in the tokens' `sub`: `user:17`, `service_account:billing`."""
    roles: list[Line]
    locked: bool
    generation: Annotated[int, Field(strict=True, ge=0, lt=2**63)]
    """A token of the subject with a lower `gen` is refused. Before the first event it is 0."""
    reason: Line


class SessionEnded(IdentityEvent):
    """The only event of a session; its version is 1. `id` is `session:<uuid>`."""

    type = "session.ended"

    session_id: UUID
    """As in the tokens' `sid`."""
    user_id: Id
    reason: Line
