"""Drifting streams with known change points, so that what a reaction is worth can be measured and shown.

Every stream is deterministic in its seed and fixed in its parameters. A *concept* is one rule from
features to label; it changes at each drift. A *stretch* is the run of events between two drifts. The
abrupt streams switch at the drift; the gradual ones draw each event from the new concept with a
probability that follows a sigmoid of width 2,000 events centred on it (as River's
`ConceptDriftStream`); the slow ones move a little with every event and have no drift to point at.

Numbers come as floats and categories as strings, as they reach River; labels are members of
`Stream.classes`, or a number in regression.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random
from typing import Literal

import msgspec

from fluvial.schema import FeatureSpec, LabelSpec, Schema
from fluvial.types import Feature, Task

Class = bool | int | str
WireLabel = bool | int | str | float
"""A label as it stands in the JSON: a class by its name, or a number."""
Pair = tuple[dict[str, Feature], WireLabel]
Kind = Literal["abrupt", "gradual", "slow", "none", "mixed"]
Make = Callable[[int, int | None, int], Iterator[Pair]]
Concept = Callable[[int, int], Iterator[Pair]]
"""(seed, stretch) -> endless events of the concept that holds in that stretch."""

EVENTS = 20_000
EVERY = 5_000
"""Events between two drifts."""
WIDTH = 2_000
"""Width of the sigmoid of a gradual drift, in events."""
KEYS = 10_000
"""How many keys the events of `wire` are about."""


def drifts_within(n: int, every: int = EVERY) -> tuple[int, ...]:
    """Positions of the drifts among the first `n` events: the index of the first event of each change."""
    return tuple(range(every, n, every))


@dataclass(frozen=True, slots=True)
class Stream:
    """One named stream. `drifts` are those of the default length; `drifts_in` says them for any other."""

    name: str
    task: Task
    classes: tuple[Class, ...]
    """In declared order; empty in regression."""
    features: tuple[FeatureSpec, ...]
    kind: Kind
    source: Make
    drifts: tuple[int, ...] = ()
    every: int = EVERY

    def make(self, seed: int, n: int | None = EVENTS, every: int | None = None) -> Iterator[Pair]:
        """The first `n` events (None: endless), the concept changing each `every` events."""
        events = self.source(seed, n, every or self.every)
        return events if n is None else itertools.islice(events, n)

    def drifts_in(self, n: int, every: int | None = None) -> tuple[int, ...]:
        """Positions of the drifts among the first `n` events."""
        return drifts_within(n, every or self.every) if self.drifts else ()

    def schema(self) -> Schema:
        """The contract of this stream's events as `wire` writes them."""
        return Schema(
            features=self.features,
            label=LabelSpec(task=self.task, classes=self.classes),
            id=("id",),
            key=("key",),
            time=("time",),
        )


# --- from concepts to a stream ---------------------------------------------------------------------


def _abrupt(concept: Concept) -> Make:
    """Switch to the next concept at each drift."""

    def make(seed: int, n: int | None, every: int) -> Iterator[Pair]:
        del n  # an abrupt stream is the same whatever its length
        for stretch in itertools.count():
            yield from itertools.islice(concept(seed, stretch), every)

    return make


