"""Whose claim counts within a consumer group: the same on the twin and in the script on a real Redis."""

import pytest

from fluvial.errors import Fenced
from fluvial.types import Membership
from support.stores import MemoryBench, RedisBench

SHARD = "partition-0"


@pytest.fixture(params=["memory", pytest.param("redis", marks=pytest.mark.redis)])
def store(request):
    if request.param == "memory":
        bench = MemoryBench()
    else:
        server = request.getfixturevalue("fresh_redis")
        bench = RedisBench(server.cli, server.url)
    yield bench.open()
    bench.close()


def member(generation, group="g/classic", milliseconds=60_000):
    return Membership(group=group, generation=generation, owner=f"o{generation}", milliseconds=milliseconds)


def test_an_older_generation_is_refused_while_the_owner_lives(store):
    first = store.claim(SHARD, "a", member(5))
    with pytest.raises(Fenced, match="generation 5"):
        store.claim(SHARD, "b", member(4))
    assert store.lease_holder(SHARD) == "o5"
    assert store.claim(SHARD, "a", member(4)).epoch == first.epoch, "a repeated claim is the same claim"
    assert store.claim(SHARD, "b", member(6)).epoch == first.epoch + 1


def test_a_generation_that_the_group_does_not_know_is_always_refused(store):
    with pytest.raises(Fenced, match="does not know"):
        store.claim(SHARD, "a", member(-1))


def test_generations_start_anew_once_the_owner_is_gone_or_the_group_is_another(store):
    """A group that was deleted, or changed its protocol, counts from 1 again."""
    epoch = store.claim(SHARD, "a", member(5)).epoch
    assert store.claim(SHARD, "b", member(1, "g/consumer")).epoch == epoch + 1
    assert store.claim(SHARD, "c", member(9, "g/consumer", milliseconds=1)).epoch == epoch + 2
    while store.lease_holder(SHARD) is not None:
        pass
    assert store.claim(SHARD, "d", member(1, "g/consumer")).epoch == epoch + 3
