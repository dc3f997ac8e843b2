"""The composed service: what it says of itself while it works, waits or cannot start."""

import json
import logging
import platform
import re
import socket
import subprocess
import sys

import pytest

from fluvial.adapters.prometheus import MetricsServer
from fluvial.cli import log_to_stderr, main
from fluvial.cli.json_log import JsonFormatter
from fluvial.errors import StoreUnavailable
from fluvial.looking import look
from support import web
from support.kafka_broker import create_topic, unique_topic
from test_outages import Failing
from test_worker import Bench


@pytest.fixture
def bench():
    made = Bench()
    yield made
    for running in made.running:
        running.worker.stop()
        running.thread.join(20)


@pytest.fixture
def probe():
    """Asks a worker's own HTTP server: status and body of a path."""
    servers = []

    def ask(running, path):
        server = MetricsServer(lambda: look(running.worker, running.source), "127.0.0.1", 0)
        servers.append(server)
        server.start()
        return web.get(server.address, path)

    yield ask
    for server in servers:
        server.close()


# ---- the probes --------------------------------------------------------------------------------


def test_an_active_worker_is_ready(bench, probe):
    running = bench.start()
    running.until(lambda: bench.offset() == bench.end(), "everything in a checkpoint")
    status, body = probe(running, "/readyz")
    told = json.loads(body)
    (accepted,) = told.pop("warnings")  # the twin is for tests, which the settings accept
    assert accepted.startswith("Redis is not fit to hold checkpoints")
    assert (status, told) == (200, {"ready": True, "paused": False, "reasons": []})
    assert "fluvial_ledger_offsets{" in probe(running, "/metrics")[1]


def test_one_that_stands_by_is_alive_and_says_for_whom(bench, probe):
    bench.settings = bench.with_settings(worker={"lease_seconds": 30.0})  # a busy machine stalls it for .3
    first = bench.start("the first")
    first.until(lambda: first.worker.patience.waiting_for is None, "the claim")
    second = bench.start("the second")
    second.until(lambda: "standing by" in str(second.worker.patience.waiting_for), "standing by")
    status, body = probe(second, "/readyz")
    told = json.loads(body)
    assert (status, told["ready"], told["paused"]) == (503, False, False)
    assert told["reasons"] == ["standing by: the first is active"]
    assert probe(second, "/livez")[0] == 200
    assert "fluvial_ledger_offsets{" not in probe(second, "/metrics")[1]


def test_one_whose_store_is_away_is_alive_paused_and_says_why(bench, probe):
    away = []
    errors = [StoreUnavailable("redis at here:1 is not available")] * 1_000
    store = Failing(bench.backing, errors, method="lease", when=lambda: bool(away))
    running = bench.start(store=store)
    running.until(lambda: bench.offset() == bench.end(), "everything in a checkpoint")
    away.append(True)
    running.until(lambda: running.worker.patience.waiting_for is not None, "the outage")
    status, body = probe(running, "/readyz")
    told = json.loads(body)
    assert (status, told["paused"]) == (503, True)
    assert told["reasons"] == ["redis at here:1 is not available"]
    assert probe(running, "/livez")[0] == 200
    away.clear()
    running.until(lambda: running.worker.patience.waiting_for is None, "the store")
    assert probe(running, "/readyz")[0] == 200


def test_a_loop_that_stands_still_is_not_alive(bench, probe, monkeypatch):
    running = bench.start()
    running.until(lambda: bench.offset() == bench.end(), "everything in a checkpoint")
    monkeypatch.setattr("fluvial.looking.STALLED_SECONDS", 0.0)
    assert probe(running, "/livez")[0] == 503
    assert "has not turned" in probe(running, "/readyz")[1]


# ---- the log -----------------------------------------------------------------------------------


@pytest.fixture
def root():
    """The root logger, as it was, afterwards."""
    logger = logging.getLogger()
    handlers, level = list(logger.handlers), logger.level
    yield logger
    logger.handlers[:] = handlers
    logger.setLevel(level)


def test_the_log_as_json_is_one_object_a_line(root, capsys):
    log_to_stderr("info", as_json=True)
    said = "an event of %s", "half a \ud83d pair\nand a line"
    logging.getLogger("fluvial").error(*said, exc_info=LookupError("gone"))
    logging.getLogger("fluvial").debug("not told")
    [line] = capsys.readouterr().err.splitlines()
    told = json.loads(line)
    assert told.keys() == {"time", "level", "logger", "message", "traceback"}
    assert (told["level"], told["logger"]) == ("error", "fluvial")
    assert told["message"] == "an event of half a ? pair\nand a line"
    assert told["traceback"].endswith("LookupError: gone")


def test_a_traceback_may_hold_anything():
    record = logging.LogRecord("x", logging.INFO, "", 0, "m", (), None)
    record.exc_info = (ValueError, ValueError("half a \ud83d"), None)
    assert "half a ?" in json.loads(JsonFormatter().format(record))["traceback"]


