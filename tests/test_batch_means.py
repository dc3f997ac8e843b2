"""The interval of a difference: what it covers when values hang together, and when they are few."""

import random

import pytest

from fluvial.cli.batch_means import BATCHES, BatchMeans


def series(n, memory, rng):
    """A first-order autoregression with mean 0 and variance 1."""
    x = rng.gauss(0, 1)
    for _ in range(n):
        yield x
        x = memory * x + (1 - memory**2) ** 0.5 * rng.gauss(0, 1)


@pytest.mark.parametrize("memory", [0.0, 0.9])
def test_nineteen_of_twenty_intervals_cover_the_mean(memory):
    rng, covered, runs = random.Random(3), 0, 400
    for _ in range(runs):
        means = BatchMeans()
        for value in series(4_000, memory, rng):
            means.add(value)
        low, high = means.interval()
        covered += low <= 0.0 <= high
    assert 0.915 <= covered / runs <= 0.985


def test_the_mean_is_of_all_values_and_few_have_no_interval():
    means = BatchMeans()
    assert means.mean == 0.0
    for value in range(BATCHES - 1):
        means.add(float(value))
    assert means.mean == pytest.approx((BATCHES - 2) / 2)
    assert means.interval() is None
    for value in range(BATCHES - 1, 1_001):
        means.add(float(value))
    assert means.mean == pytest.approx(500.0)
    low, high = means.interval()
    assert low < means.mean < high
