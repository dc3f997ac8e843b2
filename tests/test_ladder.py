"""Ladders: members that share a scaler's numbers answer in one pass, and nothing but the clock can tell."""

import random

import pytest
from river import linear_model, optim

from fluvial.errors import SettingsError
from fluvial.fused import Panel
from fluvial.fused import ladder as ladders
from fluvial.mixture import LIGHT, REST, Member, Mixture, reader
from fluvial.models.encoding import Standardise, StandardiseRecent
from fluvial.models.unpickle import dumps, loads
from fluvial.types import Task
from support import fold
from test_fused import NAMES, numbers, streams

RATES = (0.05, 0.01, 0.2, 1.0)


def model(rate, recent=False):
    scaler = StandardiseRecent(50) if recent else Standardise()
    return scaler | linear_model.LogisticRegression(optim.SGD(rate), intercept_lr=rate)


def member(model):
    return Member("m", model, reader(model, Task.BINARY, 2), champion=True)


def members():
    return [member(model(rate, recent)) for recent in (False, True) for rate in RATES]


def laddered(panel):
    return sum(len(ladder.members) for ladder in panel._ladders)


def live(events, weighted=False, disturb=lambda k, crew, panel: None):
    """Feed a panel, and River's models alone; how many of the members stood in a ladder, at most."""
    crew, panel, most = members(), Panel(), 0
    river = [loads(dumps(one.model)) for one in crew]
    for k, (x, y, weight) in enumerate(events):
        expected = [(a[False], a[True]) for a in (one.predict_proba_one(x) for one in river)]
        assert list(panel.ask(crew, x)) == expected
        w = {"w": weight} if weighted else {}
        for one in river:
            one.learn_one(x, y, **w)
        panel.teach(crew, x, y, **w)
        most = max(most, laddered(panel))
        disturb(k, crew, panel)
    assert [repr(numbers(one.model)) for one in crew] == [repr(numbers(one)) for one in river]
    return most


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("weighted", [False, True], ids=["", "weighted"])
def test_equal_to_rivers_members_to_the_bit(seed, weighted):
    assert live(streams(seed), weighted) == 2 * len(RATES)


@pytest.mark.parametrize("absent", [0.002, 0.05])
def test_equal_when_features_come_and_go(absent):
    live(streams(5, absent=absent))


def test_equal_far_from_ordinary_numbers():
    live(streams(2, extreme=True), weighted=True)


def test_a_member_that_is_asked_or_taught_alone_goes_on_alone():
    def disturb(k, crew, panel):
        if k % 50 == 40:
            x = dict.fromkeys(NAMES[:3], 0.5)
            before = repr(numbers(crew[1].model))
            crew[1].ask(x)
            assert repr(numbers(crew[1].model)) == before

    assert live(streams(3), disturb=disturb) == 2 * len(RATES)


def test_a_member_that_learned_more_than_its_neighbours_leaves_the_ladder():
    crew, panel = members(), Panel()
    twin = loads(dumps(crew[1].model))
    for k, (x, y, _) in enumerate(streams(3)):
        panel.ask(crew, x)
        panel.teach(crew, x, y)
        twin.learn_one(x, y)
        if k == 100:
            crew[1].teach(x, y)
            twin.learn_one(x, y)
            assert laddered(panel) == len(RATES)
    assert all(crew[1] not in ladder.members for ladder in panel._ladders)
    assert repr(numbers(crew[1].model)) == repr(numbers(twin))


def test_members_may_be_replaced_at_any_event():
    crew, panel = members(), Panel()
    river = [loads(dumps(one.model)) for one in crew]
    rng, most = random.Random(1), 0
    for k, (x, y, _) in enumerate(streams(7)):
        if k % 60 == 59:
            at = rng.randrange(len(crew))
            kept = crew[at].model.steps.get("Standardise")
            fresh = model(RATES[at % len(RATES)], at >= len(RATES))
            if kept is not None and k % 120 == 119:  # as `policy.keep` does
                fresh.steps["Standardise"] = kept
            crew[at] = member(fresh)
            river[at] = loads(dumps(fresh))
        expected = [(a[False], a[True]) for a in (one.predict_proba_one(x) for one in river)]
        assert list(panel.ask(crew, x)) == expected
        for one in river:
            one.learn_one(x, y)
        panel.teach(crew, x, y)
        most = max(most, laddered(panel))
    assert most > len(RATES)
    assert [repr(numbers(one.model)) for one in crew] == [repr(numbers(one)) for one in river]


