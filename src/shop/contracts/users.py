"""What the user service publishes. Topic `users`, key: the user's id."""

from eventspine.event import Event, IntegerId
from shop.contracts.values import Email, Line, Time


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
