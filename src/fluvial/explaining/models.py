"""Why one model answers as it does: exact for linear models, the path for Hoeffding trees."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from fluvial.types import Answer, Feature, Task


class Part(msgspec.Struct, frozen=True):
    """What one feature adds to a linear model's sum."""

    feature: str
    value: Feature
    standardised: float
    """As the model sees it: deviations from the mean, 1 for a category that holds."""
    weight: float
    contribution: float
    """Their product; in regression in the target's own unit."""


class Linear(msgspec.Struct, frozen=True, tag="linear"):
    """`base` and the contributions sum to `total`: log-odds, or the answer itself in regression."""

    base: float
    parts: tuple[Part, ...]
    total: float


class Node(msgspec.Struct, frozen=True):
    """A place on the way through a tree."""

    test: str
    """What the event passed to get here; empty at the root."""
    feature: str | None
    events: float
    """Sample weight that the node had seen when it was split, or has seen, at the leaf."""
    shares: Answer
    """Of each class, or the mean in regression."""
    change: float
    """Of the share of the class that is explained (of the mean), from the node before."""


class Path(msgspec.Struct, frozen=True, tag="tree"):
    """From the root to the leaf. `leaf`: how the leaf answers, which need not be by its shares."""

    nodes: tuple[Node, ...]
    leaf: str


def why(model: Any, x: Mapping[str, Feature], task: Task, size: int, choice: int) -> Linear | Path | None:
    """Explain the answer to `x` as far as the model's form allows; None for what is neither form.

    `choice`: the class that is explained.
    """
    seen, head = _through(model, dict(x))
    if getattr(head, "_root", None) is not None and hasattr(head, "grace_period"):
        return _path(head, seen, task, size, choice)
    return _linear(head, x, seen, task, size, choice)


def _through(model: Any, x: dict[str, Feature]) -> tuple[dict[Any, Any], Any]:
    """What the last step of a pipeline sees, and that step."""
    from river.compose import Pipeline  # noqa: PLC0415 - River loads scipy: only when asked

    while isinstance(model, Pipeline):
        *first, last = model.steps.values()
        for step in first:
            x = step.transform_one(x)
        model = last
    return x, model


# --- linear models ---------------------------------------------------------------------------------


def _linear(
    head: Any, x: Mapping[str, Feature], seen: Mapping[Any, float], task: Task, size: int, choice: int
) -> Linear | None:
    from river import linear_model  # noqa: PLC0415 - River loads scipy: only when asked

    from fluvial.models.encoding import StandardiseTarget  # noqa: PLC0415 - as above

    mean, unit = 0.0, 1.0
    if isinstance(head, StandardiseTarget):
        mean, unit, head = head.mean, head.deviation, head.regressor
    if isinstance(head, linear_model.SoftmaxRegression):
        weights = _against_the_mean(head.weights, seen, size, choice)
        return _summed(0.0, weights, x, seen)
    sign = -1.0 if task is Task.BINARY and choice == 0 else 1.0
    if not isinstance(head, linear_model.LogisticRegression | linear_model.LinearRegression):
        return None
    weights = {name: sign * unit * head.weights.get(name, 0.0) for name in seen}
    return _summed(mean + sign * unit * head.intercept, weights, x, seen)


def _against_the_mean(
    weights: Mapping[int, Mapping[Any, float]], seen: Mapping[Any, float], size: int, choice: int
) -> dict[Any, float]:
    """Softmax: what is added to all classes alike changes no probability, so it is taken away."""
    rows = [weights.get(k, {}) for k in range(size)]
    means = {name: sum(row.get(name, 0.0) for row in rows) / size for name in seen}
    return {name: rows[choice].get(name, 0.0) - means[name] for name in seen}


def _summed(
    base: float, weights: Mapping[Any, float], x: Mapping[str, Feature], seen: Mapping[Any, float]
) -> Linear:
    parts = [
        Part(name := _feature(column, x), x.get(name, ""), z, weights[column], weights[column] * z)
        for column, z in seen.items()
        if z != 0.0 or not str(column).count("=")
    ]
    parts.sort(key=lambda part: -abs(part.contribution))
    return Linear(base, tuple(parts), base + sum(part.contribution for part in parts))


def _feature(column: Any, x: Mapping[str, Feature]) -> str:
    """The event's feature that a column of the model stands for (`colour=red` for `colour`)."""
    name = str(column)
    return name if name in x else next((f for f in x if name.startswith(f"{f}=")), name)


# --- trees -----------------------------------------------------------------------------------------


def _path(tree: Any, x: Mapping[Any, Any], task: Task, size: int, choice: int) -> Path:
    nodes: list[Node] = []
    node, test, feature = tree._root, "", None  # noqa: SLF001 - River shows a tree's text and graph only
    while node is not None:
        shares, events = _shares(node.stats, task, size)
        here = shares[choice if len(shares) > 1 else 0]
        before = nodes[-1].shares[choice if len(shares) > 1 else 0] if nodes else here
        nodes.append(Node(test, feature, events, shares, here - before))
        if not hasattr(node, "children"):
            break
        number = _branch(node, x)
        test, feature, node = node.repr_branch(number), str(node.feature), node.children[number]
    return Path(tuple(nodes), type(node).__name__)


def _branch(node: Any, x: Mapping[Any, Any]) -> int:
    """The way of the event; where it lacks the feature River takes the most travelled one."""
    if node.feature in x:
        number: int = node.branch_no(x)
        if 0 <= number < len(node.children):
            return number
    return int(node.most_common_path()[0])


def _shares(stats: Any, task: Task, size: int) -> tuple[Answer, float]:
    if task is Task.REGRESSION:
        return (float(stats.mean.get()),), float(stats.mean.n)
    total = float(sum(stats.values()))
    if total <= 0.0:
        return (1.0 / size,) * size, 0.0
    return tuple(stats.get(k, 0.0) / total for k in range(size)), total


def weighed(explained: Sequence[tuple[float, Linear]]) -> Linear | None:
    """The weighted sum of several linear explanations, their weights brought to 1; None without any."""
    total = sum(weight for weight, _ in explained)
    if total <= 0.0:
        return None
    sums: dict[str, float] = {}
    values: dict[str, Feature] = {}
    for weight, linear in explained:
        for part in linear.parts:
            sums[part.feature] = sums.get(part.feature, 0.0) + weight / total * part.contribution
            values[part.feature] = part.value
    base = sum(weight / total * linear.base for weight, linear in explained)
    nan = float("nan")
    parts = [Part(name, values[name], nan, nan, added) for name, added in sums.items()]
    parts.sort(key=lambda part: -abs(part.contribution))
    return Linear(base, tuple(parts), base + sum(sums.values()))
