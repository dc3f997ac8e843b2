"""Scaler and logistic regression in one generated pass: River's numbers to the bit, in a third of the time.

River walks a pipeline step by step and builds a dict at each. `fuse` recognises the few pipelines whose
arithmetic this file knows and answers and learns by straight-line code made for the number of features,
with the same operations in the same order. Nothing can tell the two ways apart but the clock, so a fold
may change between them at any event: what the generated code does not know (an absent feature, a new one)
takes River's way.

The numbers live in the generated code; `settle` writes them back into River's objects, which stay what is
checkpointed. Everything here is held against River itself by `tests/test_fused.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, Protocol

from fluvial.types import Answer, Feature

MAX_FEATURES = 64
"""Straight-line code for more would leave the processor's caches."""
RIVERS_TURN = 16
"""Labelled events that go River's way after one that the generated code does not know."""

Ask = Callable[[dict[str, Feature]], "Answer | None"]
Teach = Callable[..., None]


class Askable(Protocol):
    """What can be fused: something that is asked and taught."""

    ask: Ask
    teach: Teach


class Scaler:
    """How one kind of scaler is written, and where it keeps its numbers."""

    def __init__(self, scaler: Any) -> None:
        self.clip = 0.0
        self.memory = 0
        self.tables: tuple[Any, Any, Any] = (scaler.counts, scaler.means, scaler.vars)

    @classmethod
    def of(cls, scaler: Any) -> Scaler | None:
        """The kind that `scaler` is, None for one that this file does not know."""
        name = _name(scaler)
        if name == "river.preprocessing.scale.StandardScaler":
            return cls(scaler) if scaler.with_std and scaler.window_size is None else None
        if name == "fluvial.models.encoding.StandardiseRecent":
            return Recent(scaler)
        return Clipped(scaler) if name == "fluvial.models.encoding.Standardise" else None

    def numbers(self, names: Sequence[str]) -> list[list[float]]:
        """Counts, means, spreads and deviations of these features."""
        counts, means, spreads = ([table[name] for name in names] for table in self.tables)
        return [counts, means, spreads, [self.deviation(n, v) for n, v in zip(counts, spreads, strict=True)]]

    @staticmethod
    def deviation(count: float, spread: float) -> float:
        """Standard deviation as the scaler knows it; 0 for a feature that never varied."""
        del count
        return float(spread**0.5) if spread else 0.0

    @staticmethod
    def learn(k: int) -> list[str]:
        """Update the moments of feature k, then `z{k}`."""
        return [
            f"n{k} += 1",
            f"d = x{k} - m{k}",
            f"m{k} += d / n{k}",
            f"c = x{k} - m{k}",
            f"v{k} += (d * c - v{k}) / n{k}",
            f"if v{k}:",
            f"    s{k} = v{k} ** 0.5",
            f"    z{k} = c / s{k}",
            "else:",
            f"    s{k} = z{k} = 0.0",
        ]

    @staticmethod
    def standardised(k: int) -> str:
        """Feature k as the model sees it."""
        return f"((x{k} - m{k}) / s{k} if s{k} else 0.0)"


class Clipped(Scaler):
    """Ours: sums of squares instead of variances, and no value beyond `clip` deviations."""

    def __init__(self, scaler: Any) -> None:
        self.clip = scaler.clip
        self.memory = 0
        self.tables = (scaler.count, scaler.mean, scaler.m2)

    @staticmethod
    def deviation(count: float, spread: float) -> float:
        """As above, from a sum of squares."""
        return float((spread / count) ** 0.5)

    @staticmethod
    def learn(k: int) -> list[str]:
        """As above, clipped."""
        return [
            f"n{k} += 1",
            f"d = x{k} - m{k}",
            f"m{k} += d / n{k}",
            f"c = x{k} - m{k}",
            f"v{k} += d * c",
            f"s{k} = (v{k} / n{k}) ** 0.5",
            f"if s{k} > 0.0:",
            f"    z = c / s{k}",
            f"    z{k} = clip if z > clip else -clip if -clip > z else z",
            "else:",
            f"    z{k} = 0.0",
        ]

    @staticmethod
    def standardised(k: int) -> str:
        """As above, clipped."""
        z = f"(z := (x{k} - m{k}) / s{k})"
        return f"((clip if {z} > clip else -clip if -clip > z else z) if s{k} > 0.0 else 0.0)"


class Recent(Clipped):
    """Ours, with a count that stops at `memory`."""

    def __init__(self, scaler: Any) -> None:
        super().__init__(scaler)
        self.memory = scaler.memory

    @staticmethod
    def learn(k: int) -> list[str]:
        """As above; what a full count forgets goes first."""
        counted = [f"if n{k} < memory:", f"    n{k} += 1", "else:", f"    v{k} -= v{k} / n{k}"]
        return [*counted, *Clipped.learn(k)[1:]]


