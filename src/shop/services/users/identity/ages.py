"""How long rows about logins are kept. The worker deletes older ones."""

from eventspine.pruning import KEY_MARGIN, Aged
from shop.platform.settings import Settings
from shop.services.users.settings import UsersSettings

RESET_WITHIN_S = 3600
"""Seconds of running time for which a reset token works."""

_DEVICE_S = 180 * 24 * 3600
"""Seconds for which a device stays known after its last login."""


def aged(settings: Settings) -> tuple[Aged, ...]:
    own = settings.section(UsersSettings)
    return (
        Aged("sessions", "running_ms", own.session_idle_s),
        Aged("sessions", "begun_ms", own.session_longest_s),
        Aged("refresh_answers", "running_ms", own.refresh_grace_s + KEY_MARGIN),
        Aged("password_resets", "running_ms", RESET_WITHIN_S),
        Aged("devices", "running_ms", _DEVICE_S),
    )
