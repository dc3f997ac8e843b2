"""Kafka through confluent-kafka: the only module that imports the client.

The service never lets the client decide where to read. Offsets are assigned by hand, nothing is
committed or reset by itself (`auto.offset.reset=error`: with `earliest` a jump over expired events is
silent), and a report that an offset is outside the log becomes an exception that the worker decides on.
"""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import confluent_kafka.cimpl
from confluent_kafka import (
    Consumer,
    KafkaError,
    KafkaException,
    Producer,
    TopicCollection,
    TopicPartition,
)
from confluent_kafka import Message as KafkaMessage
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from fluvial.adapters.start import parse_start
from fluvial.config import KafkaSettings
from fluvial.errors import (
    OffsetLost,
    SettingsError,
    SourceError,
    SourceFatal,
    SourceUnavailable,
    TopologyChanged,
)
from fluvial.ports import Message
from fluvial.types import Commit, DeadLetter, Lag, Topology

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

_LOST = frozenset({KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE})  # noqa: SLF001 -- as above
_GONE = frozenset(
    {
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        KafkaError.UNKNOWN_TOPIC_ID,
        KafkaError._UNKNOWN_TOPIC,  # noqa: SLF001 -- as above
        KafkaError._UNKNOWN_PARTITION,  # noqa: SLF001 -- as above
    }
)
_TOO_LARGE = frozenset({KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.RECORD_LIST_TOO_LARGE})

ASK_SECONDS = 5.0  # one question to the brokers where the port's method has no bound of its own
REPORT_SECONDS = 2.0  # finding out what the log still holds when an offset was lost
QUIET_SECONDS = 30.0  # the same trouble is said once in this time
_EMBEDDED = "mockCluster"  # how the cluster id of librdkafka's mock cluster starts
_NO_TOPIC_ID = ("AAAAAAAAAAAAAAAAAAAAAA", "AAAAAAAAAAAAAAAAAAAAAA==")  # a broker older than topic ids

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


# ---------------------------------------------------------------- settings and logging of the client


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


class _Client:
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
        self.gone = self.gone or error.code() in _GONE
        self.log.once(error.name(), logging.WARNING, f"{self.trouble} (the client tries again)")

    def explain(self, error: KafkaError, doing: str) -> SourceError:
        """What an error means to the worker while it was `doing` something."""
        final = self.fatal
        if final is None and (error.fatal() or error.code() in REFUSED):
            final = error
        said = self.log.hide((final or error).str())
        if final is not None:
            return SourceFatal(f"{doing}: {said}; see [kafka] in the settings and the topic's ACLs")
        last = f" (last trouble: {self.trouble})" if self.trouble and self.trouble not in said else ""
        return SourceUnavailable(f"{doing} at {self.servers}: {said}{last}")

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
        if found.error.code() in _GONE:
            raise SourceFatal(no_such_topic(topic, self.servers))
        raise self.explain(found.error, doing)


def no_such_topic(topic: str, servers: str) -> str:
    """What to say about a missing topic."""
    return (
        f"topic {topic!r} does not exist at {servers}, or this user may not see it; create it, for example: "
        f"kafka-topics.sh --bootstrap-server {servers} --create --topic {topic} --partitions 3"
    )


def _bounded_close(close: Callable[[], object], seconds: float, what: str) -> None:
    """Close in a thread and give up after `seconds`: the client's close can hang."""
    worker = threading.Thread(target=close, name=f"close-{what}", daemon=True)
    worker.start()
    worker.join(seconds)
    if worker.is_alive():
        log.warning("the %s did not close within %.1f s; leaving it behind", what, seconds)


# ---------------------------------------------------------------- the source


