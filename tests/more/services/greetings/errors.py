"""What the greeting service refuses.

Problem
├── GreetingNotFound   404
└── UnknownPerson      404
"""

from shop.platform.problems import Problem


class GreetingNotFound(Problem):
    """There is no such greeting."""

    status = 404
    slug = "greeting-not-found"


class UnknownPerson(Problem):
    """There is nobody to greet."""

    status = 404
    may_pass = True
    slug = "unknown-person"
