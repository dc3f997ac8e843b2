"""Faults of the consumer group under whole workers of partition scope: mock cluster, real Kafka, real Redis.

Each test is named after its row in docs/faults.md.
"""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from confluent_kafka import Consumer, KafkaError, TopicPartition
from confluent_kafka.admin import AdminClient

from fluvial.adapters.kafka import client
from fluvial.adapters.kafka.group import KafkaMember
from fluvial.errors import SourceFatal
from fluvial.partition_scope import REJOINS, shard_of
from support import fold
from support.live import Live

pytestmark = [pytest.mark.redis, pytest.mark.timeout(180)]
PARTITIONS = 3
HEARTBEAT, OFFSET_COMMIT = 12, 8
"""The requests' numbers in Kafka's protocol."""
real = pytest.mark.kafka


@pytest.fixture
def make(request, tmp_path, fresh_redis):
    """A service of partition scope: `make("mock" or "real", **kafka)`."""
    made = []

    def make(where, events=3_000, dead_letters=None, **kafka):
        mock = request.getfixturevalue("mock_kafka") if where == "mock" else None
        bootstrap = mock.bootstrap_servers if mock else request.getfixturevalue("kafka_broker")
        # A real broker takes no session below six seconds.
        dynamic = {"scope": "partition", "instance_id": "", "session_timeout_ms": 1_000 if mock else 6_000}
        log = fold.drifting(events)
        options = {"partitions": PARTITIONS, "mock": mock, "kafka": {**dynamic, **kafka}}
        options |= {"dead_letters": dead_letters} if dead_letters else {}
        made.append(Live(tmp_path, bootstrap, fresh_redis, log, **options))
        return made[-1]

    yield make
    for live in made:
        live.__exit__()


def held(node):
    return {shard.shard for shard in node.view.shards}


def until_shared(*nodes):
    """Until everybody has an equal share, and together they have all."""
    every = {shard_of(p) for p in range(PARTITIONS)}

    def shared():
        shares = [held(node) for node in nodes]
        fair = max(map(len, shares)) <= -(-PARTITIONS // len(nodes))
        return fair and sum(map(len, shares)) == PARTITIONS and set().union(*shares) == every

    nodes[0].until(shared, f"{len(nodes)} shares")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("where", "how"),
    [
        ("mock", {"assignor": "range"}),
        ("mock", {"assignor": "cooperative-sticky"}),
        pytest.param("real", {"assignor": "range"}, marks=real),
        pytest.param("real", {"assignor": "cooperative-sticky"}, marks=real),
        pytest.param("real", {"protocol": "consumer"}, marks=real),
    ],
    ids=lambda value: value if isinstance(value, str) else next(iter(value.values())),
)
def test_group_rebalance(make, where, how):
    """1, 2, 3, 1 members: every offset is learned once, and models move with their partitions."""
    live = make(where, **how)
    live.spread(0, 600)
    one = live.start()
    live.until_folded(one)
    two = live.start()
    live.spread(600, 1_200)
    until_shared(one, two)
    live.until_folded(one)
    three = live.start()
    live.spread(1_200, 1_800)
    until_shared(one, two, three)
    live.until_folded(one)
    live.spread(1_800, 2_400)
    two.stop()
    three.stop()
    until_shared(one)
    live.spread(2_400, 3_000)
    live.until_folded(one)
    one.stop()
    live.assert_each_as_undisturbed(3_000)


@pytest.mark.slow
@pytest.mark.parametrize("where", ["mock", pytest.param("real", marks=real)])
def test_group_owner_stopped(make, where):
    """SIGSTOP past the session: the other has its partitions; on SIGCONT it drops them and rejoins."""
    live = make(where)
    leases = [live.keys.lease(shard_of(p)) for p in range(PARTITIONS)]

    def owners():
        held = [value.decode().split(":")[1] for value in live.redis.cli.mget(leases) if value]
        return {int(pid) for pid in held} if len(held) == PARTITIONS else set()

    live.spread(0, 600)
    one, two = live.launch(1), live.launch(2)
    live.until(lambda: owners() == {one.pid, two.pid}, "both have a share", 60)
    live.until(lambda: sum(live.checkpointed().values()) == 600, "the fold")
    live.spread(600, 1_200)
    os.kill(one.pid, signal.SIGSTOP)  # with something in its hands
    try:
        live.spread(1_200, 1_800)
        live.until(lambda: sum(live.checkpointed().values()) == 1_800, "the fold by the other alone", 60)
        assert owners() == {two.pid}
    finally:
        os.kill(one.pid, signal.SIGCONT)
    live.until(lambda: owners() == {one.pid, two.pid}, "it rejoins", 60)
    live.spread(1_800, 3_000)
    live.until(lambda: sum(live.checkpointed().values()) == 3_000, "the rest")
    assert (one.poll(), two.poll()) == (None, None)
    live.assert_each_as_undisturbed(3_000)