class KafkaSource:
    """A topic's log as `ports.Source`. One thread uses it; the client has its own underneath."""

    def __init__(self, settings: KafkaSettings, service: str) -> None:
        self.topic = settings.topic
        self._client = _Client(settings, service)
        own = {
            "group.id": settings.group or f"fluvial-{service}",
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "auto.offset.reset": "error",
            "on_commit": self._on_commit,
        }
        # A full queue makes the fetcher sleep this long: at the default second, ten-megabyte events crawl.
        defaults = {"fetch.queue.backoff.ms": 100}
        self._consumer: Consumer = self._client.make(Consumer, own, defaults)
        self._admin: AdminClient = self._client.make(AdminClient, {}, {})
        self._assigned: list[TopicPartition] = []
        self._reports: deque[KafkaMessage] = deque()
        self._paused = False
        self._closed = False
        self._known: Topology | None = None
        self._look_at = 0.0

    def topology(self, seconds: float) -> Topology:
        """Ask which log this is. Raises SourceUnavailable, SourceFatal (no such topic)."""
        end = time.monotonic() + seconds
        cluster_id, found = self._client.topic(self._admin, self.topic, seconds)
        topic_id = None
        if not cluster_id.startswith(_EMBEDDED):  # it has no such request; asking would cost the time-out
            topic_id = self._topic_id(end - time.monotonic())
        self._admin.poll(0)
        self._known = Topology(cluster_id=cluster_id, topic_id=topic_id, partitions=len(found))
        return self._known

    def _topic_id(self, seconds: float) -> str | None:
        """The topic's id, which changes when it is deleted and made again; None where nobody tells it."""
        seconds = max(seconds, 0.1)
        asked = self._admin.describe_topics(TopicCollection([self.topic]), request_timeout=seconds)
        try:
            told = asked[self.topic].result(seconds + 0.1)
        except KafkaException as error:
            reason = error.args[0]
            if reason.retriable() or reason.code() in {KafkaError._TIMED_OUT, KafkaError._TRANSPORT}:  # noqa: SLF001 -- local codes
                raise self._client.explain(reason, f"asking for the id of topic {self.topic!r}") from None
            self._client.log.once("topic id", logging.INFO, f"the broker tells no topic id: {reason.str()}")
            return None
        except TimeoutError:
            msg = f"asking for the id of topic {self.topic!r}: no answer within {seconds:.1f} s"
            raise SourceUnavailable(msg) from None
        topic_id = str(told.topic_id)
        return None if topic_id in _NO_TOPIC_ID else topic_id

    def bounds(self, partition: int, seconds: float) -> Lag:
        """Start and end of one partition's log. Raises SourceUnavailable."""
        where = TopicPartition(self.topic, partition)
        doing = f"asking for the bounds of partition {partition}"
        try:
            told = self._consumer.get_watermark_offsets(where, timeout=max(seconds, 0.01))
        except KafkaException as error:
            reason = error.args[0]
            if reason.code() in _GONE:  # also said of a partition whose leader is away
                _, found = self._client.topic(self._admin, self.topic, max(seconds, 0.1))
                if partition not in found:
                    msg = f"{doing}: topic {self.topic!r} has no such partition, only {len(found)}"
                    raise SourceFatal(msg) from None
            raise self._client.explain(reason, doing) from None
        answer = cast("tuple[int, int] | None", told)  # None, which the stubs leave out: it came too late
        if answer is None:
            msg = f"{doing}: no answer within {seconds:.1f} s"
            raise SourceUnavailable(msg)
        return Lag(low=answer[0], high=answer[1])

    def start_offsets(self, start: str, seconds: float) -> Mapping[int, int]:
        """Offset of each partition for `earliest`, `latest` or an ISO 8601 time (UTC unless it says).

        A time after the last event means the log's end. Raises SettingsError (no such time),
        SourceUnavailable, SourceFatal (the embedded Kafka cannot look up a time).
        """
        moment = None if start in {"earliest", "latest"} else parse_start(start)
        end = time.monotonic() + seconds
        cluster_id, found = self._client.topic(self._admin, self.topic, seconds)
        if moment is not None and cluster_id.startswith(_EMBEDDED):
            msg = f"kafka.start = {start!r}: the embedded Kafka cannot look up a time; use earliest or latest"
            raise SourceFatal(msg)
        bounds = {p: self.bounds(p, end - time.monotonic()) for p in found}
        if moment is not None:
            return self._at(moment, bounds, end - time.monotonic())
        return {p: lag.low if start == "earliest" else lag.high for p, lag in bounds.items()}

    def _at(self, milliseconds: int, bounds: Mapping[int, Lag], seconds: float) -> dict[int, int]:
        wanted = [TopicPartition(self.topic, p, milliseconds) for p in bounds]
        try:
            answers = self._consumer.offsets_for_times(wanted, timeout=max(seconds, 0.01))
        except KafkaException as error:
            raise self._client.explain(error.args[0], "looking up the start time") from None
        for answer in answers:
            if answer.error is not None:
                raise self._client.explain(answer.error, f"looking up the time in {answer.partition}")
        return {a.partition: a.offset if a.offset >= 0 else bounds[a.partition].high for a in answers}

    def committed(self, seconds: float) -> Mapping[int, Commit]:
        """Kafka's commits of the service's group: the witness. Absent partitions have none."""
        end = time.monotonic() + seconds
        _, found = self._client.topic(self._admin, self.topic, seconds)
        wanted = [TopicPartition(self.topic, p) for p in found]
        try:
            answers = self._consumer.committed(wanted, timeout=max(end - time.monotonic(), 0.01))
        except KafkaException as error:
            raise self._client.explain(error.args[0], "asking for the group's commits") from None
        for answer in answers:
            if answer.error is not None:
                raise self._client.explain(answer.error, f"asking for the commit of {answer.partition}")
        return {a.partition: Commit(a.offset, a.metadata or "") for a in answers if a.offset >= 0}

    def assign(self, offsets: Mapping[int, int]) -> None:
        """Read these partitions by hand from these offsets; replaces an earlier assignment and a pause.

        Raises OffsetLost before anything is changed when an offset is outside the log, SourceUnavailable.
        """
        end = time.monotonic() + ASK_SECONDS
        for number, offset in offsets.items():
            lag = self.bounds(number, end - time.monotonic())
            if not lag.low <= offset <= lag.high:
                raise OffsetLost(number, offset, lag.low, lag.high)
        self.resume()
        self._reports.clear()
        self._assigned = [TopicPartition(self.topic, p, offset) for p, offset in offsets.items()]
        self._consumer.assign(self._assigned)

    def poll(self, limit: int, seconds: float) -> Sequence[Message]:
        """Next records, at most `limit`, waiting at most `seconds`; in offset order within a partition.

        Good records that came with a bad report are delivered first, the report is raised by the next
        call: OffsetLost (which may take `REPORT_SECONDS` to find out what the log holds), SourceFatal,
        TopologyChanged (the topic was made anew while it was read).
        """
        if self._reports or self._client.gone or self._client.fatal is not None:
            self._answer()
        try:
            messages = self._consumer.consume(limit, seconds)
        except KafkaException as error:
            raise self._client.explain(error.args[0], "reading") from None
        if any(map(_error_of, messages)):  # 0.05 us a message; the loop body only runs on trouble
            messages = [message for message in messages if message.error() is None or self._report(message)]
        return cast("Sequence[Message]", messages)

    def _report(self, message: KafkaMessage) -> bool:
        """Keep what must be answered, log the rest; never a record (False)."""
        error = message.error()
        if error is None or error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001 -- a local code
            return False
        if error.fatal() or error.code() in REFUSED | _LOST | _GONE:
            self._reports.append(message)
        else:
            said = f"partition {message.partition()}: {self._client.log.hide(error.str())}"
            self._client.log.once(error.name(), logging.WARNING, f"{said} (the client tries again)")
        return False

    def _answer(self) -> None:
        """Raise what the oldest report means."""
        if self._client.fatal is not None:
            raise self._client.explain(self._client.fatal, f"reading topic {self.topic!r}")
        if self._reports:
            self._answer_report(self._reports.popleft())
        if self._client.gone:
            self._look_whether_gone()

    def _answer_report(self, message: KafkaMessage) -> None:
        error, number = message.error(), message.partition()
        if error is None or number is None:
            return
        if error.code() in _LOST:
            self._lost(number, message.offset())
        elif error.code() in _GONE:
            self._client.gone = True
        else:
            raise self._client.explain(error, f"reading partition {number}")

    def _look_whether_gone(self) -> None:
        """Raise SourceFatal when the topic is gone, TopologyChanged when it is another one by now."""
        now, known = time.monotonic(), self._known
        if now < self._look_at:
            return
        self._look_at = now + ASK_SECONDS
        try:
            found = self.topology(REPORT_SECONDS)
        except SourceUnavailable as error:
            self._client.log.once("gone?", logging.WARNING, str(error))
            return  # asked again later
        self._client.gone = False
        if known is not None and known.topic_id != found.topic_id:
            msg = f"topic {self.topic!r} was deleted and made again while it was read (id {found.topic_id})"
            raise TopologyChanged(msg)

    def _lost(self, number: int, offset: int | None) -> None:
        """Raise OffsetLost with what the log holds now."""
        lag = self.bounds(number, REPORT_SECONDS)
        if offset is None or offset < 0:
            offset = next((t.offset for t in self._assigned if t.partition == number), 0)
        if lag.low <= offset <= lag.high:
            # The log's end was behind for a moment (a new leader): read on where the loop stands.
            log.warning("partition %d: offset %d is in the log again; reading on", number, offset)
            self._consumer.incremental_unassign([TopicPartition(self.topic, number)])
            self._consumer.incremental_assign([TopicPartition(self.topic, number, offset)])
            if self._paused:
                self._consumer.pause([TopicPartition(self.topic, number)])
            return
        raise OffsetLost(number, offset, lag.low, lag.high)

    def pause(self) -> None:
        """Stop fetching without giving anything up; `poll` returns nothing and keeps the client alive."""
        if self._assigned and not self._paused:
            self._consumer.pause(self._assigned)
            self._paused = True

    def resume(self) -> None:
        """Fetch again, where it stopped."""
        if self._paused:
            self._consumer.resume(self._assigned)
            self._paused = False

    def lag(self) -> Mapping[int, Lag]:
        """Log ends as last seen by the client, without asking a broker. Absent: not known yet.

        They stand still while paused.
        """
        known = {}
        for where in self._assigned:
            answer = self._consumer.get_watermark_offsets(where, cached=True)
            if answer is not None and answer[1] >= 0:
                known[where.partition] = Lag(low=max(answer[0], 0), high=answer[1])
        return known

    def commit(self, offsets: Mapping[int, int], metadata: str) -> None:
        """Mirror the checkpoint's offsets for lag tools. Errors are logged; the state does not care.

        A refused authorisation is raised by the next `poll`.
        """
        mirrored = [TopicPartition(self.topic, p, offset, metadata) for p, offset in offsets.items()]
        try:
            self._consumer.commit(offsets=mirrored, asynchronous=True)
        except KafkaException as error:
            self._on_commit(error.args[0], [])

    def _on_commit(self, error: KafkaError | None, partitions: Sequence[TopicPartition]) -> None:
        """Runs inside poll: it only takes note."""
        errors = [error] if error is not None else [p.error for p in partitions if p.error is not None]
        for each in errors:
            if each.fatal() or each.code() in REFUSED:
                self._client.fatal = each
            else:
                said = f"offsets were not mirrored to the group: {self._client.log.hide(each.str())}"
                self._client.log.once(f"commit {each.name()}", logging.WARNING, said)

    def close(self, seconds: float) -> None:
        """Leave, within `seconds`. Idempotent."""
        if not self._closed:
            self._closed = True
            _bounded_close(self._consumer.close, seconds, "consumer")


