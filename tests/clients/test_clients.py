"""Clients that are generated from the OpenAPI documents make the six steps of the README."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.databases import NewDatabase
from tests.support.serving import Served, serving
from tests.support.shop_events import user_created

HERE = Path(__file__).parent
GENERATORS = HERE.parents[1] / "build" / "clients"
PYTHON = GENERATORS / "python" / "bin"
NODE = GENERATORS / "node_modules"

SERVICES = ("users", "orders")
TSCONFIG = {
    "compilerOptions": {
        "target": "es2022",
        "lib": ["es2022", "dom"],
        "module": "nodenext",
        "types": [],
        "strict": True,
        "noUncheckedIndexedAccess": True,
        "exactOptionalPropertyTypes": True,
    },
    "files": ["six_steps.ts"],
}


@pytest.fixture
def served(
    new_database: NewDatabase, templates: dict[str, str], tmp_path: Path
) -> Iterator[dict[str, Served]]:
    """Both services; `users.json` and `orders.json` in the test's folder are their documents."""
    with (
        serving("users", new_database(templates["users"])) as users,
        serving("orders", new_database(templates["orders"])) as orders,
    ):
        # The customer of the second step, heard of as soon as they are there.
        orders.hears(user_created(1, name="Setiadi", email="setiadi@example.com"))
        served = {"users": users, "orders": orders}
        for name in SERVICES:
            document = served[name].client.get("/openapi.json")
            (tmp_path / f"{name}.json").write_bytes(document.content)
        yield served


def run(folder: Path, *words: str | Path) -> str:
    """What it prints. Raises `AssertionError` if it fails."""
    path = f"{PYTHON}:{os.environ['PATH']}"
    done = subprocess.run(
        words,
        cwd=folder,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def addresses(served: dict[str, Served]) -> list[str]:
    return [f"http://127.0.0.1:{served[name].port}" for name in SERVICES]


@pytest.mark.skipif(
    not (PYTHON / "openapi-python-client").exists(),
    reason="openapi-python-client is not installed: make clients",
)
def test_a_generated_python_client_makes_the_six_steps(
    served: dict[str, Served], tmp_path: Path
) -> None:
    for name in SERVICES:
        run(
            tmp_path, PYTHON / "openapi-python-client", "generate", "--fail-on-warning",
            "--meta", "none", "--path", f"{name}.json", "--output-path", f"{name}_client",
        )  # fmt: skip
    shutil.copy(HERE / "six_steps.py", tmp_path)
    printed = run(tmp_path, PYTHON / "python", "six_steps.py", *addresses(served))
    assert printed == "six steps\n"


@pytest.mark.skipif(
    not (NODE / "openapi-typescript").exists() or shutil.which("node") is None,
    reason="openapi-typescript is not installed, or there is no Node.js to run it: make clients",
)
def test_a_generated_typescript_client_is_type_checked_and_makes_the_six_steps(
    served: dict[str, Served], tmp_path: Path
) -> None:
    (tmp_path / "node_modules").symlink_to(NODE)
    shutil.copy(HERE / "package.json", tmp_path)
    shutil.copy(HERE / "six_steps.ts", tmp_path)
    for name in SERVICES:
        run(
            tmp_path, "node", NODE / "openapi-typescript" / "bin" / "cli.js",
            f"{name}.json", "--output", f"{name}.ts",
        )  # fmt: skip
    (tmp_path / "tsconfig.json").write_text(json.dumps(TSCONFIG))
    run(tmp_path, "node", NODE / "typescript" / "bin" / "tsc")
    printed = run(tmp_path, "node", "six_steps.js", *addresses(served))
    assert printed == "six steps\n"
