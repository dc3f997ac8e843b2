"""What applications import: scores and nothing heavy."""

import subprocess
import sys

import pytest

from fluvial.config import RedisSettings, Secret
from fluvial.errors import StoreError, StoreUnavailable
from fluvial.scoring import Scores
from support.redis_server import free_port
from support.stores import SERVICE, SHARD, RedisBench, score


@pytest.fixture
def bench(fresh_redis):
    bench = RedisBench(fresh_redis.cli, fresh_redis.url)
    store = bench.open()
    store.publish(store.claim(SHARD, "a"), [(f"k{n}", score(n)) for n in range(1_200)])
    yield bench
    bench.close()


@pytest.mark.redis
def test_one_score(bench, fresh_redis):
    with Scores(fresh_redis.url, SERVICE) as scores:
        assert scores.get("k3") == score(3)
        assert scores.get("nobody") is None


@pytest.mark.redis
def test_another_service_has_other_scores(bench, fresh_redis):
    with Scores(fresh_redis.url, "another") as scores:
        assert scores.get("k3") is None


@pytest.mark.redis
def test_many_scores_over_several_calls_and_only_those_that_exist(bench, fresh_redis):
    with Scores(fresh_redis.url, SERVICE) as scores:
        wanted = [f"k{n}" for n in range(1_300)] + ["k1"]
        found = scores.get_many(wanted)
        assert found == {f"k{n}": score(n) for n in range(1_200)}
        assert scores.get_many([]) == {}


@pytest.mark.redis
def test_settings_or_a_client_of_ones_own(bench, fresh_redis):
    import redis

    with Scores(RedisSettings(url=Secret(fresh_redis.url)), SERVICE) as scores:
        assert scores.get("k3") == score(3)
    with redis.Redis(port=fresh_redis.port, decode_responses=True) as client:
        scores = Scores(client, SERVICE)
        assert scores.get_many(["k3", "nobody"]) == {"k3": score(3)}
        scores.close()
        assert client.ping()


@pytest.mark.redis
def test_a_value_that_is_no_score_is_said(bench, fresh_redis):
    fresh_redis.cli.set(bench.keys.score("odd"), b'{"prediction": "yes"}')
    with Scores(fresh_redis.url, SERVICE) as scores, pytest.raises(StoreError, match=r"'odd'.*version"):
        scores.get("odd")


def test_nobody_there_is_unavailable_and_shows_no_password():
    scores = Scores(f"redis://:hunter2@127.0.0.1:{free_port()}/0", SERVICE)
    with pytest.raises(StoreUnavailable) as caught:
        scores.get("k")
    assert "hunter2" not in str(caught.value)
    scores.close()


def test_importing_it_brings_no_model_and_no_kafka():
    code = "import sys, fluvial.scoring; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    ).stdout.split()
    heavy = {"river", "numpy", "scipy", "confluent_kafka", "prometheus_client", "rich"}
    assert heavy.isdisjoint(name.partition(".")[0] for name in loaded)
