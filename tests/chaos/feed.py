"""The events of a run, made from its seed: most have a label, some have none, some are bad."""

import json
import threading
import time
from collections import Counter
from random import Random

from confluent_kafka import Producer

from fluvial import streams

EVERY = 2_500
"""Events between two changes of the concept, so that there is something to react to."""
UNLABELLED = 0.05
BAD = 0.03
POLL_SECONDS = 0.02

LINEAR = "linear"
FACTORIES = {LINEAR: "linear", "adaptive": "adaptive", "arf": "arf"}
FIVE = streams.named("five-classes")


def turning(seed):
    """(features, label): three numbers and a rule that turns round, with some noise."""
    rng, number = Random(f"turning {seed}"), 0
    while True:
        x = {name: rng.uniform(-1, 1) for name in "abc"}
        y = (x["a"] + 0.5 * x["b"] - x["c"] > 0) != (number // EVERY % 2 == 1)
        yield x, y != (rng.random() < 0.05)
        number += 1


def schema(model):
    """The `[schema]` table of a model's events."""
    table = {"key": "key", "time": "time"}
    if model == LINEAR:
        return {**table, "label": {"type": "binary"}, "features": dict.fromkeys("abc", "number")}
    features = {
        f.name: {"type": "category", "values": list(f.values)} if f.type == "category" else "number"
        for f in FIVE.features
    }
    return {**table, "label": {"type": "multiclass", "classes": list(FIVE.classes)}, "features": features}


class Made:
    """One event as it was made: what it is, and its bytes."""

    __slots__ = ("kind", "value", "x", "y")

    def __init__(self, kind, value, x=None, y=None):
        self.kind = kind
        """`learned`, `scored` or `dead`: what the service has to make of it."""
        self.value = value
        self.x = x
        self.y = y


class Feed(threading.Thread):
    """Writes events at a steady rate until it is told to stop, whatever happens to the brokers.

    The message's key is the event's number (`e17`), also where the event itself is spoilt, so that the
    verifier knows what each record of the topic was meant to be.
    """

    def __init__(self, bootstrap, topic, *, model, seed, rate, partitions, keep=True):
        super().__init__(name="feed", daemon=True)
        self.made = []
        self.written = 0
        self._keep = keep
        """Whether to remember what was written, for the verifier."""
        self.failed = []
        self._topic = topic
        self._rate = rate
        self._partitions = partitions
        self._rng = Random(f"feed {seed}")
        self._pairs = turning(seed) if model == LINEAR else FIVE.make(seed, None, EVERY)
        self._over = threading.Event()
        self.delivered = {p: {} for p in range(partitions)}
        """Per partition: offset to key, as acknowledged."""
        self._producer = Producer(
            {
                "bootstrap.servers": bootstrap,
                "enable.idempotence": True,
                "acks": "all",
                "linger.ms": 5,
                "message.timeout.ms": 0,  # however long the broker is away
                "reconnect.backoff.max.ms": 500,
                "log_level": 0,
            }
        )

    def run(self):
        began, written = time.monotonic(), 0
        while not self._over.wait(POLL_SECONDS):
            due = int((time.monotonic() - began) * self._rate)
            for _ in range(due - written):
                self._write()
            written = due
            self._producer.poll(0)

    def stop(self):
        """Write nothing more."""
        self._over.set()
        if self.is_alive():
            self.join()

    def finish(self):
        """Stop, and wait until everything is acknowledged."""
        self.stop()
        left = self._producer.flush(60)
        assert not left, f"{left} events were not taken by the broker"

    def counts(self):
        """How many events of each kind there are."""
        return Counter(made.kind for made in self.made)

    def _write(self):
        number, partition = self.written, self._rng.randrange(self._partitions)
        made = self._make(number)
        self.written += 1
        if self._keep:
            self.made.append(made)
        while not self._take(made.value, f"e{number}".encode(), partition):
            self._producer.poll(0.1)

    def _take(self, value, key, partition):
        """Whether the client took it: its queue may be full."""
        try:
            self._producer.produce(self._topic, value, key, partition, on_delivery=self._on_delivery)
        except BufferError:
            return False
        return True

    def _on_delivery(self, error, message):
        if error is not None:
            self.failed.append(error.str())
        elif self._keep:
            self.delivered[message.partition()][message.offset()] = message.key().decode()

    def _make(self, number):
        x, y = next(self._pairs)
        event = {"key": f"e{number}", "time": 1e9 + number, "features": dict(x), "label": y}
        kind = self._rng.random()
        if kind < BAD:
            return Made("dead", spoilt(event, self._rng))
        if kind < BAD + UNLABELLED:
            del event["label"]
            return Made("scored", json.dumps(event).encode(), x)
        return Made("learned", json.dumps(event).encode(), x, y)


def spoilt(event, rng):
    """An event that breaks the schema or is no event at all."""
    fault, name = rng.randrange(7), rng.choice(list(event["features"]))
    if fault == 0:
        return None  # a tombstone
    if fault == 1:
        return json.dumps(event).encode()[: rng.randrange(1, 40)]
    if fault == 2:
        event["label"] = "no such class"
    elif fault == 3:
        del event["features"][name]
    elif fault == 4:
        event["features"][name] = float("nan")  # which JSON does not have, and Python writes all the same
    elif fault == 5:
        event["features"][name] = [1.0]
    else:
        event["surprise"] = 10**400
        event["features"][name] = event.pop("surprise")
    return json.dumps(event).encode()
