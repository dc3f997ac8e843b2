"""The fold: pure, predict before learn, accounted for, and the same from any checkpoint on."""

import random

import msgspec
import pytest

from fluvial.codec import Codec
from fluvial.drift.error import CLOCK
from fluvial.errors import ModelError, OutOfOrder
from fluvial.evaluation import Prequential
from fluvial.learner import NON_FINITE_LIMIT, TRIES, Learner, _Note
from fluvial.lineage import Lineage
from fluvial.mixture import NonFiniteAnswer
from fluvial.models import unpickle
from fluvial.shard import spec_of
from fluvial.streams import named
from fluvial.types import Action, Decision, Event, SignalKind
from support import fold

POLICIES = {
    "observe": "observe",
    "reset": "reset",
    "reweight": {"name": "reweight", "restart_every": 700},
}
CASES = {
    "linear": (lambda: fold.drifting(2_000), "linear"),
    "tree": (lambda: fold.drifting(2_000), "hoeffding"),
    "five classes": (lambda: fold.five(1_500), "softmax"),
    "five classes, adaptive tree": (lambda: fold.five(1_500), "adaptive"),
    "regression": (lambda: fold.numbers(2_000), "regression"),
    "auto": (lambda: fold.five(1_000), {"preset": "auto"}),
}


def events_of(settings, log):
    return fold.decoded(settings, log.values)


def simple(values, offset=0, partition=0):
    """Events for `Counting`: each value is (label or None, what to fail at)."""
    return [
        Event(partition, offset + i, float(i), f"e{i}", {"a": 1.0, "fail": float(fail)}, y)
        for i, (y, fail) in enumerate(values)
    ]


def counting_settings(policy="observe", factory="counting", **sections):
    features = {"a": "number", "fail": "number"}
    return fold.settings(fold.Log("c", "binary", features, []), factory, policy, **sections)


def learned(learner):
    """What the only member has seen."""
    return learner.mixture.members[0].model.seen


# --- purity ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("case", CASES)
def test_the_same_from_any_checkpoint_on(case, policy):
    """Dumped and loaded at random moments: every outcome and the final state are those of one run."""
    make, factory = CASES[case]
    log = make()
    settings = fold.settings(log, factory, POLICIES[policy])
    events = events_of(settings, log)
    whole, broken = fold.genesis(settings), fold.genesis(settings)
    rng = random.Random(f"{case} {policy}")
    cuts = {*rng.sample(range(len(events)), 6), 0, 1, 31, 32, 33, 700, 701}
    for number, event in enumerate(events):
        if number in cuts:
            broken = fold.copied(broken)
        assert fold.told(broken.step(event)) == fold.told(whole.step(event))
    fold.assert_same_fold(broken, whole)
    assert broken.metrics() == whole.metrics()
    assert broken.probe(broken.state()["members"]) == whole.probe(whole.state()["members"])


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("case", CASES)
def test_the_same_in_batches_of_any_size(case, policy):
    """`steps` is `step`: labels missing here and there, two partitions, whatever the batches."""
    make, factory = CASES[case]
    log = make()
    settings = fold.settings(log, factory, POLICIES[policy])
    rng = random.Random(f"batches {case} {policy}")
    events, offsets = [], [0, 0]
    partition = 0
    for event in events_of(settings, log):
        partition = 1 - partition if rng.random() < 0.05 else partition
        y = None if rng.random() < 0.02 else event.y
        place = {"partition": partition, "offset": offsets[partition] + (rng.random() < 0.01)}
        offsets[partition] = place["offset"] + 1
        events.append(msgspec.structs.replace(event, y=y, **place))
    one, other = fold.genesis(settings, 2), fold.genesis(settings, 2)
    expected = [fold.told(one.step(event)) for event in events]
    outcomes = []
    while len(outcomes) < len(events):
        outcomes += other.steps(
            events[len(outcomes) : len(outcomes) + rng.choice([1, 2, 31, 32, 33, 97, 500])]
        )
    assert [fold.told(outcome) for outcome in outcomes] == expected
    fold.assert_same_fold(other, one)


@pytest.mark.parametrize("policy", ["observe", "reweight"])
@pytest.mark.parametrize("batch", [1, 7, 40])
def test_odd_answers_in_batches(batch, policy):
    """No answer, NaN, NaN in a row, of a model that asking changes: the same one by one and in batches."""
    rng = random.Random(batch)
    values = [(rng.random() < 0.5, rng.choice([0, 0, 0, 0, 1, 2])) for _ in range(200)]
    values[100:110] = [(True, 1)] * 10
    settings = counting_settings(policy, factory="odd")
    one, other = fold.genesis(settings), fold.genesis(settings)
    events, outcomes = simple(values), []
    expected = [fold.told(one.step(event)) for event in events]
    for start in range(0, len(events), batch):
        outcomes += other.steps(events[start : start + batch])
    assert [fold.told(outcome) for outcome in outcomes] == expected
    assert [m.model.asked for m in one.mixture.members] == [m.model.asked for m in other.mixture.members]
    fold.assert_same_fold(other, one)


