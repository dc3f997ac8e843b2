"""Faults of Redis under a whole worker: real servers, a proxy between, and the fold as the judge.

Each test is named after its row in docs/faults.md.
"""

import contextlib
import itertools
import json
import logging
import os
import threading
import time
from pathlib import Path

import pytest
from redis import exceptions

from fluvial.adapters.redis import Script
from fluvial.errors import CheckpointRefused, Fenced, LostState, StoreError, StoreUnfit
from fluvial.pace import Pace
from support import fold
from support.live import Live, SlowProxy
from support.redis_server import RedisServer
from support.stores import SHARD, RedisBench, score
from support.tcp_proxy import TcpProxy

pytestmark = pytest.mark.redis


@pytest.fixture
def own_redis(redis_binary):
    server = RedisServer().start()
    yield server
    server.stop()


@pytest.fixture
def make(tmp_path, mock_kafka):
    """A service on the mock cluster: `make(redis, proxy=..., **sections)`."""
    made = []

    def make(server, /, *, proxy=None, events=1_200, **sections):
        if proxy is not None:
            redis_section = {"url": f"redis://127.0.0.1:{proxy.port}/0", "timeout_seconds": 0.4}
            sections["redis"] = {**redis_section, **sections.get("redis", {})}
        log = fold.drifting(events)
        made.append(Live(tmp_path, mock_kafka.bootstrap_servers, server, log, mock=mock_kafka, **sections))
        return made[-1]

    yield make
    for live in made:
        live.__exit__()


@pytest.fixture
def proxy(fresh_redis):
    proxy = TcpProxy(fresh_redis.port)
    yield proxy
    proxy.close()


