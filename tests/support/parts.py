"""Processes of the shop that a test starts and stops one by one."""

import signal
from collections.abc import Mapping
from typing import Any

import httpx

from tests.support.shop import Running, answers
from tests.support.waiting import until


class Parts:
    """What is running, and with which settings."""

    def __init__(self, settings: Mapping[str, Any], databases: Mapping[str, str]) -> None:
        self.settings = settings
        self.databases = databases
        self.running: dict[str, Running] = {}
        self.users = httpx.Client(
            base_url=f"http://127.0.0.1:{settings['SHOP_USERS__PORT']}", timeout=30
        )
        self.orders = httpx.Client(
            base_url=f"http://127.0.0.1:{settings['SHOP_ORDERS__PORT']}", timeout=30
        )

    def start(self, *names: str) -> None:
        for name in names:
            service, part = name.split("-")
            self.running[name] = Running(part, service, **self.settings)
        for name in names:
            if name.endswith("-api"):
                client = self.users if name.startswith("users") else self.orders
                until(lambda client=client: answers(client), f"{name} answers", 60)
            else:
                self.running[name].output.until("worker.started")

    def stop(self, *names: str, number: signal.Signals = signal.SIGTERM) -> list[int]:
        return [self.running.pop(name).stop(number) for name in names]

    def close(self) -> None:
        self.stop(*list(self.running), number=signal.SIGKILL)
        self.users.close()
        self.orders.close()
