"""What every peer shares: the models, the work around one event, the clock, the command line.

The *same* work is what Fluvial does around a model, as somebody would write it by hand: a River
metric, an ADWIN on the error, each score to Redis in pipelines of 500, the pickled model to Redis
and a commit every 10,000 events. *Bare* work is predict and learn, and nothing else.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import sys
import time
import uuid
from collections.abc import Callable
from typing import Any

PIPELINE = 500
SAVE_EVERY = 10_000
SCORE_SECONDS = 3_600
NO_MEMORY_LIMIT = 2**62
"""The trees' memory limit makes a reload change predictions; off for everybody, so that all fit the same."""


def linear() -> Any:
    from river import linear_model, optim, preprocessing

    return preprocessing.StandardScaler() | linear_model.LogisticRegression(optim.SGD(0.05))


def tree() -> Any:
    from river.tree import HoeffdingTreeClassifier

    return HoeffdingTreeClassifier(memory_estimate_period=NO_MEMORY_LIMIT)


def arf() -> Any:
    from river.forest import ARFClassifier

    return ARFClassifier(n_models=10, seed=1, memory_estimate_period=NO_MEMORY_LIMIT)


MODELS: dict[str, Callable[[], Any]] = {"linear": linear, "tree": tree, "arf": arf}


def arguments(description: str, decoders: tuple[str, ...] = ("orjson",)) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--work", choices=["same", "bare"], default="same")
    parser.add_argument("--model", choices=list(MODELS), default="linear")
    parser.add_argument("--bootstrap-servers", default="127.0.0.1:9092")
    parser.add_argument("--topic", default="bench")
    parser.add_argument("--redis", default="redis://127.0.0.1:6379/0")
    parser.add_argument("--seconds", type=float, default=10.0, help="length of the measured interval")
    parser.add_argument("--warm-up", type=float, default=3.0, help="seconds before it starts")
    parser.add_argument("--decode", choices=decoders, default=decoders[0])
    return parser.parse_args()


def loads(name: str) -> Callable[[bytes], Any]:
    if name == "json":
        return json.loads
    import orjson

    return orjson.loads


def group() -> str:
    """A consumer group of its own for each run: every peer reads from the beginning."""
    return f"bench-{uuid.uuid4().hex[:10]}"


class Meter:
    """Counts events between the end of the warm-up and the end of the interval, then ends the process.

    The clock starts at the first event. Ending the process from inside is the same for every
    library: some of them cannot be stopped after so many seconds.
    """

    def __init__(self, seconds: float, warm_up: float) -> None:
        self.seconds = seconds
        self.warm_up = warm_up
        self.correct = 0
        self.events = 0
        self._started: float | None = None
        self._from: tuple[float, float, int, int] | None = None

    def look(self) -> None:
        """Look at the clock; to be called every few hundred events."""
        now = time.perf_counter()
        if self._started is None:
            self._started = now
        elif self._from is None:
            if now - self._started >= self.warm_up:
                self._from = (now, time.process_time(), self.events, self.correct)
        elif now - self._from[0] >= self.seconds:
            start, busy, events, correct = self._from
            cpu = time.process_time() - busy
            report(self.events - events, now - start, cpu, self.correct - correct)


def report(events: int, seconds: float, cpu: float, correct: int) -> None:
    """Print the one line and end the process at once."""
    line = {
        "events": events,
        "seconds": round(seconds, 4),
        "events_per_second": round(events / seconds, 1),
        "cpu_us_per_event": round(1e6 * cpu / max(1, events), 2),
        "accuracy": round(correct / max(1, events), 4),
    }
    print(json.dumps(line))
    sys.stdout.flush()
    os._exit(0)


class Bare:
    """Predict and learn."""

    def __init__(self, model: Any, meter: Meter) -> None:
        self.model = model
        self.meter = meter

    def __call__(self, event: dict[str, Any], offset: int) -> None:
        """One event."""
        del offset
        x, y = event["features"], event["label"]
        guess = self.model.predict_proba_one(x).get(True, 0.0) >= 0.5
        self.model.learn_one(x, y)
        meter = self.meter
        meter.correct += guess == y
        meter.events += 1
        if not meter.events % 256:
            meter.look()


class Same:
    """Predict, metric, ADWIN, learn; scores in pipelines; the model and a commit every 10,000 events."""

    def __init__(
        self, model: Any, meter: Meter, redis_url: str, commit: Callable[[int], None] | None
    ) -> None:
        import orjson
        import redis
        from river import drift, metrics

        self.model = model
        self.meter = meter
        self.metric = metrics.Accuracy()
        self.adwin = drift.ADWIN()
        self.drifts = 0
        self.redis = redis.Redis.from_url(redis_url)
        self.pipeline = self.redis.pipeline(transaction=False)
        self.commit = commit
        self._dumps = orjson.dumps

    def score(self, event: dict[str, Any], offset: int) -> tuple[str, bytes]:
        """One event: returns what to publish, (key, JSON)."""
        x, y = event["features"], event["label"]
        probability = self.model.predict_proba_one(x).get(True, 0.0)
        guess = probability >= 0.5
        self.metric.update(y, guess)
        self.adwin.update(float(guess != y))
        self.drifts += self.adwin.drift_detected
        self.model.learn_one(x, y)
        meter = self.meter
        meter.correct += guess == y
        meter.events += 1
        if not meter.events % 256:
            meter.look()
        score = {"prediction": guess, "probability": probability, "offset": offset, "time": event["time"]}
        return f"score:{event['key']}", self._dumps(score)

    def __call__(self, event: dict[str, Any], offset: int) -> None:
        """One event, with its score, and what is due after it."""
        key, value = self.score(event, offset)
        self.pipeline.set(key, value, ex=SCORE_SECONDS)
        events = self.meter.events
        if not events % PIPELINE:
            self.pipeline.execute()
        if not events % SAVE_EVERY:
            self.save(offset)

    def save(self, offset: int) -> None:
        """The model, then the position."""
        self.redis.set("model", pickle.dumps((self.model, self.metric, self.adwin), protocol=5))
        if self.commit is not None:
            self.commit(offset + 1)


def work(options: argparse.Namespace, commit: Callable[[int], None] | None = None) -> Any:
    """The callable `(event, offset)` that the options ask for."""
    meter = Meter(options.seconds, options.warm_up)
    model = MODELS[options.model]()
    if options.work == "bare":
        return Bare(model, meter)
    return Same(model, meter, options.redis, commit)
