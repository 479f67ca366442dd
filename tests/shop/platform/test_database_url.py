"""A database's password, in its URL or apart from it."""

from pathlib import Path

import pytest
from psycopg.conninfo import conninfo_to_dict
from sqlalchemy.engine import make_url

from shop.platform import discovery
from shop.platform.event_log import database_url
from shop.platform.settings import NotConfigured, read_settings

SECRET = "p@ss:w/rd?#%&+ é"


def test_a_url_without_a_password_setting_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    url = "postgresql://users:in-the-url@/users?host=%2Ftmp%2Fx&port=5432"
    monkeypatch.setenv("SHOP_USERS__DATABASE_URL", url)
    assert database_url(read_settings(discovery.sections()), "users") == url


@pytest.mark.parametrize(
    ("url", "host", "user"),
    [
        ("postgresql://users@db.example:5433/users?sslmode=require", "db.example", "users"),
        ("postgresql://users:other@db.example/users", "db.example", "users"),
        ("postgresql://us%40ers@/users?host=/tmp/x&port=5432", "/tmp/x", "us@ers"),
        ("postgresql://users@[::1]:5432/users", "::1", "users"),
        ("postgresql://users@one,two:5433/users", "one,two", "users"),
    ],
)
def test_a_password_from_a_file_goes_into_the_url(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, url: str, host: str, user: str
) -> None:
    (tmp_path / "password").write_text(SECRET + "\n")
    monkeypatch.setenv("SHOP_USERS__DATABASE_URL", url)
    monkeypatch.setenv("SHOP_USERS__DATABASE_PASSWORD_FILE", str(tmp_path / "password"))
    merged = database_url(read_settings(discovery.sections()), "users")
    found = conninfo_to_dict(merged)
    expected = {"user": user, "password": SECRET, "host": host, "dbname": "users"}
    assert {name: found[name] for name in expected} == expected
    assert make_url(merged.replace("one,two", "one")).password == SECRET


def test_a_password_alone_is_no_database(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SHOP_USERS__DATABASE_URL", raising=False)
    monkeypatch.setenv("SHOP_USERS__DATABASE_PASSWORD", SECRET)
    with pytest.raises(NotConfigured, match="SHOP_USERS__DATABASE_URL is not set"):
        database_url(read_settings(discovery.sections()), "users")
