"""What every client of ours shares: its properties, its log, its errors in our words."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import confluent_kafka.cimpl
from confluent_kafka import (
    KafkaError,
    KafkaException,
    Producer,
)

from fluvial.config import KafkaSettings
from fluvial.errors import (
    MemberFenced,
    SettingsError,
    SourceError,
    SourceFatal,
    SourceUnavailable,
)

OWNED = frozenset(
    {
        "bootstrap.servers",  # [kafka] bootstrap_servers
        "metadata.broker.list",
        "group.id",  # [kafka] group
        "group.instance.id",
        "group.protocol",
        "group.remote.assignor",
        "partition.assignment.strategy",
        "enable.auto.commit",
        "auto.commit.enable",
        "auto.commit.interval.ms",
        "enable.auto.offset.store",
        "auto.offset.reset",
        "enable.partition.eof",
        "offset.store.method",
        "offset.store.path",
        "offset.store.sync.interval.ms",
        "allow.auto.create.topics",
        "enable.idempotence",
        "transactional.id",
        "acks",
        "request.required.acks",
        "test.mock.num.brokers",
        "plugin.library.paths",  # loads native code into the process
    }
)
"""librdkafka properties that the service sets itself, since exactness rests on them."""

REFUSED = frozenset(
    {
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.GROUP_AUTHORIZATION_FAILED,
        KafkaError.CLUSTER_AUTHORIZATION_FAILED,
        KafkaError.SASL_AUTHENTICATION_FAILED,
        KafkaError.UNSUPPORTED_SASL_MECHANISM,
        KafkaError.ILLEGAL_SASL_STATE,
        KafkaError.SECURITY_DISABLED,
        KafkaError._AUTHENTICATION,  # noqa: SLF001 -- the client spells its local codes so
        KafkaError._FATAL,  # noqa: SLF001 -- as above
    }
)
"""Errors that waiting does not mend."""

_LOGIN = "check sasl.username, sasl.password and sasl.mechanism in [kafka.client] and [kafka.client_files]"
REMEDIES = {
    KafkaError.TOPIC_AUTHORIZATION_FAILED: "grant this user Read on the topic, or Write where it writes",
    KafkaError.GROUP_AUTHORIZATION_FAILED: "grant this user Read on the group (kafka.group)",
    KafkaError.CLUSTER_AUTHORIZATION_FAILED: "grant this user Write on the topic that it writes to",
    KafkaError.SASL_AUTHENTICATION_FAILED: _LOGIN,
    KafkaError.UNSUPPORTED_SASL_MECHANISM: _LOGIN,
    KafkaError.ILLEGAL_SASL_STATE: _LOGIN,
    KafkaError._AUTHENTICATION: _LOGIN,  # noqa: SLF001 -- a local code
}
"""What an operator can do about an error in `REFUSED`, where that is known."""

LOST = frozenset({KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE})  # noqa: SLF001 -- as above
GONE = frozenset(
    {
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        KafkaError.UNKNOWN_TOPIC_ID,
        KafkaError._UNKNOWN_TOPIC,  # noqa: SLF001 -- as above
        KafkaError._UNKNOWN_PARTITION,  # noqa: SLF001 -- as above
    }
)
UNRELEASED_SECONDS = 20.0
"""Between two tries while the new protocol holds a dead member's name: 45 s by the brokers' default."""
FENCED = {
    str(KafkaError(code).str()): wait
    for code, wait in (
        (KafkaError.FENCED_INSTANCE_ID, 0.0),
        (KafkaError.UNRELEASED_INSTANCE_ID, UNRELEASED_SECONDS),
    )
}
"""How the client says that the group refuses a member's name, and when to try again.

