"""Policies with a trial, a schedule or rungs, and those of users: decisions by standing."""

import copy
import math
import random
import tomllib
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fluvial.config import PolicySettings
from fluvial.errors import SettingsError
from fluvial.learner import Learner
from fluvial.policies import Challenger, Ladder, Own, Recall, Refit, Rung, Scheduled, make_policy
from fluvial.policies.own import fault, find
from fluvial.policies.totality import STANDINGS, faults
from fluvial.types import Action, Moved, RivalStanding, Signal, SignalKind, Version
from support import fold
from test_policies import drift, standing, standings

WARNING = drift(kind=SignalKind.WARNING)


def page():
    """docs/policies.md; read when asked, since a copy of the tree for mutants has no pages."""
    return (Path(__file__).parent.parent / "docs" / "policies.md").read_text(encoding="utf-8")


numbers = st.sampled_from([0.0, 1.0, 99.0, 100.0, 1e12])
rivals = st.builds(
    RivalStanding,
    lane=st.just("a"),
    age=st.integers(0, 10**9),
    tested=st.integers(0, 10**9),
    evidence=numbers,
    against=numbers,
)
policies = st.one_of(
    st.builds(Challenger, cooldown=st.integers(0, 1_000), max_reactions=st.integers(1, 20)),
    st.builds(Recall, cooldown=st.integers(0, 1_000), max_reactions=st.integers(1, 20)),
    st.builds(Ladder, cooldown=st.integers(0, 1_000), max_reactions=st.integers(1, 20)),
    st.builds(Refit, events=st.integers(0, 2_000)),
    st.builds(Scheduled, interval_events=st.integers(1, 5_000)),
    st.builds(Scheduled, interval_seconds=st.floats(1.0, 1e6), action=st.just(Action.RESET)),
)


def rival(*, age=300, tested=100, evidence=1.0, against=1.0):
    return RivalStanding(lane="m", age=age, tested=tested, evidence=evidence, against=against)


def seen(**changes):
    known = {k: changes.pop(k) for k in ("events", "since", "recent", "signals") if k in changes}
    return msgspec.structs.replace(standing(**known), **changes)


# --- what holds for all -----------------------------------------------------------------------------


@given(policies, standings, st.none() | rivals, st.floats(0, 2e9), st.none() | st.floats(0, 2e9))
def test_pure_and_total(policy, given_standing, on_trial, time, asked):
    looked_at = msgspec.structs.replace(given_standing, rival=on_trial, time=time, asked=asked)
    before = copy.deepcopy(vars(policy))
    first = policy(looked_at)
    assert policy(looked_at) == first
    assert vars(policy) == before
    assert fault(first, looked_at) == ""


@given(policies, standings)
def test_no_storm(policy, given_standing):
    if isinstance(policy, Scheduled):
        return  # as often as somebody chose is no storm
    if given_standing.recent_reactions < policy.max_reactions:
        return
    assert all(decision.action is Action.HOLD for decision in policy(given_standing))


@pytest.mark.parametrize("policy", [Challenger(), Recall(), Ladder(), Refit()])
@pytest.mark.parametrize(("since", "held"), [(199, True), (200, False)])
def test_cooldown(policy, since, held):
    (decision,) = policy(standing(since=since, signals=[drift()]))
    assert (decision.action is Action.HOLD) == held


# --- the trial --------------------------------------------------------------------------------------


@pytest.mark.parametrize("alarm", [drift(), WARNING])
def test_an_alarm_begins_a_trial(alarm):
    (decision,) = Challenger()(standing(signals=[alarm]))
    assert (decision.action, decision.signal) == (Action.CHALLENGE, alarm)


@pytest.mark.parametrize(
    ("on_trial", "alarm", "begins"),
    [
        (rival(age=100), drift(), False),  # its first event was the change's
        (rival(age=300), drift(), True),  # it learned two hundred from before
        (rival(age=300), WARNING, False),
    ],
)
def test_a_trial_begins_anew_only_for_a_drift_that_came_after_it(on_trial, alarm, begins):
    decisions = Challenger()(seen(rival=on_trial, signals=[alarm]))
    assert [d.action for d in decisions] == ([Action.CHALLENGE] if begins else [])


