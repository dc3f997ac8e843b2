"""What the fold does when a policy asks for it: the right model, on the right events, the same every time."""

import random

import msgspec
import pytest

from fluvial.crew import nested
from fluvial.errors import SettingsError
from fluvial.learner import Learner
from fluvial.mixture import NonFiniteAnswer
from fluvial.models import unpickle
from fluvial.models.leaves import forget_leaves
from fluvial.reactions import faded
from fluvial.shard import spec_of
from fluvial.trial import Trial
from fluvial.types import Action, Decision, Signal, SignalKind
from support import fold

POLICIES = {
    "challenger": {"name": "challenger", "ready": 40, "trial": 300},
    "refit": {"name": "refit", "refit_events": 300, "half_life": 100.0},
    "recall": {"name": "recall", "ready": 40, "trial": 300, "recalls": 2},
    "scheduled, events": {"name": "scheduled", "interval_events": 450, "refit_events": 100},
    "scheduled, time": {"name": "scheduled", "interval_seconds": 500.0, "action": "reset"},
    "ladder": {"name": "ladder", "ready": 40},
    "leaves": {"name": "reset", "part": "leaves"},
    "last step": {"name": "reset", "part": "last-step"},
}
CASES = {
    "linear": (lambda: fold.drifting(3_000), "linear"),
    "tree": (lambda: fold.drifting(3_000), "hoeffding"),
    "regression": (lambda: fold.numbers(2_400), "regression"),
    "auto": (lambda: fold.five(1_200), {"preset": "auto"}),
}


def run(policy, factory="hoeffding", log=None):
    log = log or fold.drifting(6_000)
    return fold.fold(fold.settings(log, factory, policy), log.values)


def versions(folded, cause):
    return [v for v in folded.learner.lineage.versions if v.cause == cause]


def entries(folded, kind):
    return [e for o in folded.outcomes if o.rare for e in o.rare.entries if e.kind == kind]


# --- the same from any checkpoint on, in any batches ------------------------------------------------


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("case", CASES)
def test_the_same_from_any_checkpoint_on_and_in_any_batches(case, policy):
    make, factory = CASES[case]
    log = make()
    settings = fold.settings(log, factory, POLICIES[policy])
    events = fold.decoded(settings, log.values)
    whole, broken = fold.genesis(settings), fold.genesis(settings)
    expected = [fold.told(whole.step(event)) for event in events]
    rng = random.Random(f"{case} {policy}")
    outcomes = []
    while len(outcomes) < len(events):
        size = rng.choice([1, 2, 31, 32, 33, 97, 500])
        outcomes += broken.steps(events[len(outcomes) : len(outcomes) + size])
        if broken._trial is not None or rng.random() < 0.1:
            broken = fold.copied(broken)
    assert [fold.told(outcome) for outcome in outcomes] == expected
    fold.assert_same_fold(broken, whole)


def test_these_streams_ask_for_everything():
    """Otherwise the test above would hold over nothing."""
    did = {
        name: run(POLICIES[name], factory, CASES[case][0]()).learner.counts
        for name, case, factory in [
            ("challenger", "tree", "hoeffding"),
            ("recall", "tree", "hoeffding"),
            ("ladder", "linear", "linear"),
            ("scheduled, time", "linear", "linear"),
        ]
    }
    assert did["challenger"]["reaction:challenge"] >= 2
    assert did["challenger"]["reaction:promotion"] >= 1
    assert did["recall"]["reaction:recall"] >= 2
    assert did["ladder"]["reaction:refit"] >= 1
    assert did["scheduled, time"]["reaction:reset"] >= 4


def pickles(value):
    """Every pickle anywhere in a state."""
    if isinstance(value, bytes):
        return [value] if value[:1] == b"\x80" and value[-1:] == b"." else []
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return [found for part in parts for found in pickles(part)]


@pytest.mark.parametrize("policy", ["challenger", "recall", "reset", "reweight"])
def test_every_pickle_in_a_state_is_known_to_whoever_has_to_verify_it(policy):
    """Those of the trial and of the stock, too: a checkpoint's own are loaded without another look."""
    log = fold.drifting(3_000)
    settings = fold.settings(log, "linear", POLICIES.get(policy, policy))
    learner, seen = fold.genesis(settings), 0
    for number, event in enumerate(fold.decoded(settings, log.values)):
        learner.step(event)
        if number % 40 == 0:
            state = learner.state()
            assert sorted(pickles(state)) == sorted(nested(state))
            seen = max(seen, len(nested(state)) - len(state["snapshot"]))
    assert seen > 2 or policy in {"reset", "reweight"}, "a trial, or a stock"


