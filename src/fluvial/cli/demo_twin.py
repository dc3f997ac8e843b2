"""The demo's twin: a plain fold over the same log with the same model, which never reacts.

Run by the demo as a process of its own, so that it takes nothing from the worker: it reads the topic from
its beginning and writes one byte for each event, whether its answer was right. It ends when its input is
closed, which happens however the demo ends.
"""

from __future__ import annotations

import os
import sys
import threading

import msgspec

from fluvial.adapters.kafka import KafkaSource
from fluvial.cli.demo_plan import PARTITION, RIGHT, WRONG, Plan, settings_of
from fluvial.codec import Codec
from fluvial.learner import Learner
from fluvial.shard import blanks_of, spec_of


def main() -> None:
    """Fold until told to end."""
    servers, model = sys.argv[1:]
    threading.Thread(target=_end_with_input, name="leash", daemon=True).start()
    plan = msgspec.convert({"events": 1, "every": 1, "rate": 1.0, "model": model, "policy": "observe"}, Plan)
    settings = settings_of(plan, servers, "redis://none/0")
    source = KafkaSource(settings.kafka, "demo-twin")
    decode = Codec(settings.schema).decode
    learner = Learner.genesis(spec_of(settings), blanks_of(settings), {PARTITION: 0})
    source.assign({PARTITION: 0})
    while True:
        judged = bytearray()
        for message in source.poll(settings.kafka.batch, settings.kafka.wait_ms / 1_000):
            event = decode(
                message.value(), message.key(), message.partition(), message.offset(), message.timestamp()[1]
            )
            outcome = learner.step(event)
            judged.append(RIGHT if outcome.known and bool(outcome.choice) == event.y else WRONG)
        sys.stdout.buffer.write(judged)
        sys.stdout.buffer.flush()


def _end_with_input() -> None:
    sys.stdin.buffer.read()
    os._exit(0)


if __name__ == "__main__":
    main()