_error_of = KafkaMessage.error


# ---------------------------------------------------------------- dead letters

MAX_WAITING = 10_000  # letters that may wait for their acknowledgement
MAX_WAITING_BYTES = 64_000_000
MAX_LETTER_BYTES = 32_000_000  # beyond this a letter is cut without asking the broker
ROOM_SECONDS = 1.0  # how long `send` waits for room
RETRY_SECONDS = 0.2

# How much of a letter is sent. A batch is refused as a whole, so a refused letter first goes alone.
_WHOLE, _ALONE, _CUT, _BARE = range(4)
_CUT_VALUE = 100_000
_CUT_REST = 20_000
_MESSAGE = 2_000


def letter_headers(letter: DeadLetter, extent: int = _WHOLE) -> list[tuple[str, bytes | None]]:
    """Original headers, then ours: the names of Kafka Connect, so that its tools read them.

    Source: Kafka Connect's `errors.deadletterqueue.context.headers.enable`. `fluvial.id` identifies the
    event, so that duplicates can be told. Where a header comes twice (a letter of a redriven letter),
    the last one counts.
    """
    original = list(letter.headers)
    if extent == _BARE or (extent == _CUT and _size(letter.headers) > _CUT_REST):
        original = []
    place = f"{letter.topic}/{letter.partition}/{letter.offset}"
    message = letter.message[: _MESSAGE if extent < _BARE else 200]
    ours: list[tuple[str, bytes | None]] = [
        ("__connect.errors.topic", letter.topic.encode()),
        ("__connect.errors.partition", str(letter.partition).encode()),
        ("__connect.errors.offset", str(letter.offset).encode()),
        ("__connect.errors.exception.class.name", str(letter.reason).encode()),
        ("__connect.errors.exception.message", message.encode(errors="replace")),
        ("fluvial.id", place.encode()),
    ]
    if extent >= _CUT:
        value = letter.value or b""
        ours += [
            ("fluvial.truncated", b"true"),
            ("fluvial.size", str(len(value)).encode()),
            ("fluvial.sha256", hashlib.sha256(value).hexdigest().encode()),
        ]
    return original + ours