def test_a_rival_that_takes_over_begins_the_predictions_anew():
    log = fold.drifting(6_000)
    settings = fold.settings(log, "hoeffding", "challenger")
    learner, seen = fold.genesis(settings), 0
    for event in fold.decoded(settings, log.values):
        outcome = learner.step(event)
        for version in outcome.rare.versions if outcome.rare else ():
            if version.cause == "promotion":
                assert learner.planes._fresh_at == version.events
                seen += 1
    assert seen


def test_a_state_from_before_there_were_trials_goes_on():
    log = fold.drifting(500)
    settings = fold.settings(log, "linear", "recall")
    learner = fold.fold(settings, log.values).learner
    state = learner.state()
    del state["reactions"]
    older = Learner(learner.spec, learner.spec.load(unpickle.dumps(state)))
    standing = older.standing()
    assert (standing.asked, standing.retired, standing.rival) == (None, (), None)
    fold.assert_same_fold(older, Learner(learner.spec, {**learner.state(), "reactions": {}}))


# --- the trial in the shadow ------------------------------------------------------------------------


def test_a_promoted_rival_learned_what_its_champion_did_and_nothing_twice():
    """Its model is a plain one, taught the events since the change, warmed ones included, each once."""
    log = fold.drifting(6_000)
    folded = run("challenger", "hoeffding", log)
    promoted = versions(folded, "promotion")[0]
    (began,) = [e for e in entries(folded, "challenge") if e.offset < promoted.offset]
    assert promoted.detail["tested"] <= promoted.events - (began.offset + 1) - 100
    first = promoted.events - promoted.detail["age"]
    assert began.offset - first == began.detail["warmed_on"]
    plain = fold.plain_model(fold.settings(log, "hoeffding"))
    for x, y in log.pairs[first : promoted.events]:
        plain.learn_one(dict(x), y)
    for outcome, (x, y) in zip(folded.outcomes[promoted.events :], log.pairs[promoted.events :], strict=True):
        if outcome.version != promoted.number:
            break
        answer = plain.predict_proba_one(dict(x))
        assert outcome.answer == (answer.get(False, 0.0), answer.get(True, 0.0))
        plain.learn_one(dict(x), y)


def test_a_rival_serves_nothing_until_it_is_promoted():
    log = fold.drifting(6_000)
    watched, tried = (
        run("observe", log=log),
        run({"name": "challenger", "evidence": 1e9, "trial": 200}, log=log),
    )
    assert tried.learner.counts["reaction:challenge"] >= 1
    until = versions(tried, "promotion")[0].events if versions(tried, "promotion") else 6_000
    assert [o.answer for o in tried.outcomes[:until]] == [o.answer for o in watched.outcomes[:until]]


def test_a_trial_without_a_decision_ends():
    log = fold.drifting(3_000)
    settings = fold.settings(log, "linear", {"name": "challenger", "ready": 10, "trial": 50, "evidence": 1e9})
    folded = fold.fold(settings, log.values)
    assert entries(folded, "dismissal")
    assert "not better after" in entries(folded, "dismissal")[0].detail["because"]
    assert folded.learner.standing().rival is None


def test_a_rival_without_a_finite_answer_is_dismissed_and_told():
    log = fold.drifting(3_000)
    settings = fold.settings(log, "linear", POLICIES["challenger"])
    learner, told = fold.genesis(settings), []
    for event in fold.decoded(settings, log.values):
        trial = learner._trial
        if trial is not None and learner.events - trial.began == 5:
            trial.member.ask = not_finite
        outcome = learner.step(event)
        told += outcome.rare.entries if outcome.rare is not None else ()
        if trial is not None and learner._trial is None:
            break
    assert told[-1].kind == "dismissal"
    assert told[-1].detail == {"because": "its answer was not finite"}
    assert learner.mixture.awake is None


def not_finite(_x):
    raise NonFiniteAnswer