def stalling(node):
    """The node's next batch stays in its hands until it is let go."""
    stalled, go = threading.Event(), threading.Event()
    source = node.app._source
    poll = source.poll

    def slow(limit, seconds):
        messages = poll(limit, seconds)
        if messages and not stalled.is_set():
            stalled.set()
            go.wait(60)
        return messages

    source.poll = slow
    return stalled, go


@pytest.mark.slow
@pytest.mark.parametrize("where", ["mock", pytest.param("real", marks=real)])
def test_group_poll_interval_exceeded(make, where):
    """A model slower than max.poll.interval.ms: the others take over, its batch is written nowhere."""
    interval = 2_000 if where == "mock" else 6_000
    live = make(where, client={"max.poll.interval.ms": interval})
    live.spread(0, 600)
    one = live.start()
    live.until_folded(one)
    stalled, go = stalling(one)
    live.spread(600, 900)
    assert stalled.wait(30)
    two = live.start()
    two.until(lambda: len(held(two)) == PARTITIONS, "all partitions", 60)
    live.spread(900, 1_500)
    live.until_folded(two)
    go.set()
    until_shared(two, one)
    live.spread(1_500, 2_100)
    live.until_folded(two)
    one.stop()
    two.stop()
    live.assert_each_as_undisturbed(2_100)


@pytest.mark.parametrize("where", ["mock"])
def test_group_revoked_after_lost(make, where):
    """A younger claim exists when the revoke comes: the last checkpoint is fenced, and nothing goes back."""
    live = make(where)
    live.spread(0, 600)
    one = live.start()
    live.until_folded(one)
    source, poll = one.app._source, one.app._source.poll
    taken = []

    def claimed_first(limit, seconds):
        messages = poll(limit, seconds)
        if messages and not taken:  # folded after this, and not in a checkpoint when the revoke comes
            store = live.store()
            taken.extend(store.claim(shard_of(p), f"rival {p}").epoch for p in range(PARTITIONS))
            store.close()
        return messages

    source.poll = claimed_first
    live.spread(600, 900)
    one.until(lambda: taken, "the rival's claims")
    two = live.start()
    until_shared(one, two)
    live.spread(900, 1_500)
    live.until_folded(one)
    assert one.view.store_errors["fenced"] >= 1
    one.stop()
    two.stop()
    live.assert_each_as_undisturbed(1_500)


@pytest.mark.kafka
def test_group_deleted(make, kafka_broker):
    """Generations begin at one again: claims of the dead expire, and the next ones succeed by themselves."""
    live = make("real")
    live.spread(0, 600)
    live.run_to_the_end()
    for partition in range(PARTITIONS):  # as a killed worker of a late generation leaves them
        live.redis.cli.hset(live.keys.head(shard_of(partition)), "generation", 99)
        live.redis.cli.set(live.keys.lease(shard_of(partition)), "somebody dead", px=2_500)
    admin = AdminClient({"bootstrap.servers": kafka_broker})
    [gone] = admin.delete_consumer_groups([live.settings.group]).values()
    gone.result(20)
    live.spread(600, 1_200)
    node = live.start()
    live.until_folded(node)
    node.stop()
    live.assert_each_as_undisturbed(1_200)


@pytest.mark.kafka
def test_group_changes_protocol(make):
    """From classic to the new protocol, where generations are counted apart."""
    live = make("real")
    for number, protocol in enumerate(("classic", "consumer")):
        live.spread(600 * number, 600 * (number + 1))
        live.run_to_the_end(live.with_settings(kafka={"protocol": protocol}))
    live.assert_each_as_undisturbed(1_200)


@pytest.mark.slow
@pytest.mark.kafka
def test_group_one_name_twice(make):
    """Two live static members of one name throw each other out, a few times; one ends and says why."""
    live = make("real", instance_id="the-only-one")
    live.spread(0, 600)
    one = live.start()
    live.until_folded(one)
    two = live.start()
    live.until(lambda: not (one.thread.is_alive() and two.thread.is_alive()), "an end", 120)
    loser, winner = (two, one) if one.thread.is_alive() else (one, two)
    with pytest.raises(SourceFatal, match=r"two live workers have one kafka\.instance_id"):
        loser.join()
    live.spread(600, 1_200)
    live.until_folded(winner)
    assert loser.view.incidents.get("member-fenced", 0) <= REJOINS
    assert "member-fenced" in live.kinds()
    winner.stop()
    live.assert_each_as_undisturbed(1_200)


