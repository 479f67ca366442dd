"""What the user service refuses, and how it says so.

Problem
├── UserNotFound   404
├── UserGone       410
└── EmailTaken     409
"""

from shop.platform.problems import Problem, SubjectErased


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