def test_nothing_but_the_log_matters():
    """Twice the same log: the same outcomes, whatever global chance was drawn in between."""
    log = fold.five(1_500)
    settings = fold.settings(log, "arf", POLICIES["reweight"])
    events = events_of(settings, log)
    one, other = fold.genesis(settings), fold.genesis(settings)
    first = [fold.told(one.step(event)) for event in events]
    random.seed(99)
    import numpy as np

    np.random.seed(99)  # noqa: NPY002 - the legacy global state is what must not matter
    assert [fold.told(other.step(event)) for event in events] == first


def test_reading_metrics_and_standing_changes_nothing():
    log = fold.drifting(2_000)
    settings = fold.settings(log, "linear", POLICIES["reweight"])
    looked, alone = fold.genesis(settings), fold.genesis(settings)
    for event in events_of(settings, log):
        assert fold.told(looked.step(event)) == fold.told(alone.step(event))
        looked.metrics()
        looked.standing()
    fold.assert_same_fold(looked, alone)


def test_metrics_are_derived_once_however_fast_the_loop_turns(monkeypatch):
    """Deriving takes longer than 32 fast events: asked again until nothing moved, it would never end."""
    log = fold.drifting(200)
    settings = fold.settings(log, "linear", "observe")
    learner, derived, derive = fold.genesis(settings), [], Prequential.metrics
    learner.steps(events_of(settings, log))

    def turning(self, newer):
        derived.append(learner.turns)
        learner.turns += 2
        return derive(self, newer)

    expected = learner.metrics()
    monkeypatch.setattr(Prequential, "metrics", turning)
    assert learner.metrics() == expected
    assert len(derived) == 1


def test_metrics_wait_for_the_end_of_a_turn_and_not_for_ever():
    log = fold.drifting(200)
    settings = fold.settings(log, "linear", "observe")
    learner = fold.genesis(settings)
    events, waits = events_of(settings, log), []
    learner.steps(events[:100])
    learner.turns += 1  # a turn is under way

    def the_turn_ends():
        waits.append(learner.events)
        learner.turns += 1
        learner.steps(events[100:])

    found = learner.metrics(the_turn_ends)
    assert waits == [100]
    assert found == learner.metrics()
    learner.turns += 1
    waits.clear()
    assert learner.metrics(lambda: waits.append(0)) == found
    assert len(waits) == TRIES


def test_a_state_holds_only_what_survives():
    """Dumping does not change the fold, and a fold does not change its dump."""
    log = fold.drifting(1_000)
    settings = fold.settings(log, "hoeffding", POLICIES["reweight"])
    events = events_of(settings, log)
    learner, other = fold.genesis(settings), fold.genesis(settings)
    for event in events[:600]:
        learner.step(event)
        other.step(event)
    blob = unpickle.dumps(learner.state())
    for event in events[600:]:
        assert fold.told(learner.step(event)) == fold.told(other.step(event))
    back = Learner(learner.spec, learner.spec.load(blob))
    for event in events[600:]:
        back.step(event)
    fold.assert_same_fold(back, learner)


# --- predict before learn --------------------------------------------------------------------------


def test_predicts_before_it_learns():
    learner = fold.genesis(counting_settings())
    outcomes = [learner.step(event) for event in simple([(True, 0)] * 5)]
    assert [o.answer[1] for o in outcomes] == [(n + 1) / (n + 2) for n in range(5)]


@pytest.mark.parametrize("factory", ["linear", "bayes", "hoeffding", "adaptive"])
def test_observe_is_plain_river(factory):
    log = fold.drifting(2_500)
    settings = fold.settings(log, factory)
    expected = fold.river_loop(fold.plain_model(settings), log.pairs, log.classes)
    outcomes = fold.fold(settings, log.values).outcomes
    assert [o.answer if o.known else None for o in outcomes] == expected


def test_an_event_without_a_label_is_scored_and_not_learned():
    learner = fold.genesis(counting_settings())
    outcomes = [learner.step(e) for e in simple([(True, 0), (None, 0), (None, 0), (True, 0)])]
    assert [o.answer[1] for o in outcomes] == [1 / 2, 2 / 3, 2 / 3, 2 / 3]
    ledger = learner.ledger.partitions[0]
    assert (ledger.learned, ledger.scored, ledger.next, learner.events) == (2, 2, 4, 2)
    assert ledger.balanced()


