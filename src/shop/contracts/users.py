"""The events of the user service. The topic is `users`; the key is the user's id.

The events in `identity.py` use the same topic.
"""

from eventspine.event import Event, IntegerId
from shop.contracts.identity import AccessChanged, SessionEnded, SigningKeyChanged
from shop.contracts.values import Email, Line, Time

__all__ = [
    "AccessChanged",
    "SessionEnded",
    "SigningKeyChanged",
    "UserCreated",
    "UserErased",
    "UserEvent",
    "UserUpdated",
]


class UserEvent(Event):
    topic = "users"
    source = "/users"

    id: IntegerId
    created_at: Time


class UserCreated(UserEvent):
    type = "user.created"

    email: Email
    name: Line


class UserUpdated(UserEvent):
    type = "user.updated"

    email: Email
    name: Line


class UserErased(UserEvent):
    """The last event of a user. Every service that reads it erases the person's name and e-mail."""

    type = "user.erased"
