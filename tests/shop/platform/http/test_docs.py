"""The documentation pages, without the internet."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import urljoin, urlsplit

import httpx
import pytest

from tests.support.databases import NewDatabase
from tests.support.serving import Served, problem, serving


class Page(HTMLParser):
    """Everything it names that a browser would fetch, and what it says itself."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.scripts: list[str] = []
        self._in_script = False
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self._in_script = tag == "script" and "src" not in given
        for name in ("src", "href", "srcset", "data", "spec-url", "action", "poster"):
            if url := given.get(name):
                self.fetched.append(url)

    def handle_data(self, data: str) -> None:
        if self._in_script:
            self.scripts.append(data)


PAGES = ["/docs", "/redoc"]


@pytest.mark.parametrize("path", PAGES)
def test_all_that_a_page_fetches_is_served_here(users: Served, path: str) -> None:
    answer = users.client.get(path)
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert "User service" in answer.text
    page = Page(answer.text)
    fetched = page.fetched + re.findall(r"url: '([^']*)'", answer.text)
    assert {urlsplit(url).netloc for url in fetched} == {""}
    kinds = {}
    for url in fetched:
        asset = users.client.get(urljoin(path, url))
        assert asset.status_code == 200, url
        assert len(asset.content) > 1000
        kinds[Path(url).suffix] = asset
    assert kinds[".json"].json() == users.app.openapi()
    assert kinds[".js"].headers["content-type"].startswith("text/javascript")
    assert kinds[".png"].headers["content-type"] == "image/png"
    if path == "/docs":
        assert kinds[".css"].headers["content-type"].startswith("text/css")
        # Styles name pictures and fonts: those stand in them.
        assert set(re.findall(r"url\(\s*[\"']?([a-z]+:|[^)]{0,40})", kinds[".css"].text)) == {
            "data:"
        }


@pytest.mark.parametrize("path", PAGES)
def test_a_page_lets_a_browser_fetch_nothing_from_elsewhere(users: Served, path: str) -> None:
    policy = users.client.get(path).headers["content-security-policy"]
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    assert rules["default-src"] == "'none'"
    assert rules["connect-src"] == "'self'"
    words = {word for rule in rules.values() for word in rule.split()}
    assert "'unsafe-eval'" not in words
    assert "'unsafe-inline'" not in rules["script-src"]
    assert not [word for word in words if ":" in word and word not in {"data:", "blob:"}]


def assets(users: Served) -> Iterator[httpx.Response]:
    for path in PAGES:
        for url in Page(users.client.get(path).text).fetched:
            if "/assets/" in url:
                yield users.client.get(url)


def test_an_asset_may_be_kept_for_good_and_a_page_is_asked_for_again(users: Served) -> None:
    for asset in assets(users):
        assert asset.headers["cache-control"] == "public, max-age=31536000, immutable"
        assert asset.headers["x-content-type-options"] == "nosniff"
        known = {"if-none-match": asset.headers["etag"]}
        assert users.client.get(asset.request.url, headers=known).status_code == 304
        head = users.client.head(asset.request.url)
        assert head.headers["content-length"] == str(len(asset.content))
    assert users.client.get("/docs").headers["cache-control"] == "no-cache"


def test_no_other_file_is_served(users: Served) -> None:
    (first, *_) = [asset.request.url for asset in assets(users)]
    folder = str(first).rpartition("/")[0]
    for name in ("nothing.js", "", "%2e%2e/core.py", "..%2fcore.py", "%2fetc%2fpasswd", "a%00b"):
        problem(users.client.get(f"{folder}/{name}"), 404, "not-found")


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_the_first_address_people_try_leads_to_the_documentation(
    users: Served, method: str
) -> None:
    answer = users.client.request(method, "/")
    assert (answer.status_code, answer.headers["location"]) == (307, "/docs")


def test_they_can_be_switched_off(new_database: NewDatabase, templates: dict[str, str]) -> None:
    with serving("users", new_database(templates["users"]), docs=False) as served:
        for path in ("/", "/docs", "/redoc", "/openapi.json"):
            problem(served.client.get(path), 404, "not-found")
        assert served.client.get("/health/ready").status_code == 200


CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install chromium")
@pytest.mark.parametrize(
    ("path", "shown"),
    [("/docs", "opblock-summary-path"), ("/redoc", 'data-section-id="tag/users"')],
)
def test_a_browser_without_the_internet_shows_the_page_and_asks_no_other_host(
    users: Served, tmp_path: Path, path: str, shown: str
) -> None:
    log = tmp_path / "net.json"
    done = subprocess.run(
        [
            str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom",
            f"--user-data-dir={tmp_path / 'profile'}", f"--log-net-log={log}",
            "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
            "--disable-background-networking", "--disable-component-update",
            "--virtual-time-budget=20000", "--enable-logging=stderr",
            f"http://127.0.0.1:{users.port}{path}",
        ],
        check=False, capture_output=True, text=True, timeout=100,
    )  # fmt: skip
    assert shown in done.stdout
    assert "/users/{user_id}" in done.stdout
    asked = {
        event["params"]["url"]
        for event in json.loads(log.read_text())["events"]
        if "initiator" in event.get("params", {}) and "url" in event["params"]
        and "127.0.0.1" in event["params"]["initiator"]
    }  # fmt: skip
    assert asked
    assert {urlsplit(url).netloc for url in asked if not url.startswith(("data:", "blob:"))} <= {
        f"127.0.0.1:{users.port}"
    }
