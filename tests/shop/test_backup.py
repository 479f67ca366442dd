"""A backup that is made while the shop runs, and brought back by the steps of docs/operations.md."""

import asyncio
import os
import re
import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner

from devstack.postgres import _binaries
from shop.cli.main import app
from tests.support.databases import Databases, NewDatabase
from tests.support.documented import section
from tests.support.living import living, settings, shop
from tests.support.tables import tables

pytestmark = pytest.mark.heavy

MAKE, BRING_BACK = re.findall(r"(pg_(?:dump|restore) --[^`\n]*)", section("Backups"))
COMMANDS = re.findall(r"`shop (\w+)(?: orders)?`", section("Backups").rpartition("4. ")[2])


def run(command: str, folder: Path, url: str) -> None:
    done = subprocess.run(
        ["sh", "-c", command],
        cwd=folder,
        env={
            "PATH": f"{_binaries()}:{os.environ['PATH']}",
            "ORDERS_URL": url,
            "LC_ALL": "C",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{command}: {done.stderr}"


async def test_what_was_backed_up_comes_back_and_what_happened_since_too(
    copied: Databases, new_database: NewDatabase, tmp_path: Path
) -> None:
    async with living(copied) as system, system.moving():
        await system.place(1, 2, 3)
        await asyncio.to_thread(run, MAKE, tmp_path, copied.orders)
        await system.create(2)
        await system.settled()
        await system.place(1, 2, 21)
        await system.cancel(2)
        await system.settled()
    before = await asyncio.to_thread(tables, copied.orders)
    lost = copied.but(orders=new_database(None))
    await asyncio.to_thread(run, BRING_BACK, tmp_path, lost.orders)
    assert COMMANDS == ["migrate", "restore", "audit"]
    migrated = await asyncio.to_thread(CliRunner().invoke, app, ["migrate"], env=settings(lost))
    assert migrated.exit_code == 0, migrated.output
    for command in COMMANDS[1:]:
        done = await asyncio.to_thread(shop, lost, command, "orders")
        assert done.exit_code == 0, f"{command}: {done.output}"
    assert await asyncio.to_thread(tables, lost.orders) == before