def _size(headers: Sequence[tuple[str, bytes | None]]) -> int:
    return sum(len(name) + len(value or b"") for name, value in headers)


class _Pending:
    """A letter on its way, and how much of it goes."""

    __slots__ = ("extent", "letter", "size", "timed")

    def __init__(self, letter: DeadLetter) -> None:
        self.letter = letter
        self.size = len(letter.value or b"") + len(letter.key or b"") + _size(letter.headers)
        self.extent = _ALONE if self.size > MAX_LETTER_BYTES else _WHOLE
        self.timed = letter.timestamp_ms > 0

    def record(self) -> dict[str, Any]:
        """Arguments for the client."""
        letter, value, key = self.letter, self.letter.value, self.letter.key
        if self.extent == _CUT:
            value = (value or b"")[:_CUT_VALUE]
            key = key if key is None or len(key) <= _CUT_REST else key[:_CUT_REST]
        elif self.extent == _BARE:
            value, key = b"", None
        record: dict[str, Any] = {"value": value, "key": key, "headers": letter_headers(letter, self.extent)}
        if self.timed:
            record["timestamp"] = letter.timestamp_ms
        return record


class KafkaSink:
    """Dead letters to a topic, at least once, as `ports.Sink`: original key, bytes, headers and time."""

    def __init__(self, settings: KafkaSettings, topic: str) -> None:
        self.topic = topic
        self._client = _Client(settings, "dead-letters")
        own = {"enable.idempotence": True, "acks": "all"}
        defaults = {
            "compression.type": "lz4",
            "linger.ms": 5,
            "message.max.bytes": MAX_LETTER_BYTES,
            "queue.buffering.max.kbytes": 2 * MAX_WAITING_BYTES // 1_000,
        }
        self._producer: Producer = self._client.make(Producer, own, defaults)
        self._unsent: deque[_Pending] = deque()
        self._alone: deque[_Pending] = deque()
        self._in_flight = 0
        self._solo = False
        self._waiting = 0
        self._waiting_bytes = 0
        self._retry_at = 0.0
        self._closed = False

    def send(self, letters: Sequence[DeadLetter]) -> None:
        """Hand over; a letter too large for the topic is truncated and says so.

        While too many wait for their acknowledgement this waits up to `ROOM_SECONDS`, then raises
        SourceUnavailable, having taken none of them.
        """
        end = time.monotonic() + ROOM_SECONDS
        while self._waiting >= MAX_WAITING or self._waiting_bytes >= MAX_WAITING_BYTES:
            self._step(0.05)
            if time.monotonic() > end:
                raise SourceUnavailable(self._why(0.5))
        for letter in letters:
            pending = _Pending(letter)
            self._waiting += 1
            self._waiting_bytes += pending.size
            self._unsent.append(pending)
        self._step(0)

    def flush(self, seconds: float) -> None:
        """Wait until all that was sent is acknowledged, or raise SourceUnavailable; then call again."""
        ask = min(0.5, seconds / 4)  # kept back for finding out why
        end = time.monotonic() + seconds - ask
        while self._waiting:
            left = end - time.monotonic()
            if left <= 0:
                raise SourceUnavailable(self._why(ask))
            self._step(min(left, 0.05))

    def _step(self, seconds: float) -> None:
        """Hand letters to the client and take its reports."""
        self._push()
        self._producer.poll(seconds)
        if self._client.fatal is not None and self._client.fatal.fatal():
            raise self._client.explain(self._client.fatal, f"writing dead letters to {self.topic!r}")

    def _push(self) -> None:
        """Give the client what may go now: a refused letter waits for an empty line and goes alone."""
        if time.monotonic() < self._retry_at or (self._solo and self._in_flight):
            return
        self._solo = False
        if self._alone:
            if not self._in_flight:
                self._solo = self._produce(self._alone[0])
                self._alone.popleft()  # its report may have put it at the end again
            return
        while self._unsent and time.monotonic() >= self._retry_at and self._produce(self._unsent[0]):
            self._unsent.popleft()  # as above

    def _produce(self, pending: _Pending) -> bool:
        """Whether the client took the letter (or it was put aside); False: its queue is full."""
        self._in_flight += 1
        try:
            self._producer.produce(
                self.topic, on_delivery=partial(self._delivered, pending), **pending.record()
            )
        except BufferError:
            self._in_flight -= 1
            return False
        except KafkaException as error:  # refused at once: too large for the client, unknown topic
            self._delivered(pending, error.args[0], None)
        return True

    def _delivered(self, pending: _Pending, error: KafkaError | None, _message: object) -> None:
        """Take one report; runs inside poll."""
        self._in_flight -= 1
        if error is None:
            self._waiting -= 1
            self._waiting_bytes -= pending.size
            return
        self._client.trouble = self._client.log.hide(error.str())
        if error.code() in _TOO_LARGE and pending.extent < _BARE:
            pending.extent += 1
            self._alone.append(pending)
            return
        if error.code() == KafkaError.INVALID_TIMESTAMP:
            pending.timed = False
        said = f"a dead letter was not taken by {self.topic!r}: {self._client.trouble} (sent again)"
        self._client.log.once(f"letter {error.name()}", logging.WARNING, said)
        self._retry_at = time.monotonic() + RETRY_SECONDS
        (self._alone if pending.extent else self._unsent).append(pending)

    def _why(self, seconds: float) -> str:
        """Why letters wait, for a person. Asking also wakes the client up when the topic appears."""
        said = f"{self._waiting} dead letters wait for {self.topic!r}"
        try:
            self._client.topic(self._producer, self.topic, seconds)
        except SourceError as error:
            return f"{said}: {error}"
        return f"{said}: {self._client.trouble or 'no answer yet'}"

    def close(self, seconds: float) -> None:
        """Leave, within `seconds`; what is not acknowledged comes again, since no checkpoint covers it."""
        if self._closed:
            return
        self._closed = True
        _bounded_close(partial(self._producer.flush, seconds), seconds, "dead-letter producer")
        if self._waiting:
            log.warning("%d dead letters were not acknowledged; they come again", self._waiting)


