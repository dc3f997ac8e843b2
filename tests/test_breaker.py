"""The flood breaker: when it trips, what it forgets, and that batches and restarts change neither."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fluvial.breaker import Breaker
from fluvial.config import DeadLetterSettings
from fluvial.types import Trip


def trips(breaker, outcomes, first=1):
    """Places at which it trips when True is a refused event; each trip is resumed at once."""
    found = []
    for place, refused in enumerate(outcomes, first):
        if refused and breaker.refused(place, 0, place - 1, "schema"):
            found.append(place)
            breaker.resumed()
    return found


def plain(outcomes, limits):
    """The same, from the definition, over the events since the last trip."""
    found, start = [], 0
    for at, refused in enumerate(outcomes):
        since = outcomes[start : at + 1]
        run = len(since) - max((i for i, bad in enumerate(since) if not bad), default=-1) - 1
        many = sum(since[-limits.window :]) > limits.max_share * limits.window
        if refused and (many or (limits.max_run and run >= limits.max_run)):
            found.append(at + 1)
            start = at + 1
    return found


def test_a_run_trips_at_its_last_event():
    breaker = Breaker(DeadLetterSettings(max_run=3))
    assert trips(breaker, [True, True, False, True, True, True, False]) == [6]


def test_a_share_counts_among_the_last_ones_only():
    breaker = Breaker(DeadLetterSettings(max_run=0, max_share=0.5, window=10))
    assert trips(breaker, [True] * 5 + [False] * 5 + [True] * 4) == []
    assert trips(breaker, [True, True], first=15) == [16]


def test_few_events_are_no_share():
    breaker = Breaker(DeadLetterSettings(max_run=0, max_share=0.2, window=100))
    assert trips(breaker, [True] * 20) == []
    assert trips(breaker, [True], first=21) == [21]


def test_without_limits_it_never_trips():
    breaker = Breaker(DeadLetterSettings(max_run=0, max_share=1.0, window=10))
    assert trips(breaker, [True] * 1_000) == []


def test_what_it_holds_is_bounded_by_the_window():
    breaker = Breaker(DeadLetterSettings(max_run=0, max_share=1.0, window=10))
    trips(breaker, [True] * 1_000)
    assert len(breaker.state()["places"]) == 10


def test_a_trip_stands_until_it_is_resumed_and_empties_the_counts():
    breaker = Breaker(DeadLetterSettings(max_run=2))
    assert [breaker.refused(n, 3, n + 40, "label") for n in (1, 2)] == [False, True]
    assert breaker.trip.id == "3/42"
    assert "2 events in a row" in breaker.trip.because
    assert "'label'" in breaker.trip.because
    breaker.resumed()
    assert breaker.trip is None
    assert trips(breaker, [True, True], first=3) == [4]


def test_a_trip_of_the_store_is_adopted_and_an_own_one_goes_before():
    breaker = Breaker(DeadLetterSettings(max_run=1))
    theirs = Trip(0, 7, "flood")
    breaker.adopt(None)
    assert breaker.trip is None
    breaker.adopt(theirs)
    assert breaker.trip == theirs
    breaker.resumed()
    breaker.refused(1, 0, 0, "schema")
    own = breaker.trip
    breaker.adopt(theirs)
    assert breaker.trip == own


LIMITS = st.builds(
    DeadLetterSettings,
    max_run=st.integers(0, 6),
    max_share=st.floats(0.1, 1.0),
    window=st.integers(10, 30),
)


@given(st.lists(st.booleans(), max_size=120), LIMITS, st.sets(st.integers(0, 120)))
def test_it_trips_where_the_definition_says_whatever_restarts(outcomes, limits, restarts):
    breaker, found = Breaker(limits), []
    for at, refused in enumerate(outcomes):
        if at in restarts:
            breaker = Breaker(limits, breaker.state())
        found += trips(breaker, [refused], first=at + 1)
    assert found == plain(outcomes, limits)


@pytest.mark.parametrize("tripped", [False, True])
def test_its_state_holds_the_trip(tripped):
    breaker = Breaker(DeadLetterSettings(max_run=1))
    if tripped:
        breaker.refused(1, 2, 3, "schema")
    assert Breaker(DeadLetterSettings(), breaker.state()).trip == breaker.trip
    assert (breaker.trip is not None) == tripped
