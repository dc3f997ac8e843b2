"""Faults of processes and of ownership: killed, stopped, slow, replaced; with real Kafka and Redis.

Each test is named after its row in docs/faults.md.
"""

import json
import os
import random
import signal
import threading
import time

import pytest

from fluvial.adapters.redis import Script
from fluvial.cli import main
from fluvial.errors import Fenced
from support import fold
from support.kafka_broker import read_topic
from support.live import Live, SlowProxy
from support.redis_server import RedisServer
from support.stores import SHARD, RedisBench, score
from support.tcp_proxy import TcpProxy

pytestmark = [pytest.mark.redis, pytest.mark.timeout(180)]


@pytest.fixture(params=["mock", pytest.param("real", marks=pytest.mark.kafka)])
def kafka(request):
    """Bootstrap servers, and the mock cluster where it is that."""
    if request.param == "real":
        return request.getfixturevalue("kafka_broker"), None
    cluster = request.getfixturevalue("mock_kafka")
    return cluster.bootstrap_servers, cluster


@pytest.fixture
def make(tmp_path, fresh_redis):
    """A service: `make(kafka, proxy=..., log=..., **sections)`."""
    made = []

    def make(where, /, *, proxy=None, log=None, **sections):
        bootstrap, mock = where
        if proxy is not None:
            redis_section = {"url": f"redis://127.0.0.1:{proxy.port}/0", "timeout_seconds": 0.4}
            sections["redis"] = {**redis_section, **sections.get("redis", {})}
        log = log or fold.drifting(1_200)
        made.append(Live(tmp_path, bootstrap, fresh_redis, log, mock=mock, **sections))
        return made[-1]

    yield make
    for live in made:
        live.__exit__()


@pytest.fixture
def proxy(fresh_redis):
    proxy = SlowProxy(fresh_redis.port)
    yield proxy
    proxy.close()