def alone(monkeypatch):
    monkeypatch.setattr(ladders.Panel, "_form", lambda self, members: None)


POLICIES = {
    "reweight": {"name": "reweight", "restart_every": 600},
    "reset": {"name": "reset"},
    "reset, scaler kept": {"name": "reset", "keep": ["Standardise"], "warm": True},
}


@pytest.mark.parametrize("policy", POLICIES)
def test_a_fold_is_the_same_with_and_without_ladders(policy, monkeypatch):
    log = fold.drifting(4_000)
    slow = {"preset": "rates", "options": {"steady": [0.01, 0.02, 0.05], "recent": [0.01, 0.02]}}
    settings = fold.settings(log, slow, POLICIES[policy])
    with_ladders = fold.fold(settings, log.values)
    alone(monkeypatch)
    without = fold.fold(settings, log.values)
    counts = without.learner.counts
    assert counts["turns"] > 2 or counts["reaction:reset"] > 0
    assert [o.answer for o in with_ladders.outcomes] == [o.answer for o in without.outcomes]
    both = (with_ladders.learner, without.learner)
    one, other = ([repr(numbers(m.model)) for m in learner.mixture.members] for learner in both)
    assert one == other


# --- lanes that rest -------------------------------------------------------------------------------


class Counts:
    """Always wrong, and counts how often it is asked and taught."""

    def __init__(self):
        self.asked = self.taught = 0

    def predict_proba_one(self, x):
        self.asked += 1
        return {False: 1.0, True: 0.0}

    def learn_one(self, x, y):
        self.taught += 1


def test_a_lane_that_is_worth_nothing_rests_and_keeps_its_weight_meanwhile():
    slow = Counts()
    crew = [
        member(model(0.2)),
        Member("slow", slow, reader(slow, Task.BINARY, 2), champion=True),
    ]
    mixture = Mixture(Task.BINARY, 2, crew, [0.5, 0.5])
    weights = []
    for k in range(400):
        answers = mixture.ask({"a": 1.0 + k % 3})
        mixture.reweigh(True, answers, mixture.combine(answers))
        mixture.teach({"a": 1.0 + k % 3}, True)
        weights.append(mixture.weights[1])
    assert weights[-1] < LIGHT
    assert slow.asked == slow.taught
    assert 400 / REST <= slow.taught < 400 / REST + 30


def test_a_lane_wakes_when_it_is_right():
    slow = Counts()
    crew = [member(model(0.001)), Member("slow", slow, reader(slow, Task.BINARY, 2), champion=True)]
    mixture = Mixture(Task.BINARY, 2, crew, [0.999, 0.001], rest=(1, (1,)))
    for _ in range(200):
        answers = mixture.ask({"a": 1.0})
        mixture.reweigh(False, answers, mixture.combine(answers))
        mixture.teach({"a": 1.0}, False)
    assert not crew[1].rests
    assert mixture.weights[1] > 0.5


def test_who_rests_is_part_of_the_state():
    log = fold.drifting(3_000)
    settings = fold.settings(log, {"preset": "auto"}, "reweight")
    events = fold.decoded(settings, log.values)
    one = fold.genesis(settings)
    undisturbed = [one.step(event).answer for event in events]
    other, answers, rested = fold.genesis(settings), [], 0
    for k, event in enumerate(events):
        if k % 307 == 306:
            rested += bool(other.mixture.rest[1])
            other = type(other)(other.spec, loads(dumps(other.state())))
        answers.append(other.step(event).answer)
    assert answers == undisturbed
    assert rested


