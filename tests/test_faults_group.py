"""Faults of the consumer group under whole workers of partition scope: mock cluster, real Kafka, real Redis.

Each test is named after its row in docs/faults.md.
"""

import os
import signal
import threading
import time

import pytest
from confluent_kafka import KafkaError
from confluent_kafka.admin import AdminClient

from fluvial.adapters.kafka.group import KafkaMember
from fluvial.errors import SourceFatal
from fluvial.partition_scope import shard_of
from support import fold
from support.live import Live

pytestmark = [pytest.mark.redis, pytest.mark.timeout(180)]
PARTITIONS = 3
HEARTBEAT = 12
"""Kafka's number for that request."""
real = pytest.mark.kafka


@pytest.fixture
def make(request, tmp_path, fresh_redis):
    """A service of partition scope: `make("mock" or "real", **kafka)`."""
    made = []

    def make(where, events=3_000, **kafka):
        mock = request.getfixturevalue("mock_kafka") if where == "mock" else None
        bootstrap = mock.bootstrap_servers if mock else request.getfixturevalue("kafka_broker")
        # A real broker takes no session below six seconds.
        dynamic = {"scope": "partition", "instance_id": "", "session_timeout_ms": 1_000 if mock else 6_000}
        log = fold.drifting(events)
        options = {"partitions": PARTITIONS, "mock": mock, "kafka": {**dynamic, **kafka}}
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


@pytest.mark.kafka
def test_group_one_name_twice(make):
    """Two static members of one name: the older one ends and says why, the younger one folds on."""
    live = make("real", instance_id="the-only-one")
    live.spread(0, 600)
    one = live.start()
    live.until_folded(one)
    two = live.start()
    with pytest.raises(SourceFatal):
        one.join()
    live.spread(600, 1_200)
    live.until_folded(two)
    two.stop()
    live.assert_each_as_undisturbed(1_200)


def test_group_fatal_error(make, mock_kafka):
    """What the brokers answer a member whose name another one took: it ends, and the next one goes on."""
    live = make("mock", instance_id="the-only-one")
    live.spread(0, 600)
    node = live.start()
    live.until_folded(node)
    mock_kafka.inject(HEARTBEAT, KafkaError.FENCED_INSTANCE_ID)
    with pytest.raises(SourceFatal, match="instance"):
        node.join()
    live.spread(600, 1_200)
    live.run_to_the_end()
    live.assert_each_as_undisturbed(1_200)


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