def halves(live):
    values = live.log.values
    return values[: len(values) // 2], values[len(values) // 2 :]


def owner_of(live):
    """The process that holds the lease."""
    held = live.redis.cli.get(live.keys.lease(SHARD))
    pid = int(held.decode().split(":")[1]) if held else None
    return next((p for p in live.processes if p.pid == pid and p.poll() is None), None)


# ---- killed, stopped ----------------------------------------------------------------------------------


@pytest.mark.kafka
@pytest.mark.slow
@pytest.mark.parametrize("partitions", [1, 3])
def test_worker_killed(make, kafka_broker, partitions):
    """Three workers, the active one killed again and again at a random place: nothing lost, nothing twice."""
    rng = random.Random(7)
    live = make((kafka_broker, None), log=fold.drifting(3_000), partitions=partitions)
    for partition in range(partitions):
        live.produce(live.log.values[partition::partitions][:400], partition)
    for seed in range(3):
        live.launch(seed + 1)
    for kill in range(3):
        before = sum(live.checkpointed().values())
        for partition in range(partitions):
            part = live.log.values[partition::partitions]
            live.produce(part[400:][kill * len(part) // 8 :][: len(part) // 8], partition)
        live.until(lambda was=before: sum(live.checkpointed().values()) > was, "a checkpoint", 60)
        time.sleep(rng.uniform(0.0, 0.05))
        live.until(lambda: owner_of(live) is not None, "an owner", 60)
        owner_of(live).kill()
        live.launch(rng.randrange(1, 2**32))
    ends = live.ends()
    live.until(lambda: live.checkpointed() == ends, f"a checkpoint of {ends}", 90)
    learner = live.learner()
    for partition, entry in learner.ledger.partitions.items():
        assert (entry.learned, entry.next, entry.balanced()) == (ends[partition], ends[partition], True)
    assert learner.events == sum(ends.values())
    epochs = [entry["detail"]["epoch"] for entry in live.entries("claimed")]
    assert epochs == sorted(set(epochs))
    assert len(epochs) >= 3
    if partitions == 1:
        values = live.log.values
        size = len(values) // 8
        live.assert_as_undisturbed(values[: 400 + 3 * size])


def test_letter_twice(make, kafka, proxy, capsysbinary):
    """Killed with a dead letter out and the checkpoint not: the topic has it twice, a person sees it once."""
    live = make(kafka, proxy=proxy)
    first, second = halves(live)
    live.produce(first)
    process = live.launch(1)
    live.until(lambda: live.checkpointed() == {0: len(first)}, "the fold")
    proxy.trip(Script("flip").digests[0].encode(), process.kill, answered=False)
    live.produce([b"not json"])
    process.wait(60)
    letters = live.settings.dead_letter_topic
    assert len(read_topic(live.bootstrap, letters)) == 1
    assert live.checkpointed() == {0: len(first)}
    live.produce(second)
    live.launch(2)
    live.until(lambda: live.checkpointed() == live.ends(), "the fold again")
    sent = [dict(letter.headers()) for letter in read_topic(live.bootstrap, letters)]
    assert [headers["fluvial.id"] for headers in sent] == [sent[0]["fluvial.id"]] * 2
    capsysbinary.readouterr()
    config = ["--config", str(live.config)]
    assert main(["dead-letters", "list", "--json", *config]) == 0
    (row,) = [json.loads(line) for line in capsysbinary.readouterr().out.splitlines()]
    assert row["offset"] == len(first)
    assert main(["dead-letters", "redrive", row["id"], "--yes", *config]) == 0
    assert live.ends() == {0: len(live.log.events) + 2}, "one was written back"
    live.until(lambda: live.checkpointed() == live.ends(), "its fold")
    assert live.learner().ledger.partitions[0].dead == 2
    assert live.learner().events == len(live.log.events)


@pytest.mark.slow
def test_owner_stopped(make, kafka):
    """SIGSTOP past the lease: another takes over; what the first still wants to write is fenced."""
    live = make(kafka)
    first, second = halves(live)
    live.produce(first)
    live.launch(1)
    live.until(lambda: live.checkpointed() == {0: len(first)}, "the fold")
    one = owner_of(live)
    live.launch(2)
    live.until(lambda: "standing by" in live.said(), "a standby")
    os.kill(one.pid, signal.SIGSTOP)
    live.until(lambda: owner_of(live) not in {None, one}, "another owner")
    live.produce(second)
    live.until(lambda: live.checkpointed() == {0: len(live.log.events)}, "the fold by the other")
    two = owner_of(live)
    os.kill(one.pid, signal.SIGCONT)
    live.until(lambda: "dropped: " in live.said(), "the drop")
    assert owner_of(live) is two
    assert one.poll() is None, "it stands by"
    live.assert_as_undisturbed()


def test_owner_wakes(make, kafka):
    """The same within one process: a batch is in its hands while another claims; nothing of it is written."""
    live = make(kafka)
    first, second = halves(live)
    stalled, go = threading.Event(), threading.Event()
    one = live.start()
    one.until_ready()
    poll = one.app._source.poll

    def stalling(limit, seconds):
        messages = poll(limit, seconds)
        if messages and not stalled.is_set():
            stalled.set()
            go.wait(30)
        return messages

    one.app._source.poll = stalling
    live.produce(first)
    assert stalled.wait(30)
    two = live.start()
    live.until_folded(two)
    live.produce(second)
    go.set()
    live.until_folded(two)
    one.until(lambda: one.view.store_errors["fenced"] >= 1, "the fence")
    one.until_not_ready("standing by")
    one.stop()
    two.stop()
    live.assert_as_undisturbed()


@pytest.mark.slow
def test_stopped_while_redis_is_slow(make, mock_kafka, proxy):
    """SIGTERM in the middle of the work: status 0 within the grace, and all that was scored is kept."""
    live = make((mock_kafka.bootstrap_servers, mock_kafka), log=fold.drifting(6_000), proxy=proxy)
    live.produce(live.log.values)
    proxy.delay = 0.05
    process = live.launch(1)
    live.until(lambda: live.published().get(0, 0) >= 1_000, "some scores")
    process.send_signal(signal.SIGTERM)
    assert process.wait(live.settings.worker.grace_seconds) == 0
    assert live.checkpointed()[0] == live.published()[0] >= 1_000
    assert live.redis.cli.get(live.keys.lease(SHARD)) is None, "the lease was given back"
    proxy.delay = 0.0
    live.run_to_the_end()
    live.assert_as_undisturbed()


# ---- claiming and loading --------------------------------------------------------------------------


def test_redis_away_while_claiming(make, kafka, proxy):
    live = make(kafka, proxy=proxy)
    first, second = halves(live)
    live.produce(first)
    proxy.go_silent()
    node = live.start()
    assert "redis at" in node.until_not_ready("is not available")
    turned = node.app.worker.patience.turned_at
    node.until(lambda: node.app.worker.patience.turned_at > turned, "another turn of the loop")
    assert node.view.batches == 0
    proxy.heal()
    live.until_folded(node)
    node.stop()

    # The claim is made, its checkpoint is not coming.
    live.produce(second)
    proxy.swallow(b":blob:", times=6)
    again = live.start()
    again.until_not_ready("is not available")
    assert again.view.batches == 0
    live.until_folded(again)
    again.stop()
    live.assert_as_undisturbed()


# ---- who owns it -------------------------------------------------------------------------------------


def test_epoch_reached_twice(redis_binary):
    """A failover to a replica that had not heard of the newest claim: two claimants with one epoch."""
    primary, replica = RedisServer().start(), RedisServer().start()
    proxy = TcpProxy(primary.port)
    bench = RedisBench(primary.cli, f"redis://127.0.0.1:{proxy.port}/0")
    try:
        first = bench.open().claim(SHARD, "first")
        replica.cli.execute_command("REPLICAOF", "127.0.0.1", primary.port)
        until = time.monotonic() + 20
        while replica.cli.info("replication")["master_link_status"] != "up":
            assert time.monotonic() < until
            time.sleep(0.02)
        replica.cli.execute_command("REPLICAOF", "NO", "ONE")
        older, newer = bench.open(), bench.open()
        lost = older.claim(SHARD, "older")
        primary.kill()
        proxy._target = ("127.0.0.1", replica.port)
        proxy.reset()
        claim = newer.claim(SHARD, "newer")
        assert first.epoch + 1 == lost.epoch == claim.epoch
        for write in (
            lambda: older.save(lost, 1, b"x", {0: 1}, [], {}),
            lambda: older.publish(lost, [("k", score(0))]),
        ):
            with pytest.raises(Fenced):
                write()
        newer.save(claim, 1, b"mine", {0: 1}, [], {})
        assert newer.load(SHARD) == [b"mine"]
    finally:
        bench.close()
        proxy.close()
        primary.stop()
        replica.stop()


def test_failover_lost_checkpoint(make, mock_kafka, redis_binary):
    """A failover to a replica that lacks the newest checkpoints, under a running worker."""
    primary, replica = RedisServer().start(), RedisServer().start()
    proxy = TcpProxy(primary.port)
    try:
        live = make((mock_kafka.bootstrap_servers, mock_kafka), proxy=proxy)
        live.redis = primary
        first, second = halves(live)
        last = second.pop()
        live.produce(first)
        replica.cli.execute_command("REPLICAOF", "127.0.0.1", primary.port)
        node = live.start()
        live.until_folded(node)
        node.until(lambda: replica.cli.info("replication")["master_link_status"] == "up", "the replica")
        sequence = live.head("sequence")
        head = live.keys.head(SHARD)
        node.until(lambda: (replica.cli.hget(head, "sequence") or b"").decode() == sequence, "its copy")
        replica.cli.execute_command("REPLICAOF", "NO", "ONE")
        live.produce(second)
        live.until_folded(node)
        primary.kill()
        proxy._target = ("127.0.0.1", replica.port)
        proxy.reset()
        live.redis = replica
        live.produce([last])
        live.until_folded(node)
        assert node.metric("fluvial_incidents_total", incident="older-checkpoint") == 1
        node.stop()
        [entry] = live.entries("older-checkpoint")
        assert entry["detail"]["replayed"] == {"0": len(second)}
        live.assert_as_undisturbed()
    finally:
        proxy.close()
        primary.stop()
        replica.stop()