KINDS = {kind.__name__: kind for kind in (Scaler, Clipped, Recent)}


def fuse(member: Askable, model: Any, error: type[Exception]) -> Fused | None:
    """Let `member` be asked and taught by generated code where `model` allows; None where it does not.

    `error` is raised where the answer is not finite. `settle` is to be called before anybody looks into
    `model`.
    """
    parts = _parts(model)
    return None if parts is None else Fused(member, model, *parts, error)


def _name(one: object) -> str:
    """Where the class is defined: exact, since a subclass may do anything."""
    return f"{type(one).__module__}.{type(one).__qualname__}"


def _parts(model: Any) -> tuple[Scaler, Any] | None:
    """The scaler and the regression of a pipeline that this file knows."""
    if _name(model) != "river.compose.pipeline.Pipeline" or len(model.steps) != 2:
        return None
    first, head = model.steps.values()
    scaler = Scaler.of(first)
    return (scaler, head) if scaler is not None and _plain(head) else None


def _plain(head: Any) -> bool:
    """Whether `head` is a logistic regression by plain gradient descent at a constant rate."""
    return (
        _name(head) == "river.linear_model.log_reg.LogisticRegression"
        and (head.l1, head.l2, head.clip_gradient) == (0.0, 0.0, 1e12)
        and _name(head.loss) == "river.optim.losses.Log"
        and (head.loss.weight_pos, head.loss.weight_neg) == (1.0, 1.0)
        and _name(head.optimizer) == "river.optim.sgd.SGD"
        and _name(head.optimizer.lr) == _name(head.intercept_lr) == "river.optim.schedulers.Constant"
        and _name(head.initializer) == "river.optim.initializers.Zeros"
    )


class Ladder(Protocol):
    """What several members can be asked and taught by at once (`fused/ladder.py`)."""

    def settle(self, part: Fused) -> None:
        """Write the numbers of one of them into River's objects."""

    def dissolve(self) -> None:
        """Let every member go its own way again."""


class Fused:
    """One member that goes the generated way or River's, whichever the event allows."""

    def __init__(
        self, member: Askable, model: Any, scaler: Scaler, head: Any, error: type[Exception]
    ) -> None:
        self.member = member
        self.model = model
        self.scaler = scaler
        self.head = head
        self.weights = head._weights  # noqa: SLF001 - River's own way to them copies the dict
        self.error = error
        self.rivers_ask = member.ask
        self.names: list[str] = []
        """Features that the generated code holds; empty while River's objects do."""
        self.read: Callable[[], Sequence[Any]] = list
        """The generated code's numbers: taught, intercept, counts, means, spreads, weights."""
        self._ladder: Ladder | None = None
        self._taught = 0
        self._wait = 0
        self._go_rivers_way()

    @property
    def rates(self) -> tuple[float, float]:
        """Of the weights and of the intercept."""
        return (self.head.optimizer.lr.learning_rate, self.head.intercept_lr.learning_rate)

    def _go_rivers_way(self) -> None:
        self.names = []
        self.member.ask, self.member.teach = self.rivers_ask, self._teach_river

    def _teach_river(self, x: dict[str, Feature], y: Any, **weight: float) -> None:
        self.model.learn_one(x, y, **weight)
        self._wait -= 1
        if self._wait >= 0:
            return
        names = list(x)
        if 0 < len(x) <= MAX_FEATURES and all(name in self.scaler.tables[0] for name in names):
            self._go_generated(names)
        else:  # a text among them: likely in the next ones too
            self._wait = RIVERS_TURN

    def _go_generated(self, names: list[str]) -> None:
        """Load the numbers of these features, all of which River has just learned."""
        scaler = self.scaler
        make = _compiled(type(scaler).__name__, len(names))
        ask, teach, self.read = make(
            names, self._misfit_ask, self._misfit_teach, self.error, *self.rates, scaler.clip, scaler.memory,
            *scaler.numbers(names), [self.weights[name] for name in names], self.head.intercept,
        )  # fmt: skip
        self.names, self._taught = names, 0
        self.member.ask, self.member.teach = ask, teach

    def _misfit_ask(self, x: dict[str, Feature]) -> Answer | None:
        self.settle()
        return self.rivers_ask(x)

    def _misfit_teach(self, x: dict[str, Feature], y: Any, **weight: float) -> None:
        self.settle()
        self._go_rivers_way()
        self._wait = RIVERS_TURN
        self._teach_river(x, y, **weight)

    def settle(self) -> None:
        """Write the generated code's numbers into River's objects; it goes on all the same."""
        if self._ladder is not None:
            self._ladder.settle(self)
        elif self.names:
            taught, intercept, *columns = self.read()
            self.write(self.names, taught - self._taught, intercept, columns)
            self._taught = taught

    def write(self, names: Sequence[str], taught: int, intercept: float, columns: Sequence[Any]) -> None:
        """Put numbers into River's objects. `columns`: counts, means, spreads, weights."""
        tables = (*self.scaler.tables, self.weights)
        for table, column in zip(tables, columns, strict=True):
            for name, value in zip(names, column, strict=True):
                table[name] = value
        self.head.intercept = intercept
        self.head.optimizer.n_iterations += taught

    # ---- as a part of a ladder ---------------------------------------------------------------

    def join(self, ladder: Ladder) -> None:
        """Let `ladder` answer and learn from now on; it holds the numbers, which are settled."""
        self._ladder, self.names = ladder, []
        self.member.ask, self.member.teach = self._ask_alone, self._teach_alone

    def leave(self, wait: int = 0) -> None:
        """Go alone again, `wait` events River's way; the numbers are settled."""
        self._ladder, self._wait = None, wait
        self._go_rivers_way()

    def _ask_alone(self, x: dict[str, Feature]) -> Answer | None:
        self.settle()
        return self.rivers_ask(x)

    def _teach_alone(self, x: dict[str, Feature], y: Any, **weight: float) -> None:
        if self._ladder is not None:
            self._ladder.dissolve()
        self.member.teach(x, y, **weight)