DIES_HANDING_OVER = """
import os, sys
from confluent_kafka import Consumer
bootstrap, group, name, topic, dies = sys.argv[1:]
strategy = {"partition.assignment.strategy": "cooperative-sticky", "session.timeout.ms": 10_000}
client = Consumer({"bootstrap.servers": bootstrap, "group.id": group, "group.instance.id": name, **strategy})
def assigned(_, partitions):
    client.incremental_assign(partitions)
    print(*(p.partition for p in partitions), flush=True)
def revoked(*_):
    os._exit(9) if dies == "dies" else None
client.subscribe([topic], on_assign=assigned, on_revoke=revoked)
while True:
    client.poll(0.1)
"""


@pytest.mark.kafka
def test_group_partition_of_nobody(make, monkeypatch):
    """A static member is killed while it hands a partition over and returns: Kafka leaves that to nobody."""
    monkeypatch.setattr("fluvial.survey.EVERY_SECONDS", 0.5)
    monkeypatch.setattr("fluvial.survey.ORPHAN_SECONDS", 4.0)
    live = make("real", instance_id="ours")
    store = live.store()

    def other(how):
        said = live.directory / how
        command = [sys.executable, "-c", DIES_HANDING_OVER, live.bootstrap, live.settings.group, "theirs"]
        with said.open("w") as out:
            live.processes.append(subprocess.Popen([*command, live.topic, how], stdout=out))
        live.until(lambda: "\n" in said.read_text(), "its share")
        return live.processes[-1], said.read_text().splitlines()[0].split()

    dying, had = other("dies")
    assert sorted(had) == ["0", "1", "2"]
    live.spread(0, 600)
    one = live.start()
    assert dying.wait(30) == 9
    back, has = other("stays")
    assert len(has) == 2
    [orphan] = {"0", "1", "2"} - set(has)
    for partition in has:  # as a worker would hold them
        store.lease(shard_of(int(partition)), "theirs", 120_000)
    one.until(lambda: one.view.incidents.get("partition-unowned"), "somebody notices")
    one.until(lambda: live.checkpointed()[int(orphan)] == 200, "it is learned from")
    [entry] = live.entries("partition-unowned")
    assert entry["detail"]["partitions"] == [int(orphan)]
    back.kill()
    for partition in has:
        store.unlease(shard_of(int(partition)), "theirs")
    store.close()
    live.until_folded(one)
    one.stop()
    live.assert_each_as_undisturbed(600)


@pytest.mark.kafka
def test_group_name_not_released(make, monkeypatch):
    """With the new protocol it is the younger one that is refused: it waits, tries again, and ends."""
    monkeypatch.setattr(client, "FENCED", dict.fromkeys(client.FENCED, 0.1))
    live = make("real", instance_id="the-only-one", protocol="consumer")
    live.spread(0, 600)
    one = live.start()
    live.until_folded(one)
    two = live.start()
    with pytest.raises(SourceFatal, match="still used by another member"):
        two.join()
    assert len(two.app.worker.scope._refused) == REJOINS + 1
    live.spread(600, 1_200)
    live.until_folded(one)
    one.stop()
    live.assert_each_as_undisturbed(1_200)


def a_visitor(live):
    """Somebody of the same name joins, and is gone: our member is fenced, and no rival is there."""
    names = {"group.id": live.settings.group, "group.instance.id": live.settings.kafka.instance_id}
    strategy = {"partition.assignment.strategy": live.settings.kafka.assignor, "log_level": 0}
    joined = threading.Event()
    consumer = Consumer({"bootstrap.servers": live.bootstrap, **names, **strategy})
    consumer.subscribe([live.topic], on_assign=lambda *_: joined.set())
    until = time.monotonic() + 30
    while not joined.is_set():
        assert time.monotonic() < until
        consumer.poll(0.1)
    consumer.close()


@pytest.mark.parametrize(
    ("where", "how", "assignor"),
    [
        ("mock", HEARTBEAT, "cooperative-sticky"),
        ("mock", HEARTBEAT, "range"),
        ("mock", OFFSET_COMMIT, "cooperative-sticky"),
        pytest.param("real", "a visitor", "cooperative-sticky", marks=real),
        pytest.param("real", "a visitor", "range", marks=real),
    ],
)
def test_group_fenced_by_itself(make, request, where, how, assignor):
    """The broker takes a live member for its own rival: it leaves, joins anew, and goes on."""
    live = make(where, instance_id="the-only-one", assignor=assignor)
    live.spread(0, 600)
    one = live.start()
    live.until_folded(one)
    live.spread(600, 900)
    if where == "mock":
        request.getfixturevalue("mock_kafka").inject(how, KafkaError.FENCED_INSTANCE_ID)
    else:
        a_visitor(live)
    one.until(lambda: one.view.incidents.get("member-fenced"), "a new membership")
    one.until_ready()
    live.spread(900, 1_500)
    live.until_folded(one)
    assert one.metric("fluvial_incidents_total", incident="member-fenced") == 1
    [entry] = live.entries("member-fenced")
    assert "Static consumer fenced" in entry["detail"]["why"]
    one.stop()
    live.assert_each_as_undisturbed(1_500)


