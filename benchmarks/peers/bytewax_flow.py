"""Bytewax: Kafka source, the model in a batch step, a Redis sink.

Its Kafka source commits nothing to Kafka (positions live in the library's own recovery store), so
the position goes to Redis beside the model.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import bytewax.operators as op
import common
import orjson
from bytewax.connectors.kafka import KafkaSource
from bytewax.dataflow import Dataflow
from bytewax.outputs import DynamicSink, StatelessSinkPartition
from bytewax.testing import cluster_main


class Writer(StatelessSinkPartition):
    """Scores to Redis, a pipeline per batch of at most 500."""

    def __init__(self, same: common.Same) -> None:
        self.same = same

    def write_batch(self, items: list[tuple[str, bytes]]) -> None:
        """Send what one batch of the flow brought."""
        pipeline = self.same.pipeline
        for key, value in items:
            pipeline.set(key, value, ex=common.SCORE_SECONDS)
        pipeline.execute()


class Scores(DynamicSink):
    """One writer per worker."""

    def __init__(self, same: common.Same) -> None:
        self.same = same

    def build(self, _step_id: str, _worker_index: int, _worker_count: int) -> Writer:
        """Make the writer of a worker."""
        return Writer(self.same)


class Nothing(DynamicSink):
    """The bare flow ends here; a flow must have an output."""

    class Part(StatelessSinkPartition):
        """Takes what never comes."""

        def write_batch(self, items: list[Any]) -> None:
            """Nothing arrives: the bare step returns no items."""

    def build(self, _step_id: str, _worker_index: int, _worker_count: int) -> Nothing.Part:
        """Make the end of a worker."""
        return self.Part()


def main() -> None:
    options = common.arguments(__doc__)
    handle = common.work(options)

    def bare(messages: list[Any]) -> Iterable[Any]:
        for message in messages:
            handle(orjson.loads(message.value), message.offset)
        return ()

    def same(messages: list[Any]) -> Iterable[Any]:
        scores = []
        for message in messages:
            scores.append(handle.score(orjson.loads(message.value), message.offset))
            if not handle.meter.events % common.SAVE_EVERY:
                handle.save(message.offset)
                handle.redis.set("position", message.offset + 1)
        return scores

    flow = Dataflow("bench")
    source = KafkaSource([options.bootstrap_servers], [options.topic], batch_size=common.PIPELINE)
    events = op.input("events", flow, source)
    step = same if options.work == "same" else bare
    scored = op.flat_map_batch("model", events, step)
    op.output("scores", scored, Scores(handle) if options.work == "same" else Nothing())
    cluster_main(flow, [], 0)  # one worker in this process, as `python -m bytewax.run` starts it


if __name__ == "__main__":
    main()
