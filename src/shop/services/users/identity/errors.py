"""The errors of `POST /token`, in the form of RFC 6749. All other errors are in the service's errors.py."""

from pydantic_core import to_json

from eventspine.answers import Answer
from shop.platform.problems import Headers, Problem

NO_STORE = ("cache-control", "no-store")
"""A cache must not store a token, because it would give it to other clients."""


class OAuthRefused(Problem):
    """An error of OAuth 2 (RFC 6749, 5.2)."""

    def __init__(
        self, error: str, description: str, status: int = 400, headers: Headers = ()
    ) -> None:
        super().__init__(description)
        self.error = error
        self.status = status
        self._headers = headers

    def headers(self) -> Headers:
        return self._headers

    def body(self) -> bytes:
        return to_json({"error": self.error, "error_description": self.detail})

    def answer(self) -> Answer:
        more = [(name.decode(), value.decode()) for name, value in self._headers]
        headers = (("content-type", "application/json"), NO_STORE, *more)
        return Answer(self.status, headers, self.body())


def invalid_grant(description: str) -> OAuthRefused:
    return OAuthRefused("invalid_grant", description)


def invalid_client(*, by_header: bool) -> OAuthRefused:
    """401 and a challenge, if the client came with `Authorization` (RFC 6749, 5.2)."""
    description = "The client or its secret is unknown"
    if not by_header:
        return OAuthRefused("invalid_client", description, 401)
    challenge = [(b"www-authenticate", b'Basic realm="eventshop", charset="UTF-8"')]
    return OAuthRefused("invalid_client", description, 401, challenge)
