"""Late labels: served at once, learned when known, judged by answers of models that saw the same labels."""

import random
from collections import deque

import msgspec
import pytest

from fluvial.errors import ModelError
from fluvial.evaluation import Prequential
from fluvial.late import LateLabels, Lateness, checked_delay
from fluvial.learner import Learner
from fluvial.ledger import Ledger
from fluvial.shard import spec_of
from fluvial.types import Event
from support import fold
from test_learner import CASES, POLICIES

DELAY = 137


def late_settings(log, factory, policy="observe", delay=DELAY):
    table = {"name": policy} if isinstance(policy, str) else policy
    return fold.settings(log, factory, {**table, "label_delay": delay})


def unlabelled(events, share=0.02, seed=1):
    rng = random.Random(seed)
    return [msgspec.structs.replace(e, y=None) if rng.random() < share else e for e in events]


def late_river_loop(model, pairs, delay):
    """What a user would write: predict, put the label aside, learn the one that is due."""
    waiting, answers = deque(), []
    for x, y in pairs:
        p = model.predict_proba_one(x)
        answers.append((p.get(False, 0.0), p.get(True, 0.0)) if p else None)
        waiting.append((x, y))
        if len(waiting) > delay:
            model.learn_one(*waiting.popleft())
    return answers


@pytest.mark.parametrize("factory", ["linear", "hoeffding"])
def test_observe_is_a_plain_river_loop_with_late_labels(factory):
    log = fold.drifting(2_000)
    settings = late_settings(log, factory)
    outcomes = fold.genesis(settings).steps(fold.decoded(settings, log.values))
    expected = late_river_loop(fold.plain_model(settings), log.pairs, DELAY)
    assert [o.answer if o.known else None for o in outcomes] == expected


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("case", CASES)
def test_the_same_from_any_checkpoint_on_and_in_any_batches(case, policy):
    make, factory = CASES[case]
    log = make()
    table = POLICIES[policy]
    settings = late_settings(log, factory, table)
    events = unlabelled(fold.decoded(settings, log.values))
    whole, broken = fold.genesis(settings), fold.genesis(settings)
    expected = [fold.told(whole.step(event)) for event in events]
    rng, outcomes = random.Random(f"{case} {policy}"), []
    while len(outcomes) < len(events):
        outcomes += broken.steps(events[len(outcomes) : len(outcomes) + rng.choice([1, 31, 33, 97, 400])])
        broken = fold.copied(broken)
    assert [fold.told(outcome) for outcome in outcomes] == expected
    fold.assert_same_fold(broken, whole)
    assert broken.metrics() == whole.metrics()
    assert len(broken.late) == DELAY


def test_an_older_state_without_pending_labels_is_read():
    log = fold.drifting(500)
    settings = fold.settings(log, "linear")
    learner = fold.genesis(settings)
    learner.steps(fold.decoded(settings, log.values)[:300])
    state = learner.spec.load(learner.spec.dump(learner.state()))
    del state["late"]
    state["ledger"]["partitions"] = {p: row[:7] for p, row in state["ledger"]["partitions"].items()}
    events = fold.decoded(settings, log.values)[300:]
    fold.assert_same_fold(Learner(learner.spec, state), learner, events)


def test_the_ledger_tells_pending_from_learned_and_balances():
    log = fold.drifting(600)
    settings = late_settings(log, "linear", delay=100)
    learner = fold.genesis(settings)
    for event in unlabelled(fold.decoded(settings, log.values), share=0.1):
        learner.step(event)
        ledger = learner.ledger.partitions[0]
        assert ledger.balanced()
        assert ledger.pending == len(learner.late)
        assert ledger.learned == learner.events
    assert (ledger.pending, ledger.learned + ledger.scored) == (100, 500)


def test_metrics_use_what_was_served():
    log = fold.drifting(3_000)
    settings = late_settings(log, "linear", "reweight")
    learner = fold.genesis(settings)
    events = fold.decoded(settings, log.values)
    served = [(e.y, learner.step(e).answer) for e in events]
    direct = Prequential(settings.schema.label.task, 2, settings.evaluation)
    for start in range(0, 3_000 - DELAY, 32):
        direct.extend(served[start : min(start + 32, 3_000 - DELAY)])
    assert learner.metrics()["total"]["accuracy"] == direct.metrics()["total"]["accuracy"]


def test_weights_and_monitors_use_answers_asked_again():
    """A label that is learned late is predicted right by then: no rise in the error, whatever was served."""
    settings = late_settings(fold.drifting(10), "linear", delay=50)
    learner = fold.genesis(settings)
    served, judged = 0.0, []
    update = learner.monitor.update
    learner.monitor.update = lambda block, *rest: judged.extend(block) or update(block, *rest)
    rng = random.Random(4)
    for i in range(900):
        a = rng.choice([-1.0, 1.0])
        event = Event(0, i, float(i), None, {"a": a, "b": 0.0}, (a > 0) != (i >= 480))
        outcome = learner.step(event)
        served += i >= 480 and outcome.choice != event.y
    assert sum(judged[480:]) < served - 40  # what was served until the first new label came is all wrong
    assert sum(judged[480:]) > 0


