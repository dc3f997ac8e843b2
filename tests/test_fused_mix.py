"""The generated mixing against the plain one, to the bit."""

import random

import pytest

from fluvial.fused.mix import MAX_MEMBERS
from fluvial.mixture import Member, Mixture
from fluvial.types import Task


def member(champion):
    made = object.__new__(Member)
    made.lane, made.champion, made.born = "a", champion, 0
    return made


def mixture(members, champions, weights):
    return Mixture(Task.BINARY, 2, [member(k < champions) for k in range(members)], list(weights))


@pytest.mark.parametrize(
    ("members", "champions"), [(2, 1), (3, 1), (6, 4), (5, 5), (MAX_MEMBERS, 3), (MAX_MEMBERS + 1, 3)]
)
def test_equal_to_the_loops_to_the_bit(members, champions, monkeypatch):
    """Thousands of steps: sure and unsure answers, floors, members without an answer now and then."""
    rng = random.Random(members)
    even = [1.0 / members] * members
    fast, plain = mixture(members, champions, even), mixture(members, champions, even)
    monkeypatch.setattr(plain, "_go_fast", lambda count: None)
    for number in range(3_000):
        answers = []
        for _ in range(members):
            p = rng.choice([rng.random(), 0.0, 1.0, rng.random() ** 9])
            answers.append(None if rng.random() < 0.01 else (1.0 - p, p))
        if number == 1_500:
            answers = [None] * members
        y = rng.random() < 0.4
        served = fast.combine(answers)
        assert served == plain.combine(answers)
        if served is not None:
            fast.reweigh(y, answers, served)
            plain.reweigh(y, answers, served)
        assert fast.weights == plain.weights
        if number % 700 == 0:
            fast.demote(members - 1)
            plain.demote(members - 1)
    assert (fast._fast is not None) == (members <= MAX_MEMBERS)
    assert plain._fast is None


def test_who_rests_is_left_out_and_judged_as_what_was_served_to_the_bit(monkeypatch):
    """Lanes lie down and get up; now and then the answers do not fit who is said to rest."""
    rng = random.Random(8)
    fast, plain = (mixture(5, 3, [0.2] * 5) for _ in range(2))
    monkeypatch.setattr(plain, "_go_fast", lambda count: None)
    for number in range(3_000):
        if number % 4 == 0:
            fast._resting, fast._fast_for = frozenset(k for k in range(3) if rng.random() < 0.3), -1
        resting = fast._resting if rng.random() < 0.9 else frozenset({rng.randrange(3)})
        answers = [() if k in resting else (1.0 - (p := rng.random()), p) for k in range(5)]
        y, served = rng.random() < 0.4, fast.combine(answers)
        assert served == plain.combine(answers)
        fast.reweigh(y, answers, served)
        plain.reweigh(y, answers, served)
        assert fast.weights == plain.weights
    assert len(fast._variants) == 8, "each set of sleepers has its own code"


def test_no_weight_on_anybody_is_no_answer():
    assert mixture(3, 1, [0.0, 0.0, 0.0]).combine([(0.5, 0.5)] * 3) is None


def test_members_that_join_are_mixed_too():
    one = mixture(2, 1, [0.5, 0.5])
    answers = [(0.25, 0.75), (0.5, 0.5), (1.0, 0.0)]
    assert one.combine(answers[:2]) == (0.375, 0.625)
    one.members.append(member(False))
    one.weights = [0.5, 0.25, 0.25]
    assert one.combine(answers) == (0.5, 0.5)
    one.reweigh(True, answers, (0.5, 0.5))
    assert len(one.weights) == 3
