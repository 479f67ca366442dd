"""The errors that clients see: RFC 9457 problem details. Only this module renders them.

Problem
├── MalformedRequest       400   not valid HTTP
├── MalformedBody          400
├── Invalid                422   names the fields that are wrong
├── BodyTooLarge           413
├── RequestTooSlow         408
├── HeadTooLarge           431
├── UnsupportedMediaType   415
├── Unauthenticated        401   a token is missing, or is not accepted
├── InsufficientScope      403
├── Forbidden              403
├── TooManyRequests        429
├── PreconditionFailed     412
├── IdempotencyKeyReused   422
├── SubjectErased          410   the data of a stored answer has been erased
├── TemporarilyUnavailable 503   not executed: try again
├── UnknownOutcome         503   executed once or not at all
├── InternalError          500
└── … and the problems in each service's errors.py
"""

from collections.abc import Mapping, Sequence
from math import ceil
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field
from pydantic_core import ErrorDetails, ValidationError, to_json

from eventspine.answers import Answer

MEDIA_TYPE = "application/problem+json"

Headers = Sequence[tuple[bytes, bytes]]


class Problem(Exception):
    """An error for the client. Code below a route can raise it. A subclass's docstring is its title."""

    status: int = 500
    may_pass: ClassVar[bool] = False
    """Whether the same request may succeed later. Such a refusal does not use up the idempotency key."""
    slug: ClassVar[str] = ""
    """The kind of problem, for programs: `urn:eventshop:problem:<slug>`. Never change a slug."""

    def __init__(self, detail: str = "", **extra: Any) -> None:
        super().__init__(detail)
        self.detail = detail
        self.extra = extra

    @classmethod
    def title(cls) -> str:
        return (cls.__doc__ or "").partition("\n")[0].removesuffix(".")

    @classmethod
    def type_uri(cls) -> str:
        return f"urn:eventshop:problem:{cls.slug}"

    def headers(self) -> Headers:
        return ()

    def body(self) -> bytes:
        document = {"type": self.type_uri(), "title": self.title(), "status": self.status}
        if self.detail:
            document["detail"] = self.detail
        return to_json({**document, **self.extra})

    def answer(self) -> Answer:
        headers = [(name.decode(), value.decode()) for name, value in self.headers()]
        return Answer(self.status, (("content-type", MEDIA_TYPE), *headers), self.body())


class MalformedRequest(Problem):
    """The request is not valid HTTP."""

    status = 400
    slug = "malformed-request"


class MalformedBody(Problem):
    """The body is not JSON."""

    status = 400
    slug = "malformed-body"


class Invalid(Problem):
    """The request is not valid."""

    status = 422
    slug = "invalid"

    @classmethod
    def fields(cls, *wrong: Mapping[str, str]) -> "Invalid":
        names = ", ".join(field["field"] or "body" for field in wrong)
        return cls(f"not acceptable: {names}", errors=list(wrong))

    @classmethod
    def field(cls, where: str, field: str, detail: str) -> "Invalid":
        return cls.fields({"in": where, "field": field, "detail": detail})


class BodyTooLarge(Problem):
    """The body is too large."""

    status = 413
    slug = "body-too-large"

    def headers(self) -> Headers:
        return [(b"connection", b"close")]


class RequestTooSlow(Problem):
    """The request did not arrive in time."""

    status = 408
    slug = "request-too-slow"

    def headers(self) -> Headers:
        return [(b"connection", b"close")]


class HeadTooLarge(Problem):
    """The request line and the headers are too large."""

    status = 431
    slug = "head-too-large"


class UnsupportedMediaType(Problem):
    """The body must be JSON, with the content type application/json."""

    status = 415
    slug = "unsupported-media-type"


class IdempotencyKeyReused(Problem):
    """This idempotency key was used for another request."""

    status = 422
    slug = "idempotency-key-reused"


class SubjectErased(Problem):
    """The request was executed, and the data in its answer has been erased.

    A service with erasure declares a subclass with its own slug in its errors.py.
    """

    status = 410


class Unauthenticated(Problem):
    """A valid access token is needed."""

    status = 401
    slug = "unauthenticated"

    def __init__(self, reason: str = "") -> None:
        """`reason`: why the token that was sent is not accepted; plain ASCII, without quotation marks."""
        super().__init__(f"The token is not accepted: {reason}" if reason else "")
        self.reason = reason

    def headers(self) -> Headers:
        # RFC 6750, 3: without an error code if no token was sent.
        said = f', error="invalid_token", error_description="{self.reason}"' if self.reason else ""
        return [(b"www-authenticate", f'Bearer realm="eventshop"{said}'.encode())]