def test_the_lane_on_trial_does_not_rest():
    """Its champion is compared with a rival that meets every event."""
    log = fold.drifting(3_000)
    learner = fold.genesis(fold.settings(log, {"preset": "auto"}, POLICIES["challenger"]))
    heavy = [m for m in learner.mixture.members if m.fused is None]
    assert heavy
    learner.mixture.weights = [1e-9 if m in heavy else 1.0 for m in learner.mixture.members]
    learner.mixture._lie_down()
    assert [m for m in learner.mixture.members if m.rests] == heavy
    learner.mixture._get_up()
    learner._try(Trial(heavy[0], 0, 40))
    learner.mixture._lie_down()
    assert not heavy[0].rests
    assert fold.copied(learner).mixture.awake == heavy[0].lane


# --- refit and parts --------------------------------------------------------------------------------


def test_a_refit_is_plain_river_on_the_newest_events_by_weight():
    log = fold.drifting(3_000)
    settings = fold.settings(log, "linear", POLICIES["refit"])
    folded = fold.fold(settings, log.values)
    version = versions(folded, "refit")[0]
    present = version.events - 1
    plain = fold.plain_model(settings)
    for x, y, w in faded([(x, y, 1.0) for x, y in log.pairs[present - 300 : present]], 100.0):
        plain.learn_one(x, y, w=w)
    plain.learn_one(*log.pairs[present])
    for outcome, (x, y) in zip(folded.outcomes[present + 1 :], log.pairs[present + 1 :], strict=True):
        if outcome.version != version.number:
            break
        answer = plain.predict_proba_one(x)
        assert outcome.answer == (answer[False], answer[True])
        plain.learn_one(x, y)


def test_half_life():
    rows = [({}, True, 1.0)] * 201
    weights = [w for _, _, w in faded(rows, 100.0)]
    assert (weights[-1], weights[-101], weights[0]) == (1.0, 0.5, 0.25)


def test_what_weighs_next_to_nothing_is_left_out():
    """The newest keeps its own weight, whatever the half-life."""
    rows = [({}, True, 1.0)] * 2_000
    assert [w for _, _, w in faded(rows, 1.0)] == [0.5**k for k in reversed(range(20))]
    assert [w for _, _, w in faded(rows, 5e-324)] == [1.0]
    assert faded([({}, True, 1e-6), ({}, True, 1.0)], 1_000.0) == [({}, True, 1.0)]


@pytest.mark.parametrize("half_life", [1.0, 0.001])
@pytest.mark.parametrize("factory", ["hoeffding", "linear"])
def test_a_refit_of_a_short_half_life_goes_on(factory, half_life):
    """A tree of River's divides by the weight in its leaves."""
    table = {"name": "scheduled", "interval_events": 2_050, "refit_events": 2_000, "half_life": half_life}
    folded = run(table, factory, fold.drifting(4_100))
    assert [v.detail["warmed_on"] for v in versions(folded, "refit")] == [20 if half_life == 1.0 else 1] * 2


def test_a_tree_keeps_its_branches_and_forgets_its_leaves():
    log = fold.drifting(4_000)
    model = fold.plain_model(fold.settings(log, "hoeffding"))
    pairs = [(x, x["a"] > 0) for x, _ in log.pairs]
    for x, y in pairs[:2_000]:
        model.learn_one(dict(x), y)
    branches, leaves, height = model.n_branches, model.n_leaves, model.height
    assert branches > 0
    model = unpickle.loads(unpickle.dumps(model))
    assert forget_leaves(model)
    assert (model.n_branches, model.n_leaves, model.height) == (branches, leaves, height)
    assert all(not leaf.stats for leaf in model._root.iter_leaves())
    assert model.n_active_leaves == leaves
    for x, y in pairs[2_000:]:
        model.learn_one(dict(x), y)
    assert model.n_branches >= branches


@pytest.mark.parametrize("factory", ["linear", "bayes", "arf"])
def test_what_is_no_tree_is_replaced_as_a_whole(factory):
    model = fold.plain_model(fold.settings(fold.drifting(10), factory))
    assert not forget_leaves(model)


def test_the_last_step_alone_is_replaced():
    log = fold.drifting(3_000)
    folded = run({"name": "reset", "part": "last-step", "warm": False}, "linear", log)
    version = versions(folded, "reset")[-1]
    assert version.detail["part"] == "last-step"
    model = folded.learner.mixture.members[0].model
    assert model["StandardScaler"].counts["a"] == 3_000
    assert model["LogisticRegression"].optimizer.n_iterations == 3_000 - version.events + 1