def _gradual(concept: Concept, width: int = WIDTH) -> Make:
    """Mix two neighbouring concepts around each drift."""

    def make(seed: int, n: int | None, every: int) -> Iterator[Pair]:
        mix = Random(f"mix {seed}")
        last = None if n is None else len(drifts_within(n, every))  # nothing is mixed in from after the end
        live: dict[int, Iterator[Pair]] = {}
        for t in itertools.count():
            nearest = max(1, (t + every // 2) // every)
            drift = nearest if last is None else min(nearest, last)
            exponent = min(700.0, -4.0 * (t - drift * every) / width)  # beyond it exp() overflows
            stretch = drift if mix.random() < 1.0 / (1.0 + math.exp(exponent)) else drift - 1
            if stretch not in live:
                live[stretch] = concept(seed, stretch)
                live.pop(stretch - 2, None)
            yield next(live[stretch])

    return make


def _single(concept: Concept) -> Make:
    """One concept for the whole stream, which may move by itself."""
    return lambda seed, _n, _every: concept(seed, 0)


# --- River's generators ----------------------------------------------------------------------------


def _sample(seed: int, stretch: int) -> int:
    """A seed of its own for each stretch: a concept that returns does not bring the same events back."""
    return seed * 1_000 + stretch


def _flat(pairs: Iterator[tuple[dict[int | str, float], int]], classes: tuple[Class, ...]) -> Iterator[Pair]:
    """River's integer names become `x0`, `x1`, ...; its integer labels the declared classes."""
    for x, y in pairs:
        names: dict[str, Feature] = {f"x{k}" if isinstance(k, int) else k: float(v) for k, v in x.items()}
        yield names, classes[int(y)]


def _sea(seed: int, stretch: int) -> Iterator[Pair]:
    from river.datasets import synth  # noqa: PLC0415  River takes seconds to import when cold

    variant = (0, 2, 3)[stretch % 3]
    return _flat(iter(synth.SEA(variant=variant, noise=0.1, seed=_sample(seed, stretch))), BINARY)


def _agrawal(seed: int, stretch: int) -> Iterator[Pair]:
    return _agrawal_function(seed, stretch, (0, 2, 4)[stretch % 3])


def _agrawal_function(seed: int, stretch: int, function: int) -> Iterator[Pair]:
    from river.datasets import synth  # noqa: PLC0415  as above

    stream = synth.Agrawal(classification_function=function, perturbation=0.05, seed=_sample(seed, stretch))
    return _flat(iter(stream), BINARY)


def _sine(seed: int, stretch: int) -> Iterator[Pair]:
    from river.datasets import synth  # noqa: PLC0415  as above

    function = (0, 1, 2)[stretch % 3]
    return _flat(iter(synth.Sine(classification_function=function, seed=_sample(seed, stretch))), BINARY)


def _rbf(seed: int, stretch: int) -> Iterator[Pair]:
    from river.datasets import synth  # noqa: PLC0415  as above

    stream = synth.RandomRBF(
        seed_model=_sample(seed, stretch % 3),
        seed_sample=_sample(seed, stretch),
        n_classes=3,
        n_features=10,
        n_centroids=20,
    )
    return _flat(iter(stream), THREE)


def _led(seed: int, stretch: int) -> Iterator[Pair]:
    from river.datasets import synth  # noqa: PLC0415  as above

    stream = synth.LEDDrift(
        seed=_sample(seed, stretch),
        noise_percentage=0.1,
        irrelevant_features=True,  # without them LEDDrift swaps nothing
        n_drift_features=(0, 5, 7)[stretch % 3],
    )
    return _flat(iter(stream), TEN)


def _hyperplane(seed: int, stretch: int) -> Iterator[Pair]:
    from river.datasets import synth  # noqa: PLC0415  as above

    stream = synth.Hyperplane(
        seed=_sample(seed, stretch), n_features=10, n_drift_features=5, mag_change=0.002
    )
    return _flat(iter(stream), BINARY)


def _rbf_moving(seed: int, stretch: int) -> Iterator[Pair]:
    from river.datasets import synth  # noqa: PLC0415  as above

    stream = synth.RandomRBFDrift(
        seed_model=_sample(seed, stretch),
        seed_sample=_sample(seed, stretch),
        n_classes=3,
        n_features=10,
        n_centroids=20,
        n_drift_centroids=20,
        change_speed=0.001,
    )
    return _flat(iter(stream), THREE)


def _friedman_drift(kind: str, changes: Callable[[int], tuple[int, ...]]) -> Concept:
    """One kind of River's FriedmanDrift, held still: `changes` says when a stretch's changes were."""

    def concept(seed: int, stretch: int) -> Iterator[Pair]:
        from river.datasets import synth  # noqa: PLC0415  as above

        stream = synth.FriedmanDrift(kind, changes(stretch), transition_window=0, seed=_sample(seed, stretch))
        for x, y in stream:
            yield {f"x{k}": float(v) for k, v in x.items()}, float(y)

    return concept


_NEVER = 2**60
_expanding = _friedman_drift("lea", lambda stretch: tuple(_past_or_never(stretch, k) for k in (1, 2, 3)))
"""The changed region grows with each of the first three stretches."""
_recurring = _friedman_drift("gra", lambda stretch: (-1, _NEVER) if stretch % 2 else (_NEVER, _NEVER + 1))
"""The roles of the features are swapped, and swapped back."""


def _past_or_never(stretch: int, change: int) -> int:
    """When a change was, in a stretch that has so many behind it; each after the one before."""
    return change - 4 if change <= stretch else _NEVER + change


# --- streams of our own, without River --------------------------------------------------------------


def _friedman(seed: int, stretch: int) -> Iterator[Pair]:
    """Friedman's function (1991) with its five roles given to other features after each drift."""
    rng = Random(f"friedman {seed} {stretch}")
    names = [f"x{i}" for i in range(10)]
    shift = (0, 3, 6)[stretch % 3]
    a, b, c, d, e = ((i + shift) % 10 for i in range(5))
    while True:
        v = [rng.random() for _ in names]
        y = 10 * math.sin(math.pi * v[a] * v[b]) + 20 * (v[c] - 0.5) ** 2 + 10 * v[d] + 5 * v[e]
        yield dict(zip(names, v, strict=True)), y + rng.gauss(0.0, 1.0)


FIVE = ("amber", "cobalt", "crimson", "ivory", "jade")
_CITIES = ("Aarhus", "Basel", "Cork", "Delft", "Essen", "Faro", "Ghent")
_PLANS = ("basic", "plus", "pro")


def _five(seed: int, stretch: int) -> Iterator[Pair]:
    """Five named classes: the largest of five scores, whose weights are drawn anew for each stretch."""
    rng = Random(f"five {seed} {stretch}")
    weights = [[rng.uniform(-1.0, 1.0) for _ in range(3)] for _ in FIVE]
    city_bias = {city: [rng.uniform(-0.7, 0.7) for _ in FIVE] for city in _CITIES}
    plan_bias = {plan: [rng.uniform(-0.5, 0.5) for _ in FIVE] for plan in _PLANS}
    while True:
        a, b, c = rng.gauss(0.0, 1.0), rng.gauss(0.0, 1.0), rng.uniform(-1.5, 1.5)
        city, plan = rng.choice(_CITIES), rng.choice(_PLANS)
        by_city, by_plan = city_bias[city], plan_bias[plan]
        scores = [w[0] * a + w[1] * b + w[2] * c + by_city[k] + by_plan[k] for k, w in enumerate(weights)]
        best = max(range(5), key=scores.__getitem__) if rng.random() > 0.05 else rng.randrange(5)
        yield {"a": a, "city": city, "b": b, "plan": plan, "c": c}, FIVE[best]


def five_classes(seed: int, n: int) -> Iterator[Pair]:
    """`n` events of five string classes, two categories and three numbers; the concept changes thrice."""
    return STREAMS["five-classes"].make(seed, n)


MARKET_EVERY = 8_000
MARKET_NOISE = 0.05
"""Share of labels that are turned round."""
MARKET_WIDTH = 600
"""Width of its gradual drifts: short, so that a minute of events shows several."""
_VENUES = ("auction", "dark", "lit", "otc")
_VENUE_SIGN = {"auction": 1.0, "dark": -1.0, "lit": 1.0, "otc": -1.0}

Rule = Callable[[float, float, float, float, float, float, str], bool]

_RULES: tuple[Rule, ...] = (
    # Follow the order book and the trend ...
    lambda momentum, imbalance, spread, _vol, _vola, _gap, _venue: (
        momentum + 1.2 * imbalance - 0.4 * spread > 0.0
    ),
    # ... then against both, with the opening gap ...
    lambda momentum, imbalance, _spread, _vol, _vola, gap, _venue: (
        0.5 * gap - momentum - 0.9 * imbalance > 0.0
    ),
    # ... then only one side of the gap counts, but how much depends on the volume (no straight line) ...
    lambda _momentum, imbalance, _spread, vol, vola, gap, _venue: (
        imbalance - vola > 0.1 if vol > 0.4 else gap + imbalance > 0.0
    ),
    # ... then each venue reads the gap its own way.
    lambda momentum, imbalance, _spread, _vol, _vola, gap, venue: (
        0.9 * _VENUE_SIGN[venue] + 0.8 * gap - imbalance - 0.5 * momentum > 0.0
    ),
)


def market(seed: int, every: int = MARKET_EVERY) -> Iterator[Pair]:
    """Endless: six numbers and a category; four rules in turn, changed abruptly and gradually in turn.

    The rule changes at every multiple of `every`; odd changes are abrupt, even ones a sigmoid of
    width 600. Five per cent of the labels are wrong. Needs no River and makes well over 100,000
    events a second.
    """
    rng = Random(f"market {seed}")
    rand = rng.random
    width = min(MARKET_WIDTH, every // 4)
    for stretch in itertools.count():
        before, rule, after = (_RULES[(stretch + i) % len(_RULES)] for i in (-1, 0, 1))
        for t in range(every):
            now = rule
            if stretch % 2 == 0 and stretch and t < 2 * width:  # the second half of a gradual change
                now = before if rand() < 1.0 / (1.0 + math.exp(4.0 * t / width)) else rule
            elif stretch % 2 == 1 and every - t < 2 * width:  # the first half of one
                now = after if rand() < 1.0 / (1.0 + math.exp(4.0 * (every - t) / width)) else rule
            yield _quote(now, rand)


def _quote(rule: Rule, rand: Callable[[], float]) -> Pair:
    """One event under a rule; four decimals, as a feed would send them."""
    draws = [(int(rand() * 20_001.0) - 10_000) / 10_000.0 for _ in range(6)]
    momentum, imbalance, spread, volume, volatility, gap = draws
    venue = _VENUES[int(rand() * 4.0)]
    up = rule(momentum, imbalance, spread, volume, volatility, gap, venue)
    return {
        "momentum": momentum,
        "imbalance": imbalance,
        "spread": spread,
        "volume": volume,
        "volatility": volatility,
        "gap": gap,
        "venue": venue,
    }, up != (rand() < MARKET_NOISE)


# --- the registry ----------------------------------------------------------------------------------

BINARY: tuple[Class, ...] = (False, True)
THREE: tuple[Class, ...] = (0, 1, 2)
TEN: tuple[Class, ...] = tuple(range(10))

_AGRAWAL = ("salary", "commission", "age", "elevel", "car", "zipcode", "hvalue", "hyears", "loan")
_MARKET = ("momentum", "imbalance", "spread", "volume", "volatility", "gap")


def _numbers(*names: str) -> tuple[FeatureSpec, ...]:
    return tuple(FeatureSpec(name, "number", ("features", name)) for name in names)


def _xs(count: int) -> tuple[FeatureSpec, ...]:
    return _numbers(*(f"x{i}" for i in range(count)))


def _category(name: str, values: tuple[str, ...]) -> FeatureSpec:
    return FeatureSpec(name, "category", ("features", name), values=values)


def _binary(name: str, features: tuple[FeatureSpec, ...], kind: Kind, source: Make) -> Stream:
    return _classes(name, BINARY, features, kind, source)


def _classes(
    name: str, classes: tuple[Class, ...], features: tuple[FeatureSpec, ...], kind: Kind, source: Make
) -> Stream:
    task = Task.BINARY if len(classes) == 2 else Task.MULTICLASS
    drifts = drifts_within(EVENTS) if kind in {"abrupt", "gradual"} else ()
    return Stream(name, task, classes, features, kind, source, drifts)


def _numeric(name: str, kind: Kind, source: Make) -> Stream:
    return Stream(name, Task.REGRESSION, (), _xs(10), kind, source, drifts_within(EVENTS))


def _both(
    name: str, classes: tuple[Class, ...], features: tuple[FeatureSpec, ...], concept: Concept
) -> tuple[Stream, Stream]:
    """The same concepts, changing abruptly and gradually."""
    return (
        _classes(name, classes, features, "abrupt", _abrupt(concept)),
        _classes(f"{name}-gradual", classes, features, "gradual", _gradual(concept)),
    )


_FIVE_FEATURES = (
    *_numbers("a"),
    _category("city", _CITIES),
    *_numbers("b"),
    _category("plan", _PLANS),
    *_numbers("c"),
)

DRIFTING: tuple[Stream, ...] = (
    *_both("sea", BINARY, _xs(3), _sea),
    *_both("agrawal", BINARY, _numbers(*_AGRAWAL), _agrawal),
    *_both("sine", BINARY, _xs(2), _sine),
    *_both("rbf", THREE, _xs(10), _rbf),
    *_both("led", TEN, _xs(24), _led),
)
"""The streams on which reactions are ranked."""

STEADY: tuple[Stream, ...] = (
    _binary("hyperplane", _xs(10), "slow", _single(_hyperplane)),
    _classes("rbf-moving", THREE, _xs(10), "slow", _single(_rbf_moving)),
    _binary(
        "agrawal-still",
        _numbers(*_AGRAWAL),
        "none",
        _single(lambda seed, stretch: _agrawal_function(seed, stretch, 2)),
    ),
)
"""Streams that change slowly or not at all: a reaction can only lose there."""

OURS: tuple[Stream, ...] = (
    _numeric("friedman", "abrupt", _abrupt(_friedman)),
    _classes("five-classes", FIVE, _FIVE_FEATURES, "abrupt", _abrupt(_five)),
    Stream(
        "market",
        Task.BINARY,
        BINARY,
        (*_numbers(*_MARKET), _category("venue", _VENUES)),
        "mixed",
        lambda seed, _n, every: market(seed, every),
        drifts_within(EVENTS, MARKET_EVERY),
        MARKET_EVERY,
    ),
)
"""Streams that need no River to be made."""

REGRESSION: tuple[Stream, ...] = (
    OURS[0],
    _numeric("friedman-lea", "abrupt", _abrupt(_expanding)),
    _numeric("friedman-gra", "abrupt", _abrupt(_recurring)),
    _numeric("friedman-gradual", "gradual", _gradual(_recurring)),
)
"""The drifting streams whose label is a number: our own, and River's."""

STREAMS: dict[str, Stream] = {s.name: s for s in (*DRIFTING, *STEADY, *OURS, *REGRESSION)}


def named(name: str) -> Stream:
    """The stream of that name. Raises KeyError, with the names there are."""
    if name not in STREAMS:
        msg = f"no stream is called {name!r}; there are {', '.join(sorted(STREAMS))}"
        raise KeyError(msg)
    return STREAMS[name]


# --- on the wire -----------------------------------------------------------------------------------


def wire(
    stream: Stream,
    seed: int,
    n: int | None = None,
    every: int | None = None,
    clock: Callable[[], float] | None = None,
) -> Iterator[tuple[str, bytes]]:
    """(key, JSON) of each event: `{"id","key","time","features":{...},"label"}`.

    Keys are drawn from 10,000. The time is `clock()`, or without a clock one second per event from a
    fixed moment, so that the same seed gives the same bytes.
    """
    rng = Random(f"keys {seed}")
    encode = msgspec.json.Encoder().encode
    start = 1_700_000_000.0
    for number, (x, y) in enumerate(stream.make(seed, n, every)):
        key = f"k{int(rng.random() * KEYS)}"
        time = clock() if clock is not None else start + number
        yield (
            key,
            encode({"id": f"e{number}", "key": key, "time": time, "features": x, "label": y}),
        )