@pytest.mark.parametrize("policy", [Challenger(trial=500), Recall(trial=500), Ladder(trial=500)])
@pytest.mark.parametrize(
    ("on_trial", "action"),
    [
        (rival(evidence=100.0), Action.PROMOTE),
        (rival(evidence=99.9), None),
        (rival(against=100.0), Action.DISMISS),
        (rival(tested=499), None),
        (rival(tested=500), Action.DISMISS),
    ],
)
def test_a_trial_is_decided_by_its_evidence(policy, on_trial, action):
    decisions = policy(seen(rival=on_trial))
    assert [d.action for d in decisions] == ([action] if action else [])
    assert all(d.rival for d in decisions if d.action is Action.PROMOTE)


def test_a_drift_asks_for_a_recall():
    (decision,) = Recall()(standing(signals=[drift()]))
    assert (decision.action, decision.signal) == (Action.RECALL, drift())


def test_a_refit_says_on_what():
    (decision,) = Refit(events=700, half_life=50.0)(standing(signals=[drift()]))
    assert (decision.action, decision.events, decision.half_life) == (Action.REFIT, 700, 50.0)


# --- the clock --------------------------------------------------------------------------------------

DAY = 86_400.0


def version(time, cause="refit"):
    return Version(number=2, cause=cause, parent=1, partition=0, offset=0, events=9, time=time)


def test_by_events():
    policy = Scheduled(interval_events=1_000)
    assert policy.period == 1_000
    done = [events for events in range(0, 3_001, 500) if policy(standing(events=events))]
    assert done == [1_000, 2_000, 3_000]


@pytest.mark.parametrize(
    ("asked", "time", "versions", "due"),
    [
        (None, 10 * DAY + 5, (), False),  # nothing passed that was seen
        (10 * DAY - 5, 10 * DAY + 5, (), True),
        (10 * DAY + 5, 10 * DAY + 9, (), False),
        (10 * DAY + 5, 10 * DAY - 5, (), False),  # back
        (10 * DAY - 5, 10 * DAY + 9, (version(10 * DAY + 5),), False),  # forth again: done already
        (10 * DAY - 5, 10 * DAY + 9, (version(10 * DAY + 5, "reset"),), True),  # that was another thing
        (10 * DAY - 5, 10 * DAY + 9, (version(9 * DAY + 5),), True),
        (10 * DAY - 5, 14 * DAY + 9, (version(9 * DAY + 5),), True),  # four at once are one
        (12 * DAY + 5, 11 * DAY + 9, (version(10 * DAY + 5), version(12 * DAY + 5)), False),  # a straggler
        (10 * DAY + 5, 10 * DAY + 9, (version(40 * DAY), version(10 * DAY)), False),
        (10 * DAY + 5, 11 * DAY + 9, (version(10 * DAY), version(40 * DAY)), True),  # that was from ahead
        (10 * DAY + 5, 10 * DAY + 9, (version(10 * DAY), version(11 * DAY)), False),  # just after a midnight
        (39 * DAY + 5, 40 * DAY + 9, (version(40 * DAY), version(39 * DAY)), True),  # it is that day now
        (10 * DAY + 5, 11 * DAY + 9, (version(40 * DAY),), True),
    ],
)
def test_by_event_time(asked, time, versions, due):
    decisions = Scheduled(interval_seconds=DAY)(seen(time=time, asked=asked, versions=versions))
    assert [d.action for d in decisions] == ([Action.REFIT] if due else [])


def test_midnight_in_the_fold():
    log = fold.drifting(1_000)
    log.events = [(20 * DAY + 300.0 * i, x, y) for i, (_, x, y) in enumerate(log.events)]
    folded = fold.fold(
        fold.settings(log, "linear", {"name": "scheduled", "interval_seconds": DAY, "refit_events": 50}),
        log.values,
    )
    made = [v for v in folded.learner.lineage.versions if v.cause == "refit"]
    assert len(made) == 3
    assert all(0 <= v.time % DAY <= 32 * 300.0 for v in made)