class InsufficientScope(Problem):
    """The access token does not have the scope that is needed."""

    status = 403
    slug = "insufficient-scope"

    def __init__(self, scope: str) -> None:
        super().__init__(f"The request needs the scope {scope}", scope=scope)
        self.scope = scope

    def headers(self) -> Headers:
        said = f'Bearer realm="eventshop", error="insufficient_scope", scope="{self.scope}"'
        return [(b"www-authenticate", said.encode())]


class Forbidden(Problem):
    """The caller may not do this."""

    status = 403
    slug = "forbidden"


class TooManyRequests(Problem):
    """The caller has sent too many requests, and this one was not executed; try again later."""

    status = 429
    may_pass = True
    slug = "too-many-requests"

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = ceil(seconds)

    def headers(self) -> Headers:
        return [(b"retry-after", b"%d" % self.seconds)]


class PreconditionFailed(Problem):
    """The resource has changed since you read it."""

    status = 412
    slug = "precondition-failed"


class TemporarilyUnavailable(Problem):
    """The request was not executed, because something that this service needs is unavailable; try again."""

    status = 503
    slug = "temporarily-unavailable"
    seconds = 1
    """When the client may try again."""

    def headers(self) -> Headers:
        return [(b"retry-after", b"%d" % self.seconds)]


class UnknownOutcome(Problem):
    """The outcome is unknown: the request was executed once or not at all."""

    status = 503
    slug = "unknown-outcome"


class NotFound(Problem):
    """There is nothing at this address."""

    status = 404
    slug = "not-found"


class MethodNotAllowed(Problem):
    """This address does not support that method."""

    status = 405
    slug = "method-not-allowed"


class OtherHttpError(Problem):
    """The request can't be answered."""

    slug = "http-error"

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status


class InternalError(Problem):
    """An internal error occurred, and was logged."""

    status = 500
    slug = "internal-error"


# Problems that every route of a kind may answer with, in addition to its own, for `documented`.
READS = (Invalid, TemporarilyUnavailable)
WRITES = (Invalid, IdempotencyKeyReused, TemporarilyUnavailable, UnknownOutcome)
GUARDED = (Unauthenticated, InsufficientScope, Forbidden, TooManyRequests)
"""Of a route that asks for a token."""
TAKES_JSON = (MalformedBody, BodyTooLarge, RequestTooSlow, UnsupportedMediaType)


_MOST_NAMED = 20
_MOST_LOOKED_AT = 100


def invalid(error: ValidationError, where: str) -> Problem:
    """Turn a Pydantic error into a problem. It never contains the input, which may be very large or binary."""
    # Each error would become a dict. A body can cause thousands of errors, and they would block the event loop.
    if error.error_count() > _MOST_LOOKED_AT:
        return Invalid(f"not acceptable: {error.error_count()} fields, too many to name")
    details = error.errors(include_url=False, include_input=False, include_context=False)
    if where == "body" and details[0]["type"] == "json_invalid":
        return MalformedBody(details[0]["msg"])
    return Invalid.fields(*(_wrong(detail, where) for detail in details[:_MOST_NAMED]))


def _wrong(detail: ErrorDetails, where: str) -> dict[str, str]:
    # The name of an unknown field comes from the client, so it may be long.
    field = ".".join(str(part) for part in detail["loc"])[:200]
    return {"in": where, "field": field, "detail": reason(detail)}


def reason(detail: ErrorDetails) -> str:
    """The error message of Pydantic or of a validator for one field."""
    return detail["msg"].removeprefix("Value error, ")


class FieldError(BaseModel):
    """The error of one field."""

    model_config = ConfigDict(populate_by_name=True)

    where: str = Field(
        alias="in", description="The place of the field: body, path, query or header."
    )
    field: str = Field(description="The field's name. Names of nested fields are joined by dots.")
    detail: str


class ProblemDocument(BaseModel):
    """RFC 9457 problem details."""

    model_config = ConfigDict(extra="allow", title="Problem")

    type: str = Field(description="The kind of problem. It is stable, so programs can rely on it.")
    title: str
    status: int
    # With factories, these fields may be absent, and have no default. They are never null.
    detail: str = Field(default_factory=str)
    errors: list[FieldError] = Field(
        default_factory=list,
        description=f"The first {_MOST_NAMED} errors. Empty if more than {_MOST_LOOKED_AT} fields are wrong.",
    )


def documented(*problems: type[Problem]) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route that may raise these problems."""
    responses: dict[int | str, dict[str, Any]] = {}
    for problem in problems:
        example = {
            "type": problem.type_uri(),
            "title": problem.title(),
            "status": problem.status,
        }
        entry = responses.setdefault(
            problem.status,
            {
                "description": problem.title(),
                "content": {
                    MEDIA_TYPE: {
                        "schema": {"$ref": "#/components/schemas/Problem"},
                        "examples": {},
                    }
                },
            },
        )
        entry["content"][MEDIA_TYPE]["examples"][problem.slug] = {"value": example}
    return responses
