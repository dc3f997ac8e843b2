"""What `fluvial versions` and its `compare` make of a shard, a span and two models, without a server."""

import pytest

from fluvial.cli.version_reading import partition_within, shard_within
from fluvial.cli.versions import _span
from fluvial.errors import SettingsError


def test_a_shard_is_one_that_the_scope_can_have():
    assert shard_within("topic", None) == shard_within("topic", "all") == ("all", None)
    assert shard_within("partition", "partition-12") == ("partition-12", 12)
    impossible = {
        "topic": ("partition-0", "", "nonsense"),
        "partition": ("all", None, "partition-01", "partition-x"),
    }
    for scope, said in [(scope, said) for scope, several in impossible.items() for said in several]:
        with pytest.raises(SettingsError, match="--shard"):
            shard_within(scope, said)


def test_the_partition_is_the_shards_own_and_no_other():
    assert partition_within(None, None, "--partition") == 0
    assert partition_within(None, 3, "--partition") == 3
    assert partition_within(1, None, "--partition") == partition_within(1, 1, "--partition") == 1
    with pytest.raises(SettingsError, match="--partition: partition 0 is not this shard's, which is 1"):
        partition_within(1, 0, "--partition")


def test_a_span_without_a_partition_is_one_of_the_shards_own():
    assert _span("500..600", 1) == _span("1:500..600", 1) == (1, 500, 600)
    with pytest.raises(SettingsError, match="--skip: partition 0 is not this shard's"):
        _span("0:500..600", 1)
