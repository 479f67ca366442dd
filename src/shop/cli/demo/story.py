"""`shop demo`: who the customers are, what they order, and what they get wrong."""

import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from threading import Lock
from typing import TypeVar

from shop.cli.demo.calls import Answer, Client

_FIRST = [
    "Amara",
    "Anneliese",
    "Ayşe",
    "Bao",
    "Camila",
    "Dmitri",
    "Esi",
    "Fatima",
    "Giulia",
    "Hana",
    "Ibrahim",
    "Ingrid",
    "Jonas",
    "Keiko",
    "Lars",
    "Leila",
    "Mateo",
    "Nadia",
    "Nikos",
    "Olga",
    "Priya",
    "Rafael",
    "Siti",
    "Søren",
    "Tariq",
    "Thandiwe",
    "Tomás",
    "Wei",
    "Yusuf",
    "Zofia",
]
_LAST = [
    "Abdullah",
    "Andersen",
    "Castro",
    "Çelik",
    "Dubois",
    "Fernández",
    "García",
    "Haddad",
    "Ivanova",
    "Jansen",
    "Kowalska",
    "Lindqvist",
    "Mensah",
    "Müller",
    "Nakamura",
    "Nguyen",
    "Okafor",
    "Papadakis",
    "Rossi",
    "Santos",
    "Setiadi",
    "Sharma",
    "Silva",
    "Tanaka",
    "Wijaya",
    "Yılmaz",
    "Zulu",
]
_GOODS = {
    "coffee, 1 kg": "18.50",
    "green tea, 100 g": "7.90",
    "olive oil, 0.5 l": "11.20",
    "notebook A5": "4.50",
    "fountain pen": "32.00",
    "bicycle bell": "9.95",
    "wool socks": "12.00",
    "desk lamp": "49.90",
    "chess set": "38.00",
    "rain jacket": "89.00",
}

_Any = TypeVar("_Any")

_NOBODY = 2**53 - 1
"""An id that no user and no order of a shop that is tried out has."""


