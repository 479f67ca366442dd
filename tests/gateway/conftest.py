from collections.abc import Iterator

import pytest

from devstack.nginx import program
from devstack.supervisor import StartFailed
from tests.support.gateway import Gateway, in_front_of_two


@pytest.fixture(scope="session", autouse=True)
def needs_nginx() -> None:
    try:
        program()
    except StartFailed as error:
        pytest.skip(f"left out: {error}")


@pytest.fixture(scope="module")
def _standing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with in_front_of_two(tmp_path_factory.mktemp("gateway")) as stage:
        yield stage


@pytest.fixture
def stage(_standing: Gateway) -> Gateway:
    for upstream in _standing.upstreams.values():
        upstream.reset()
    return _standing