def test_group_fenced_by_itself_and_close_hangs(make, mock_kafka, monkeypatch):
    """The refused client does not close: it is left behind after a bound, and nothing of it is heard."""
    monkeypatch.setattr("fluvial.partition_scope.CLOSE_SECONDS", 0.3)
    live = make("mock", instance_id="the-only-one")
    live.spread(0, 600)
    one = live.start()
    live.until_folded(one)
    hanging = Hanging(one.app._source._consumer)
    one.app._source._consumer = hanging
    mock_kafka.inject(HEARTBEAT, KafkaError.FENCED_INSTANCE_ID)
    one.until(lambda: one.view.incidents.get("member-fenced"), "a new membership")
    assert hanging.closing.is_set()
    live.spread(600, 1_200)
    live.until_folded(one)
    every = [TopicPartition(live.topic, p) for p in range(PARTITIONS)]
    for late in (one.app._source._on_revoke, one.app._source._on_lost, one.app._source._on_assign):
        late(hanging._consumer, every)
    hanging.go.set()
    hanging.closed.wait(20)
    live.spread(1_200, 1_500)
    live.until_folded(one)
    one.stop()
    live.assert_each_as_undisturbed(1_500)


class Hanging:
    """A consumer whose close waits for leave to end."""

    def __init__(self, consumer):
        self._consumer = consumer
        self.closing, self.go, self.closed = threading.Event(), threading.Event(), threading.Event()

    def __getattr__(self, name):
        return getattr(self._consumer, name)

    def close(self):
        self.closing.set()
        self.go.wait(60)
        self._consumer.close()
        self.closed.set()


@pytest.mark.parametrize("assignor", ["cooperative-sticky", "range"])
@pytest.mark.parametrize("where", ["mock", pytest.param("real", marks=real)])
def test_group_one_partition_flooded(make, where, assignor):
    """Only the flooded partition stands still; more of it is read when a person says so, and all of it."""
    live = make(where, assignor=assignor, dead_letters={"max_run": 20})
    live.spread(0, 300)
    live.produce([b"{broken"] * 30, 1)
    live.spread(300, 600)
    one = live.start()
    tripped_at = {0: 200, 1: 120, 2: 200}
    one.until(lambda: live.checkpointed() == tripped_at, "the others' ends")
    said = one.until_not_ready("shard partition-1: paused by the flood breaker")
    assert "20 events in a row" in said
    assert one.metric("fluvial_flood_breaker_tripped") == 1
    assert one.metric("fluvial_flood_breaker_tripped", shard="partition-1") == 1
    assert one.metric("fluvial_paused") == 0
    assert sorted(t.partition for t in one.app._source._consumer.assignment()) == [0, 2]
    live.spread(600, 900)
    one.until(lambda: live.checkpointed() == {0: 300, 1: 120, 2: 300}, "more of the others")
    store = live.store()
    assert store.resume(shard_of(1), store.tripped()[shard_of(1)])
    store.close()
    live.until_folded(one)
    one.until_ready()
    assert one.metric("fluvial_flood_breaker_tripped") == 0
    one.stop()
    ledgers = [live.learner_of(p).ledger.partitions[p] for p in range(PARTITIONS)]
    assert [(ledger.dead, ledger.learned) for ledger in ledgers] == [(0, 300), (30, 300), (0, 300)]


def test_group_error_in_callback(make, monkeypatch):
    """Whatever goes wrong in a callback, no record is read from where Kafka's commits are."""
    live = make("mock")
    live.spread(0, 600)

    def broken(*_):
        raise LookupError("a bug in a callback")

    with monkeypatch.context() as patch:
        patch.setattr(KafkaMember, "_on_assign", broken)
        node = live.start()
        with pytest.raises(LookupError, match="a bug in a callback"):
            node.join()
    assert node.view.batches == 0
    live.run_to_the_end()
    live.assert_each_as_undisturbed(600)


@pytest.mark.slow
@pytest.mark.kafka
def test_group_static_member_returns(make):
    """A killed static member that comes back gets its partitions without a rebalance."""
    live = make("real", instance_id="auto")
    live.spread(0, 600)
    first = live.launch(1)
    live.until(lambda: live.checkpointed() == live.ends(), "the fold", 60)
    first.kill()
    first.wait()
    live.spread(600, 1_200)
    started = time.monotonic()
    node = live.start()
    live.until_folded(node)
    print(f"learned again {time.monotonic() - started:.1f} s after the start")
    node.stop()
    live.assert_each_as_undisturbed(1_200)
