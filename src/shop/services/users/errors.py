"""What the user service refuses, and how it says so.

Problem
├── UserNotFound   404
└── EmailTaken     409
"""

from shop.platform.problems import Problem


class UserNotFound(Problem):
    """There is no such user."""

    status = 404
    slug = "user-not-found"


class EmailTaken(Problem):
    """Another user has this e-mail address."""

    status = 409
    slug = "email-taken"
