"""The problems of the order service.

Problem
├── OrderNotFound     404
├── UnknownCustomer   404
└── UserGone          410
"""

from shop.platform.problems import Problem, SubjectErased


class OrderNotFound(Problem):
    """There is no such order."""

    status = 404
    slug = "order-not-found"


class UnknownCustomer(Problem):
    """There is no such customer."""

    status = 404
    may_pass = True  # the customer may be created later
    slug = "unknown-customer"


class UserGone(SubjectErased):
    """The request was executed, and the user whose data its answer contains has been erased."""

    slug = "user-erased"
