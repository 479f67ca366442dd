"""Tables are rebuilt under a running shop, whose processes know nothing of it."""

import random
import subprocess
import time
from collections.abc import Iterator

import pytest

from tests.support.checker import check
from tests.support.engines import Engine
from tests.support.folders import short_directory
from tests.support.load import Load
from tests.support.shop import Shop, environment, shop_command


@pytest.fixture
def shop(engine: Engine) -> Iterator[Shop]:
    engine.forget()
    with short_directory() as directory:
        shop = Shop(directory / "data", engine.up_options)
        try:
            shop.start()
            yield shop
        finally:
            shop.close()


DAMAGE = {
    "orders": "UPDATE customers SET name = 'Eve' WHERE id % 3 = 0 AND name IS NOT NULL RETURNING id",
    "users": "UPDATE orders SET quantity = quantity + 1 WHERE id % 3 = 0 RETURNING id",
}


@pytest.mark.heavy
@pytest.mark.timeout(400)
def test_a_shop_under_load_is_rebuilt_after_a_rebuild_that_was_killed(shop: Shop) -> None:
    dice = random.Random(11)
    load = Load(shop.ports, name="rebuild")
    with load:
        load.until(150, "place_order")
        for service, damage in DAMAGE.items():
            assert shop.rows(service, damage)
        load.until(50, "place_order")
        for service in DAMAGE:
            command = shop_command("rebuild", service, "--data", shop.data)
            running = subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE)
            time.sleep(dice.uniform(0.5, 2.0))  # wherever it is by then
            running.kill()
            running.communicate()
            rebuilt = shop.run("rebuild", service, timeout=120)
            assert rebuilt.returncode == 0, rebuilt.stdout + rebuilt.stderr
        load.until(50, "place_order")
    assert check(shop.sources(), load.sent) == []
    audited = shop.run("audit", timeout=120)
    assert audited.returncode == 0, audited.stdout + audited.stderr
