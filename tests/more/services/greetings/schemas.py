"""What goes in and out of the greeting service."""

from datetime import datetime
from typing import Annotated, NamedTuple

from pydantic import ConfigDict, Field

from shop.platform.http.fields import Body, Id, Line, View


class NewGreeting(Body):
    model_config = ConfigDict(
        json_schema_extra={"examples": [{"user_id": 1, "text": "Good morning"}]}
    )

    user_id: Annotated[Id, Field(strict=True)]
    text: Line


class Greeting(View):
    id: int
    user_id: int
    text: str
    version: int
    sent_at: datetime


class SendGreeting(NamedTuple):
    user_id: int
    text: str
