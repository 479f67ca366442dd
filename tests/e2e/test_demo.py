"""`shop demo` and `shop top` beside a shop that runs."""

import json
import re

import pytest

from tests.support.shop import TRACEBACK, Running, Shop, environment, run_shop
from tests.support.terminals import Terminal
from tests.support.waiting import until

STEPS = re.compile(r"(\d+) steps in")


def counted(stdout: str) -> dict[str, int]:
    rows = [line.split(maxsplit=1) for line in stdout.splitlines()[1:]]
    return {what: int(count) for count, what in rows if count.isdecimal()}


@pytest.mark.heavy
def test_a_demo_orders_errs_and_repeats_and_every_answer_is_as_it_must_be(shop: Shop) -> None:
    done = shop.run("demo", "--orders", "60", "--rate", "200", timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    found = counted(done.stdout)
    placed = found["orders placed"]
    assert 60 <= placed <= 60 + 16  # no more than those under way
    assert found["customers came"] >= 3
    assert any(what.startswith("refused, as it must be") for what in found)
    assert not any("not as it must be" in what for what in found)
    [(orders,)] = shop.rows("orders", "SELECT count(*) FROM orders")
    assert orders == placed  # no repeat was done twice

    def well() -> bool:
        top = json.loads(shop.run("top", "--json", "--every", "0.2").stdout)
        of = {each["name"]: each for each in top["services"]}
        assert of["orders"]["outbox"]["published"] >= placed
        apis = {of[name]["api"]["state"] for name in ("orders", "users")}
        return apis == {"well"} and top["state"] in {"well", "behind"}

    until(well, "all is well")


@pytest.mark.heavy
def test_what_gets_no_answer_is_sent_again_with_the_same_key_and_done_once(shop: Shop) -> None:
    [(before,)] = shop.rows("orders", "SELECT count(*) FROM orders")
    running = Running("demo", "--orders", "150", "--rate", "60", "--data", shop.data)
    placed = "SELECT count(*) FROM orders"
    until(lambda: shop.rows("orders", placed)[0][0] > before + 20)
    shop.part("orders-api").kill()
    assert running.process.wait(60) == 0
    running.output.close()
    found = counted("\n".join(running.output.lines))
    assert found["sent again with the same key, because no answer came"] > 0
    assert shop.rows("orders", placed) == [(before + found["orders placed"],)]


@pytest.mark.heavy
def test_on_a_terminal_it_shows_how_far_it_is_and_ctrl_c_says_what_was_done(shop: Shop) -> None:
    words = ["demo", "--for", "10m", "--rate", "30", "--data", str(shop.data)]
    with Terminal(words, environment(TERM="xterm")) as terminal:
        terminal.until("demo: requests", "%")
        terminal.press("\x03")
        assert terminal.end() == 130
        assert b"steps in" in terminal.shown
        assert not TRACEBACK.search(terminal.shown.decode())


@pytest.mark.heavy
def test_a_rate_is_kept(shop: Shop) -> None:
    done = shop.run("demo", "--for", "2s", "--rate", "10")
    assert done.returncode == 0, done.stdout + done.stderr
    steps = STEPS.match(done.stdout)
    assert steps is not None
    assert 5 <= int(steps[1]) <= 20


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--for", "soon"], "--for soon is not a time span like 90s"),
        (["--users", "localhost:1"], "--users localhost:1 is not a URL"),
        (
            ["--users", "http://127.0.0.1:1"],
            "limit=1: [Errno 111] Connection refused; `shop up` starts one",
        ),
    ],
)
def test_a_demo_that_can_not_be_is_one_sentence(words: list[str], sentence: str) -> None:
    done = run_shop("demo", *words, "--data", "/nowhere")
    assert done.returncode == 2
    assert sentence in done.stderr
