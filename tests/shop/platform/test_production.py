"""`SHOP_ENV=production` refuses what is not safe, with one sentence for each."""

from pathlib import Path

import pytest

from shop.platform import discovery
from shop.platform.production import ALLOWABLE, NotSafe, refusals, require
from shop.platform.settings import read_settings

GOOD = "gVq2-9fLr_Tz8wKd3NxP"
OTHER = "Hy7mQ4-cBvZ1tR_ks0We"


@pytest.fixture
def right(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> "Right":
    monkeypatch.setenv("SHOP_SERVICES", "shop.services")
    return Right(tmp_path, monkeypatch)


class Right:
    """An environment in which nothing is refused, to be made worse."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.folder, self._patch = folder, patch
        authority = self.file("ca.crt", "a certificate", 0o644)
        tls = f"sslmode=verify-full&sslrootcert={authority}"
        self.set(
            SHOP_ENV="production",
            SHOP_USERS__DATABASE_URL=f"postgresql://users_api@users-db/users?{tls}",
            SHOP_USERS__DATABASE_PASSWORD_FILE=str(self.file("users", GOOD)),
            SHOP_EVENT_LOG="kafka",
            SHOP_KAFKA__BOOTSTRAP_SERVERS="kafka:9093",
            SHOP_KAFKA__SECURITY_PROTOCOL="SASL_SSL",
            SHOP_KAFKA__SSL_CA_LOCATION=str(authority),
            SHOP_KAFKA__SASL_MECHANISM="SCRAM-SHA-512",
            SHOP_KAFKA__SASL_USERNAME="users",
            SHOP_KAFKA__SASL_PASSWORD_FILE=str(self.file("kafka", OTHER)),
            SHOP_KAFKA_REPLICATION_FACTOR="3",
            SHOP_AUTH__REQUIRED="true",
            SHOP_AUTH__ISSUER="https://shop.example",
            SHOP_AUTH__KEY_ENCRYPTION_KEY_FILE=str(self.file("kek", GOOD + OTHER)),
        )

    def file(self, name: str, text: str, mode: int = 0o400) -> Path:
        path = self.folder / name
        path.unlink(missing_ok=True)
        path.write_text(text)
        path.chmod(mode)
        return path

    def set(self, **variables: str | None) -> None:
        for name, value in variables.items():
            if value is None:
                self._patch.delenv(name)
            else:
                self._patch.setenv(name, value.replace("{folder}", str(self.folder)))

    def refused(self, kind: str = "api") -> list[str]:
        return refusals(read_settings(discovery.sections()), kind, ["users"])


@pytest.mark.parametrize("kind", ["api", "worker", "migrate"])
def test_what_is_right_is_not_refused(right: Right, kind: str) -> None:
    assert right.refused(kind) == []


def test_a_front_needs_all_databases_and_not_the_key_of_tokens(right: Right) -> None:
    orders = f"postgresql://orders_worker@orders-db/orders?sslmode=verify-full&sslrootcert={right.folder}/ca.crt"
    right.set(
        SHOP_ORDERS__DATABASE_URL=orders,
        SHOP_ORDERS__DATABASE_PASSWORD_FILE=str(right.file("orders", OTHER[::-1])),
        SHOP_AUTH__KEY_ENCRYPTION_KEY_FILE=None,
    )
    settings = read_settings(discovery.sections())
    assert refusals(settings, "front", discovery.names()) == []
    assert "must not reach that database" in " ".join(refusals(settings, "worker", ["users"]))
    right.set(SHOP_AUTH__REQUIRED="false")
    settings = read_settings(discovery.sections())
    assert "SHOP_AUTH__REQUIRED is off" in " ".join(refusals(settings, "front", discovery.names()))


URL = "SHOP_USERS__DATABASE_URL"
AT = "postgresql://users_api@users-db/users"
ROOT = "sslrootcert={folder}/ca.crt"
PASSWORD = "SHOP_USERS__DATABASE_PASSWORD"
KAFKA = "SHOP_KAFKA__"

# What is set, whose process refuses it, and how the sentence begins.
BAD: dict[str, tuple[dict[str, str | None], str, str]] = {
    "debug logs": ({"SHOP_LOG_LEVEL": "debug"}, "api", "SHOP_LOG_LEVEL is debug"),
    "data loss": ({"SHOP_ACCEPT_DATA_LOSS": "1"}, "migrate", "SHOP_ACCEPT_DATA_LOSS is on"),
    "dev mode": ({"PYTHONDEVMODE": "1"}, "api", "PYTHONDEVMODE is set"),
    "asyncio debug": ({"PYTHONASYNCIODEBUG": "1"}, "worker", "PYTHONASYNCIODEBUG is set"),
    "a console after the end": ({"PYTHONINSPECT": "1"}, "api", "PYTHONINSPECT is set"),
    "no password": ({f"{PASSWORD}_FILE": None}, "api", f"{PASSWORD} is not set"),
    "password in the environment": (
        {f"{PASSWORD}_FILE": None, PASSWORD: GOOD},
        "api",
        f"{PASSWORD} holds a secret in the environment",
    ),
    "password in the URL": (
        {f"{PASSWORD}_FILE": None, URL: f"postgresql://u:{GOOD}@db/u?sslmode=verify-full&{ROOT}"},
        "api",
        f"{URL} holds a secret in the environment",
    ),
    "libpq's password": ({"PGPASSWORD": GOOD}, "api", "PGPASSWORD is set"),
    "TLS if the server likes": ({URL: AT}, "api", f"{URL}: the connection may be without TLS"),
    "no TLS": ({URL: f"{AT}?sslmode=disable"}, "worker", f"{URL}: the connection may be without"),
    "no TLS by libpq's variable": (
        {URL: AT, "PGSSLMODE": "allow"},
        "api",
        f"{URL}: the connection may be without TLS (sslmode=allow)",
    ),
    "a certificate nobody looks at": (
        {URL: f"{AT}?sslmode=require"},
        "api",
        f"{URL}: the server's certificate or name is not verified (sslmode=require)",
    ),
    "anybody's name": (
        {URL: f"{AT}?sslmode=verify-ca&{ROOT}"},
        "migrate",
        f"{URL}: the server's certificate or name is not verified (sslmode=verify-ca)",
    ),
    "no authority": (
        {URL: f"{AT}?sslmode=verify-full&sslrootcert=/nowhere.crt"},
        "api",
        f"{URL}: there is no file /nowhere.crt",
    ),
    "old TLS": (
        {URL: f"{AT}?sslmode=verify-full&{ROOT}&ssl_min_protocol_version=TLSv1.1"},
        "api",
        f"{URL}: TLSv1.1 can be broken",
    ),
    "another service's database": (
        {"SHOP_ORDERS__DATABASE_URL": "postgresql://orders@orders-db/orders"},
        "api",
        "SHOP_ORDERS__DATABASE_URL is set for a process of users",
    ),
    "Kafka without TLS": (
        {f"{KAFKA}SECURITY_PROTOCOL": "sasl_plaintext"},
        "worker",
        f"{KAFKA}SECURITY_PROTOCOL is SASL_PLAINTEXT, without TLS",
    ),
    "Kafka by default": (
        {f"{KAFKA}SECURITY_PROTOCOL": None, "SHOP_PRODUCTION_ALLOWS": "kafka-without-login"},
        "worker",
        f"{KAFKA}SECURITY_PROTOCOL is PLAINTEXT, without TLS",
    ),
    "any broker": (
        {f"{KAFKA}ENABLE_SSL_CERTIFICATE_VERIFICATION": "false"},
        "worker",
        f"{KAFKA}ENABLE_SSL_CERTIFICATE_VERIFICATION is off",
    ),
    "any broker's name": (
        {f"{KAFKA}SSL_ENDPOINT_IDENTIFICATION_ALGORITHM": "none"},
        "worker",
        f"{KAFKA}SSL_ENDPOINT_IDENTIFICATION_ALGORITHM is none",
    ),
    "Kafka's authority": (
        {f"{KAFKA}SSL_CA_LOCATION": "/nowhere.pem"},
        "worker",
        f"{KAFKA}SSL_CA_LOCATION: there is no /nowhere.pem",
    ),
    "nobody logs in": (
        {f"{KAFKA}SECURITY_PROTOCOL": "ssl"},
        "worker",
        f"{KAFKA}SECURITY_PROTOCOL is SSL without a client's certificate",
    ),
    "no password for Kafka": (
        {f"{KAFKA}SASL_PASSWORD_FILE": None},
        "migrate",
        f"{KAFKA}SASL_PASSWORD is not set",
    ),
    "Kafka's password in the environment": (
        {f"{KAFKA}SASL_PASSWORD_FILE": None, f"{KAFKA}SASL_PASSWORD": OTHER},
        "worker",
        f"{KAFKA}SASL_PASSWORD holds a secret in the environment",
    ),
    "Kafka's client debugs": ({f"{KAFKA}DEBUG": "all"}, "worker", f"{KAFKA}DEBUG is set"),
    "one replica": (
        {"SHOP_KAFKA_REPLICATION_FACTOR": "1"},
        "migrate",
        "SHOP_KAFKA_REPLICATION_FACTOR is 1",
    ),
    "an open origin": (
        {"SHOP_CORS_ORIGINS": "http://shop.example"},
        "api",
        "SHOP_CORS_ORIGINS: http://shop.example can be changed on its way",
    ),
    "a local origin": (
        {"SHOP_CORS_ORIGINS": "https://shop.example,http://localhost:3000"},
        "api",
        "SHOP_CORS_ORIGINS: http://localhost:3000 is any program on a customer's own machine",
    ),
    "what can't be allowed": (
        {"SHOP_PRODUCTION_ALLOWS": "everything"},
        "api",
        "SHOP_PRODUCTION_ALLOWS: everything can't be allowed",
    ),
    "nobody is asked": ({"SHOP_AUTH__REQUIRED": "false"}, "api", "SHOP_AUTH__REQUIRED is off"),
    "an http issuer": (
        {"SHOP_AUTH__ISSUER": "http://shop.example"},
        "api",
        "SHOP_AUTH__ISSUER: http://shop.example is not an https://",
    ),
    "somebody's http issuer": (
        {"SHOP_AUTH__ISSUERS": '[{"issuer": "http://id.example", "audience": "shop"}]'},
        "api",
        "SHOP_AUTH__ISSUERS: http://id.example is not https://",
    ),
    "keys by http": (
        {
            "SHOP_AUTH__ISSUERS": '[{"issuer": "https://id.example", "audience": "shop",'
            ' "jwks_url": "http://id.example/keys"}]'
        },
        "api",
        "SHOP_AUTH__ISSUERS: http://id.example/keys is not https://",
    ),
    "no key for the keys": (
        {"SHOP_AUTH__KEY_ENCRYPTION_KEY_FILE": None},
        "api",
        "SHOP_AUTH__KEY_ENCRYPTION_KEY_FILE is not set",
    ),
    "keys that all may read": (
        {"SHOP_AUTH__KEY_ENCRYPTION_KEY_FILE": "{folder}/ca.crt"},
        "api",
        "SHOP_AUTH__KEY_ENCRYPTION_KEY_FILE: every user of this machine may read",
    ),
}


@pytest.mark.parametrize("bad", sorted(BAD))
def test_each_bad_configuration_is_one_sentence(right: Right, bad: str) -> None:
    variables, kind, begin = BAD[bad]
    right.set(**variables)
    (said,) = right.refused(kind)
    assert said.startswith(begin), said
    assert "\n" not in said and GOOD not in said and OTHER not in said


def test_there_are_more_than_25_of_them() -> None:
    assert len(BAD) + len(SECRETS) > 25


# What a password's file holds, with which rights, and how the sentence begins.
SECRETS = {
    "empty": ("", 0o400, "SHOP_USERS__DATABASE_PASSWORD_FILE: {path} is empty"),
    "default": ("ChangeMe123!", 0o400, "SHOP_USERS__DATABASE_PASSWORD is a password that is tried"),
    "the role's name": ("users_api", 0o400, "SHOP_USERS__DATABASE_PASSWORD is a password that is"),
    "short": (GOOD[:15], 0o400, "SHOP_USERS__DATABASE_PASSWORD has 15 characters"),
    "repeated": ("abab" * 8, 0o400, "SHOP_USERS__DATABASE_PASSWORD is of a few characters"),
    "its second line": (f"{GOOD}\nshort", 0o400, "SHOP_USERS__DATABASE_PASSWORD has 5 characters"),
    "open to all": (GOOD, 0o444, "SHOP_USERS__DATABASE_PASSWORD_FILE: every user of this machine"),
    "changed by a group": (GOOD, 0o460, "SHOP_USERS__DATABASE_PASSWORD_FILE: others than its own"),
}


@pytest.mark.parametrize("bad", sorted(SECRETS))
def test_each_bad_secret_is_one_sentence(right: Right, bad: str) -> None:
    text, mode, begin = SECRETS[bad]
    path = right.file("users", text, mode)
    (said,) = right.refused()
    assert said.startswith(begin.format(path=path)), said
    assert not text or text not in said.partition(": ")[2].replace(str(path), "")


def test_two_services_do_not_share_a_password(right: Right) -> None:
    url = f"postgresql://orders@orders-db/orders?sslmode=verify-full&{ROOT}"
    right.set(
        SHOP_ORDERS__DATABASE_URL=url,
        SHOP_ORDERS__DATABASE_PASSWORD_FILE=str(right.file("orders", GOOD)),
    )
    settings = read_settings(discovery.sections())
    (said,) = refusals(settings, "migrate", ["orders", "users"])
    assert said == (
        "SHOP_USERS__DATABASE_PASSWORD is the same as SHOP_ORDERS__DATABASE_PASSWORD: give each its own"
    )


@pytest.mark.parametrize(
    ("name", "variables", "kind"),
    [
        ("database-without-tls", {URL: AT}, "api"),
        ("database-unverified", {URL: f"{AT}?sslmode=require"}, "api"),
        ("kafka-without-tls", {f"{KAFKA}SECURITY_PROTOCOL": "sasl_plaintext"}, "worker"),
        ("kafka-unverified", {f"{KAFKA}ENABLE_SSL_CERTIFICATE_VERIFICATION": "0"}, "worker"),
        ("kafka-without-login", {f"{KAFKA}SECURITY_PROTOCOL": "ssl"}, "worker"),
        ("few-replicas", {"SHOP_KAFKA_REPLICATION_FACTOR": "1"}, "migrate"),
        ("local-origins", {"SHOP_CORS_ORIGINS": "http://127.0.0.1:3000"}, "api"),
        ("secrets-in-environment", {f"{PASSWORD}_FILE": None, PASSWORD: GOOD}, "api"),
        ("readable-secrets", {}, "api"),
    ],
)
def test_an_exception_is_allowed_by_name_and_nothing_else_is(
    right: Right, name: str, variables: dict[str, str | None], kind: str
) -> None:
    assert name in ALLOWABLE
    right.set(**variables)
    if name == "readable-secrets":
        right.file("users", GOOD, 0o444)
    (said,) = right.refused(kind)
    assert said.endswith(f"(SHOP_PRODUCTION_ALLOWS={name} accepts it)")
    right.set(SHOP_PRODUCTION_ALLOWS=name)
    assert right.refused(kind) == []
    right.set(SHOP_PRODUCTION_ALLOWS=", ".join(ALLOWABLE - {name}))
    assert right.refused(kind) == [said]


def test_a_database_on_a_socket_of_this_machine_needs_no_tls(right: Right) -> None:
    right.set(
        SHOP_USERS__DATABASE_URL="postgresql://users_api@/users?host=/var/run/postgresql",
        SHOP_USERS__DATABASE_PASSWORD_FILE=None,
    )
    assert right.refused() == []


def test_in_development_nothing_is_refused(right: Right) -> None:
    right.set(SHOP_ENV="development", SHOP_USERS__DATABASE_URL=AT, SHOP_LOG_LEVEL="debug")
    require(read_settings(discovery.sections()), "api", ["users"])


def test_all_of_them_are_said_at_once(right: Right) -> None:
    right.set(SHOP_LOG_LEVEL="debug", SHOP_USERS__DATABASE_URL=AT)
    with pytest.raises(NotSafe) as refused:
        require(read_settings(discovery.sections()), "api", ["users"])
    lines = str(refused.value).split("\nshop: ")
    assert [line.partition(" ")[0] for line in lines] == ["SHOP_LOG_LEVEL", f"{URL}:"]


def test_documentation_pages_are_for_development_unless_they_are_asked_for(right: Right) -> None:
    assert not read_settings(discovery.sections()).serves_docs
    right.set(SHOP_DOCS="true")
    assert read_settings(discovery.sections()).serves_docs
    right.set(SHOP_DOCS="false", SHOP_ENV="development")
    assert not read_settings(discovery.sections()).serves_docs