# --- the preset ------------------------------------------------------------------------------------


@pytest.mark.parametrize("log", [fold.drifting, fold.five, fold.numbers], ids=lambda make: make.__name__)
def test_rates_serve_every_task_and_resume_to_the_bit(log):
    log = log(900)
    settings = fold.settings(log, {"preset": "rates"}, "reweight")
    events = fold.decoded(settings, log.values)
    one, other = fold.genesis(settings), fold.genesis(settings)
    assert {m.lane for m in one.mixture.members} >= {
        "linear-0.05",
        "linear-0.01",
        "linear-0.2",
        "recent-0.05",
    }
    for k, event in enumerate(events):
        if k % 211 == 210:
            other = type(other)(other.spec, loads(dumps(other.state())))
        assert one.step(event) == other.step(event)
    assert not one.counts["non-finite"]


@pytest.mark.parametrize("features", [2, 12, 60])
def test_no_rate_of_a_regression_diverges(features):
    rng, names = random.Random(2), [f"f{k}" for k in range(features)]
    events = []
    for k in range(1_500):
        x = {name: rng.gauss(0, 1) for name in names}
        events.append((1e9 + k, x, sum(x.values()) + rng.gauss(0, 0.1)))
    log = fold.Log("sum", "regression", dict.fromkeys(names, "number"), events)
    done = fold.fold(fold.settings(log, {"preset": "rates"}, "observe"), log.values)
    assert not done.learner.counts["non-finite"]
    for member in done.learner.mixture.members:
        errors = [abs(member.ask(x)[0] - y) for _, x, y in events[-100:]]
        assert sum(errors) / 100 < features**0.5, member.lane


@pytest.mark.parametrize("preset", ["linear", "rates", "auto"])
def test_wild_features_do_not_throw_a_regression_off_its_track(preset):
    """A few events have two features at ten deviations, as prices have; the answer is found again."""
    rng, events = random.Random(4), []
    for k in range(4_500):
        x = {name: rng.gauss(0, 1) for name in "abcdefg"}
        y = x["a"] - x["b"] + rng.gauss(0, 0.1)
        if k % 150 == 0:
            x["f"] = x["g"] = 1e6 * rng.choice([-1, 1])
        events.append((1e9 + k, x, y))
    log = fold.Log("wild", "regression", dict.fromkeys("abcdefg", "number"), events)
    done = fold.fold(fold.settings(log, {"preset": preset}), log.values)
    answers = [(outcome.answer[0], y) for outcome, (_, _, y) in zip(done.outcomes, events, strict=True)]
    assert max(abs(answer) for answer, _ in answers) < 100.0
    usual = [abs(a - y) for k, (a, y) in enumerate(answers) if k > 1_000 and k % 150 > 50]
    assert sum(usual) / len(usual) < 0.8


@pytest.mark.parametrize("options", [{"memory": 1}, {"steady": [], "recent": []}, {"rate": 0.1}])
def test_options_that_mean_nothing_are_refused(options):
    settings = fold.settings(fold.drifting(10), {"preset": "rates", "options": options})
    with pytest.raises(SettingsError, match=r"model\.options"):
        fold.genesis(settings)


def test_recent_moments_forget():
    scaler = StandardiseRecent(memory=10)
    for value in [100.0] * 200 + [1.0, 3.0] * 100:
        scaler.learn_one({"a": value})
    assert scaler.count == {"a": 10}
    assert scaler.mean["a"] == pytest.approx(2.0, abs=0.2)
    assert scaler.transform_one({"a": 3.0})["a"] == pytest.approx(1.0, abs=0.2)


def test_recent_moments_are_all_moments_until_the_memory_is_full():
    recent, steady, chance = StandardiseRecent(memory=50), Standardise(), random.Random(1)
    for k in range(80):
        x = {"a": chance.gauss(3, 2), "colour": "rgb"[k % 3]}
        recent.learn_one(x)
        steady.learn_one(x)
        assert (recent.transform_one(x) == steady.transform_one(x)) == (k < 50)