def test_scoring_alone_changes_no_answer_to_come():
    """Unlabelled events in between leave every other outcome as it is, but for its place."""
    log = fold.drifting(1_000)
    settings = fold.settings(log, "hoeffding", "reset")
    plain = [o.answer for o in fold.fold(settings, log.values).outcomes]
    values = []
    for number, event in enumerate(log.events):
        values.append(fold.wire(number, *event))
        time, x, _ = event
        values.append(fold.wire(number, time, {"a": -x["a"], "b": 9.0}, None))
    assert [o.answer for o in fold.fold(settings, values).outcomes[::2]] == plain


# --- the ledger ------------------------------------------------------------------------------------


def test_the_ledger_balances_over_everything():
    learner = fold.genesis(counting_settings(), partitions=2)
    for event in simple([(True, 0), (None, 0)]):
        learner.step(event)
    learner.refuse(0, 2)
    learner.step(*simple([(True, 0)], offset=7))  # 3 to 6 were never there
    learner.skip(0, 10)
    learner.skip(0, 4)  # long past: nothing to skip
    learner.step(*simple([(False, 0)], partition=1))
    zero, one = (learner.ledger.partitions[p] for p in (0, 1))
    assert (zero.learned, zero.scored, zero.dead, zero.gaps, zero.skipped) == (2, 1, 1, 4, 2)
    assert (zero.next, zero.balanced(), one.next, one.balanced()) == (10, True, 1, True)
    assert learner.ledger.offsets() == {0: 10, 1: 1}


@pytest.mark.parametrize("again", [0, 4])
def test_an_offset_never_comes_twice(again):
    learner = fold.genesis(counting_settings())
    for event in simple([(True, 0)] * 5):
        learner.step(event)
    with pytest.raises(OutOfOrder):
        learner.step(*simple([(True, 0)], offset=again))
    with pytest.raises(OutOfOrder):
        learner.refuse(0, again)
    assert learned(learner) == 5


def test_a_foreign_partition_is_refused():
    learner = fold.genesis(counting_settings())
    with pytest.raises(OutOfOrder):
        learner.step(*simple([(True, 0)], partition=3))


def folded_in(order):
    settings = counting_settings()
    learner = fold.genesis(settings, partitions=3)
    following = [0, 0, 0]
    for partition in order:
        learner.step(*simple([(True, 0)], offset=following[partition], partition=partition))
        following[partition] += 1
    return learner


def test_the_order_of_partitions_has_a_checksum():
    orders = ["001122", "012012", "221100", "010122", "001212"]
    sums = {order: folded_in(map(int, order)).ledger.order for order in orders}
    assert len(set(sums.values())) == len(orders)
    assert folded_in(map(int, orders[0])).ledger.order == sums[orders[0]]


def test_the_checksum_survives_a_checkpoint_in_the_midst_of_a_run():
    whole, half = folded_in([0, 0, 1, 1]), fold.copied(folded_in([0, 0, 1]))
    half.step(*simple([(True, 0)], offset=1, partition=1))
    assert half.ledger.order == whole.ledger.order


# --- the model's errors ----------------------------------------------------------------------------


@pytest.mark.parametrize(("fail", "where"), [(1, "learn"), (2, "predict")])
def test_an_error_of_the_model_names_event_and_cause(fail, where):
    learner = fold.genesis(counting_settings())
    good, bad = simple([(True, 0), (True, fail)])
    learner.step(good)
    with pytest.raises(ModelError) as caught:
        learner.step(bad)
    assert (caught.value.partition, caught.value.offset) == (0, 1)
    assert caught.value.detail.startswith(f"{where}: ")
    assert "please" in caught.value.detail


@pytest.mark.parametrize("policy", ["observe", "reweight"])
def test_answers_that_are_not_finite_are_not_served_and_the_model_goes_back(policy):
    """After five in a row the champion becomes its snapshot, here the blank, and that is a version."""
    learner = fold.genesis(counting_settings(policy))
    for event in simple([(True, 0)] * 3 + [(True, 3)]):
        learner.step(event)
    if policy == "reweight":  # a challenger that answers NaN starts afresh at once
        for member in learner.mixture.members[1:]:
            member.model.sick = False
    outcomes = [learner.step(event) for event in simple([(True, 0)] * 10, offset=4)]
    versions = [v for o in outcomes if o.rare for v in o.rare.versions]
    assert [v.cause for v in versions] == ["non-finite"]
    assert learner.counts["non-finite"] >= NON_FINITE_LIMIT
    assert not learner.mixture.members[0].model.sick
    assert learner.mixture.members[0].model.seen <= 10
    retired = [r for o in outcomes if o.rare for r in o.rare.retired]
    assert [r.version for r in retired] == [1]
    for outcome in outcomes:
        assert all(0.0 <= p <= 1.0 for p in outcome.answer)
    if policy == "observe":
        assert [o.known for o in outcomes] == [False] * NON_FINITE_LIMIT + [True] * 5
        assert learner.evaluation.unpredicted == NON_FINITE_LIMIT
    assert learner.ledger.partitions[0].balanced()


