"""How many examples a test tries, in CI and elsewhere."""

import os
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

ALL = "true" in (os.environ.get("HEAVY"), os.environ.get("CI"))
"""Whether heavy tests run too, as in CI."""


def examples(most: int) -> settings:
    """So many in CI, and fewer elsewhere. Each makes what it needs itself, and may take as long as a busy machine takes."""
    return settings(
        max_examples=most if ALL else max(2, most // 4),
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )


def heavy(*cases: Any) -> Sequence[Any]:
    """Cases of a parametrized test that run only with the heavy tests."""
    return [
        pytest.param(*(case if isinstance(case, tuple) else [case]), marks=pytest.mark.heavy)
        for case in cases
    ]
