"""Services are found by their folders, and what is no whole service is one sentence."""

import ast
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib import invalidate_caches
from pathlib import Path

import pytest

from shop.platform import discovery
from shop.platform.discovery import NotAService

SETTINGS = """
from shop.platform.settings import Port, ServiceSettings
class Own(ServiceSettings):
    port: Port = {port}
SETTINGS = Own
"""
CONTRACTS = """
from eventspine.event import Event
class Noted(Event):
    topic = "{topic}"
    source = "/{name}"
    type = "{name}.noted"
"""
APP = """
from pathlib import Path
from eventspine.handlers import Handlers
from shop.platform.service import Service
SERVICE = Service(
    name="{name}", title="Notes", topic="{topic}", source="/{name}", handlers=Handlers("{name}", {{}}),
    projections=(), migrations=Path(__file__).parent, tables=lambda: None, endpoints=lambda *_: None,
)
"""

FRONT = """
from shop.platform.service import Front
FRONT = Front(name="{name}", title="Desk", app=lambda settings: None)
"""
FRONT_SETTINGS = SETTINGS.replace("ServiceSettings", "ApiSettings")

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """Makes a service of the package `more.services`, whole but for what a test asks; its folder."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("SHOP_SERVICES", "more.services")

    def write(name: str, **other: str | None) -> Path:
        folder = tmp_path / "more/services" / name
        values = {"name": name, "topic": name, "port": "9013"}
        values |= {key: value for key, value in other.items() if key in values and value}
        files = {
            folder / "__init__.py": "",
            folder / "app.py": APP,
            folder / "settings.py": SETTINGS,
            tmp_path / f"more/contracts/{name}.py": CONTRACTS,
        }
        for path, whole in files.items():
            text = other.get(path.stem if path.parent == folder else "contracts", whole)
            if text is not None:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text.format(**values))
        for package in ("more", "more/services", "more/contracts"):
            (tmp_path / package).mkdir(exist_ok=True)
            (tmp_path / package / "__init__.py").touch()
        invalidate_caches()
        discovery._find.cache_clear()
        return folder

    yield write
    discovery._find.cache_clear()
    for module in [name for name in sys.modules if name.partition(".")[0] == "more"]:
        del sys.modules[module]


def test_a_folder_with_its_parts_is_a_service(write: Write) -> None:
    write("notes")
    discovery.check()
    assert discovery.names() == ("notes",)
    assert discovery.load("notes").title == "Notes"
    assert discovery.sections()["notes"].model_validate({}).port == 9013
    assert [event.type for event in discovery.contracts("notes")] == ["notes.noted"]


def test_services_of_several_packages_are_found(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    write("notes")
    monkeypatch.setenv("SHOP_SERVICES", "shop.services, more.services")
    discovery.check()
    assert {"notes", "orders", "users"} <= set(discovery.names())


def test_files_left_by_a_removed_service_are_no_service(write: Write) -> None:
    write("notes")
    for name in ("gone/__pycache__", "_shared", "empty"):
        (write("notes").parent / name).mkdir(parents=True, exist_ok=True)
    (write("notes").parent / "_shared/names.py").touch()
    assert discovery.names() == ("notes",)


def test_nothing_of_a_service_is_imported_before_it_is_asked_for() -> None:
    told = (
        "import sys; from shop.platform import discovery; discovery.names(); discovery.sections();"
        "print(*sorted(m for m in sys.modules if m.startswith('shop.services.')))"
    )
    found = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=True)
    services = {".".join(module.split(".")[:3]) for module in found.stdout.split()}
    assert set(found.stdout.split()) == {*services, *(f"{name}.settings" for name in services)}


def refused() -> str:
    with pytest.raises(NotAService) as error:
        discovery.check()
    return str(error.value)


@pytest.mark.parametrize("part", ["__init__", "app", "settings"])
def test_a_service_without_one_of_its_files_is_named_with_the_file(write: Write, part: str) -> None:
    folder = write("notes", **{part: None})
    assert refused() == f"{folder} is no service yet: it has no {part}.py"


def test_a_service_without_contracts_is_named_with_the_file(write: Write) -> None:
    folder = write("notes", contracts=None)
    missing = folder.parents[1] / "contracts/notes.py"
    assert refused() == (
        f"{folder} is no service yet: {missing}, with the events it publishes, is missing"
    )


READER = APP.replace('topic="{topic}", source="/{name}"', "topic='', source=''")


def test_a_service_that_only_reads_has_no_contracts(write: Write) -> None:
    folder = write("notes", app=READER)
    assert refused() == (
        f"{folder.parents[1]}/contracts/notes.py has the events of notes, which has no topic: give it one,"
        " or delete that file"
    )
    (folder.parents[1] / "contracts/notes.py").unlink()
    discovery._find.cache_clear()
    discovery.check()
    assert discovery.contracts("notes") == []


def test_a_topic_without_a_source_is_refused(write: Write) -> None:
    folder = write("notes", app=APP.replace('source="/{name}"', "source=''"))
    assert refused() == (
        f"{folder}/app.py: a service has a topic and a source, or, if it only reads, neither"
    )


def test_the_two_names_of_a_service_must_be_the_same(write: Write) -> None:
    folder = write("notes", app=APP.replace('name="{name}"', 'name="note"'))
    assert refused() == (
        f"{folder}/app.py: the service is named note and its folder notes; give both the same name"
    )


def test_handlers_of_another_name_are_refused(write: Write) -> None:
    """Their checkpoints would be kept under a name that the audit does not look for."""
    folder = write("notes", app=APP.replace('Handlers("{name}"', 'Handlers("note"'))
    assert refused() == (
        f"{folder}/app.py: the service's handlers are named note and its folder notes; "
        "give both the same name"
    )


def test_two_services_with_one_port_are_refused(write: Write) -> None:
    write("greetings")
    write("notes")
    assert refused() == (
        "greetings and notes have the same port, 9013: give notes another in its settings.py"
    )


def test_two_services_with_one_topic_are_refused(write: Write) -> None:
    write("greetings")
    write("notes", topic="greetings", port="9014")
    assert refused() == (
        "greetings and notes publish to the same topic, greetings: give notes another"
    )


def test_an_event_that_belongs_to_another_topic_is_refused(write: Write) -> None:
    write("notes", contracts=CONTRACTS.replace("{topic}", "elsewhere"))
    assert refused() == (
        "Noted says topic elsewhere and source /notes, and the service notes topic notes and source "
        "/notes; they must be the same"
    )


@pytest.mark.parametrize(
    ("part", "text", "said"),
    [
        ("app", "", "app.py has no SERVICE"),
        ("app", "SERVICE = 1", "app.py: SERVICE is not a `Service`"),
        ("settings", "", "settings.py has no SETTINGS"),
        (
            "settings",
            "SETTINGS = 1",
            "settings.py: SETTINGS is not a subclass of `ServiceSettings`",
        ),
        (
            "settings",
            SETTINGS.replace("    port: Port = {port}", "    pass"),
            "settings.py: Own has no port; say where its API listens",
        ),
    ],
)
def test_a_part_that_is_not_what_it_should_be_is_named(
    write: Write, part: str, text: str, said: str
) -> None:
    folder = write("notes", **{part: text})
    assert refused() == f"{folder}/{said}"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("kafka", "a service can't be named kafka, which is taken"),
        ("log", "a service can't be named log, which is taken"),
        ("Notes", "a service's name is of small letters and digits"),
        ("my__notes", "a service's name is of small letters and digits"),
        ("my-notes", "a service's name is of small letters and digits"),
    ],
)
def test_a_name_that_settings_could_not_tell_apart_is_refused(
    write: Write, name: str, said: str
) -> None:
    folder = write(name)
    assert refused().startswith(f"{folder}: {said}")


def test_a_service_that_is_there_twice_is_refused(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write("users")
    monkeypatch.setenv("SHOP_SERVICES", "shop.services,more.services")
    assert refused().endswith(f"and {folder} are both services named users; rename one")


@pytest.mark.parametrize("package", ["nowhere", "nowhere.services", "shop.cli.main", ".services"])
def test_a_package_that_is_none_is_named(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    monkeypatch.setenv("SHOP_SERVICES", f"shop.services,{package}")
    assert refused() == (f"SHOP_SERVICES: there is no package '{package}' that could hold services")


def test_make_check_says_it_in_one_sentence(write: Write, tmp_path: Path) -> None:
    folder = write("notes", app=None)
    done = subprocess.run(
        [sys.executable, "-m", "shop.platform.discovery"],
        env={"PYTHONPATH": str(tmp_path), "SHOP_SERVICES": "more.services"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (
        1,
        f"services: {folder} is no service yet: it has no app.py\n",
    )


SOURCES = Path(__file__).parents[3] / "src"
NAMES = {"users", "orders", "greetings"}
"""That of a new service may be a word with another meaning there."""
WITHOUT_SERVICES = ("eventspine", "shop/platform", "shop/cli", "devstack")
DEMO = SOURCES / "shop/cli/demo"
"""`shop demo` is a client of these two services. No other service needs a change there."""


@pytest.mark.parametrize("room", WITHOUT_SERVICES)
def test_the_code_outside_a_service_names_none(room: str) -> None:
    for path in (SOURCES / room).rglob("*.py"):
        if path.is_relative_to(DEMO):
            continue
        named = named_in(path.read_text()) & NAMES
        assert not named, f"{path} names {', '.join(named)}"


def named_in(source: str) -> set[str]:
    """The words of its names and strings, without docstrings."""
    tree = ast.parse(source)
    prose = {
        id(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    words: set[str] = set()
    for node in ast.walk(tree):
        if id(node) not in prose:
            for _, value in ast.iter_fields(node):
                if isinstance(value, str):
                    words |= set(re.findall("[A-Z]?[a-z]+|[A-Z]+", value))
    return {word.lower() for word in words}


def test_a_service_that_is_named_would_be_noticed() -> None:
    """And it may be in prose."""
    for source in ("port = ports['users']", "def forget_users(): ...", "class UsersErased: ..."):
        assert "users" in named_in(source)
    assert named_in('"""Of users."""  # and orders') == set()


def front(write: Write, name: str, port: str = "9013") -> Path:
    """A folder that is a front, and no service."""
    folder = write(name, app=None, contracts=None, settings=FRONT_SETTINGS, port=port)
    (folder / "front.py").write_text(FRONT.format(name=name))
    return folder


def test_a_front_is_found_and_is_no_service(write: Write) -> None:
    front(write, "desk")
    write("notes", port="9014")
    discovery.check()
    assert (discovery.names(), discovery.fronts()) == (("notes",), ("desk",))
    assert discovery.load_front("desk").title == "Desk"
    assert set(discovery.sections()) == {"desk", "notes"}
    assert "database_url" not in discovery.sections()["desk"].model_fields
    assert set(discovery.folders()) == {"desk", "notes"}


def test_a_front_with_the_port_of_a_service_is_refused(write: Write) -> None:
    front(write, "desk")
    write("notes")
    assert refused() == (
        "notes and desk have the same port, 9013: give desk another in its settings.py"
    )


def test_a_front_has_the_name_of_its_folder(write: Write) -> None:
    folder = front(write, "desk")
    (folder / "front.py").write_text(FRONT.format(name="counter"))
    assert refused() == (
        f"{folder}/front.py: the front is named counter and its folder desk; give both the same name"
    )
