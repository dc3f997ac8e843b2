"""An independent oracle: the log folded by plain code in the test's own process, and its comparison.

`river_loop` is what a user would write with River alone. `fold` is the library's own learner without
worker, Kafka or Redis: what the service must come to after any number of crashes.
"""

import csv
import gzip
import json
import os
from datetime import datetime
from importlib.metadata import version
from pathlib import Path

import msgspec
import pytest

from fluvial import streams
from fluvial.checkpoint import Expectation
from fluvial.codec import Codec
from fluvial.config import parse
from fluvial.errors import BadEvent, ModelError
from fluvial.kept import load_kept, open_kept
from fluvial.learner import Learner
from fluvial.models import build, unpickle
from fluvial.shard import blanks_of, model_fingerprint, signing_keys, spec_of

OWN = [f"support.factories:{name}" for name in ("Counting", "Flickering", "Mean", "Odd")]
PROJECT = Path(__file__).resolve().parents[2]


# --- logs ------------------------------------------------------------------------------------------


def data(name):
    """The path of a reference stream beside the project; skips where there is none."""
    home = Path(os.environ.get("FLUVIAL_DATA") or PROJECT.parent / "shared" / "data")
    path = home / f"{name}.csv.gz"
    if not path.is_file():
        pytest.skip(
            f"no {name}.csv.gz in {home}: the reference streams are not here (FLUVIAL_DATA says where)"
        )
    return path


def rows(name, label):
    """(time, features, label) of each row of a reference stream."""
    with gzip.open(data(name), "rt", newline="") as file:
        for row in csv.DictReader(file):
            time = datetime.fromisoformat(row.pop("time")).timestamp()
            y = row.pop(label) == "1"
            yield time, {name: float(value) for name, value in row.items()}, y


class Log:
    """A stream as a table for the settings, (features, label) as River sees them, and the bytes.

    Each event has a key of its own, so that every single score can be read after the run.
    """

    def __init__(self, name, label, features, events, classes=None):
        self.name = name
        self.schema = {
            "key": "key",
            "time": "time",
            "label": {"type": label, **({"classes": list(classes)} if classes else {})},
            "features": features,
        }
        self.classes = classes or (False, True)
        self.events = events
        """(time, features, label by its declared name)"""

    @property
    def pairs(self):
        """As River sees them: a declared class is its index, a binary one a bool."""
        names = {c: (bool(i) if len(self.classes) == 2 else i) for i, c in enumerate(self.classes)}
        return [(x, names[y]) for _, x, y in self.events]

    @property
    def values(self):
        return [wire(i, *event) for i, event in enumerate(self.events)]

    def first(self, n):
        log = object.__new__(Log)
        log.name, log.schema, log.classes, log.events = self.name, self.schema, self.classes, self.events[:n]
        return log


def wire(number, time, x, y, **more):
    event = {"key": f"e{number}", "time": time, "features": x, **more}
    return json.dumps(event if y is None else {**event, "label": y}).encode()


def elec2():
    events = list(rows("elec2", "down"))
    return Log("elec2", "binary", dict.fromkeys(events[0][1], "number"), events)


def weather():
    events = list(rows("weather", "rain"))
    return Log("weather", "binary", dict.fromkeys(events[0][1], "number"), events)