@cache
def _compiled(
    kind: str,
    size: int,
) -> Callable[..., tuple[Ask, Teach, Callable[[], Sequence[Any]]]]:
    """Compile the pass for so many features; no name or number of a user's enters its text."""
    scope: dict[str, Any] = {"exp": math.exp}
    exec(compile(_text(KINDS[kind], size), "<fused>", "exec"), scope)  # noqa: S102 - see above
    made: Callable[..., tuple[Ask, Teach, Callable[[], Sequence[Any]]]] = scope["make"]
    return made


def _text(scaler: type[Scaler], size: int) -> str:
    features = range(size)

    def each(letter: str) -> str:
        return "".join(f"{letter}{k}, " for k in features)

    dot = " + ".join(f"w{k} * {scaler.standardised(k)}" for k in features)
    learned_dot = " + ".join(f"w{k} * z{k}" for k in features)
    own = "".join(map(each, "nmvsw"))
    return "\n".join(
        [
            "def make(names, other_ask, other_teach, NonFinite, rate, intercept_rate, clip, memory,",
            "         ns, ms, vs, ss, ws, b):",
            *(f"    {each(letter)}= {letter}s" for letter in "nmvsw"),
            "    taught = 0",
            *_indented(_ask_text(each("x"), dot)),
            *_indented(_teach_text(each("x"), own, learned_dot, [scaler.learn(k) for k in features])),
            "    def read():",
            f"        return taught, b, ({each('n')}), ({each('m')}), ({each('v')}), ({each('w')})",
            "    return ask, teach, read",
        ]
    )


def _ask_text(xs: str, dot: str) -> list[str]:
    return [
        "def ask(x):",
        "    if [*x] != names:",
        "        return other_ask(x)",
        f"    {xs}= x.values()",
        f"    r = {dot} + b",
        "    p = 0 if r < -30 else 1 if r > 30 else 1 / (1 + exp(-r))",
        "    if p != p:",
        "        raise NonFinite('nan')",
        "    return (1.0 - p, p)",
    ]


def gradient() -> list[str]:
    """`g`, the gradient of log-loss at the margin `r`, as River writes it: its branches, its clipping."""
    return [
        "if y:",
        "    g = -exp(-r) if r > 18.0 else -1.0 if r < -18.0 else -1.0 / (exp(r) + 1.0)",
        "else:",
        "    g = exp(r) if r < -18.0 else 1.0 if r > 18.0 else 1.0 / (exp(-r) + 1.0)",
        "g *= w",
        "if not -1e12 <= g <= 1e12:",
        "    g = float(max(min(g, 1e12), -1e12))",
    ]


def _teach_text(xs: str, own: str, dot: str, learning: Sequence[Sequence[str]]) -> list[str]:
    """One step of gradient descent."""
    size = len(learning)
    return [
        "def teach(x, y, w=1.0):",
        f"    nonlocal taught, b, {own[:-2]}",
        "    if [*x] != names:",
        "        return other_teach(x, y, w=w)",
        f"    {xs}= x.values()",
        *(f"    {line}" for lines in learning for line in lines),
        f"    r = {dot} + b",
        *(f"    {line}" for line in gradient()),
        "    b -= intercept_rate * g",
        *(f"    w{k} -= rate * (z{k} * g)" for k in range(size)),
        "    taught += 1",
    ]


def _indented(lines: Sequence[str]) -> list[str]:
    return [f"    {line}" for line in lines]