def days_renewed(times):
    """The day, counted from the first, of every refit that the clock made at these event times."""
    log = fold.drifting(len(times))
    log.events = [(20 * DAY + time, x, y) for time, (_, x, y) in zip(times, log.events, strict=True)]
    table = {"name": "scheduled", "interval_seconds": DAY, "refit_events": 50}
    folded = fold.fold(fold.settings(log, "linear", table, drift={"planes": []}), log.values)
    made = [v for v in folded.learner.lineage.versions if v.cause == "refit"]
    return [int(v.time // DAY) - 20 for v in made]


def minutes(days, each=2.0):
    """Event times from noon on, so many minutes apart."""
    return [DAY / 2 + 60.0 * each * i for i in range(int(days * 1_440 / each))]


def test_midnights_in_order():
    assert days_renewed(minutes(5)) == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("late", [0.5 * DAY, DAY, 2 * DAY])
@pytest.mark.parametrize("at", [351, 991, 1_087, 1_151])
def test_a_straggler_makes_no_midnight_and_takes_none(at, late):
    """On the first day, in an evening, at the first look after a midnight, and two looks later."""
    times = minutes(3)
    assert at % 32 == 31
    times[at] -= late
    assert days_renewed(times) == [1, 2, 3]


def test_two_per_cent_a_day_late_make_no_midnight_and_take_none():
    rng = random.Random(1)
    times = [time - (DAY if rng.random() < 0.02 else 0.0) for time in minutes(5)]
    assert days_renewed(times) == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("at", [351, 767, 1_055])
def test_an_event_from_far_ahead_makes_one_renewal_and_takes_none(at):
    """The last of them is the last look before a midnight."""
    times = minutes(4)
    assert at % 32 == 31
    times[at] += 30 * DAY
    days = days_renewed(times)
    assert [day for day in days if day < 10] == [1, 2, 3, 4]
    assert len(days) == 5


def test_the_day_that_an_event_was_ahead_of_has_its_own_midnight():
    times = minutes(4)
    times[351] += 3 * DAY
    assert days_renewed(times) == [3, 1, 2, 3, 4]


def test_partitions_that_are_read_in_turn_have_one_midnight():
    """As after an outage: long runs of one, then of the other, hours behind."""
    times = minutes(3)
    runs = [[t for t in times[i : i + 500] for _ in (0, 1)] for i in range(0, len(times), 500)]
    assert days_renewed([t - 5 * 3_600.0 * k for run in runs for k in (0, 1) for t in run[k::2]]) == [1, 2, 3]


def test_a_slow_topic_has_all_its_midnights():
    """Twelve within the events over which storms are counted: somebody chose them."""
    assert days_renewed(minutes(12, each=5)) == list(range(1, 13))


def test_a_state_with_one_time_goes_on():
    log = fold.drifting(500)
    settings = fold.settings(log, "linear", {"name": "scheduled", "interval_seconds": DAY})
    learner = fold.fold(settings, log.values).learner
    state = learner.state()
    state["reactions"] = {"asked": 7.0}
    assert Learner(learner.spec, state).standing().asked == 7.0
    state["reactions"] = {"asked": None}
    assert Learner(learner.spec, state).standing().asked is None


# --- the ladder -------------------------------------------------------------------------------------


def rising(rise, kind=SignalKind.DRIFT, plane="error"):
    return Signal(
        kind=kind, plane=plane, detector="adwin", events=5_000, before=0.25, after=0.25 + rise, since=4_900
    )


@pytest.mark.parametrize(
    ("signals", "action"),
    [
        ([rising(0.5, SignalKind.WARNING)], Action.CHALLENGE),
        ([rising(0.0625)], Action.REFIT),
        ([rising(0.125)], Action.RECALL),
        ([rising(0.5, SignalKind.WARNING), rising(0.125)], Action.RECALL),
        ([rising(0.5, plane="features")], None),
        ([rising(0.5, SignalKind.RECOVERED)], None),
    ],
)
def test_the_worse_the_more(signals, action):
    decisions = Ladder()(standing(signals=signals))
    assert [d.action for d in decisions] == ([action] if action else [])
    assert all(d.signal in signals for d in decisions)


def test_rungs_of_ones_own():
    rungs = [
        {"action": "reset", "rise": 0.2},
        {"action": "hold", "plane": "features"},
        {"action": "challenger", "on": "warning", "plane": "predictions"},
    ]
    policy = make_policy(msgspec.convert({"name": "ladder", "rungs": rungs}, PolicySettings))
    assert policy.rungs == (
        Rung(SignalKind.DRIFT, Action.RESET, 0.2),
        Rung(SignalKind.DRIFT, Action.HOLD, 0.0, "features"),
        Rung(SignalKind.WARNING, Action.CHALLENGE, 0.0, "predictions"),
    )
    assert policy.recalls == 0, "no rung recalls"
    (held,) = policy(standing(signals=[rising(0.5, plane="features")]))
    assert held.action is Action.HOLD


def moved(*distances, before=0.5, after=0.5, plane="features"):
    parts = tuple(Moved("a", "mean", before, after, distance) for distance in distances)
    return msgspec.structs.replace(drift(plane), before=before, after=after, moved=parts)


@pytest.mark.parametrize(
    ("signal", "reached"),
    [
        (moved(-2.0, before=10.0, after=8.0), True),  # a mean that fell
        (moved(-1.2, before=3.0, after=1.0), True),  # a spread
        (moved(-0.5, before=0.5, after=0.0), True),  # none is missing any more
        (moved(0.1, 0.6), True),  # the surest is not the furthest
        (moved(0.4, before=0.0, after=900.0), False),  # whatever its unit
        (moved(math.nan, 0.6, before=math.nan, after=math.nan), True),
        (moved(math.nan, before=math.nan, after=math.nan), False),
        (moved(before=0.9, after=0.1), True),  # what moved is not told
        (moved(0.9, plane="predictions"), False),
        (rising(0.5, plane="error"), False),
    ],
)
def test_a_rung_of_the_data_is_reached_from_above_and_below(signal, reached):
    policy = Ladder([Rung(SignalKind.DRIFT, Action.RESET, 0.5, "features")])
    resets = [d for d in policy(standing(signals=[signal])) if d.action is Action.RESET]
    assert [d.signal for d in resets] == ([signal] if reached else [])


def test_any_signal_reaches_a_rung_of_no_rise():
    policy = Ladder([Rung(SignalKind.DRIFT, Action.RESET, plane="features")])
    for signal in (moved(-2.0, after=0.1), moved(0.0), moved(math.nan, after=math.nan), moved()):
        assert [d.action for d in policy(standing(signals=[signal]))] == [Action.RESET]


def test_a_signal_that_reaches_no_rung_is_held_and_the_trial_judged():
    policy = Ladder([Rung(SignalKind.DRIFT, Action.RESET, 0.5), Rung(SignalKind.DRIFT, Action.RECALL, 0.75)])
    signal = rising(0.25)
    judged, held = policy(seen(signals=[signal, drift("features")], rival=rival(tested=500, evidence=1e6)))
    assert (judged.action, judged.rival) == (Action.PROMOTE, True)
    assert (held.action, held.signal) == (Action.HOLD, signal)
    assert held.because == "error rose by 0.250; the lowest rung is at 0.5"
    assert policy(standing(signals=[drift("features"), WARNING])) == (), "which have no rung"


def test_the_ladder_on_the_page_is_the_default():
    (text,) = [block.split("```")[0] for block in page().split("```toml\n")[1:] if "rungs" in block]
    shown = make_policy(msgspec.convert(tomllib.loads(text)["policy"], PolicySettings))
    assert vars(shown) == vars(make_policy(PolicySettings(name="ladder")))


# --- settings ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "says"),
    [
        ({"name": "scheduled"}, "needs one of policy.interval_events and policy.interval_seconds"),
        ({"name": "scheduled", "interval_events": 9, "interval_seconds": 9.0}, "needs one of"),
        ({"name": "scheduled", "interval_events": 9, "refit_events": 0}, "policy.refit_events: 0 means"),
        ({"factory": "mine"}, "policy.factory: expected package.module:Policy"),
        ({"name": "ladder", "rungs": [{"action": "explode"}]}, "policy.rungs[0].action: "),
        ({"name": "ladder", "rungs": [{"action": "reset", "rises": 1}]}, "policy.rungs[0]: "),
        ({"name": "ladder", "rungs": [{}]}, "policy.rungs[0].action: missing"),
        ({"rungs": [{"action": "hold", "rise": 1.5}]}, "policy.rungs[0].rise: 1.5, and the error never"),
        ({"rungs": [{"action": "hold", "rise": 11, "plane": "features"}]}, "policy.rungs[0].rise: "),
        ({"part": "roots"}, "policy.part: not one of 'all', 'last-step', 'leaves'"),
        ({"evidence": 1.0}, "policy.evidence: "),
    ],
)
def test_faults_of_settings(policy, says):
    with pytest.raises(SettingsError) as caught:
        fold.settings(fold.drifting(1), "linear", policy)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("name", "numbers"),
    [
        ("challenger", {"ready": 7, "evidence": 50.0, "trial": 9, "cooldown": 3, "max_reactions": 2}),
        (
            "recall",
            {"ready": 7, "evidence": 50.0, "trial": 9, "recalls": 4, "cooldown": 3, "max_reactions": 2},
        ),
        (
            "ladder",
            {"ready": 7, "evidence": 50.0, "trial": 9, "recalls": 4, "cooldown": 3, "max_reactions": 2},
        ),
    ],
)
def test_settings_reach_the_policy(name, numbers):
    policy = make_policy(PolicySettings(name=name, **numbers))
    assert (policy.name, {n: getattr(policy, n) for n in numbers}) == (name, numbers)


