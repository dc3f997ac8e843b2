"""Through a real Kafka and a real Redis, every single prediction is that of a plain River loop.

Bit for bit: scores are JSON, which brings doubles back exactly. Each process has another hash seed than
this one. River's loop runs here while the worker runs there. Over categories (`five`) River's trees depend
on the hash seed, so there River's loop walks a category's values in order (`ties.in_order`); over numbers
it is River as installed.

    FLUVIAL_WHOLE=1 pytest tests/test_equal_to_river.py -k arf     forests of ten trees, whole streams
"""

import contextlib
import os

import pytest

from support import fold, ties
from support.service import Service, assert_scores

WHOLE = bool(os.environ.get("FLUVIAL_WHOLE"))
SECONDS = 3_000 if WHOLE else 90
pytestmark = [pytest.mark.kafka, pytest.mark.redis, pytest.mark.timeout(2 * SECONDS + 120)]

STREAMS = {"elec2": fold.elec2, "weather": fold.weather, "five": fold.five}
MODELS = ["linear", "bayes", "hoeffding", "adaptive", "arf"]
FOREST_EVENTS = 6_000
"""A forest costs thirty times a tree; three trees and this many events keep the file in minutes."""


def cases():
    seed = 100
    for stream in STREAMS:
        for model in MODELS:
            seed += 1
            marks = [] if stream == "five" else [pytest.mark.data]
            marks += [pytest.mark.slow] if model == "arf" or stream == "elec2" else []
            yield pytest.param(stream, model, seed, marks=marks, id=f"{stream}-{model}")


@pytest.mark.parametrize(("stream", "model", "hash_seed"), list(cases()))
def test_every_prediction_is_rivers(stream, model, hash_seed, tmp_path, kafka_broker, redis_server):
    log = STREAMS[stream]()
    if model == "arf" and not WHOLE:
        log = log.first(FOREST_EVENTS)
    factory = "softmax" if (stream, model) == ("five", "linear") else model
    with Service(tmp_path, kafka_broker, redis_server, log, factory) as service:
        service.produce(log.values)
        service.start(hash_seed)
        with ties.in_order() if stream == "five" else contextlib.nullcontext():
            expected = fold.river_loop(fold.plain_model(service.settings), log.pairs, log.classes)
        service.wait_until_folded(SECONDS)
        assert service.terminate() == 0
        assert_scores(service, log, expected)
        ledger = service.learner().ledger.partitions[0]
        assert (ledger.learned, ledger.next, ledger.balanced()) == (len(log.events), len(log.events), True)


REACTING = {
    "elec2-linear-reset": ("elec2", "linear", "reset", 45_312),
    "elec2-hoeffding-reweight": ("elec2", "hoeffding", "reweight", 20_000),
    "weather-adaptive-reset": ("weather", "adaptive", "reset", 18_159),
    "five-softmax-reweight": ("five", "softmax", {"name": "reweight", "restart_every": 1_000}, 12_000),
    "five-hoeffding-reset": ("five", "hoeffding", "reset", 12_000),
    "five-arf-reweight": ("five", "arf", "reweight", 3_000),
}


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.parametrize("case", REACTING)
def test_reactions_are_those_of_the_same_fold_in_memory(case, tmp_path, kafka_broker, redis_server):
    stream, model, policy, events = REACTING[case]
    log = STREAMS[stream]().first(events)
    with Service(tmp_path, kafka_broker, redis_server, log, model, policy) as service:
        service.produce(log.values)
        service.start(hash_seed=len(case))
        folded = fold.fold(service.settings, log.values)
        service.wait_until_folded()
        assert service.terminate() == 0
        assert_scores(service, log, folded.outcomes)
        kept = service.learner()
        journal = service.journal()
        fold.assert_same_fold(kept, folded.learner, fold.following(service.settings, kept, log))
        entries = [e for o in folded.outcomes if o.rare for e in o.rare.entries]
        told = [(kind, entry["offset"]) for kind, entry in journal if entry.get("offset") is not None]
        assert told == [(e.kind, e.offset) for e in entries]