# ---- what keeps it from starting ---------------------------------------------------------------


@pytest.fixture
def settings(tmp_path, monkeypatch, kafka_broker, fresh_redis):
    """A settings file for real parts, whose servers are given in the environment."""
    path = tmp_path / "fluvial.toml"
    topic = create_topic(kafka_broker, unique_topic("events"))
    create_topic(kafka_broker, f"{topic}.dead-letters")
    assert main(["init", str(path), "--preset", "linear", "--topic", "another"]) == 0
    for name, value in {
        "KAFKA__BOOTSTRAP_SERVERS": kafka_broker,
        "KAFKA__TOPIC": topic,
        "REDIS__URL": fresh_redis.url,
        "WORKER__LEASE_SECONDS": "1",
        "METRICS__PORT": "0",
    }.items():
        monkeypatch.setenv(f"FLUVIAL__{name}", value)
    return str(path)


@pytest.mark.kafka
@pytest.mark.redis
def test_the_environment_goes_over_the_file(settings, capsys, monkeypatch):
    assert main(["check", "--json", settings]) == 0
    monkeypatch.setenv("FLUVIAL__KAFKA__TOPIC", "nowhere-else")
    assert main(["check", "--json", settings]) == 1
    assert "nowhere-else" in capsys.readouterr().out


@pytest.mark.kafka
@pytest.mark.redis
def test_a_metrics_port_that_is_taken_is_said(settings, capsys, monkeypatch, root):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        monkeypatch.setenv("FLUVIAL__METRICS__PORT", str(port))
        assert main(["run", settings]) == 1
    told = capsys.readouterr().err
    assert f"fluvial run: metrics.port: cannot listen on 127.0.0.1:{port}" in told
    assert "Traceback" not in told


@pytest.mark.kafka
@pytest.mark.redis
def test_a_redis_user_who_may_not_write_is_said(settings, capsys, monkeypatch, fresh_redis, root):
    fresh_redis.cli.execute_command(
        "ACL", "SETUSER", "reader", "on", ">sesame-sesame", "~*", "+@read", "+info"
    )
    monkeypatch.setenv("FLUVIAL__REDIS__USERNAME", "reader")
    monkeypatch.setenv("FLUVIAL__REDIS__PASSWORD", "sesame-sesame")
    try:
        assert main(["run", settings]) == 1
    finally:
        fresh_redis.cli.execute_command("ACL", "DELUSER", "reader")
    told = capsys.readouterr().err
    assert "redis.username may not do that; docs/security.md" in told
    assert "sesame" not in told
    assert "Traceback" not in told


@pytest.mark.kafka
@pytest.mark.redis
def test_a_topic_that_is_not_there_is_said(settings, capsys, monkeypatch, root):
    monkeypatch.setenv("FLUVIAL__KAFKA__TOPIC", "not-there")
    assert main(["run", settings]) == 1
    assert "fluvial run: topic 'not-there' does not exist" in capsys.readouterr().err


BEFORE = """
import ctypes, sys, threading
from fluvial import app
if sys.argv[1] == "steady":
    app.steady_heap()
libc = ctypes.CDLL(None)
libc.malloc.restype = libc.fdopen.restype = ctypes.c_void_p
"""
EIGHT_THREADS = """
gate = threading.Barrier(8)
def allocate():
    gate.wait()
    for _ in range(10_000):
        libc.malloc(ctypes.c_size_t(100))
    gate.wait()
threads = [threading.Thread(target=allocate) for _ in range(8)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
"""
LARGE = """
for _ in range(3):  # a freed block raises the size from which glibc asks the system
    libc.free(ctypes.c_void_p(libc.malloc(ctypes.c_size_t(20_000_000))))
libc.malloc(ctypes.c_size_t(1_000_000))
"""
TELL = """
stream = libc.fdopen(1, b"w")
libc.malloc_info(0, ctypes.c_void_p(stream))
libc.fflush(ctypes.c_void_p(stream))
"""


def malloc_info(script):
    """What glibc says of its heaps behind a script, in a process as the service has it and in a plain one."""
    if platform.libc_ver()[0] != "glibc":
        pytest.skip("only glibc says what its heaps are")
    return [
        subprocess.run(
            [sys.executable, "-c", BEFORE + script + TELL, how],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        ).stdout
        for how in ("steady", "plain")
    ]


def test_threads_share_one_heap():
    steady, plain = (told.count("<heap nr=") for told in malloc_info(EIGHT_THREADS))
    assert steady == 1 < plain


def test_what_is_large_stays_out_of_the_heap():
    of_the_system = r'<total type="mmap" count="\d+" size="(\d+)"'
    steady, plain = (int(re.findall(of_the_system, told)[0]) for told in malloc_info(LARGE))
    assert steady - plain > 900_000
