"""A Kafka broker behind TLS, passwords and an authorizer."""

import subprocess
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

from confluent_kafka.admin import (
    AdminClient,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialUpsertion,
)

from devstack.kafka import LocalKafka
from eventspine.kafka_log.client import Heard, quiet
from tests.support.kafka import start_broker
from tests.support.shop import free_ports

USER, PASSWORD = "shop", "correct horse"


class Secure:
    """A broker that, at `servers`, wants TLS and a password, and clients' settings for it."""

    def __init__(self, directory: Path, stops: ExitStack) -> None:
        certificate, key = _certificate(directory, "broker")
        self.certificate = certificate
        self.stranger, _ = _certificate(directory, "stranger")
        keystore = directory / "keystore.pem"
        keystore.write_text(key.read_text() + certificate.read_text())
        (port,) = free_ports(1)
        self.servers = f"localhost:{port}"
        plain = LocalKafka(directory / "kafka").settings
        module = "org.apache.kafka.common.security.scram.ScramLoginModule required;"
        self.kafka = start_broker(
            stops,
            directory / "kafka",
            {
                "listeners": f"{plain['listeners']},SECURE://{self.servers}",
                "advertised.listeners": f"{plain['advertised.listeners']},SECURE://{self.servers}",
                "listener.security.protocol.map": (
                    f"{plain['listener.security.protocol.map']},SECURE:SASL_SSL"
                ),
                "listener.name.secure.ssl.keystore.type": "PEM",
                "listener.name.secure.ssl.keystore.location": str(keystore),
                "listener.name.secure.sasl.enabled.mechanisms": "SCRAM-SHA-512",
                "listener.name.secure.scram-sha-512.sasl.jaas.config": module,
                # Seconds after which a client has to log in again, or is cut off.
                "listener.name.secure.connections.max.reauth.ms": "3000",
                "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
                # Who comes without a password is the broker itself, or a test.
                "super.users": f"User:ANONYMOUS;User:{USER}",
            },
        )
        self.admin = AdminClient(
            quiet({"bootstrap.servers": self.kafka.bootstrap_servers}, Heard())
        )
        self.set_password(PASSWORD)
        self._password_file = directory / "password"
        self._password_file.write_text(PASSWORD + "\n")
        self.environment: Mapping[str, str] = {
            "SHOP_EVENT_LOG": "kafka",
            "SHOP_KAFKA__BOOTSTRAP_SERVERS": self.servers,
            "SHOP_KAFKA__SECURITY_PROTOCOL": "SASL_SSL",
            "SHOP_KAFKA__SSL_CA_LOCATION": str(certificate),
            "SHOP_KAFKA__SASL_MECHANISM": "SCRAM-SHA-512",
            "SHOP_KAFKA__SASL_USERNAME": USER,
            "SHOP_KAFKA__SASL_PASSWORD_FILE": str(self._password_file),
        }

    def set_password(self, password: str, user: str = USER) -> None:
        secret = ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, 4096)
        new = UserScramCredentialUpsertion(user, secret, password.encode())
        self.admin.alter_user_scram_credentials([new])[user].result()

    def environment_of(self, principal: str) -> dict[str, str]:
        """Of one with the same password, and no rights but those it is given."""
        self.set_password(PASSWORD, principal)
        return {**self.environment, "SHOP_KAFKA__SASL_USERNAME": principal}


def _certificate(directory: Path, name: str) -> tuple[Path, Path]:
    """Its own authority, good for a day."""
    certificate, key = directory / f"{name}.crt", directory / f"{name}.key"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1"),
            *("-subj", f"/CN={name}", "-addext", "subjectAltName=DNS:localhost"),
            *("-keyout", str(key), "-out", str(certificate)),
        ],
        check=True,
        capture_output=True,
    )
    return certificate, key
