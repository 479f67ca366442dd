"""The greeting service's HTTP interface."""

from fastapi import APIRouter

from eventspine.answers import Answer
from eventspine.batching import Batcher
from eventspine.context import Request
from shop.platform.auth.rules import allowed
from shop.platform.http.context import Asked
from shop.platform.http.fields import PathId
from shop.platform.http.idempotency import answer_once
from shop.platform.http.route import FastRoute, Reply, admitted_by
from shop.platform.problems import READS, TAKES_JSON, WRITES, documented
from tests.more.services.greetings.errors import GreetingNotFound, UnknownPerson
from tests.more.services.greetings.schemas import Greeting, NewGreeting, SendGreeting


def routes(
    *,
    sending: Batcher[Request[SendGreeting], Greeting | Answer],
    getting: Batcher[int, Greeting],
    signature: str,
) -> APIRouter:
    router = APIRouter(route_class=FastRoute, tags=["greetings"])

    @router.post(
        "/greetings",
        status_code=201,
        response_model=Greeting,
        responses=documented(UnknownPerson, *WRITES, *TAKES_JSON),
    )
    @allowed("greetings:write")
    @admitted_by(sending.admit)
    async def send_greeting(new: NewGreeting, context: Asked) -> Reply | Answer:
        """Greet a user."""
        command = SendGreeting(new.user_id, new.text + signature)
        return await answer_once(sending, command, _sent, context)

    @router.get(
        "/greetings/{greeting_id}",
        response_model=Greeting,
        responses=documented(GreetingNotFound, *READS),
    )
    @allowed("greetings:read")
    @admitted_by(getting.admit)
    async def get_greeting(greeting_id: PathId) -> Reply:
        """A greeting, by id."""
        greeting = await getting.submit(greeting_id)
        return Reply(greeting, etag=greeting.version)

    return router


def _sent(greeting: Greeting) -> Reply:
    return Reply(greeting, 201, greeting.version, f"/greetings/{greeting.id}")
