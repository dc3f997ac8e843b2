"""The paired test: fair however often one looks, on the events that both met alike, and able to decide."""

import random

import pytest

from fluvial.trial import BETS, Bets, Trial, best_retired


def first_crossing(rng, better, worse, events, least):
    """The event at which the bets on a rival that wins and loses with these chances reach `least`."""
    bets = Bets()
    for number in range(events):
        u = rng.random()
        bets.add(1.0 if u < better else -1.0 if u < better + worse else 0.0)
        if bets.value >= least:
            return number
    return None


def test_a_rival_that_is_no_better_is_hardly_ever_promoted_however_often_one_looks():
    """At 1 in 20, since fewer runs then say something; looking once at the end a t-test would do as well."""
    rng = random.Random(7)
    crossed = [first_crossing(rng, 0.15, 0.15, 1_500, 20.0) for _ in range(400)]
    assert sum(number is not None for number in crossed) <= 400 / 20


def test_a_rival_that_is_worse_even_less():
    rng = random.Random(8)
    crossed = [first_crossing(rng, 0.1, 0.2, 1_000, 20.0) for _ in range(200)]
    assert sum(number is not None for number in crossed) <= 1


@pytest.mark.parametrize(
    ("better", "worse", "most"), [(0.3, 0.1, 110), (0.15, 0.05, 250), (0.12, 0.08, 2_000)]
)
def test_a_better_one_is_found_soon(better, worse, most):
    rng = random.Random(9)
    crossed = sorted(first_crossing(rng, better, worse, 20_000, 100.0) for _ in range(51))
    assert crossed[25] <= most


def test_events_on_which_both_did_alike_say_nothing():
    bets = Bets()
    bets.add(0.0)
    assert bets.capital == (1.0,) * len(BETS)


def test_capital_has_a_ceiling_and_never_grows_out_of_nothing():
    bets = Bets()
    for _ in range(5_000):
        bets.add(1.0)
    assert bets.value <= 1e12
    for _ in range(5_000):
        bets.add(-1.0)
    assert 0.0 <= bets.value < 1e-100


def test_nothing_is_compared_before_the_rival_is_ready():
    trial = Trial(None, began=1_000, ready=100)
    for events in range(1_001, 1_101):
        trial.compare(events, 1.0, 0.0)
    assert (trial.tested, trial.on.value) == (0, 1.0)
    trial.compare(1_101, 1.0, 0.0)
    assert trial.tested == 1
    assert trial.on.value > 1.0 > trial.against.value


def test_a_trial_goes_on_where_it_was():
    trial = Trial(None, began=5, ready=1)
    for events, (one, other) in enumerate([(1.0, 0.0), (0.0, 1.0), (0.25, 0.75), (1.0, 0.0)], start=7):
        trial.compare(events, one, other)
    again = Trial.restore(None, trial.state())
    for both in (trial, again):
        both.compare(20, 1.0, 0.0)
    assert again.state() == trial.state()


BAD, GOOD = [1.0] * 60, [0.0] * 60


@pytest.mark.parametrize(
    ("retired", "present", "fresh", "best"),
    [
        ({3: GOOD, 4: BAD}, BAD, BAD, 3),
        ({3: GOOD, 4: GOOD}, BAD, BAD, 4),  # equally good: the newer
        ({3: GOOD}, BAD, GOOD, None),  # a fresh one does as well
        ({3: GOOD}, GOOD, BAD, None),  # the present one does as well
        ({3: GOOD[:5]}, BAD[:5], BAD[:5], None),  # five events prove nothing
        ({}, BAD, BAD, None),
    ],
)
def test_a_retired_model_returns_if_it_beats_both(retired, present, fresh, best):
    chosen, means = best_retired(retired, present, fresh, 20.0)
    assert chosen == best
    assert means.keys() == retired.keys()
