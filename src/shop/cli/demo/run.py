"""`shop demo`: the pace, the progress, and what is said at the end."""

import random
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

from rich.text import Text

from shop.cli.common import NOT_DONE
from shop.cli.console import Console
from shop.cli.demo.calls import Client, NoAnswer
from shop.cli.demo.story import Story
from shop.cli.login import kept_token
from shop.cli.progress import shown
from shop.cli.streams import tell
from shop.platform.terminal import plain

_INTERRUPTED = 130
_MOST_LATE = 0.5
"""Seconds. A shop that was slow for longer does not get all that it missed at once."""
_NAMED = 5  # answers that were wrong


class Plan(NamedTuple):
    urls: dict[str, str]
    rate: float
    """Steps a second; each is one request, and the repeats that belong to it."""
    seconds: float
    orders: int | None
    """It ends once so many orders are placed, whatever `seconds` says."""
    clients: int


def run(plan: Plan) -> int:
    """The exit status."""
    token = kept_token(plan.urls["users"])
    if trouble := _trouble(Client(plan.urls, token)):
        tell(f"shop: {trouble}")
        return NOT_DONE
    story = Story(random.Random())  # noqa: S311 - no secret
    crowd = _Crowd(plan, story, token)
    began = time.monotonic()
    status = 0
    try:
        _send(plan, story, crowd)
    except KeyboardInterrupt:
        status = _INTERRUPTED
    crowd.end()
    _say(story, crowd, time.monotonic() - began)
    return status or (1 if story.wrong or crowd.unanswered else 0)


def _trouble(client: Client) -> str:
    """Why nothing can be sent; empty if it can."""
    try:
        for api in ("users", "orders"):
            if client.send(api, "GET", f"/{api}?limit=1", tries=1).status in {401, 403}:
                return (
                    "this shop requires access tokens: log in as an admin with `shop login EMAIL`,"
                    " and run it again"
                )
    except NoAnswer as error:
        return f"the shop gives no answer: {error}; `shop up` starts one, --users and --orders-api name another"
    finally:
        client.close()
    return ""


class _Crowd:
    """The clients. At most `clients` steps are under way."""

    def __init__(self, plan: Plan, story: Story, token: str | None) -> None:
        self._plan = plan
        self._story = story
        self._token = token
        self._room = threading.Semaphore(plan.clients)
        self._threads = ThreadPoolExecutor(plan.clients)
        self._own = threading.local()
        self._clients: list[Client] = []
        self._faults: list[BaseException] = []
        self.steps = 0
        self.unanswered: list[str] = []

    def step(self) -> None:
        """Begin a step, as soon as a client is free."""
        self._room.acquire()
        self.steps += 1
        self._threads.submit(self._step).add_done_callback(self._ended)

    def end(self) -> None:
        """Wait for what is under way."""
        self._threads.shutdown()
        for client in self._clients:
            client.close()
        if self._faults:
            raise self._faults[0]

    def _step(self) -> None:
        client = getattr(self._own, "client", None)
        if client is None:
            client = self._own.client = Client(self._plan.urls, self._token)
            self._clients.append(client)
        try:
            self._story.next(client)
        except NoAnswer as error:
            self.unanswered.append(str(error))

    def _ended(self, step: "Future[None]") -> None:
        self._room.release()
        if (fault := step.exception()) is not None:
            self._faults.append(fault)


def _send(plan: Plan, story: Story, crowd: _Crowd) -> None:
    total = max(1, round(plan.rate * plan.seconds))
    until = time.monotonic() + plan.seconds
    with shown("demo") as progress:
        for _ in _beats(plan.rate):
            if plan.orders is not None:
                progress("orders", min(story.orders, plan.orders), plan.orders)
                if story.orders >= plan.orders:
                    return
            elif time.monotonic() >= until or crowd.steps >= total:
                return
            else:
                progress("requests", crowd.steps, total)
            crowd.step()


def _beats(rate: float) -> Iterator[None]:
    """One each time that the next step is due."""
    due = time.monotonic()
    while True:
        now = time.monotonic()
        due = max(due, now - _MOST_LATE)
        if due > now:
            time.sleep(due - now)
        yield
        due += 1 / rate


def _say(story: Story, crowd: _Crowd, seconds: float) -> None:
    console = Console(highlight=False, markup=False, emoji=False, soft_wrap=True)
    console.print(
        Text(
            f"{crowd.steps} steps in {seconds:.1f} s ({crowd.steps / seconds:.1f} a second)", "bold"
        )
    )
    for what, count in story.done.most_common():
        console.print(Text.assemble((f"{count:8}", "green"), f"  {what}"))
    for what, count in story.mistakes.most_common():
        console.print(Text.assemble((f"{count:8}", "yellow"), f"  refused, as it must be: {what}"))
    console.print(f"{story.repeats:8}  sent again with the same key by an impatient customer")
    console.print(f"{story.retries:8}  sent again with the same key, because no answer came")
    wrong = [*story.wrong, *crowd.unanswered]
    if wrong:
        console.print(Text(f"{len(wrong):8}  not as it must be:", "red"))
        for each in wrong[:_NAMED]:
            console.print(Text(f"          {plain(each)}", "red"))
