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
    """This was done, once; the user whose data the answer held has been erased."""

    slug = "user-erased"


class EmailTaken(Problem):
    """Another user has this e-mail address."""

    status = 409
    slug = "email-taken"