# --- recall -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("factory", "keep", "says"),
    [
        (
            {"preset": "linear"},
            ["Standardize"],
            "policy.keep: the model has no step 'Standardize'; its steps are 'Standardise', 'Log",
        ),
        (
            {"preset": "linear"},
            ["Standardise", "Logistic"],
            "has no step 'Logistic'; its steps are 'LogisticRegression', 'Standardise'",
        ),
        (
            {"preset": "auto"},
            ["standardiserecent"],
            "its steps are 'StandardiseRecent', 'Standardise', 'LogisticRegression'",
        ),
        ("hoeffding", ["Standardise"], "'Standardise', and the model is no pipeline"),
    ],
)
def test_a_step_to_keep_that_no_lane_has_is_refused(factory, keep, says):
    """At the start of a lineage and at every later one: nothing would be kept, and the version say it was."""
    log = fold.drifting(200)
    settings = fold.settings(log, factory, {"name": "reset", "keep": keep})
    with pytest.raises(SettingsError) as caught:
        fold.genesis(settings)
    assert says in str(caught.value)
    learner = fold.fold(fold.settings(log, factory, "reset"), log.values).learner
    with pytest.raises(SettingsError, match=r"policy\.keep"):
        Learner(spec_of(settings), learner.state())


def test_a_step_to_keep_may_be_of_one_lane_alone():
    settings = fold.settings(fold.drifting(200), {"preset": "auto"}, {"keep": ["StandardiseRecent"]})
    assert fold.genesis(settings).spec.keep == ("StandardiseRecent",)


def test_the_model_that_knew_the_concept_comes_back_by_name():
    """The rule turns round at 2,000 and back at 4,000: the first version's model fits again."""
    folded = run("recall")
    (version,) = versions(folded, "recall")
    assert 4_000 < version.events < 4_200
    assert version.detail["recalled"] == 1
    compared = version.detail["compared"]
    assert compared["retired"]["1"] < compared["fresh"] < compared["present"]
    assert 1 not in folded.learner.standing().retired
    assert version.parent in folded.learner.standing().retired
    kept = next(r.blob for o in folded.outcomes if o.rare for r in o.rare.retired if r.version == 1)
    model = folded.learner.spec.load(kept)["model"]
    pairs = fold.drifting(6_000).pairs
    since = version.detail["signal"]["since"]
    for x, y in pairs[since : version.events]:
        model.learn_one(dict(x), y)
    answer = model.predict_proba_one(dict(pairs[version.events][0]))
    assert folded.outcomes[version.events].answer == (answer.get(False, 0.0), answer.get(True, 0.0))


def test_what_does_not_fit_is_not_recalled_and_it_is_said():
    folded = run("recall", "linear")  # which learns either rule in tens of events
    assert len(versions(folded, "reset")) == 2
    assert not versions(folded, "recall")
    (told,) = entries(folded, "not-recalled")
    assert told.detail["retired"].keys() == {"1"}


class Recaller:
    """Resets at 1,600 events, and at 1,700 answers a change that is older than the reset."""

    name, challengers, period, recalls, ready = "recaller", 0, 100, 1, 100
    signal = Signal(SignalKind.DRIFT, "features", "bets", 1_700, 0.0, 1.0, 1_200)

    def __call__(self, standing):
        action = {1_600: Action.RESET, 1_700: Action.RECALL}.get(standing.events)
        return [] if action is None else [Decision(action=action, signal=self.signal)]


def recalling():
    log = fold.drifting(1_800)
    settings = fold.settings(log, "linear", {"name": "observe"})
    spec = msgspec.structs.replace(spec_of(settings), policy=Recaller(), warm=False)
    learner = Learner.genesis(spec, fold.genesis(settings)._crew.blanks, {0: 0})
    return learner, fold.decoded(settings, log.values)


def test_a_retired_model_is_judged_by_events_that_it_has_not_learned(monkeypatch):
    learner, events = recalling()
    heard, audition = [], Learner._audition
    monkeypatch.setattr(
        Learner,
        "_audition",
        lambda self, mixture, rows, event: heard.append(rows) or audition(self, mixture, rows, event),
    )
    learner.steps(events)
    assert len(heard) == 2  # the retired one and a fresh one
    for rows in heard:
        # Between two turns the newest ones are not in memory yet.
        assert [x for x, _, _ in rows] == [event.x for event in events[1_600:1_696]]


