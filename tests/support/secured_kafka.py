"""A real Kafka that lets nobody in by itself: SCRAM over TLS, ACLs, nothing allowed that is not granted.

The tests' own listener is plain and its user a super user; what is tested comes in by the secured one.
"""

import os
import shutil
import subprocess
import tempfile
import time
import uuid
from pathlib import Path

import pytest
from confluent_kafka import KafkaException
from confluent_kafka.admin import (
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialDeletion,
    UserScramCredentialUpsertion,
)

from fluvial.adapters.embedded import Leash, free_port
from support import kafka_broker
from support.parts import missing

MECHANISM = "SCRAM-SHA-512"
SECONDS = 20
REAUTHENTICATE_MS = 3_000
"""On the listener where a login has to be repeated."""


def properties(directory, ports, certificates):
    """The plain broker's, and over them two secured listeners, one of them with an expired certificate."""
    plain, controller, secured, expired = ports
    listeners = {"PLAINTEXT": plain, "SECURED": secured, "EXPIRED": expired, "CONTROLLER": controller}
    addresses = ",".join(f"{name}://127.0.0.1:{port}" for name, port in listeners.items())
    settings = {
        "listeners": addresses,
        "advertised.listeners": addresses,
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,"
        "SECURED:SASL_SSL,EXPIRED:SASL_SSL",
        "sasl.enabled.mechanisms": MECHANISM,
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users": "User:ANONYMOUS",  # whoever comes by the plain listener: the tests, the broker itself
        "listener.name.secured.connections.max.reauth.ms": REAUTHENTICATE_MS,
    }
    for name, certificate in (("secured", certificates.server), ("expired", certificates.expired)):
        prefix = f"listener.name.{name}"
        login = "org.apache.kafka.common.security.scram.ScramLoginModule required;"
        settings[f"{prefix}.{MECHANISM.lower()}.sasl.jaas.config"] = login
        settings[f"{prefix}.ssl.keystore.type"] = "PEM"
        settings[f"{prefix}.ssl.keystore.location"] = certificates.keystore(certificate)
    lines = "".join(f"{name}={value}\n" for name, value in settings.items())
    return kafka_broker.properties(directory, plain, controller) + lines


class SecuredKafka:
    """The broker: `admin` is where the tests go, `secured` and `expired` where users have to log in."""

    def __init__(self, certificates):
        if os.environ.get("FLUVIAL_TEST_KAFKA"):
            pytest.skip("FLUVIAL_TEST_KAFKA names a broker whose users and rights are not ours to change")
        java = shutil.which("java")
        if java is None:
            missing("a secured Kafka needs Java 17")
        libs = kafka_broker.kafka_jars()
        directory = Path(tempfile.mkdtemp(prefix="fluvial-kafka-"))
        ports = [free_port() for _ in range(4)]
        self.certificates = certificates
        self.admin, _, self.secured, self.expired = (f"127.0.0.1:{port}" for port in ports)
        config = directory / "server.properties"
        config.write_text(properties(directory, ports, certificates))
        base = [java, *kafka_broker.JAVA, "-cp", f"{libs}/*"]
        tool = [*base, "kafka.tools.StorageTool", "format", "--standalone", "-t", uuid.uuid4().hex[:22]]
        subprocess.run([*tool, "-c", str(config)], check=True, capture_output=True, timeout=60)
        self._leash = Leash([*base, "kafka.Kafka", str(config)], directory)
        try:
            kafka_broker.wait_for(self.admin, kafka_broker.START_SECONDS)
        except KafkaException:
            said = self._leash.output()
            self.stop()
            pytest.fail(f"Kafka did not start: {said}", pytrace=False)
        self._client = AdminClient({"bootstrap.servers": self.admin})

    def stop(self):
        self._leash.stop()

    def add_user(self, name, password):
        login = ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, 4096)
        change = UserScramCredentialUpsertion(name, login, password.encode())
        self._client.alter_user_scram_credentials([change])[name].result(SECONDS)
        self._until(lambda: self._known(name))

    def remove_user(self, name):
        change = UserScramCredentialDeletion(name, ScramMechanism.SCRAM_SHA_512)
        self._client.alter_user_scram_credentials([change])[name].result(SECONDS)
        self._until(lambda: not self._known(name))

    def _known(self, name):
        try:
            self._client.describe_user_scram_credentials([name])[name].result(SECONDS)
        except KafkaException:
            return False
        return True

    def allow(self, user, rights):
        """Grant exactly these (kind, name, operation)."""
        bindings = [binding(user, right) for right in rights]
        if bindings:
            for future in self._client.create_acls(bindings).values():
                future.result(SECONDS)
        self._until(lambda: len(self._granted(user)) == len(bindings))

    def _granted(self, user):
        which = AclBindingFilter(
            *(ResourceType.ANY, None, ResourcePatternType.ANY, f"User:{user}"),
            *(None, AclOperation.ANY, AclPermissionType.ANY),
        )
        return self._client.describe_acls(which).result(SECONDS)

    def _until(self, done):
        until = time.monotonic() + SECONDS
        while not done():
            assert time.monotonic() < until
            time.sleep(0.02)


def binding(user, right):
    kind, name, operation = right
    return AclBinding(
        *(ResourceType[kind.upper()], name, ResourcePatternType.LITERAL, f"User:{user}"),
        *("*", AclOperation[operation.upper()], AclPermissionType.ALLOW),
    )