# --- one's own --------------------------------------------------------------------------------------


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Makes a module of this text importable; returns its name."""
    monkeypatch.syspath_prepend(tmp_path)

    def made(text, name):
        (tmp_path / f"{name}.py").write_text(text)
        return name

    return made


def test_the_example_on_the_page(module):
    """As it stands there: settings and code, tried out, then folded."""
    code = page().split("```python\n")[1].split("```")[0]
    text = next(block.split("```")[0] for block in page().split("```toml\n")[1:] if "factory" in block)
    module(code, "my_policies")
    body = [line for line in code.split("class Patient:\n")[1].splitlines() if line.strip()]
    assert len(body) <= 11, "ten lines and what it is for"
    log = fold.drifting(6_000)
    table = tomllib.loads(text)["policy"]
    settings = fold.settings(log, "hoeffding", table)
    policy = make_policy(settings.policy)
    assert isinstance(policy, Own)
    assert faults(policy.policy) == []
    folded = fold.fold(settings, log.values)
    resets = [v for v in folded.learner.lineage.versions if v.cause == "reset"]
    assert [v.events // 1_000 for v in resets] == [2]  # the second comes within the hour
    assert "points worse" in resets[0].detail["because"]
    patient = make_policy(fold.settings(log, "hoeffding", {**table, "options": {"points": 101}}).policy)
    assert patient(seen(signals=[drift()], versions=(version(0.0),), time=1e9)) == ()


BAD = {
    "raises": ("return 1 / 0", "raised ZeroDivisionError"),
    "nothing": ("return None", "returned a NoneType"),
    "one": ("return Decision(Action.RESET)", "returned a Decision, expected a list or tuple"),
    "word": ("return ['reset']", "returned a str among its decisions"),
    "action": ("return [Decision('explode')]", "returned a explode with"),
    "member": ("return [Decision(Action.RESTART, member=99)]", "of member 99; there are"),
    "champion": ("return [Decision(Action.PROMOTE, member=0)]", "of member 0, which is a champion"),
    "rival": ("return [Decision(Action.PROMOTE, rival=True)]", "without a rival"),
    "many": ("return [Decision(Action.RESET)] * 99", "returned 99 decisions"),
    "foreign": (
        "return [Decision(Action.RESET, signal=Signal('drift', 'x', 'y', 0, 0.0, 0.0, 0))]",
        "returned a reset for a signal that is not in the standing",
    ),
    "negative": ("return [Decision(Action.REFIT, events=-1)]", "less than no events"),
    "wordy": ("return [Decision(Action.HOLD, because='so' * 300)]", "600 characters of why"),
    "counts": ("self.n = getattr(self, 'n', 0) + 1\n        return []", "changed its own attributes"),
    "chance": ("return [Decision(Action.HOLD, because=str(object()))]", "to the same standing"),
}


def test_a_policy_made_of_others_is_no_fault(module):
    module(
        "from fluvial.policies import Observe, Reset\nclass Both:\n    ready = 1\n"
        "    def __init__(self):\n        self.parts = [Reset(cooldown=500), Observe()]\n"
        "    def __call__(self, standing):\n"
        "        return [d for part in self.parts for d in part(standing)]\n",
        "both",
    )
    assert faults(find("both:Both", {}).policy) == []


def test_a_part_that_remembers_is_found(module):
    module(
        "class Part:\n    n = 0\n    def count(self):\n        self.n += 1\n"
        "class Whole:\n    def __init__(self):\n        self.parts = [Part()]\n"
        "    def __call__(self, standing):\n        self.parts[0].count()\n        return []\n",
        "whole",
    )
    assert "changed its own attributes" in faults(find("whole:Whole", {}).policy)[0]


HARMLESS = {
    "logger": "logging.getLogger('mine')",
    "array": "np.array([0.1, 0.2])",
    "frame": "{'limits': [np.zeros((2, 2)), {1, 2}]}",
    "lock": "threading.Lock()",
    "lambda": "lambda x: x",
    "itself": "self",
    "module": "logging",
    "not a number": "[float('nan'), np.array([np.nan])]",
    "deep": "functools.reduce(lambda inner, _: [inner], range(100_000), [])",
}


@pytest.mark.parametrize("name", HARMLESS)
def test_what_a_policy_holds_is_no_fault(module, name):
    """Whether it can be copied, compared, pickled, or none of it."""
    word = f"holds_{name.replace(' ', '_')}"
    text = (
        "import functools, logging, threading\nimport numpy as np\nclass Holds:\n"
        f"    def __init__(self):\n        self.held = {HARMLESS[name]}\n"
        "    def __call__(self, standing):\n        return []\n"
    )
    module(text, word)
    assert faults(find(f"{word}:Holds", {}).policy) == []


@pytest.mark.parametrize(
    ("held", "change"),
    [
        ("np.zeros(2)", "self.held[0] += 1"),
        ("[threading.Lock(), lambda x: x, {'seen': set()}]", "self.held[2]['seen'].add(standing.events)"),
        ("collections.deque(maxlen=9)", "self.held.append(standing.time)"),
        ("self", "self.times = getattr(self, 'times', 0) + 1"),
    ],
)
def test_what_it_remembers_is_found_beside_what_cannot_be_pickled(module, held, change):
    text = (
        "import collections, threading\nimport numpy as np\nclass Counts:\n"
        f"    def __init__(self):\n        self.lock, self.held = threading.Lock(), {held}\n"
        f"    def __call__(self, standing):\n        {change}\n        return []\n"
    )
    word = f"counts_{sum(map(ord, held))}"
    module(text, word)
    assert "changed its own attributes" in faults(find(f"{word}:Counts", {}).policy)[0]


def test_a_function_with_a_memory_is_found():
    def policy(_standing):
        policy.asked += 1
        return []

    policy.asked = 0
    assert "changed its own attributes" in faults(policy)[0]


def test_an_answer_that_does_not_compare_is_told_for_what_it_is(module):
    module(
        "import numpy as np\nclass Array:\n    def __call__(self, standing):\n        return np.zeros(2)\n",
        "answers_array",
    )
    assert faults(find("answers_array:Array", {}).policy)[0].startswith("returned a ndarray, expected a list")


def test_a_rival_is_ready_after_an_event_at_least(module):
    module("class Odd:\n    ready = 0\n    def __call__(self, standing):\n        return []\n", "odd")
    with pytest.raises(SettingsError, match="ready is 0; 1 to"):
        find("odd:Odd", {})


def test_a_schedule_in_events_is_kept_however_short():
    """Twenty of them in the storm window, of ten reactions."""
    log = fold.drifting(6_000)
    table = {"name": "scheduled", "interval_events": 300, "refit_events": 100}
    folded = fold.fold(fold.settings(log, "linear", table), log.values)
    made = [v.events for v in folded.learner.lineage.versions if v.cause == "refit"]
    assert made == list(range(300, 6_001, 300))


@pytest.mark.parametrize("name", BAD)
def test_what_it_does_wrong_is_found_and_does_no_harm(module, name):
    body, says = BAD[name]
    module(
        "from fluvial.types import Action, Decision, Signal\nclass Bad:\n    def __call__(self, standing):\n"
        f"        {body}\n",
        f"bad_{name}",
    )
    policy = find(f"bad_{name}:Bad", {})
    found = faults(policy.policy)
    assert found
    assert says in found[0]
    assert "made standing" in found[0]
    asked = standing(signals=[drift()])
    if name not in {"counts", "chance"}:  # which harm a replay only, and only if the log is asked again
        (held,) = policy(asked)
        assert held.action is Action.HOLD
        assert says in held.because
    log = fold.drifting(1_300)
    folded = fold.fold(fold.settings(log, "hoeffding", {"factory": f"bad_{name}:Bad"}), log.values)
    assert folded.learner.ledger.partitions[0].learned == 1_300
    assert len(folded.learner.lineage.versions) == 1


@pytest.mark.parametrize(
    ("text", "factory", "says"),
    [
        ("", "own_a:Missing", "cannot be imported"),
        ("", "not_there:P", "cannot be imported"),
        ("class P:\n    def __init__(self): raise OSError('no')\n", "own_b:P", "raised OSError: no"),
        ("class P:\n    pass\n", "own_c:P", "has no __call__"),
        ("class P:\n    period = -1\n    def __call__(self, s): return ()\n", "own_d:P", "P.period is -1"),
        ("class P:\n    recalls = 99\n    def __call__(self, s): return ()\n", "own_e:P", "recalls is 99"),
        ("class P:\n    challengers = '2'\n    def __call__(self, s): return ()\n", "own_f:P", "'2'"),
    ],
)
def test_a_factory_that_makes_none(module, text, factory, says):
    module(text, factory.partition(":")[0])
    with pytest.raises(SettingsError, match=r"policy\.factory") as caught:
        find(factory, {})
    assert says in str(caught.value)


def test_what_it_says_of_itself_reaches_the_fold(module):
    module(
        "class P:\n    challengers, period, recalls, ready = 1, 50, 2, 30\n"
        "    def __init__(self, name): self.name = name\n    def __call__(self, s): return ()\n",
        "own_g",
    )
    policy = find("own_g:P", {"name": "quiet"})
    assert (policy.name, policy.challengers, policy.period) == ("quiet", 1, 50)
    assert (policy.recalls, policy.ready) == (2, 30)
    log = fold.drifting(200)
    settings = fold.settings(log, "linear", {"factory": "own_g:P", "options": {"name": "quiet"}})
    assert len(fold.fold(settings, log.values).learner.mixture.members) == 2


@pytest.mark.parametrize(
    "policy", [Challenger(), Recall(), Ladder(), Refit(), Scheduled(interval_seconds=60.0)]
)
def test_ours_pass_what_theirs_have_to(policy):
    assert STANDINGS >= 300
    assert faults(policy) == []