def test_non_finite_answers_that_are_not_in_a_row_do_not_send_the_model_back():
    learner = fold.genesis(counting_settings(factory="flickering"))
    outcomes = [learner.step(event) for event in simple([(True, 0)] * 40)]
    assert any(not o.known for o in outcomes)
    assert any(o.known for o in outcomes)
    assert learner.lineage.current == 1


def test_the_way_back_is_the_snapshot_when_there_is_one(monkeypatch):
    monkeypatch.setattr("fluvial.learner.SNAPSHOT_EVERY", 100)
    learner = fold.genesis(counting_settings())
    for event in simple([(True, 0)] * 150 + [(True, 3)]):
        learner.step(event)
    learner = fold.copied(learner)  # the snapshot is part of the state
    for event in simple([(True, 0)] * 6, offset=151):
        learner.step(event)
    assert learner.lineage.versions[-1].cause == "non-finite"
    assert 100 <= learned(learner) <= 106


def test_a_snapshot_that_is_sick_itself_is_gone_back_to_once(monkeypatch):
    """Made right after the event that made the model NaN: the second time the blank takes over."""
    monkeypatch.setattr("fluvial.learner.SNAPSHOT_EVERY", 100)
    learner = fold.genesis(counting_settings())
    outcomes = learner.steps(simple([(True, 0)] * 199 + [(True, 3)] + [(True, 0)] * 100))
    told = [v.detail["snapshot"] for v in learner.lineage.versions[1:]]
    assert told == [True, False]
    assert sum(not o.known for o in outcomes) == 2 * NON_FINITE_LIMIT


class Asked:
    """Starts the challenger afresh at 50 events and promotes it at 150."""

    name, challengers, period, recalls, ready = "asked", 1, 50, 0, 0

    def __call__(self, standing):
        action = {50: Action.RESTART, 150: Action.PROMOTE}.get(standing.events)
        return [] if action is None else [Decision(action=action, member=1)]


def test_no_snapshot_of_a_champion_that_was_replaced_comes_back(monkeypatch):
    monkeypatch.setattr("fluvial.learner.SNAPSHOT_EVERY", 100)
    settings = counting_settings()
    spec = msgspec.structs.replace(spec_of(settings), policy=Asked())
    learner = Learner.genesis(spec, fold.genesis(settings)._crew.blanks, {0: 0})
    learner.steps(simple([(True, 0)] * 170 + [(True, 3)]))
    learner.mixture.members[1].model.sick = False  # it learned the same
    learner.steps(simple([(True, 0)] * 6, offset=171))
    assert [v.cause for v in learner.lineage.versions] == ["genesis", "promotion", "non-finite"]
    assert learner.lineage.versions[-1].detail["snapshot"] is False
    assert learned(learner) <= 6


def test_a_challenger_that_answers_nan_begins_afresh_with_the_least_weight():
    learner = fold.genesis(counting_settings({"name": "reweight", "challengers": 1}))
    learner.steps(simple([(True, 0), (False, 0)] * 50))
    learner.mixture.weights = [0.05, 0.95]
    learner.mixture.members[1].model.sick = True
    assert learner.step(*simple([(True, 0)], offset=100)).known
    champion, challenger = learner.mixture.standings(learner.events)
    assert challenger.weight < 0.01 < champion.weight
    assert (champion.age, challenger.age) == (101, 1)


@pytest.mark.parametrize("delay", [0, 3])
@pytest.mark.parametrize("way", ["step", "steps"])
def test_an_error_beside_an_answer_that_is_not_finite_is_the_models_error(delay, way):
    """Asked one by one they may raise as well: it is told as ever, with the event that is concerned."""

    def not_finite(_x):
        raise NonFiniteAnswer

    def broken(_x):
        raise ZeroDivisionError

    learner = fold.genesis(counting_settings({"name": "reweight", "label_delay": delay}))
    events = simple([(True, 0)] * 45)
    learner.steps(events[:40])
    champion, challenger, _ = learner.mixture.members
    champion.ask, challenger.ask = not_finite, broken
    with pytest.raises(ModelError, match="ZeroDivisionError") as caught:
        learner.steps(events[40:]) if way == "steps" else learner.step(events[40])
    assert caught.value.offset == 40
    with pytest.raises(ModelError, match="ZeroDivisionError") as caught:
        learner._ask_again(events[37])
    assert caught.value.offset == 37


