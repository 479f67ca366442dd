"""What the user service refuses, and how it says so.

Problem
├── UserNotFound       404
├── UserGone           410
├── EmailTaken         409
├── WrongCredentials   401   the same, with the same work done, whether or not the user exists
├── TooManyAttempts    429
├── AccountLocked      403   only said to one who knows the password
├── SessionNotFound    404
└── NoSigningKey       503
"""

from shop.platform.problems import Headers, Problem, SubjectErased, TooManyRequests


class UserNotFound(Problem):
    """There is no such user."""

    status = 404
    slug = "user-not-found"


class UserGone(SubjectErased):
    """The request was executed, and the user whose data its answer contains has been erased."""

    slug = "user-erased"


class EmailTaken(Problem):
    """Another user has this e-mail address."""

    status = 409
    slug = "email-taken"


class WrongCredentials(Problem):
    """The e-mail address, the password or the token is wrong."""

    status = 401
    slug = "wrong-credentials"

    def headers(self) -> Headers:
        return [(b"www-authenticate", b'Bearer realm="eventshop"')]


class TooManyAttempts(TooManyRequests):
    """Too many wrong passwords were tried; wait before the next one."""

    slug = "too-many-attempts"


class AccountLocked(Problem):
    """This account is locked."""

    status = 403
    slug = "account-locked"


class SessionNotFound(Problem):
    """There is no such session, or it has ended."""

    status = 404
    slug = "session-not-found"


class NoSigningKey(Problem):
    """The service can't issue tokens, because it has no signing key."""

    status = 503
    may_pass = True
    slug = "no-signing-key"

    def headers(self) -> Headers:
        return [(b"retry-after", b"30")]
