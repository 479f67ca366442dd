"""How Hypothesis is used here."""

from hypothesis import HealthCheck, settings


def examples(most: int) -> settings:
    """So many; each makes what it needs itself, and may take as long as a busy machine takes."""
    return settings(
        max_examples=most,
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )
