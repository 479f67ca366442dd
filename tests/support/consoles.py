"""The console, served in a thread, over the databases of a test."""

import html
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx

from shop.platform import discovery
from shop.platform.processes.api import Server
from shop.platform.settings import Settings, read_settings
from tests.support.databases import Databases
from tests.support.waiting import until


def console_settings(urls: Databases, **given: Any) -> Settings:
    sections: dict[str, Any] = {name: {"database_url": urls[name]} for name in discovery.names()}
    return read_settings(discovery.sections(), **sections, event_log_url=urls.log, **given)


@contextmanager
def console(urls: Databases, **given: Any) -> Iterator[httpx.Client]:
    """A client of it. What it sends is, for the console, from its own pages."""
    settings = console_settings(urls, **given)
    app = discovery.load_front("console").app(settings)
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    server = Server(app, settings)
    thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
    thread.start()
    until(lambda: server.started or not thread.is_alive())
    assert server.started, "the console did not start"
    try:
        own = {"Sec-Fetch-Site": "same-origin"}
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30, headers=own) as client:
            yield client
    finally:
        server.should_exit = True
        thread.join(30)
        listener.close()
    assert not thread.is_alive(), "the console did not stop"


def fields(page: str) -> dict[str, list[str]]:
    """The hidden fields of the page's last form."""
    form = page[page.rindex('<form class="card stack wide"') :]
    found: dict[str, list[str]] = {}
    for name, value in re.findall(r'type="hidden" name="([^"]+)" value="([^"]*)"', form):
        found.setdefault(name, []).append(html.unescape(value))
    return found


def tick(page: str, *of: str) -> list[str]:
    """The ids of the keys, as their boxes have them."""
    boxes = dict(re.findall(r'name="id" value="([^"]+)" aria-label="users (\S+) of orders"', page))
    by_key = {key: id_ for id_, key in boxes.items()}
    return [by_key[each] for each in of]


def confirmed(client: httpx.Client, given: dict[str, object], **more: str) -> str:
    """The page of the deed, once it has ended."""
    question = client.post("/parked/confirm", data=given)
    assert question.status_code == 200, question.text
    begun = client.post("/parked/do", data={**fields(question.text), **more})
    assert begun.status_code == 303, begun.text
    path = begun.headers["location"]
    until(lambda: "under way" not in client.get(path).text)
    return client.get(path).text
