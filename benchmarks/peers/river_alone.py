"""River in memory on events that are already decoded: predict and learn, no Kafka, no Redis."""

from __future__ import annotations

import argparse
import itertools
import json
from pathlib import Path

import common


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=Path, required=True, help="JSON lines of features and label")
    parser.add_argument("--model", choices=list(common.MODELS), default="linear")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--warm-up", type=float, default=3.0)
    options = parser.parse_args()
    with options.events.open() as lines:
        pairs = [(event["features"], event["label"]) for event in map(json.loads, lines)]
    model = common.MODELS[options.model]()
    predict, learn = model.predict_proba_one, model.learn_one
    meter = common.Meter(options.seconds, options.warm_up)
    for number, (x, y) in enumerate(itertools.cycle(pairs), 1):
        meter.correct += (predict(x).get(True, 0.0) >= 0.5) == y
        learn(x, y)
        if not number % 256:
            meter.events = number
            meter.look()


if __name__ == "__main__":
    main()