It reports them as `_FATAL`, and only the text tells which fatal error it was.
"""
TOO_LARGE = frozenset({KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.RECORD_LIST_TOO_LARGE})

ASK_SECONDS = 5.0  # one question to the brokers where the port's method has no bound of its own
REPORT_SECONDS = 2.0  # finding out what the log still holds when an offset was lost
MAX_LETTER_BYTES = 32_000_000  # beyond this a record is not sent whole without asking the broker
QUIET_SECONDS = 30.0  # the same trouble is said once in this time
EMBEDDED = "mockCluster"  # how the cluster id of librdkafka's mock cluster starts
NO_TOPIC_ID = ("AAAAAAAAAAAAAAAAAAAAAA", "AAAAAAAAAAAAAAAAAAAAAA==")  # a broker older than topic ids


log = logging.getLogger("fluvial.kafka")


def client_libraries() -> list[str]:
    """Where librdkafka may be, best first: the extension module leads to the very copy in use."""
    extension = Path(confluent_kafka.cimpl.__file__ or "")
    site = extension.parent.parent
    folders = (site / "confluent_kafka.libs", extension.parent / ".dylibs", extension.parent)
    copies = [str(path) for folder in folders for path in sorted(folder.glob("*rdkafka*")) if path.is_file()]
    return [str(extension), *copies]


def mock_in_client(topics: Sequence[str]) -> tuple[object, str]:
    """Make a mock cluster inside a producer; it lives as long as the returned owner does.

    Returns the owner and the bootstrap servers.
    """
    owner = Producer({"bootstrap.servers": "", "test.mock.num.brokers": 1, "log_level": 0})
    servers = ",".join(f"{b.host}:{b.port}" for b in owner.list_topics(timeout=ASK_SECONDS).brokers.values())
    for topic in topics:  # a producer's look-up creates it
        owner.list_topics(topic, timeout=ASK_SECONDS)
    return owner, servers


def client_properties(settings: KafkaSettings) -> dict[str, Any]:
    """The operator's librdkafka properties, `client_files` read. Raises SettingsError."""
    for table, names in (("client", settings.client), ("client_files", settings.client_files)):
        for name in names:
            if name in OWNED:
                msg = f"kafka.{table}.{name}: the service owns this property; remove it"
                raise SettingsError(msg)
    properties: dict[str, Any] = dict(settings.client)
    for name, path in settings.client_files.items():
        if name in properties:
            continue  # read when the settings were loaded, relative to their file
        try:
            properties[name] = Path(path).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            msg = f"kafka.client_files.{name}: {path} cannot be read: {getattr(error, 'strerror', error)}"
            raise SettingsError(msg) from None
    queued = properties.get("queued.min.messages")
    if queued is not None and int(queued) < 20 * settings.batch:
        log.warning(
            "kafka.client.queued.min.messages = %s is below 20 batches: the client then stops fetching in "
            "between and throttles the service; leave it out",
            queued,
        )
    return properties


def _secrets(settings: KafkaSettings, properties: Mapping[str, Any]) -> tuple[str, ...]:
    """Values that must not be seen: everything read from a file, and what is named like a secret."""
    words = ("password", "secret", "token", "key.pem", "oauthbearer.config", "sasl.jaas")
    hidden = {
        str(value)
        for name, value in properties.items()
        if name in settings.client_files or any(word in name for word in words)
    }
    return tuple(sorted((value for value in hidden if value), key=len, reverse=True))


class _ClientLog:
    """What the client calls as its logger: our log, without secrets and without floods."""

    def __init__(self, secrets: Sequence[str]) -> None:
        self._secrets = secrets
        self._said: dict[str, tuple[float, int]] = {}

    def log(self, level: int, text: str, *values: object) -> None:
        """Forward one line of librdkafka. The first value is its facility (FAIL, CONFWARN, ...)."""
        facility = str(values[0]) if values else text
        if facility in {"CONFWARN", "FAIL", "ERROR"}:
            # One table of properties serves consumer and producer; failures also come as reports.
            level = logging.DEBUG
        self.once(facility, level, self.hide(text % values if values else text))

    def hide(self, text: object) -> str:
        """The text without secrets."""
        said = str(text)
        for secret in self._secrets:
            said = said.replace(secret, "***")
        return said

    def once(self, kind: str, level: int, text: str) -> None:
        """Say it, unless the same kind was said within `QUIET_SECONDS`; then count it."""
        now = time.monotonic()
        last, unsaid = self._said.get(kind, (-QUIET_SECONDS, 0))
        if level > logging.DEBUG and now - last < QUIET_SECONDS:
            self._said[kind] = (last, unsaid + 1)
            return
        self._said[kind] = (now, 0)
        log.log(level, "%s%s", text, f" (and {unsaid} more like it)" if unsaid else "")