@pytest.mark.parametrize("batch", [1, 700])
def test_no_change_is_the_label_of_the_event_before_in_whatever_order_they_are_known(batch):
    """Labels take turns, so saying the last one again is never right, however late every other one is."""
    settings = fold.settings(fold.drifting(10), "linear", {"name": "observe"})
    lateness = Lateness(delay_of=lambda event: 0.0 if event.y else 300.0)
    spec = msgspec.structs.replace(spec_of(settings), lateness=lateness)
    learner = Learner.genesis(spec, fold.genesis(settings)._crew.blanks, {0: 0})
    events = [Event(0, i, float(i), None, {"a": 0.0, "b": 0.0}, i % 2 == 0) for i in range(2_100)]
    for start in range(0, len(events), batch):
        learner.steps(events[start : start + batch])
        if start % 7 == 0:
            learner = Learner(spec, learner.state())
    told = learner.metrics()
    assert [told[horizon]["no_change_accuracy"] for horizon in ("total", "window", "fading")] == [0.0] * 3


def test_the_plane_of_the_predictions_watches_what_was_served():
    log = fold.five(600)
    settings = late_settings(log, "softmax", delay=40)
    learner, watched = fold.genesis(settings), []
    update = learner.planes.update
    learner.planes.update = lambda rows, *rest: watched.extend(rows) or update(rows, *rest)
    served = [o.choice for o in learner.steps(fold.decoded(settings, log.values)) if o.known]
    assert [row[4] for row in watched] == served[: len(watched)]
    assert len({*served}) > 1


@pytest.mark.parametrize(
    ("unit", "delays", "order"),
    [
        ("events", [3, 0, 0, 0, 0], [[], [1], [2], [0, 3], [4]]),
        ("seconds", [25.0, 5.0, 0.0, 100.0, 0.0], [[], [], [1, 2], [0], [4]]),
    ],
)
def test_a_delay_of_its_own_per_event(unit, delays, order):
    labels = LateLabels(Lateness(delay_of=lambda event: delays[event.offset], unit=unit))
    got = []
    for i in range(5):
        event = Event(0, i, 10.0 * i, None, {"a": float(i)}, True)
        labels.keep(event, True, (0.5, 0.5))
        again = LateLabels(Lateness(delay_of=labels._lateness.delay_of, unit=unit), labels.state())
        got.append([held.offset for held, _ in labels.known(event.time)])
        assert [held.offset for held, _ in again.known(event.time)] == got[-1]
    assert got == order


def test_a_shorter_delay_after_a_restart_changes_only_what_comes():
    log = fold.drifting(400)
    settings, prompt = late_settings(log, "linear"), late_settings(log, "linear", delay=0)
    events = fold.decoded(settings, log.values)
    learner = fold.genesis(settings)
    learner.steps(events[:200])
    other = Learner(fold.genesis(prompt).spec, learner.state())
    other.steps(events[200:])
    assert len(other.late) == 0
    assert not other.late.busy
    assert other.ledger.partitions[0].learned == 400


def test_a_label_on_which_the_model_raises_is_named_and_can_be_given_up():
    features = {"a": "number", "fail": "number"}
    settings = late_settings(fold.Log("c", "binary", features, []), "counting", delay=3)
    events = [Event(0, i, float(i), None, {"a": 1.0, "fail": float(i == 1)}, True) for i in range(8)]
    learner = fold.genesis(settings)
    learner.steps(events[:3])
    kept = fold.copied(learner)
    with pytest.raises(ModelError) as caught:
        learner.steps(events[3:])
    assert (caught.value.partition, caught.value.offset, caught.value.late) == (0, 1, True)
    assert kept.give_up_label(0, 1, "it raises")
    kept.steps(events[3:])
    ledger = kept.ledger.partitions[0]
    assert (ledger.learned, ledger.scored, ledger.pending, ledger.balanced()) == (4, 1, 3, True)

    anew = fold.genesis(settings)
    assert not anew.give_up_label(0, 1, "it raises"), "it is not here yet"
    entries = [e for outcome in anew.steps(events) if outcome.rare is not None for e in outcome.rare.entries]
    assert [(e.kind, e.offset, e.detail) for e in entries] == [("label-given-up", 1, {"why": "it raises"})]
    fold.assert_same_fold(anew, kept)


def test_a_model_kept_while_labels_wait_had_not_learned_them():
    """Its ledger is that of its last event, whether the event under way is pending or has no label."""
    for label in (True, None):
        ledger = Ledger.starting_at({0: 0})
        for offset in range(5):
            row = ledger.advance(0, offset)
            row.pending += 1
        before = ledger.state()
        row = ledger.advance(0, 5)
        row.pending += label is not None
        row.scored += label is None
        assert row.balanced()
        assert ledger.before(0, 5, labelled=label is not None)["partitions"] == before["partitions"]


@pytest.mark.parametrize(
    ("value", "read"), [("3", 3.0), (2, 2.0), ("", None), ("-1", None), ("nan", None), (None, None)]
)
def test_what_a_column_may_say(value, read):
    assert checked_delay(value) == read


@pytest.mark.data
@pytest.mark.slow
def test_reweight_loses_next_to_nothing_on_elec2_with_labels_a_week_late():
    """Half a point against no reaction at most, where it lost two by answers asked again alone."""
    log, right = fold.elec2(), {}
    for policy in ("observe", "reweight"):
        settings = fold.settings(log, {"preset": "linear"}, {"name": policy, "label_delay": 336})
        events = fold.decoded(settings, log.values)
        outcomes = fold.genesis(settings).steps(events)
        right[policy] = sum(o.choice == e.y for o, e in zip(outcomes, events, strict=True)) / len(events)
    assert right["reweight"] > right["observe"] - 0.005
