"""A SASL password that is replaced while clients use it."""

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from confluent_kafka import Consumer, KafkaError, Producer

PASSWORD, USER = "sasl.password", "sasl.username"


def is_refusal(error: KafkaError) -> bool:
    """Whether the broker has refused a password."""
    return bool(error.code() == KafkaError._AUTHENTICATION)  # noqa: SLF001 - it looks private, and is not


class Passwords:
    """The password that all clients of a `KafkaLog` use, in the place of `sasl.password`.

    `read` returns the passwords that may be valid, one at least. It is called when a client begins, and when the
    broker has refused a password. Connections that are open stay open.
    """

    def __init__(self, read: Callable[[], Sequence[str]]) -> None:
        self._read = read
        self._lock = threading.Lock()  # clients have threads of their own
        self._used = ""

    def now(self) -> str:
        with self._lock:
            valid = self._read()
            if self._used not in valid:
                self._used = valid[0]
            return self._used

    def refused(self, password: str) -> str:
        """The one to use instead; of several the next, unless another client has already changed over."""
        with self._lock:
            valid = self._read()
            if self._used not in valid:
                self._used = valid[0]
            elif self._used == password:
                self._used = valid[(valid.index(password) + 1) % len(valid)]
            return self._used


def with_password(
    settings: Mapping[str, Any], heard: Callable[[KafkaError], None]
) -> tuple[dict[str, Any], Callable[[KafkaError], None]]:
    """A client's settings and its error callback, with the password of now, which is changed when it is refused."""
    passwords = settings.get(PASSWORD)
    if not isinstance(passwords, Passwords):
        return dict(settings), heard
    used = passwords.now()

    def hear(error: KafkaError) -> None:
        nonlocal used
        if is_refusal(error):
            used = passwords.refused(used)
        heard(error)

    return {**settings, PASSWORD: used}, hear


class Renewal:
    """For a client that lives on: the password that it uses for its next connection.

    `heard` notes a refusal, since a client must not be called from its own callback: that aborts the process.
    `due` then gives the client the password of now.
    """

    def __init__(self, settings: Mapping[str, Any]) -> None:
        passwords = settings.get(PASSWORD)
        self._passwords = passwords if isinstance(passwords, Passwords) else None
        self._user = settings.get(USER, "")
        self._refused = False

    def heard(self, error: KafkaError) -> None:
        self._refused = self._refused or is_refusal(error)

    def due(self, client: Consumer | Producer) -> None:
        if self._refused:
            self._refused = False
            if self._passwords:
                client.set_sasl_credentials(self._user, self._passwords.now())