# --- beginning afresh ------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("at", [CLOCK * 20, CLOCK * 20 + 7])
def test_a_model_that_begins_afresh_is_the_one_that_began_there(case, at):
    """In the middle of a block, too: nothing of the model before is in any answer or drift signal."""
    make, factory = CASES[case]
    log = make()
    settings = fold.settings(log, factory, "reset")
    events, learner, other = events_of(settings, log), fold.genesis(settings), fold.genesis(settings)
    for event in events[:at]:
        learner.step(event)
    judged = repr(learner.metrics())
    assert learner.begin_afresh(0, at + 100) is not None
    learner = fold.copied(learner)
    assert repr(learner.metrics()) == judged, "what was served stays judged"
    other.skip(0, at + 100)
    told = []
    for event in events[at + 100 :]:
        one, two = learner.step(event), other.step(event)
        assert (one.answer, one.choice, one.known) == (two.answer, two.choice, two.known)
        told.append([o.rare and [(s.kind, s.before, s.after) for s in o.rare.signals] for o in (one, two)])
    assert all(one == two for one, two in told)


def test_beginning_afresh_is_a_version_and_keeps_the_model_before():
    learner = fold.genesis(counting_settings("reweight"))
    for event in simple([(True, 0)] * 40 + [(None, 0)]):
        learner.step(event)
    metrics = learner.metrics()["fading"]
    rare = learner.begin_afresh(0, 61)
    (version,), (retired,) = rare.versions, rare.retired
    assert (version.number, version.cause, version.parent) == (2, "events-lost", 1)
    assert (version.partition, version.offset, version.events) == (0, 61, 40)
    assert version.detail == {"events": 20}
    assert version.metrics == metrics
    assert [(e.kind, e.offset) for e in rare.entries] == [("version", 60)]
    assert retired.version == 1
    assert learner.spec.load(retired.blob)["model"].seen == 40
    ledger = learner.ledger.partitions[0]
    assert (ledger.next, ledger.skipped, ledger.balanced()) == (61, 20, True)
    assert [m.model.seen for m in learner.mixture.members] == [0, 0, 0]
    assert learner.step(simple([(True, 0)], 61)[0]).version == 2


def test_a_model_that_learned_nothing_is_fresh_already():
    """All partitions of a topic lose events at once: one version, and the trained model stays kept."""
    learner = Learner.genesis(spec_of(counting_settings()), fold.blanks_of(counting_settings()), {0: 0, 1: 0})
    assert learner.begin_afresh(0, 5) is None
    for event in simple([(True, 0)] * 3, offset=5):
        learner.step(event)
    assert learner.begin_afresh(0, 10) is not None
    assert learner.begin_afresh(1, 10) is None
    assert [ledger.skipped for ledger in learner.ledger.partitions.values()] == [7, 10]
    assert learner.lineage.current == 2


def test_no_snapshot_of_the_model_before_comes_back(monkeypatch):
    monkeypatch.setattr("fluvial.learner.SNAPSHOT_EVERY", 100)
    learner = fold.genesis(counting_settings())
    for event in simple([(True, 0)] * 150):
        learner.step(event)
    learner.begin_afresh(0, 160)
    for event in simple([(True, 0)] * 2 + [(True, 3)] + [(True, 0)] * 6, offset=160):
        learner.step(event)
    assert [v.cause for v in learner.lineage.versions] == ["genesis", "events-lost", "non-finite"]
    assert learned(learner) <= 6


def test_no_snapshot_of_a_model_that_was_reset_comes_back(monkeypatch):
    monkeypatch.setattr("fluvial.learner.SNAPSHOT_EVERY", 100)
    learner = fold.genesis(counting_settings())
    events = simple([(True, 0)] * 150)
    for event in events:
        learner.step(event)
    learner._renew(events[-1], Decision(action=Action.RESET, because="the error rose"), _Note())
    for event in simple([(True, 0)] * 2 + [(True, 3)] + [(True, 0)] * 6, offset=150):
        learner.step(event)
    assert [v.cause for v in learner.lineage.versions] == ["genesis", "reset", "non-finite"]
    assert learned(learner) <= 6


# --- reactions -------------------------------------------------------------------------------------


def reacted(policy, factory="linear", log=None, **sections):
    log = log or fold.drifting(6_000)
    settings = fold.settings(log, factory, policy, **sections)
    return fold.fold(settings, log.values)


