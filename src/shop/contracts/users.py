"""What the user service publishes. Topic `users`, key: the user's id."""

from datetime import datetime

from eventspine.event import Event


class UserEvent(Event):
    topic = "users"
    source = "/users"

    created_at: datetime


class UserCreated(UserEvent):
    type = "user.created"

    email: str
    name: str


class UserUpdated(UserEvent):
    type = "user.updated"

    email: str
    name: str


class UserErased(UserEvent):
    """The last event of a user. Whoever hears it erases the person's name and e-mail."""

    type = "user.erased"
