"""What the greeting service publishes. Topic `greetings`, key: the greeting's id."""

from typing import Any, ClassVar

from eventspine.event import Event
from shop.contracts.values import Id, Line, Time


def _user_id(data: dict[str, Any]) -> dict[str, Any]:
    """Version 1 called the field `to`."""
    data["user_id"] = data.pop("to")
    return data


class GreetingSent(Event):
    """The first event of a greeting, and the last."""

    topic = "greetings"
    source = "/greetings"
    type = "greeting.sent"
    schema_version = 2
    upcasts: ClassVar = {1: _user_id}

    user_id: Id
    text: Line
    sent_at: Time