def test_a_drift_is_answered_by_a_reset_and_told():
    folded = reacted("reset")
    told = [(o, n) for n, o in enumerate(folded.outcomes) if o.rare and o.rare.versions]
    assert len(told) == 2
    for (outcome, number), drift in zip(told, (2_000, 4_000), strict=True):
        (version,) = outcome.rare.versions
        assert version.cause == "reset"
        assert drift < version.events < drift + 300
        assert (version.offset, version.parent) == (number + 1, version.number - 1)
        assert outcome.version == version.parent, "the answer was made before"
        assert folded.outcomes[number + 1].version == version.number
        signal = next(s for s in outcome.rare.signals if s.kind is SignalKind.DRIFT)
        assert abs(signal.since - drift) < 60
        assert version.detail["warmed_on"] == version.events - signal.since - 1
        (retired,) = outcome.rare.retired
        assert retired.version == version.parent
        assert {e.kind for e in outcome.rare.entries} >= {"drift", "version"}
    assert folded.learner.counts["reaction:reset"] == 2


def test_the_replaced_model_can_be_brought_back():
    log = fold.drifting(6_000)
    settings = fold.settings(log, "linear", "reset")
    folded = fold.fold(settings, log.values)
    first = next(o.rare.retired[0] for o in folded.outcomes if o.rare and o.rare.retired)
    number = next(n for n, o in enumerate(folded.outcomes) if o.rare and o.rare.retired)
    model = folded.learner.spec.load(first.blob)["model"]
    plain = fold.plain_model(settings)
    for x, y in log.pairs[:number]:
        plain.predict_proba_one(x)
        plain.learn_one(x, y)
    x, _ = log.pairs[number]
    assert model.predict_proba_one(x) == plain.predict_proba_one(x)


def test_a_reset_is_worth_something():
    watched, reset = (
        reacted(policy).learner.metrics()["total"]["accuracy"] for policy in ("observe", "reset")
    )
    assert reset > watched + 0.02


def test_a_fresh_model_is_warmed_or_not():
    """Against plain River: the answers after a reset are those of a model that learned just these events."""
    log = fold.drifting(3_000)
    for warm in (True, False):
        settings = fold.settings(log, "linear", {"name": "reset", "warm": warm})
        folded = fold.fold(settings, log.values)
        number = next(n for n, o in enumerate(folded.outcomes) if o.rare and o.rare.versions)
        version = folded.outcomes[number].rare.versions[0]
        first = number - version.detail["warmed_on"]
        assert (first < number) == warm
        fresh = fold.plain_model(settings)
        for x, y in log.pairs[first : number + 1]:
            fresh.learn_one(x, y)
        for outcome, (x, y) in zip(folded.outcomes[number + 1 :], log.pairs[number + 1 :], strict=True):
            if outcome.version != version.number:
                break
            answer = fresh.predict_proba_one(x)
            assert outcome.answer == (answer[False], answer[True])
            fresh.learn_one(x, y)


def test_named_steps_are_kept_over_a_reset():
    log = fold.drifting(3_000)
    settings = fold.settings(log, "linear", {"name": "reset", "keep": ["StandardScaler"], "warm": False})
    folded = fold.fold(settings, log.values)
    version = folded.learner.lineage.versions[-1]
    assert version.cause == "reset"
    model = folded.learner.mixture.members[0].model
    assert model["StandardScaler"].counts["a"] == 3_000
    fresh_events = 3_000 - version.events + 1
    assert model["LogisticRegression"].optimizer.n_iterations == fresh_events
    fold.assert_same_fold(fold.copied(folded.learner), folded.learner)


def test_reweight_restarts_promotes_and_never_lags_far_behind():
    watched = reacted("observe").learner.metrics()["total"]["accuracy"]
    folded = reacted({"name": "reweight", "restart_every": 500})
    learner = folded.learner
    assert learner.metrics()["total"]["accuracy"] > watched + 0.02
    assert learner.counts["turns"] > 0
    assert sum(m.champion for m in learner.mixture.members) == 1
    assert len(learner.mixture.members) == 3
    assert sum(learner.mixture.weights) == pytest.approx(1.0)
    assert {v.cause for v in learner.lineage.versions} & {"promotion", "restart"}
    ages = [m.age for m in learner.standing().members if not m.champion]
    assert max(ages) <= 1_000, "a challenger is as old as its last restart"


def test_reweight_costs_next_to_nothing_where_nothing_changes():
    """Young naive Bayes models have the champion's log-loss long before they decide as well as it does."""
    stream = named("agrawal-still")
    events = [(1e9 + i, x, y) for i, (x, y) in enumerate(stream.make(2, 4_000))]
    log = fold.Log("still", "binary", {feature.name: "number" for feature in stream.features}, events)
    errors = {}
    for policy in ("observe", "reweight"):
        learner = fold.fold(fold.settings(log, {"preset": "bayes"}, policy), log.values).learner
        errors[policy] = 1.0 - learner.metrics()["total"]["accuracy"]
    assert errors["reweight"] < errors["observe"] + 0.003  # with equal shares it lost 0.009


