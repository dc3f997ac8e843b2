"""The child process of `faults.replay_faults`: reads a job from stdin, writes what the model said."""

from __future__ import annotations

import functools
import importlib
import random
import sys
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from fluvial.models.faults import Job, Run, unordered
from fluvial.models.unpickle import dumps, loads, parse_extra
from fluvial.schema import LIMIT, FeatureSpec, Schema
from fluvial.types import Feature, Label, Task

Pair = tuple[dict[str, Feature], Label]
_SEED = 7


def made_events(schema: Schema, count: int) -> list[Pair]:
    """Events of the declared schema whose label has to do with the features, the same in every process."""
    rng = random.Random(_SEED)
    specs = schema.features or tuple(FeatureSpec(f"f{i}", "number", (f"f{i}",)) for i in range(5))
    events = []
    for _ in range(count):
        x = {spec.name: _feature(spec, rng) for spec in specs if spec.required or rng.random() > 0.1}
        events.append((x, _label(schema, x, rng)))
    return events


def _feature(spec: FeatureSpec, rng: random.Random) -> Feature:
    if spec.type == "category":
        return rng.choice(spec.values or ("a", "b", "c", "d", "e"))
    if spec.type == "boolean":
        return float(rng.random() < 0.5)
    low = spec.low if spec.low > -LIMIT else min(-3.0, spec.high - 6.0)
    high = spec.high if spec.high < LIMIT else max(3.0, low + 6.0)
    value = rng.uniform(low, high)
    return float(round(value)) if spec.type == "integer" else value


def _label(schema: Schema, x: Mapping[str, Feature], rng: random.Random) -> Label:
    # Not hash(): it differs between processes, which is what is being tested.
    signal = sum(len(value) + ord(value[0]) if isinstance(value, str) else value for value in x.values())
    signal += rng.gauss(0, 0.5)
    if schema.label.task is Task.BINARY:
        return signal > 0
    if schema.label.task is Task.MULTICLASS:
        return int(abs(signal) * 2) % len(schema.label.classes)
    return signal


def answer(model: Any, x: dict[str, Feature]) -> str:
    """What the model says, exact and in an order of its own."""
    try:
        said = model.predict_proba_one(x)
    except (AttributeError, NotImplementedError):
        said = model.predict_one(x)
    if isinstance(said, Mapping):
        return " ".join(sorted(f"{key!r}:{float(value).hex()}" for key, value in said.items()))
    return float(said).hex() if isinstance(said, float) else repr(said)


class _Life:
    """One pass over the events."""

    def __init__(self, model: Any, reload: Callable[[Any], Any]) -> None:
        self.model = model
        self.reload = reload
        self.answers: list[str] = []
        self.mutates: dict[str, None] = {}

    def run(self, events: list[Pair], asked_from: int, reload_at: int = -1) -> list[str]:
        for index, (x, y) in enumerate(events):
            if index == reload_at:
                self.model = self.reload(self.model)
            if index >= asked_from:
                self.answers.append(self._kept("predicting", x, lambda given: answer(self.model, given)))
            self._kept("learn_one", x, functools.partial(self._learn, y))
        return self.answers

    def _learn(self, y: Label, given: dict[str, Feature]) -> None:
        self.model.learn_one(given, y)

    def _kept(self, what: str, x: dict[str, Feature], call: Callable[[dict[str, Feature]], Any]) -> Any:
        given = dict(x)
        try:
            said = call(given)
        except Exception as error:
            error.add_note(what)
            raise
        if list(given.items()) != list(x.items()):
            self.mutates[what] = None
        return said


def lane_run(name: str, model: Any, job: Job) -> Run:
    """Let one lane's model live three times from the same blank."""
    extra = parse_extra(job.settings.allow)
    blank = dumps(model)

    def life() -> _Life:
        return _Life(loads(blank, extra), lambda trained: loads(dumps(trained), extra))

    events = made_events(job.schema, job.events)
    full = life()
    try:
        said = full.run(events, 0)
        resumed = life().run(events, 0, len(events) // 2)
        quiet = life().run(events, len(events) * 4 // 5)
    except Exception as error:  # noqa: BLE001  # whatever the user's model raises is the answer
        where = getattr(error, "__notes__", ["loading"])[0]
        return Run(name, [], [], [], [], raised=f"{where} raised {type(error).__name__}: {error}"[:500])
    return Run(name, said, resumed, quiet, list(full.mutates), unordered(full.model))


def main() -> None:
    """Read the job, build the model, write the runs."""
    job = msgspec.json.decode(sys.stdin.buffer.read(), type=Job)
    module, _, name = job.builder.partition(":")
    lanes = getattr(importlib.import_module(module), name)(job.settings, job.schema)
    runs = [lane_run(lane, model, job) for lane, model in lanes.items()]
    sys.stdout.buffer.write(msgspec.json.encode(runs))


if __name__ == "__main__":
    main()