class Story:
    """What the customers do. Any thread may call `next`; numbers are counted in `done`.

    Each step says what was counted: something that was done, or a mistake that was refused as it must be. An answer
    that is neither is in `wrong`.
    """

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self._run = f"{chance.getrandbits(32):08x}"
        """Part of each e-mail address and key, so that two runs do not meet."""
        self._lock = Lock()
        self._count = 0
        self._users: list[int] = []
        self._emails: list[str] = []
        self._orders: list[int] = []
        self.done: Counter[str] = Counter()
        self.mistakes: Counter[str] = Counter()
        self.repeats = 0
        self.retries = 0
        self.wrong: list[str] = []

    @property
    def orders(self) -> int:
        return self.done["orders placed"]

    def next(self, client: Client) -> None:
        """One more request, with its repeats. Raises `NoAnswer`."""
        with self._lock:
            step = self._step()
        step(client)

    def _step(self) -> Callable[[Client], None]:
        if len(self._users) < 3:  # noqa: PLR2004 - a shop with fewer customers is dull
            return self._come
        steps: dict[Callable[[Client], None], int] = {
            self._come: 14,
            self._order: 52,
            self._look: 8,
            self._change: 6,
            self._cancel: 7,
            self._err: 12,
            self._leave: 1,
        }
        if not self._orders:
            return self._order
        return self._chance.choices(list(steps), list(steps.values()))[0]

    def _come(self, client: Client) -> None:
        name, email = self._person()
        answer = self._send(client, "users", "POST", "/users", {"email": email, "name": name})
        if self._is(answer, 201, "customers came"):
            with self._lock:
                self._users.append(answer.json["id"])
                self._emails.append(email)

    def _order(self, client: Client) -> None:
        user = self._any(self._users)
        answer = self._send(client, "orders", "POST", "/orders", self._wish(user))
        # Another thread may have erased the customer meanwhile.
        if answer.status in {404, 410}:
            self._count_mistake("a customer who has just left orders")
        elif self._is(answer, 201, "orders placed"):
            with self._lock:
                self._orders.append(answer.json["id"])

    def _look(self, client: Client) -> None:
        what = self._chance.choice(("order", "orders", "user"))
        if what == "order":
            answer = client.send("orders", "GET", f"/orders/{self._any(self._orders)}")
        elif what == "orders":
            answer = client.send("orders", "GET", f"/orders?user_id={self._any(self._users)}")
        else:
            answer = client.send("users", "GET", f"/users/{self._any(self._users)}")
        self._note_tries(answer)
        if answer.status in {404, 410}:
            self._count_mistake("a customer who has just left is looked up")
        else:
            self._is(answer, 200, "lists read")

    def _change(self, client: Client) -> None:
        name, email = self._person()
        changes = self._chance.choice(({"name": name}, {"email": email}))
        user = self._any(self._users)
        answer = self._send(client, "users", "PATCH", f"/users/{user}", changes)
        if answer.status in {404, 410}:
            self._count_mistake("a customer who has just left is changed")
        else:
            self._is(answer, 200, "customers changed")

    def _cancel(self, client: Client) -> None:
        order = self._any(self._orders)
        answer = self._send(client, "orders", "POST", f"/orders/{order}/cancel")
        if answer.status == 410:  # noqa: PLR2004 - gone
            self._count_mistake("an order of a customer who has just left is cancelled")
        else:
            self._is(answer, 200, "cancellations")

    def _leave(self, client: Client) -> None:
        with self._lock:
            at = self._chance.randrange(len(self._users))
            user, _ = self._users.pop(at), self._emails.pop(at)
        answer = self._send(client, "users", "DELETE", f"/users/{user}")
        self._is(answer, 204, "customers left, and were erased")

    def _err(self, client: Client) -> None:
        user = self._any(self._users)
        name, email = self._person()
        mistakes: tuple[
            tuple[str, int, str, str, str, Mapping[str, object] | None], ...
        ] = (
            ("the e-mail address is taken", 409, "users", "POST", "/users", {"email": self._any(self._emails).upper(), "name": name}),
            ("the e-mail address has no @", 422, "users", "POST", "/users", {"email": email.replace("@", " at "), "name": name}),
            ("the quantity is 0", 422, "orders", "POST", "/orders", {**self._wish(user), "quantity": 0}),
            ("the price is a word", 422, "orders", "POST", "/orders", {**self._wish(user), "total_price": "cheap"}),
            ("nobody has this customer number", 404, "orders", "POST", "/orders", self._wish(_NOBODY)),
            ("there is no such order", 404, "orders", "POST", f"/orders/{_NOBODY}/cancel", None),
        )  # fmt: skip
        what, status, api, method, path, body = self._chance.choice(mistakes)
        answer = self._send(client, api, method, path, body)
        if answer.status == status:
            self._count_mistake(what)
        elif answer.status == 201 and what == "the e-mail address is taken":  # noqa: PLR2004
            # Its owner has changed it, or left, a moment ago.
            self._count_done("customers came")
        else:
            self._wrong(answer, status, what)

    def _send(
        self,
        client: Client,
        api: str,
        method: str,
        path: str,
        body: Mapping[str, object] | None = None,
    ) -> Answer:
        with self._lock:
            self._count += 1
            key = f"demo-{self._run}-{self._count}"
            again = self._chance.random() < 0.06  # noqa: PLR2004 - impatient customers are few
        answer = client.send(api, method, path, body, key)
        self._note_tries(answer)
        if again:
            repeated = client.send(api, method, path, body, key)
            with self._lock:
                self.repeats += 1
                # An erasure in between forbids the first answer.
                same = (repeated.status, repeated.body) == (answer.status, answer.body)
                if not same and repeated.status != 410 and answer.status < 400:  # noqa: PLR2004
                    self.wrong.append(
                        f"{method} {path}: a repeat got {repeated.status} and another answer"
                    )
        return answer

    def _person(self) -> tuple[str, str]:
        with self._lock:
            first, last = self._chance.choice(_FIRST), self._chance.choice(_LAST)
            self._count += 1
            return f"{first} {last}", f"customer-{self._run}-{self._count}@example.com"

    def _wish(self, user: int) -> dict[str, object]:
        with self._lock:
            product, price = self._chance.choice(list(_GOODS.items()))
            quantity = self._chance.choices((1, 2, 3, 6, 12), (60, 20, 10, 7, 3))[0]
        total = str(Decimal(price) * quantity)
        return {"user_id": user, "product": product, "quantity": quantity, "total_price": total}

    def _any(self, those: Sequence[_Any]) -> _Any:
        with self._lock:
            # Newer ones more often: people cancel what they have just ordered.
            return those[-1 - min(int(self._chance.expovariate(0.05)), len(those) - 1)]

    def _is(self, answer: Answer, status: int, what: str) -> bool:
        if answer.status == status:
            self._count_done(what)
            return True
        self._wrong(answer, status, what)
        return False

    def _wrong(self, answer: Answer, status: int, what: str) -> None:
        with self._lock:
            self.wrong.append(
                f"{what}: {answer.status} instead of {status}: {answer.json.get('title', '')}"
            )

    def _count_done(self, what: str) -> None:
        with self._lock:
            self.done[what] += 1

    def _count_mistake(self, what: str) -> None:
        with self._lock:
            self.mistakes[what] += 1

    def _note_tries(self, answer: Answer) -> None:
        with self._lock:
            self.retries += answer.tries - 1