def halves(live):
    values = live.log.values
    return values[: len(values) // 2], values[len(values) // 2 :]


# ---- the tail, or everything, is lost ----------------------------------------------------------------


def appended(redis):
    """The append-only file that grows."""
    [path] = Path(redis.directory, "appendonlydir").glob("*.incr.aof")
    return path


def test_redis_tail_lost(make, own_redis, caplog):
    """The end of the append-only file is cut under a running worker: it goes back and folds again."""
    live = make(own_redis)
    first, second = halves(live)
    last = second.pop()
    live.produce(first)
    node = live.start()
    live.until_folded(node)
    kept, sequence = appended(own_redis).stat().st_size, int(live.head("sequence"))
    live.produce(second)
    live.until_folded(node)
    own_redis.kill()
    os.truncate(appended(own_redis), kept + 7)  # in the middle of a command, as a crash leaves it
    own_redis.start()
    assert int(live.head("sequence")) == sequence
    live.produce([last])  # something to write, which finds out
    live.until_folded(node)
    assert node.metric("fluvial_incidents_total", incident="older-checkpoint") == 1
    node.stop()
    [entry] = live.entries("older-checkpoint")
    assert entry["detail"]["replayed"] == {"0": len(second)}
    assert node.view.store_errors["fenced"] == 1
    live.assert_as_undisturbed()


def test_redis_scores_lost(fresh_redis):
    """Only scores went, no checkpoint: the next write notices, since a replay alone brings them back."""
    bench = RedisBench(fresh_redis.cli, fresh_redis.url)
    store = bench.open()
    claim = store.claim(SHARD, "a")
    store.publish(claim, [(f"k{i}", score(i)) for i in range(6)])
    fresh_redis.cli.hset(bench.keys.published(SHARD), 0, 3)
    with pytest.raises(Fenced, match="lost scores that it had acknowledged"):
        store.publish(claim, [("k6", score(6))])
    again = store.claim(SHARD, "b")
    assert store.publish(again, [(f"k{i}", score(i)) for i in range(7)]) == 4
    bench.close()


@pytest.mark.kafka
def test_redis_empty(tmp_path, kafka_broker, own_redis):
    """Refused by default, whether it is found empty at a start or becomes so under the worker."""
    with Live(tmp_path, kafka_broker, own_redis, fold.drifting(600)) as live:
        live.produce(live.log.values)
        live.run_to_the_end()
        own_redis.cli.flushall()
        with pytest.raises(LostState, match=r"600.*on_lost_state"):
            live.start().join()
        assert live.head("sequence") is None
        [entry] = live.entries("refused")
        assert entry["detail"]["error"] == "LostState"
        assert "point redis.url at the right one" in entry["detail"]["why"].lower()

        live.run_to_the_end(live.with_settings(checkpoint={"on_lost_state": "fresh"}))
        [entry] = live.entries("lost-state")
        assert entry["detail"] == {"kafka": {"0": 600}, "then": "fresh"}
        live.assert_as_undisturbed()

        node = live.start()
        node.until_ready()
        own_redis.cli.flushall()
        live.produce(live.log.values[:1])
        with pytest.raises(LostState):
            node.join()


# ---- answers ----------------------------------------------------------------------------------------


def test_redis_answer_lost(make, fresh_redis, proxy):
    live = make(fresh_redis, proxy=proxy)
    first, second = halves(live)
    live.produce(first)
    node = live.start()
    live.until_folded(node)
    sequence, saved = int(live.head("sequence")), node.metric("fluvial_checkpoints_total")
    for script in ("flip", "publish"):
        proxy.swallow(Script(script).digests[0].encode(), times=3)  # longer than the client's own second try
    live.produce(second)
    live.until_folded(node)
    raised = int(live.head("sequence")) - sequence
    node.until(lambda: node.metric("fluvial_checkpoints_total") == saved + raised, "one save for each number")
    assert node.metric("fluvial_store_errors_total", error="fenced") == 0
    node.stop()
    live.assert_as_undisturbed()


def test_redis_black_hole(make, fresh_redis, proxy, caplog):
    caplog.set_level(logging.INFO)
    live = make(fresh_redis, proxy=proxy)
    first, second = halves(live)
    live.produce(first)
    node = live.start()
    live.until_folded(node)
    node.until_ready()
    proxy.go_silent()
    live.produce(second)
    assert "redis at" in node.until_not_ready("is not available")
    paused_at = node.view.batches
    turned = node.app.worker.patience.turned_at
    node.until(lambda: node.app.worker.patience.turned_at > turned, "another turn of the loop")
    node.until(lambda: node.metric("fluvial_store_errors_total", error="unavailable") >= 2, "a second try")
    assert node.get("/livez")[0] == 200
    assert node.metric("fluvial_paused") == 1
    assert node.view.batches <= paused_at + 1
    assert live.checkpointed() == {0: len(first)}
    proxy.heal()
    live.until_folded(node)
    node.until_ready()
    node.stop()
    assert "waiting: redis at" in caplog.text
    assert "the wait is over" in caplog.text
    live.assert_as_undisturbed()


# ---- full, unfit ------------------------------------------------------------------------------------


def test_redis_full(make, own_redis, caplog):
    """Scores give way first, then the last good checkpoint stays; both mend by themselves."""
    live = make(own_redis)
    first, second = halves(live)
    live.produce(first)
    node = live.start()
    live.until_folded(node)
    used = own_redis.cli.info("memory")["used_memory"]
    own_redis.cli.config_set("maxmemory", int(used * 1.2))  # over four fifths: room for checkpoints only
    time.sleep(1.1)  # the worker looks once a second
    live.produce(second[:100])
    live.until_folded(node)
    assert node.metric("fluvial_scores_refused_total") == 100
    assert node.metric("fluvial_checkpoint_failures_total") == 0

    own_redis.cli.config_set("maxmemory", used // 2)
    live.produce(second[100:])
    node.until(lambda: node.metric("fluvial_checkpoint_failures_total") >= 1, "a failure")
    assert live.checkpointed() == {0: len(first) + 100}, "the last good one is kept"
    age = node.metric("fluvial_checkpoint_age_seconds")
    node.until(lambda: node.metric("fluvial_checkpoint_age_seconds") > age, "an older checkpoint")
    own_redis.cli.config_set("maxmemory", 0)
    live.until_folded(node)
    node.stop()
    assert "the last good one is kept" in caplog.text
    folded = fold.fold(live.settings, live.log.values)
    fold.assert_same_fold(live.learner(), folded.learner)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--maxmemory-policy", "allkeys-lru"), "evicts keys .allkeys-lru; set `maxmemory-policy"),
        (("--appendonly", "no"), "not persistent .set `appendonly yes`"),
    ],
    ids=["evicting", "not persistent"],
)
def test_redis_unfit(make, redis_binary, options, says, caplog):
    server = RedisServer(*options).start()
    try:
        live = make(server, events=300)
        live.produce(live.log.values)
        with pytest.raises(StoreUnfit, match=says):
            live.start().join()
        assert server.cli.dbsize() == 0
        live.run_to_the_end(live.with_settings(redis={"allow_unfit": True}))
        assert "going on, as redis.allow_unfit says" in caplog.text
    finally:
        server.stop()


def test_redis_unfit_while_running(make, own_redis, caplog, monkeypatch):
    """Somebody changes the server under the worker: not ready until it is changed back, said once."""
    monkeypatch.setattr("fluvial.survey.EVERY_SECONDS", 0.1)
    live = make(own_redis)
    first, second = halves(live)
    live.produce(first)
    node = live.start()
    node.until_ready()
    own_redis.cli.config_set("maxmemory-policy", "allkeys-lru")
    assert "it evicts keys (allkeys-lru" in node.until_not_ready("not fit to hold checkpoints")
    assert node.metric("fluvial_incidents_total", incident="store-unfit") == 1
    live.produce(second)
    live.until_folded(node)
    own_redis.cli.config_set("maxmemory-policy", "noeviction")
    node.until_ready()
    own_redis.cli.config_set("appendonly", "no")
    assert "it is not persistent" in node.until_not_ready("not fit to hold checkpoints")
    own_redis.cli.config_set("appendonly", "yes")
    node.until_ready()
    node.stop()
    assert [e["detail"]["then"] for e in live.entries("store-unfit")] == ["not ready"] * 2
    assert len(live.entries("store-fit")) == 2
    assert caplog.text.count("it evicts keys (allkeys-lru") == 1
    live.assert_as_undisturbed()

    accepting = live.start(live.with_settings(redis={"allow_unfit": True}))
    accepting.until_ready()
    own_redis.cli.config_set("maxmemory-policy", "allkeys-lru")
    accepting.until(lambda: "it evicts keys" in accepting.get("/readyz")[1], "a warning")
    status, body = accepting.get("/readyz")
    assert (status, json.loads(body)["reasons"]) == (200, [])
    accepting.stop()


def test_redis_may_not_be_asked(make, own_redis, caplog, monkeypatch):
    """The user loses the right to INFO under the worker: said once, and nothing else."""
    monkeypatch.setattr("fluvial.survey.EVERY_SECONDS", 0.1)
    user = ("ACL", "SETUSER", "app", "reset", "on", ">s3cr/t", "~*", "&*", "+@all")
    own_redis.cli.execute_command(*user)
    live = make(own_redis, events=300, redis={"username": "app", "password": "s3cr/t"})
    live.produce(live.log.values[:200])
    node = live.start()
    node.until_ready()
    own_redis.cli.execute_command("ACL", "SETUSER", "app", "-info")
    node.until(lambda: "can no longer be told" in caplog.text, "that it cannot be told")
    live.produce(live.log.values[200:])
    live.until_folded(node)
    assert node.get("/readyz")[0] == 200
    node.stop()
    assert caplog.text.count("can no longer be told") == 1
    live.assert_as_undisturbed()
    with pytest.raises(StoreUnfit, match=r"does not say whether it is .*docs/security.md"):
        live.start().join()


def test_checkpoint_too_large(make, fresh_redis):
    """The state grows over the limit: the last good one is kept, scores and the lease go on, an alarm."""
    live = make(fresh_redis, checkpoint={"max_bytes": 120_000})
    live.produce(live.log.values)
    node = live.start()
    node.until(lambda: node.metric("fluvial_checkpoints_too_large_total") >= 2, "two attempts")
    folded = "everything folded and published"
    node.until(lambda: node.metric("fluvial_scores_published_total") >= len(live.log.events) - 1, folded)
    node.until_ready()
    assert 0 < live.checkpointed()[0] < len(live.log.events)
    kept = live.head("sequence"), live.head("blob")
    assert fresh_redis.cli.strlen(kept[1]) <= 120_000
    failures = node.metric("fluvial_checkpoint_failures_total")
    node.until(lambda: node.metric("fluvial_checkpoint_failures_total") > failures, "one more attempt")
    assert (live.head("sequence"), live.head("blob")) == kept
    node.stop()
    live.run_to_the_end(live.with_settings(checkpoint={"max_bytes": 256_000_000}))
    fold.assert_same_fold(live.learner(), fold.fold(live.settings, live.log.values).learner)


def test_redis_slow_saves(make, fresh_redis, monkeypatch):
    """A link that makes saves slow: at least fifty times as long lies between two, and events go on."""
    attempts = []
    ended = Pace.ended

    def watched(pace, started, *, saved=True):
        ended(pace, started, saved=saved)
        attempts.append((started, pace.took, sorted(pace._lately)[1]))

    monkeypatch.setattr(Pace, "ended", watched)
    slow = SlowProxy(fresh_redis.port)
    try:
        live = make(fresh_redis, proxy=slow)
        slow.delay = 0.005
        node = live.start()
        node.until_ready()
        fed, values = 0, live.log.values
        while len(attempts) < 5:
            live.produce(values[fed : fed + 20])
            fed += 20
            node.until(lambda n=fed: node.metric("fluvial_events_total") >= n, "events between two saves")
        for (before, took, lately), (after, *_) in itertools.pairwise(attempts[:5]):
            assert after - (before + took) >= 50 * lately
        assert min(lately for *_, lately in attempts[2:5]) > 0.005, "three of them were slow by then"
        slow.delay = 0.0
        live.produce(values[fed:])
        live.until_folded(node)
        node.stop()
    finally:
        slow.close()
    live.assert_as_undisturbed()


class LateProxy(TcpProxy):
    """Holds one request with `marker` back, resets its connection, and delivers it on `release`."""

    def __init__(self, port, marker):
        super().__init__(port)
        self._marker, self._held = marker, []

    @property
    def holds(self):
        return bool(self._held)

    def _up(self, client, server, armed):
        super()._up(client, _Holding(server, self), armed)

    def take(self, server, data):
        if self._held or self._marker not in data:
            return False
        self._held.append((server, data))
        return True

    def release(self):
        server, data = self._held[0]
        server.sendall(data)


class _Holding:
    def __init__(self, server, proxy):
        self._server, self._proxy = server, proxy

    def sendall(self, data):
        if self._proxy.take(self._server, data):
            raise ConnectionResetError  # ends the client's side only
        self._server.sendall(data)

    def shutdown(self, how):
        self._server.shutdown(how)


def test_redis_late_write(fresh_redis):
    """The network keeps an upload, the client repeats it and flips, and then the first one arrives."""
    late = LateProxy(fresh_redis.port, b"\r\nSET\r\n")
    bench = RedisBench(fresh_redis.cli, f"redis://127.0.0.1:{late.port}/0")
    try:
        store = bench.open(timeout_seconds=4.0)
        claim = store.claim(SHARD, "a")
        store.save(claim, 1, b"state 1", {0: 1}, [], {})
        assert late.holds
        assert set(bench.blobs().values()) == {-1}
        arrived = fresh_redis.cli.info("commandstats")["cmdstat_set"]["calls"]
        late.release()
        until = time.monotonic() + 20
        while fresh_redis.cli.info("commandstats")["cmdstat_set"]["calls"] == arrived:
            assert time.monotonic() < until, "it did not arrive"
            time.sleep(0.01)
        assert set(bench.blobs().values()) == {-1}, "no expiry on a live one"
        assert store.load(SHARD) == [b"state 1"]
    finally:
        bench.close()
        late.close()


# ---- blobs ------------------------------------------------------------------------------------------


def test_redis_blob_gone(make, fresh_redis):
    live = make(fresh_redis)
    first, second = halves(live)
    live.produce(first)
    live.run_to_the_end()
    live.produce(second)
    live.run_to_the_end()
    assert fresh_redis.cli.unlink(live.head("blob")) == 1
    node = live.run_to_the_end()
    assert node.view.incidents["previous-generation"] == 1
    assert "previous-generation" in live.kinds()
    live.assert_as_undisturbed()

    before = live.learner().lineage.current
    assert fresh_redis.cli.unlink(live.head("blob"), live.head("previous")) >= 1
    with pytest.raises(StoreError, match="neither is left"):
        live.start().join()
    assert live.checkpointed() == {0: len(live.log.events)}, "the head still says what there was"
    assert live.entries("refused")[-1]["detail"]["error"] == "CheckpointLost"
    live.run_to_the_end(live.with_settings(checkpoint={"on_refused": "replay"}))
    assert "replayed" in live.kinds()
    number = before + 1 if before > 1 else 1  # behind the versions that are kept
    fold.assert_same_fold(live.learner(), fold.fold(live.settings, live.log.values, number=number).learner)


def altered(blob):
    middle = len(blob) // 2
    return blob[:middle] + bytes([blob[middle] ^ 1]) + blob[middle + 1 :]


def test_checkpoint_altered(make, fresh_redis):
    """In the store itself: the generation before answers; with both spoilt nothing is loaded or lost."""
    live = make(fresh_redis)
    first, second = halves(live)
    for part in (first, second):
        live.produce(part)
        live.run_to_the_end()
    cli = fresh_redis.cli
    cli.set(live.head("blob"), altered(cli.get(live.head("blob"))))
    live.run_to_the_end()
    assert {"checkpoint-refused", "previous-generation"} <= set(live.kinds())
    live.assert_as_undisturbed()

    names = [live.head("blob"), live.head("previous")]
    for name in names:
        cli.set(name, altered(cli.get(name)))
    with pytest.raises(CheckpointRefused, match="signature"):
        live.start().join()
    assert [live.head("blob"), live.head("previous")] == names


def test_checkpoint_of_another(make, fresh_redis):
    """Correctly signed, of another service: refused by what its header says, never taken for ours."""
    live, other = make(fresh_redis, events=300), make(fresh_redis, events=300)
    for each in (live, other):
        each.produce(each.log.values)
        each.run_to_the_end()
    cli = fresh_redis.cli
    for name in (live.head("blob"), live.head("previous")):
        cli.set(name, cli.get(other.head("blob")))
    with pytest.raises(CheckpointRefused, match="service"):
        live.start().join()


# ---- refusals that pass -----------------------------------------------------------------------------


@contextlib.contextmanager
def replica(redis):
    redis.cli.execute_command("REPLICAOF", "127.0.0.1", "1")
    try:
        yield
    finally:
        redis.cli.execute_command("REPLICAOF", "NO", "ONE")


@contextlib.contextmanager
def without_replicas(redis):
    redis.cli.config_set("min-replicas-to-write", 1)
    try:
        yield
    finally:
        redis.cli.config_set("min-replicas-to-write", 0)


@contextlib.contextmanager
def unable_to_write_its_files(redis):
    """Its last snapshot failed, and it is told to refuse writes then."""
    cli, dump = redis.cli, Path(redis.directory, "dump.rdb")

    def snapshot(wanted):
        cli.bgsave()
        while cli.info("persistence")["rdb_last_bgsave_status"] != wanted:
            time.sleep(0.01)

    dump.unlink(missing_ok=True)
    dump.mkdir()
    cli.config_set("save", "3600 1000000")
    try:
        snapshot("err")
        yield
    finally:
        cli.config_set("save", "")
        dump.rmdir()
        snapshot("ok")


@contextlib.contextmanager
def busy(redis):
    """It runs somebody's endless script, and answers everybody else that it does."""
    limit = redis.cli.config_get("busy-reply-threshold")["busy-reply-threshold"]
    redis.cli.config_set("busy-reply-threshold", 20)

    def spin():
        with contextlib.suppress(exceptions.RedisError):
            redis.cli.eval("while true do end", 0)

    thread = threading.Thread(target=spin)
    thread.start()
    try:
        yield
    finally:
        redis.cli.script_kill()
        thread.join()
        redis.cli.config_set("busy-reply-threshold", limit)


@pytest.mark.parametrize(
    ("state", "says"),
    [
        (replica, "read only|READONLY|MASTERDOWN"),
        (without_replicas, "NOREPLICAS"),
        (unable_to_write_its_files, "MISCONF"),
        (busy, "BUSY"),
    ],
)
def test_redis_refuses_for_a_while(make, fresh_redis, state, says):
    """Waited out with its name in /readyz, and never taken for a newer owner."""
    live = make(fresh_redis)
    first, second = halves(live)
    live.produce(first)
    node = live.start()
    live.until_folded(node)
    with state(fresh_redis):
        live.produce(second)
        said = node.until_not_ready("is not available")
        assert any(word in said for word in says.split("|")), said
        if state is not busy:  # which answers nobody
            assert live.checkpointed() == {0: len(first)}
    live.until_folded(node)
    assert node.metric("fluvial_store_errors_total", error="fenced") == 0
    node.stop()
    live.assert_as_undisturbed()


def test_redis_forgets_the_scripts(make, fresh_redis):
    """NOSCRIPT, as after a restart or a failover: they are sent again, and it counts as no failure."""
    live = make(fresh_redis)
    first, second = halves(live)
    live.produce(first)
    node = live.start()
    live.until_folded(node)
    for part in (second[:100], second[100:]):
        fresh_redis.cli.script_flush()
        live.produce(part)
        live.until_folded(node)
    for error in ("fenced", "unavailable", "other"):
        assert node.metric("fluvial_store_errors_total", error=error) == 0
    assert node.app._store.store_errors == 0
    node.stop()
    live.assert_as_undisturbed()


def test_redis_loading(make, redis_binary):
    """A server that reads its files for a while after its restart."""
    server = RedisServer().start()
    try:
        live = make(server)
        first, second = halves(live)
        live.produce(first)
        node = live.start()
        live.until_folded(node)
        server.cli.mset({f"filler-{i}": b"x" for i in range(1_500)})
        server.kill_and_load_slowly()
        live.produce(second)
        server.start()
        live.until_folded(node)
        assert node.metric("fluvial_store_errors_total", error="fenced") == 0
        assert node.metric("fluvial_store_errors_total", error="unavailable") >= 1
        node.stop()
        live.assert_as_undisturbed()
    finally:
        server.stop()


def test_redis_loading_at_the_start(make, redis_binary, caplog):
    """A worker that starts while the server reads its files waits, and does not call it unfit."""
    server = RedisServer().start()
    try:
        live = make(server)
        live.produce(live.log.values)
        server.cli.mset({f"filler-{i}": b"x" for i in range(1_500)})
        server.kill_and_load_slowly()
        server.launch()
        while server.loading is None:
            time.sleep(0.02)
        node = live.start()
        live.until_folded(node)
        node.stop()
        assert "it is loading its data" in caplog.text
        live.assert_as_undisturbed()
    finally:
        server.stop()
