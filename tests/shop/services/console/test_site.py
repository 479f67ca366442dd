"""The console as a site: what guards its requests, what its pages may load, what stands in its folder."""

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from eventspine.errors import Unavailable
from shop.platform import discovery
from shop.services.console.reading import Reading
from tests.support.consoles import console, console_settings
from tests.support.databases import Databases, NewDatabase

FOLDER = discovery.folders()["console"]


@pytest.fixture(scope="module")
def served(new_database: NewDatabase, templates: dict[str, str]) -> Iterator[httpx.Client]:
    urls = Databases({name: new_database(template) for name, template in templates.items()})
    with console(urls) as client:
        yield client


def test_each_page_is_in_the_navigation_and_answers(served: httpx.Client) -> None:
    paths = re.findall(r'<a href="([^"]+)"', served.get("/").text)
    assert "/" in paths
    for path in paths:
        answer = served.get(path, follow_redirects=True)
        assert answer.status_code == 200, path
        assert 'aria-current="page"' in answer.text


def test_a_page_loads_nothing_from_elsewhere_and_has_nothing_inline(served: httpx.Client) -> None:
    for path in re.findall(r'<a href="([^"]+)"', served.get("/").text):
        answer = served.get(path, follow_redirects=True)
        assert answer.headers["content-security-policy"].startswith("default-src 'self';")
        assert "unsafe" not in answer.headers["content-security-policy"]
        assert not re.findall(r"""(?:src|href|action)=["'](?!/|\#|\?)""", answer.text), path
        assert not re.findall(r"<script(?![^>]*\bsrc=)|<style|\sstyle=|\son[a-z]+=", answer.text), (
            path
        )


def test_its_files_are_kept_by_browsers_and_change_their_address_when_they_change(
    served: httpx.Client,
) -> None:
    files = set(re.findall(r'(?:src|href)="(/static/[^"]+)"', served.get("/").text))
    assert len(files) >= 5
    for path in files:
        answer = served.get(path)
        assert answer.status_code == 200
        assert "immutable" in answer.headers["cache-control"]
        assert path.endswith("?v=" + hashlib.sha256(answer.content).hexdigest()[:12])
    assert served.get("/static/../settings.py").status_code == 404
    assert served.get("/static/vendor/README.md").status_code == 404


def test_what_others_wrote_is_unchanged() -> None:
    vendor = FOLDER / "static" / "vendor"
    said = dict(
        re.findall(
            r"^\| `(\S+)` .* `([0-9a-f]{64})` \|$", (vendor / "README.md").read_text(), re.MULTILINE
        )
    )
    found = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in vendor.iterdir()
        if path.suffix in {".js", ".css"}
    }
    assert found == said


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Sec-Fetch-Site": ""}, 403),
        ({"Sec-Fetch-Site": "", "Origin": "http://evil.example"}, 403),
        ({"Sec-Fetch-Site": "", "Origin": "null"}, 403),
        ({"Sec-Fetch-Site": "same-origin"}, 303),
    ],
)
def test_a_post_of_another_site_is_refused(
    served: httpx.Client, headers: dict[str, str], status: int
) -> None:
    answer = served.post("/logout", headers=headers)
    assert answer.status_code == status, answer.text


def test_an_older_browser_says_it_by_its_origin(served: httpx.Client) -> None:
    own = f"http://{served.base_url.netloc.decode()}"
    answer = served.post("/logout", headers={"Sec-Fetch-Site": "", "Origin": own})
    assert answer.status_code == 303


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", ""]
)
def test_another_name_for_it_is_refused(served: httpx.Client, host: str) -> None:
    """A site may have its name lead here, and then read what is here as its own."""
    assert served.get("/", headers={"Host": host}).status_code in {400, 421}


@pytest.mark.parametrize("host", ["localhost", "localhost:8000", "[::1]:8000", "LOCALHOST:1"])
def test_its_own_names_are_taken(served: httpx.Client, host: str) -> None:
    assert served.get("/", headers={"Host": host}).status_code == 200


def test_what_is_not_there_is_a_page_that_leads_back(served: httpx.Client) -> None:
    answer = served.get("/nowhere")
    assert answer.status_code == 404
    assert "There is no such page" in answer.text
    assert 'href="/"' in answer.text


def test_it_is_ready_while_one_database_is_away_and_not_if_all_are(
    databases: Databases, tmp_path: Path
) -> None:
    gone = f"postgresql://nobody@/gone?host={tmp_path}"
    with console(databases.but(users=gone)) as client:
        assert client.get("/health/ready").status_code == 200
    with console(databases.but(**dict.fromkeys(discovery.names(), gone))) as client:
        assert client.get("/health/live").status_code == 200
        assert client.get("/health/ready").status_code == 503


async def test_its_sessions_can_not_write(databases: Databases) -> None:
    reading = Reading(console_settings(databases))
    await reading.open()
    try:
        with pytest.raises(Unavailable, match="ReadOnlySqlTransaction"):
            await reading.database("orders").fetch("DELETE FROM orders")
    finally:
        await reading.close()