class Client:
    """What consumer, sink and producer share: properties, secrets, and what the client reports."""

    def __init__(self, settings: KafkaSettings, name: str) -> None:
        properties = client_properties(settings)
        self.servers = settings.bootstrap_servers
        self.log = _ClientLog(_secrets(settings, properties))
        self.fatal: KafkaError | None = None
        self.gone = False
        """The client says that the topic or a partition is gone, which may be a passing view."""
        self.trouble = ""
        self.common: dict[str, Any] = {
            "client.id": f"fluvial-{name}",
            "socket.keepalive.enable": True,
            **properties,
            "bootstrap.servers": settings.bootstrap_servers,
            "allow.auto.create.topics": False,
            "error_cb": self._on_error,
        }

    def make(self, kind: Callable[..., Any], own: Mapping[str, Any], defaults: Mapping[str, Any]) -> Any:
        """Build a client of this kind. Raises SettingsError naming the property it refuses."""
        try:
            return kind({**defaults, **self.common, **own}, logger=self.log)
        except KafkaException as error:
            msg = f"kafka.client: {self.log.hide(error.args[0].str())}"
            raise SettingsError(msg) from None

    def _on_error(self, error: KafkaError) -> None:
        """The client speaks for itself, not for a message. Runs inside poll: it only takes note."""
        self.trouble = self.log.hide(error.str())
        if error.fatal() or error.code() in REFUSED:
            self.fatal = error
            return
        self.gone = self.gone or error.code() in GONE
        self.log.once(error.name(), logging.WARNING, f"{self.trouble} (the client tries again)")

    def explain(self, error: KafkaError, doing: str) -> SourceError:
        """What an error means to the worker while it was `doing` something."""
        final = self.fatal
        if final is None and (error.fatal() or error.code() in REFUSED):
            final = error
        said = self.log.hide((final or error).str())
        wait = next((seconds for text, seconds in FENCED.items() if text in said), None)
        if final is not None and wait is not None:
            return MemberFenced(f"{doing}: {said}", wait)
        if final is not None:
            return SourceFatal(f"{doing}: {said}; {_remedy(final)}")
        last = f" (last trouble: {self.trouble})" if self.trouble and self.trouble not in said else ""
        if "SSL" in said + last:
            last += "; check ssl.ca.location in [kafka.client], and the broker's certificate"
        return SourceUnavailable(f"{doing} at {self.servers}: {said}{last}")

    def take_reports(self, producer: Any, seconds: float, doing: str) -> None:
        """Take what a producer has to report. Raises SourceFatal when it cannot go on."""
        try:
            producer.poll(seconds)
        except KafkaException as error:  # it failed for good before it could report
            raise self.explain(error.args[0], doing) from None
        if self.fatal is not None and self.fatal.fatal():
            raise self.explain(self.fatal, doing)

    def topic(self, lister: Any, topic: str, seconds: float) -> tuple[str, list[int]]:
        """Cluster id and a topic's partitions. Raises SourceUnavailable, SourceFatal (no such topic)."""
        doing = f"asking for topic {topic!r}"
        try:
            cluster = lister.list_topics(topic, timeout=max(seconds, 0.01))
        except KafkaException as error:
            lister.poll(0)  # the reason (a refused password) comes as a report of its own
            raise self.explain(error.args[0], doing) from None
        found = cluster.topics[topic]
        if found.error is None:
            return str(cluster.cluster_id), sorted(found.partitions)
        if found.error.code() in GONE:
            raise SourceFatal(no_such_topic(topic, self.servers))
        raise self.explain(found.error, doing)


def _remedy(error: KafkaError) -> str:
    """What an operator can do about an error that waiting does not mend."""
    return REMEDIES.get(error.code(), "see [kafka] in the settings") + " (docs/security.md)"


def no_such_topic(topic: str, servers: str) -> str:
    """What to say about a missing topic."""
    return (
        f"topic {topic!r} does not exist at {servers}, or this user may not see it; create it, for example: "
        f"kafka-topics.sh --bootstrap-server {servers} --create --topic {topic} --partitions 3"
    )


def bounded_close(close: Callable[[], object], seconds: float, what: str) -> None:
    """Close in a thread and give up after `seconds`: the client's close can hang."""
    worker = threading.Thread(target=close, name=f"close-{what}", daemon=True)
    worker.start()
    worker.join(seconds)
    if worker.is_alive():
        log.warning("the %s did not close within %.1f s; leaving it behind", what, seconds)