# ---------------------------------------------------------------- feeding a topic


class KafkaProducer:
    """Feeds a topic as fast as the broker takes it: what `fluvial produce` and the demo use."""

    def __init__(self, settings: KafkaSettings) -> None:
        self.topic = settings.topic
        self.acknowledged = 0
        self.failed = 0
        self.error = ""
        """What the first refused message was refused for."""
        self._client = _Client(settings, "produce")
        own = {"enable.idempotence": True, "acks": "all"}
        defaults = {
            "compression.type": "lz4",
            "linger.ms": 20,
            "partitioner": "murmur2_random",  # the same partition for a key as from Java
            "queue.buffering.max.messages": 200_000,
            "message.max.bytes": MAX_LETTER_BYTES,
        }
        self._producer: Producer = self._client.make(Producer, own, defaults)

    def partitions(self, seconds: float) -> int:
        """How many the topic has. Raises SourceUnavailable, SourceFatal (no such topic)."""
        _, found = self._client.topic(self._producer, self.topic, seconds)
        return len(found)

    def create_topic(self, partitions: int, seconds: float) -> bool:
        """Make the topic; False when it is there already. Raises SourceUnavailable, SourceFatal."""
        admin: AdminClient = self._client.make(AdminClient, {}, {})
        new = NewTopic(self.topic, num_partitions=partitions)
        try:
            admin.create_topics([new], request_timeout=seconds)[self.topic].result(seconds + 1)
        except KafkaException as error:
            if error.args[0].code() == KafkaError.TOPIC_ALREADY_EXISTS:
                return False
            raise self._client.explain(error.args[0], f"creating topic {self.topic!r}") from None
        end = time.monotonic() + seconds
        while True:  # the controller has made it; the brokers hear of it a moment later
            try:
                self.partitions(1.0)
            except SourceError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.05)
            else:
                return True

    def send(self, value: bytes, key: bytes | str | None = None, partition: int = -1) -> None:
        """Hand over one message, waiting while the client's queue is full. Raises SourceFatal."""
        while True:
            try:
                self._producer.produce(self.topic, value, key, partition, on_delivery=self._delivered)
            except BufferError:
                self._producer.poll(0.1)
            except KafkaException as error:
                raise SourceFatal(self._client.log.hide(error.args[0].str())) from None
            else:
                break
        if self._client.fatal is not None:
            raise self._client.explain(self._client.fatal, f"writing to {self.topic!r}")

    def poll(self, seconds: float = 0.0) -> None:
        """Take the broker's acknowledgements."""
        self._producer.poll(seconds)

    def flush(self, seconds: float) -> int:
        """Wait for the acknowledgements; how many are still outstanding."""
        return int(self._producer.flush(seconds))

    def _delivered(self, error: KafkaError | None, _message: object) -> None:
        if error is None:
            self.acknowledged += 1
        else:
            self.failed += 1
            self.error = self.error or self._client.log.hide(error.str())