@pytest.mark.parametrize("delay", [0, 3])
@pytest.mark.parametrize("fault", ["NaN", "nothing"])
def test_a_policy_is_asked_by_its_period_at_events_without_an_answer_too(fault, delay):
    """A model that answers some events only, or now and then NaN: no turn is skipped."""
    policy = {"name": "scheduled", "interval_events": 50, "refit_events": 20, "label_delay": delay}
    learner = fold.genesis(counting_settings(policy, "odd"))
    unanswered = dict.fromkeys((50, 100, 101, 149, 199, 200), 1 + (fault == "nothing"))
    events = simple([(n % 3 == 0, unanswered.get(n, 0)) for n in range(1, 261)])
    outcomes = [learner.step(event) for event in events]
    assert [n for n, outcome in enumerate(outcomes, 1) if not outcome.known] == list(unanswered)
    assert learner.evaluation.unpredicted == len(unanswered)
    assert [v.events for v in learner.lineage.versions[1:]] == [50, 100, 150, 200, 250]


def test_a_refit_at_an_event_without_an_answer_learns_the_newest_that_had_one():
    policy = {"name": "scheduled", "interval_events": 50, "refit_events": 500}
    learner = fold.genesis(counting_settings(policy, "odd"))
    for event in simple([(True, 0)] * 49 + [(True, 2)]):
        learner.step(event)
    assert learner.lineage.versions[-1].detail["warmed_on"] == 49
    assert learned(learner) == 50


ANSWERED = {"all": 1, "half": 2, "a tenth": 10}
"""Every how many events have an answer."""


def turned(answered, delay=0, change=1_200, n=2_400):
    """A label that turns round under a model that answers some events; and the learner before the first."""
    learner = fold.genesis(
        counting_settings({"name": "reset", "label_delay": delay}, "odd", drift={"planes": []})
    )
    every = ANSWERED[answered]
    return learner, simple([(i < change, 0 if i % every == 0 else 2) for i in range(n)])


@pytest.mark.parametrize("delay", [0, 3])
@pytest.mark.parametrize("answered", ANSWERED)
def test_a_change_is_dated_by_the_event_however_few_are_answered(answered, delay):
    """The ring has no rows of the others; the fresh model learns none from before the change."""
    learner, events = turned(answered, delay)
    for event in events:
        outcome = learner.step(event)
        if outcome.rare is not None and outcome.rare.versions:
            break
    (signal,) = outcome.rare.signals
    assert signal.kind is SignalKind.DRIFT
    assert abs(signal.since - 1_200) <= 1
    warmed_on, model = outcome.rare.versions[0].detail["warmed_on"], learner.mixture.members[0].model
    assert warmed_on == (signal.events - signal.since - 1) // ANSWERED[answered]
    assert (model.seen, model.true) == (warmed_on + 1, 0)


@pytest.mark.parametrize("answered", ANSWERED)
def test_only_losses_of_the_present_model_date_a_change(answered):
    """Those of a model before it are of other answers, however many events between were not answered."""
    learner, events = turned(answered)
    for event in events:
        learner.step(event)
    fresh_at = learner.lineage.versions[-1].events
    assert 1_200 < fresh_at < 2_300
    rows = sum(1 for event in events[fresh_at:] if event.x["fail"] == 0) - len(learner._rows)
    assert learner._losses() == [0.0] * rows


@pytest.mark.parametrize("answered", ANSWERED)
def test_the_same_from_any_checkpoint_on_where_some_events_are_not_answered(answered):
    learner, events = turned(answered)
    broken = fold.copied(learner)
    for start in range(0, 1_800, 171):
        broken = fold.copied(broken)
        batch = events[start : start + 171]
        for event, outcome in zip(batch, broken.steps(batch), strict=True):
            assert fold.told(learner.step(event)) == fold.told(outcome)
    fold.assert_same_fold(broken, learner, events[learner.events :])


def test_an_older_state_knows_nothing_of_events_without_an_answer():
    learner, events = turned("half")
    for event in events[:1_000]:
        learner.step(event)
    state = learner.spec.load(unpickle.dumps(learner.state()))
    del state["gaps"], state["memory"]["gaps"]
    older = Learner(learner.spec, state)
    dates = [s.since for e in events[1_000:] if (rare := older.step(e).rare) for s in rare.signals]
    assert 1_200 <= dates[0] < 1_300


