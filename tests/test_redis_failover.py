"""Redis under sentinels and as a cluster: the worker runs on either, and a failover changes nothing."""

import pytest

from fluvial.worker import SHARD
from support import fold
from support.live import Live
from support.redis_groups import ClusterGroup, SentinelGroup, caught_up, cut
from support.secured_page import CLUSTER, REDIS_PASSWORD, WORKER, acl_for
from support.service import Service, assert_scores

PART = 1_500

pytestmark = [pytest.mark.kafka, pytest.mark.redis, pytest.mark.slow]


@pytest.fixture(params=[SentinelGroup, ClusterGroup], ids=["sentinel", "cluster"])
def group(request, redis_binary):
    group = request.param()
    yield group
    group.stop()


def allow(group, service):
    """The documented user on every server, and nobody else's rights needed."""
    words = [*WORKER, *(CLUSTER if isinstance(group, ClusterGroup) else ())]
    group.on_every_server("ACL", "SETUSER", "worker", *acl_for(service, words))


@pytest.mark.parametrize("tail", ["kept", "lost"])
def test_a_failover_changes_nothing(group, tail, kafka_broker, tmp_path):
    """A third of the events before it, a third that both servers or only the lost one saw, a third after.

    What is lost is replayed from the checkpoint that is left, and the journal says so.
    """
    log = fold.drifting(3 * PART)
    parts = [log.values[i : i + PART] for i in range(0, 3 * PART, PART)]
    login = {"username": "worker", "password": REDIS_PASSWORD}
    with Service(tmp_path, kafka_broker, group, log, "linear", "reweight", redis=login) as service:
        allow(group, service.settings.service)
        master = group.master_of(service.keys.head(SHARD))
        service.produce(parts[0])
        service.start(3)
        service.wait_until_folded()
        assert caught_up(master)
        if tail == "lost":
            cut(master)
        service.produce(parts[1])
        service.wait_until_folded()
        if tail == "kept":
            assert caught_up(master)
        master.kill()
        service.produce(parts[2])
        group.wait_for_failover(master)
        service.wait_until_folded()
        assert service.terminate() == 0
        undisturbed = fold.fold(service.settings, log.values)
        assert_scores(service, log, undisturbed.outcomes)
        kept = service.learner()
        ledger = kept.ledger.partitions[0]
        assert (ledger.learned, ledger.next, ledger.balanced()) == (3 * PART, 3 * PART, True)
        fold.assert_same_fold(kept, undisturbed.learner, fold.following(service.settings, kept, log))
        assert_told(service, group, tail)


def test_a_failover_to_a_server_that_evicts_is_noticed(redis_binary, mock_kafka, tmp_path, monkeypatch):
    """The replica is set up otherwise than its master was; nobody sees that before it is the master."""
    monkeypatch.setattr("fluvial.survey.EVERY_SECONDS", 0.2)
    group, log = SentinelGroup(), fold.drifting(600)
    try:
        master, replica = group.servers
        replica.cli.config_set("maxmemory-policy", "allkeys-lru")
        with Live(tmp_path, mock_kafka.bootstrap_servers, group, log, mock=mock_kafka) as live:
            live.produce(log.values)
            node = live.start()
            live.until_folded(node)
            node.until_ready()
            assert caught_up(master)
            master.kill()
            group.wait_for_failover(master)
            assert "it evicts keys (allkeys-lru" in node.until_not_ready("not fit to hold checkpoints")
            assert node.metric("fluvial_incidents_total", incident="store-unfit") == 1
            replica.cli.config_set("maxmemory-policy", "noeviction")
            node.until_ready()
            node.stop()
            assert [kind for kind in live.kinds() if kind.startswith("store-")] == [
                "store-unfit",
                "store-fit",
            ]
    finally:
        group.stop()


def assert_told(service, group, tail):
    """What the journal says: a lost tail is a claim and a replay, a kept one is nothing at all."""
    entries = group.cli.xrange(service.keys.journal)
    kinds = [fields[b"kind"].decode() for _, fields in entries]
    claims = kinds.count("claimed")
    if tail == "kept":
        assert (claims, kinds.count("older-checkpoint")) == (1, 0)
    else:
        assert claims >= 2
        assert kinds.count("older-checkpoint") >= 1