def five(n=12_000, seed=5):
    """Five string classes, two categories, three numbers, three drifts."""
    stream = streams.named("five-classes")
    events = [(1e9 + i, x, y) for i, (x, y) in enumerate(stream.make(seed, n, n // 4))]
    features = {
        f.name: {"type": "category", "values": list(f.values)} if f.type == "category" else "number"
        for f in stream.features
    }
    return Log("five", "multiclass", features, events, stream.classes)


def drifting(n=6_000, seed=3):
    """Two numbers, a binary label whose rule turns round twice."""
    import random

    rng = random.Random(seed)
    events = []
    for i in range(n):
        x = {"a": rng.uniform(-1, 1), "b": rng.uniform(-1, 1)}
        y = (x["a"] + x["b"] > 0) != ((i * 3 // n) % 2 == 1)
        events.append((1e9 + i, x, y if rng.random() > 0.05 else not y))
    return Log("drifting", "binary", {"a": "number", "b": "number"}, events)


def numbers(n=6_000, seed=3, scale=1.0):
    """Two numbers and a target whose rule changes twice; all labels times `scale`."""
    import random

    rng = random.Random(seed)
    events = []
    for i in range(n):
        x = {"a": rng.uniform(-1, 1), "b": rng.uniform(-1, 1)}
        slope = (3.0, -3.0, 1.0)[i * 3 // n]
        events.append((1e9 + i, x, scale * (slope * x["a"] + x["b"] + rng.gauss(0, 0.1))))
    return Log("numbers", "regression", {"a": "number", "b": "number"}, events)


# --- settings --------------------------------------------------------------------------------------


def settings(log, factory, policy="observe", **sections):
    """Settings for the twins: no server, every section as a table."""
    table = {
        "service": "orders",
        "kafka": {"bootstrap_servers": "nowhere:1", "topic": "events"},
        "schema": log.schema,
        "model": {"factory": f"support.factories:{factory}", "allow": OWN}
        if isinstance(factory, str)
        else factory,
        "policy": {"name": policy} if isinstance(policy, str) else policy,
        "redis": {"allow_unfit": True},
        "checkpoint": {"key": "k" * 40},
    }
    for name, part in sections.items():
        table[name] = {**table.get(name, {}), **part} if isinstance(part, dict) else part
    return parse(table)


# --- folds -----------------------------------------------------------------------------------------


def river_loop(model, pairs, classes):
    """What River alone answers: probabilities by class in declared order; None where it has no answer."""
    answers = []
    labels = range(len(classes)) if len(classes) > 2 else (False, True)
    for x, y in pairs:
        answer = model.predict_proba_one(dict(x))
        answers.append(tuple(answer.get(k, 0.0) for k in labels) if answer else None)
        model.learn_one(dict(x), y)
    return answers


def plain_model(settings):
    """What the factory makes, never pickled."""
    (model,) = build(settings.model, settings.schema).values()
    return model


def genesis(settings, partitions=1, number=1):
    starts = dict.fromkeys(range(partitions), 0)
    return Learner.genesis(spec_of(settings), blanks_of(settings), starts, number)


def decoded(settings, values, partition=0):
    codec = Codec(settings.schema)
    return [codec.decode(value, None, partition, i, 0) for i, value in enumerate(values)]


class Folded:
    """A finished fold: the learner, each outcome by offset (None: dead), the reasons of the dead."""

    def __init__(self, learner, outcomes, dead):
        self.learner = learner
        self.outcomes = outcomes
        self.dead = dead


def fold(settings, values, poison=(), number=1):
    """One partition's bytes folded one by one. `poison`: offsets that are left out as the model's fault.

    `number`: of the first version.
    """
    learner, codec = genesis(settings, number=number), Codec(settings.schema)
    outcomes, dead = [], {}
    for offset, value in enumerate(values):
        try:
            event = codec.decode(value, None, 0, offset, 0)
        except BadEvent as bad:
            dead[offset] = bad.reason
        else:
            if offset not in poison:
                outcomes.append(learner.step(event))
                continue
            dead[offset] = "model"
        learner.refuse(0, offset)
        outcomes.append(None)
    return Folded(learner, outcomes, dead)


def offenders(settings, values):
    """Offsets on which the model raises, found by folding again from the start after each."""
    found = set()
    while True:
        try:
            fold(settings, values, found)
        except ModelError as error:
            found.add(error.offset)
        else:
            return found


def kept_model(settings, blob, number, shard="all"):
    """A kept version as a worker opens it: `Retired`, and its models by lane."""
    spec, extra = spec_of(settings), unpickle.parse_extra(settings.model.allow)
    expect = Expectation(settings.service, shard, settings.schema.hash, version("river"), version=number)
    opened = open_kept(blob, expect, signing_keys(settings), model_fingerprint(settings))
    retired, _ = load_kept(opened, lambda b: unpickle.loads(b, extra), spec)
    return retired, spec.load(retired.blob)


# --- comparison ------------------------------------------------------------------------------------


def copied(learner):
    """The same fold from its own dump."""
    return Learner(learner.spec, learner.spec.load(unpickle.dumps(learner.state())))


def portrait(learner):
    """Everything of a fold that is not a River object, for exact comparison."""
    state = dict(learner.state())
    members = [(lane, champion, age) for lane, champion, age, _ in learner.spec.load(state.pop("members"))]
    monitor = dict(state.pop("monitor"))
    detectors = [
        (window.get_width(), window.get_total(), window.get_variance(), fired)
        for window, fired in (monitor.pop("warning"), monitor.pop("drift"))
    ]
    reactions = dict(state.pop("reactions"))
    if reactions["trial"] is not None:
        (rival,) = learner.spec.load(reactions["trial"][0])
        reactions["trial"] = (rival[:3], reactions["trial"][1])
    reactions["stock"] = [number for number, _ in reactions["stock"]]
    state["reactions"] = reactions
    for unstable in ("blanks", "snapshot"):  # pickles are not canonical
        state[unstable] = sorted(state[unstable])
    return {**state, "members": members, "monitor": monitor, "detectors": detectors}


def assert_same_fold(one, other, held=()):
    """The same state; and the same answers, signals and versions while both go on over the events `held`.

    Both learn `held`, so give copies where the folds are still needed.
    """
    here, there = portrait(one), portrait(other)
    for name in here:
        assert repr(here[name]) == repr(there[name]), name  # as text: a NaN equals itself
    for event in held:
        assert told(one.step(event)) == told(other.step(event))
    if held:
        assert_same_fold(one, other)


def told(outcome):
    """An outcome, less the bytes of replaced models: pickles are not canonical."""
    if outcome.rare is None or not outcome.rare.retired:
        return outcome
    versions = tuple(retired.version for retired in outcome.rare.retired)
    rare = msgspec.structs.replace(outcome.rare, retired=versions)
    return msgspec.structs.replace(outcome, rare=rare)


def following(settings, learner, pairs_log, n=300, partition=0):
    """`n` further events for both folds, made from the log's own first ones at the next offsets."""
    codec = Codec(settings.schema)
    start = learner.ledger.partitions[partition].next
    chosen = pairs_log.values[:n]
    return [codec.decode(value, None, partition, start + i, 0) for i, value in enumerate(chosen)]