def test_a_policy_that_is_asked_by_its_period_does_not_move_the_detectors_clock():
    """Rows turn 32 at a time whatever the period, so signals come where they would one by one."""
    log = fold.drifting(6_000)
    settings = fold.settings(log, "linear", {"name": "reweight", "restart_every": 700})
    learner = fold.genesis(settings)
    signals = []
    for event in events_of(settings, log):
        outcome = learner.step(event)
        signals += outcome.rare.signals if outcome.rare is not None else ()
    assert any(signal.kind is SignalKind.DRIFT for signal in signals)
    assert all(signal.events % CLOCK == 0 for signal in signals)
    assert len(learner.state()["rows"]) == learner.events % CLOCK
    assert learner.counts["turns"] > 0


def test_reactions_before_the_storm_window_are_forgotten():
    lineage = Lineage.genesis()
    for events in range(0, 50_000, 100):
        lineage.reacted(events, 1_000)
        assert len(lineage.reactions) == lineage.recent(events, 1_000) <= 10


def test_cooldown_and_storm_are_told():
    folded = reacted({"name": "reset", "max_reactions": 1})
    assert folded.learner.counts["reaction:reset"] == 1
    assert folded.learner.counts["reaction:hold"] >= 1
    held = [e for o in folded.outcomes if o.rare for e in o.rare.entries if e.kind == "hold"]
    assert "storm" in held[0].detail["because"]


@pytest.mark.parametrize(
    ("before", "after"), [("observe", "reweight"), ("reweight", "observe"), ("reset", "reweight")]
)
def test_another_policy_after_a_restart_takes_effect(before, after):
    log = fold.drifting(3_000)
    one, other = (fold.settings(log, "linear", policy) for policy in (before, after))
    events = fold.decoded(one, log.values)
    learner = fold.genesis(one)
    for event in events[:1_500]:
        learner.step(event)
    champion = learner.mixture.members[0].model
    changed = Learner(spec_of(other), learner.spec.load(unpickle.dumps(learner.state())))
    assert len(changed.mixture.members) == 1 + changed.spec.policy.challengers
    assert sum(changed.mixture.weights) == pytest.approx(1.0)
    x = events[0].x
    assert changed.mixture.members[0].model.predict_proba_one(x) == champion.predict_proba_one(x)
    for event in events[1_500:]:
        changed.step(event)
    assert changed.ledger.partitions[0].learned == 3_000
    assert sum(changed.mixture.weights) == pytest.approx(1.0)


# --- weights, names, memory ------------------------------------------------------------------------


def test_sample_weights_reach_the_model():
    log = fold.drifting(800)
    log.schema["weight"] = "weight"
    settings = fold.settings(log, "linear")
    weights = [0.5 + (i % 3) for i in range(len(log.events))]
    values = [fold.wire(i, *e, weight=w) for i, (e, w) in enumerate(zip(log.events, weights, strict=True))]
    outcomes = fold.fold(settings, values).outcomes
    plain = fold.plain_model(settings)
    for (x, y), weight, outcome in zip(log.pairs, weights, outcomes, strict=True):
        answer = plain.predict_proba_one(x)
        assert outcome.answer == (answer[False], answer[True])
        plain.learn_one(x, y, w=weight)


def test_labels_enter_river_as_indices_and_come_back_as_names():
    log = fold.five(300)
    settings = fold.settings(log, "softmax")
    folded = fold.fold(settings, log.values)
    head = folded.learner.mixture.members[0].model["SoftmaxRegression"]
    assert set(head.weights) <= set(range(5))
    codec = Codec(settings.schema)
    event = fold.decoded(settings, log.values)[5]
    outcome = folded.outcomes[5]
    score = codec.score_of(event, outcome.answer, outcome.choice, 1, "all", 0.0)
    assert score.prediction == log.classes[outcome.choice]
    assert list(score.probabilities) == list(log.classes)


def test_features_come_in_schema_order_whatever_the_senders():
    log = fold.five(400)
    settings = fold.settings(log, "softmax")
    turned = [(t, dict(reversed(x.items())), y) for t, x, y in log.events]
    values = [fold.wire(i, *event) for i, event in enumerate(turned)]
    answers = [o.answer for o in fold.fold(settings, values).outcomes]
    assert answers == [o.answer for o in fold.fold(settings, log.values).outcomes]


def test_the_state_does_not_grow_with_the_log():
    log = fold.drifting(9_000)
    settings = fold.settings(log, "linear", "reweight")
    learner, sizes = fold.genesis(settings), []
    for number, event in enumerate(fold.decoded(settings, log.values)):
        learner.step(event)
        if number in {3_999, 8_999}:
            sizes.append(len(unpickle.dumps(learner.state())))
    assert sizes[1] < 1.2 * sizes[0]


def test_a_state_of_another_format_is_refused():
    learner = fold.genesis(counting_settings())
    state = {**learner.state(), "format": 99}
    with pytest.raises(ValueError, match="99"):
        Learner(learner.spec, state)