def test_a_retired_model_that_raises_does_not_come_back(monkeypatch):
    def broken(_x):
        raise ZeroDivisionError

    def troupe(self, models):
        mixture = whole(self, models)
        for member in mixture.members if models else ():
            member.ask = broken
        return mixture

    learner, events = recalling()
    whole = Learner._troupe
    monkeypatch.setattr(Learner, "_troupe", troupe)
    told = {e.kind: e.detail for o in learner.steps(events) if o.rare for e in o.rare.entries}
    assert told["not-recalled"]["retired"] == {}
    assert "ZeroDivisionError" in told["not-recalled"]["raised"]["1"]
    assert [v.cause for v in learner.lineage.versions] == ["genesis", "reset", "reset"]


def test_the_stock_is_bounded():
    log = fold.drifting(3_000)
    settings = fold.settings(
        log, "linear", {"name": "scheduled", "interval_events": 200, "max_reactions": 100}
    )
    policy = spec_of(settings).policy
    policy.recalls = 2
    learner = Learner.genesis(
        msgspec.structs.replace(spec_of(settings), policy=policy), fold.genesis(settings)._crew.blanks, {0: 0}
    )
    for event in fold.decoded(settings, log.values):
        learner.step(event)
    newest = learner.lineage.current
    assert learner.standing().retired == (newest - 2, newest - 1)


def test_no_policy_of_another_kind_pays_for_the_stock():
    folded = run("reset", "linear")
    assert versions(folded, "reset")
    assert folded.learner.state()["reactions"]["stock"] == []


def test_a_decision_between_two_turns_learns_the_newest_events_too():
    """Rows that are not settled yet are recent events all the same."""
    log = fold.drifting(300)
    settings = fold.settings(
        log, "linear", {"name": "scheduled", "interval_events": 150, "refit_events": 100}
    )
    folded = fold.fold(settings, log.values[:150])
    plain = fold.plain_model(settings)
    for x, y in log.pairs[49:150]:  # a hundred before the present one, and that
        plain.learn_one(x, y)
    model = folded.learner.mixture.members[0].model
    x = log.pairs[150][0]
    assert model.predict_proba_one(x) == plain.predict_proba_one(x)


@pytest.mark.parametrize(
    ("second", "word"),
    [(Decision(Action.PROMOTE, rival=True), "promotion"), (Decision(Action.DISMISS), "dismissal")],
)
def test_what_ends_a_trial_that_a_decision_before_it_ended_is_held(second, word):
    """It is neither done nor counted as done, and the journal says so."""

    class Both:
        name, challengers, period, recalls, ready = "both", 0, 50, 0, 1

        def __call__(self, standing):
            asked = {50: [Decision(Action.CHALLENGE)], 100: [Decision(Action.RESET), second]}
            return asked.get(standing.events, [])

    log = fold.drifting(200)
    settings = fold.settings(log, "linear", drift={"planes": []})
    spec = msgspec.structs.replace(spec_of(settings), policy=Both())
    learner = Learner.genesis(spec, fold.genesis(settings)._crew.blanks, {0: 0})
    outcomes = [learner.step(event) for event in fold.decoded(settings, log.values)]
    told = [
        entry
        for outcome in outcomes
        if outcome.rare
        for entry in outcome.rare.entries
        if entry.kind != SignalKind.WARNING
    ]
    assert [(e.kind, e.offset) for e in told] == [("challenge", 49), ("version", 99), ("hold", 99)]
    assert f"no {word} of a rival: none is on trial" in told[-1].detail["because"]
    did = {name: count for name, count in learner.counts.items() if name.startswith("reaction:")}
    assert did == {"reaction:challenge": 1, "reaction:reset": 1, "reaction:hold": 1}


@pytest.mark.parametrize("action", [Action.RECALL, Action.REFIT, Action.CHALLENGE])
def test_every_action_without_a_signal_and_without_a_past(action):
    """Total on the learner's side too: at the very first event, answering nothing."""

    class Eager:
        name, challengers, period, recalls, ready = "eager", 0, 1, 5, 1

        def __call__(self, standing):
            return [
                Decision(action=action),
                Decision(action=Action.PROMOTE, rival=True),
                Decision(Action.DISMISS),
            ]

    log = fold.drifting(200)
    settings = fold.settings(log, "linear")
    spec = msgspec.structs.replace(spec_of(settings), policy=Eager())
    learner = Learner.genesis(spec, fold.genesis(settings)._crew.blanks, {0: 0})
    for event in fold.decoded(settings, log.values):
        learner.step(event)
    assert learner.ledger.partitions[0].learned == 200
