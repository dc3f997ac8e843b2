"""Mutated payloads through the decoder and a whole worker: the short run, and every payload that is kept."""

import json

import pytest

from fluvial.errors import Reason
from fluvial.learner import Learner
from fuzz import corpus
from fuzz.__main__ import main
from fuzz.engine import Fuzzer, check_run, settings_of
from fuzz.schemas import NAMED

EPISODES = 30


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_short_run_finds_nothing():
    """Fixed: the same contracts, models and payloads each time. The long run is `make fuzz`."""
    fuzzer = Fuzzer("suite", corpus.payloads())
    for _ in range(EPISODES):
        fuzzer.episode(500)
        assert not fuzzer.findings, json.dumps(fuzzer.findings[0], indent=1)
    assert sum(fuzzer.counts.values()) == 500 * EPISODES
    assert set(fuzzer.counts) == {"learned", "scored", *set(Reason) - {Reason.MODEL}}
    assert len(fuzzer.signals) > 150


@pytest.mark.parametrize("name", NAMED)
def test_the_corpus_is_answered_as_it_says(name):
    """Each file's name starts with the reason, or with `accepted`."""
    kept = corpus.kept(name)
    assert kept, f"nothing is kept for {name!r}"
    wrong = {
        file: said
        for file, value in kept.items()
        if (said := corpus.answer(name, value)).partition(":")[0] != file.partition("--")[0]
    }
    assert not wrong


@pytest.mark.parametrize("name", NAMED)
def test_the_corpus_leaves_no_trace_in_the_model(name):
    """Through a worker, again and again among valid events, by the checks of the fuzzer."""
    spoiler = corpus_messages(name)
    counts, _ = check_run(
        settings_of(NAMED[name], "tree" if "weight" in NAMED[name] else "linear", "reweight"), spoiler
    )
    assert counts["learned"] >= 200


def corpus_messages(name):
    import random

    from fuzz.mutations import Spoiler

    rng = random.Random(5)
    spoiler = Spoiler(rng, settings_of(NAMED[name]).schema)
    values = [*(spoiler.fresh() for _ in range(300)), *2 * list(corpus.kept(name).values())]
    rng.shuffle(values)
    return [(value, b"k", corpus.STAMP, None) for value in values]


# --- the fuzzer itself -----------------------------------------------------------------------------


def test_the_same_seed_does_the_same_again():
    one, other = Fuzzer("7"), Fuzzer("7")
    for fuzzer in (one, other):
        for _ in range(2):
            fuzzer.episode(150)
    assert one.counts == other.counts
    assert one.signals == other.signals


def test_what_is_found_is_made_small(monkeypatch):
    """A refusal that moves the model is found, and told by a message or two."""
    refuse = Learner.refuse

    def spoiling(self, partition, offset):
        refuse(self, partition, offset)
        self.events += 1

    monkeypatch.setattr(Learner, "refuse", spoiling)
    fuzzer = Fuzzer("3")
    fuzzer.episode(100)
    (finding,) = fuzzer.findings
    assert len(finding["messages"]) <= 2


def test_a_model_that_raises_on_a_valid_event_is_found(monkeypatch):
    def raising(self, event):
        raise ArithmeticError

    monkeypatch.setattr(Learner, "step", raising)
    fuzzer = Fuzzer("3")
    fuzzer.episode(50)
    assert "the worker ended" in fuzzer.findings[0]["what"]


def test_the_command_counts_every_payload(capsys):
    assert main(["--events", "300", "--seed", "1", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["payloads"], told["findings"]) == (300, [])
    assert sum(told["counts"].values()) == 300


def test_minimising_keeps_what_matters():
    assert corpus.minimised(b"aaaXbbbYccc", lambda value: b"X" in value and b"Y" in value) == b"XY"
