"""Who may do what on a Kafka cluster with an authorizer: users with SCRAM passwords, and their ACLs."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from confluent_kafka import KafkaException
from confluent_kafka.admin import (
    AclBinding,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialAlteration,
    UserScramCredentialUpsertion,
)

from eventspine.kafka_log.client import ANSWER_WITHIN, Heard, quiet, unavailable

_ITERATIONS = 8192
_READ = (AclOperation.READ, AclOperation.DESCRIBE)
_WRITE = (AclOperation.WRITE, AclOperation.DESCRIBE)
_CREATE = (AclOperation.CREATE, AclOperation.DESCRIBE, AclOperation.DESCRIBE_CONFIGS)


@dataclass(frozen=True)
class Rights:
    """What one user needs."""

    user: str
    writes: Collection[str] = ()
    """Topics."""
    reads: Collection[str] = ()
    creates: Collection[str] = ()
    groups: Collection[str] = ()

    def commands(self) -> list[str]:
        """What an administrator runs to give them, with Kafka's own tool."""
        return [
            f"kafka-acls.sh --bootstrap-server … --add --allow-principal User:{self.user}"
            f" --operation {operation.name.title().replace('_', '')} --{kind.name.lower()} {name}"
            for kind, name, operation in self._wanted()
        ]

    def acls(self) -> list[AclBinding]:
        return [
            AclBinding(
                kind,
                name,
                ResourcePatternType.LITERAL,
                f"User:{self.user}",
                "*",
                operation,
                AclPermissionType.ALLOW,
            )
            for kind, name, operation in self._wanted()
        ]

    def _wanted(self) -> list[tuple[ResourceType, str, AclOperation]]:
        wanted = [
            (ResourceType.TOPIC, topic, operation)
            for topics, operations in (
                (self.writes, _WRITE),
                (self.reads, _READ),
                (self.creates, _CREATE),
            )
            for topic in topics
            for operation in operations
        ]
        wanted += [(ResourceType.GROUP, group, AclOperation.READ) for group in self.groups]
        return list(dict.fromkeys(wanted))


def grant(
    config: Mapping[str, str], rights: Collection[Rights], passwords: Mapping[str, str]
) -> None:
    """Set the passwords of users, and give each its rights. What is there already stays.

    `config` is that of an administrator. Raises `LogUnavailable`.
    """
    heard = Heard()
    admin = AdminClient(quiet(dict(config), heard))
    scram = ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, _ITERATIONS)
    try:
        changes: list[UserScramCredentialAlteration] = [
            UserScramCredentialUpsertion(user, scram, password.encode())
            for user, password in passwords.items()
        ]
        if changes:
            for changed in admin.alter_user_scram_credentials(
                changes, request_timeout=ANSWER_WITHIN
            ).values():
                changed.result()
        acls = [acl for each in rights for acl in each.acls()]
        for made in admin.create_acls(acls, request_timeout=ANSWER_WITHIN).values():
            made.result()
    except KafkaException as error:
        admin.poll(0)  # or it would not tell
        raise unavailable("give the rights", error, heard.last) from error
