"""Models by name. Each preset says which River objects it is made of; all are seeded and bounded."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fluvial.errors import SettingsError
from fluvial.schema import Schema
from fluvial.types import Task

Lanes = dict[str, Any]
"""Lane name to River object: a model is one lane, or several that are mixed (`auto`)."""

NO_MEMORY_LIMIT = 2**62
"""River's tree memory limit reads `sys.getsizeof`, which differs after unpickling; so it is off."""
TREE = {"memory_estimate_period": NO_MEMORY_LIMIT, "max_depth": 20}
STEEPEST = 2.0
"""A step of least squares at most: that of an error of one standard deviation of the target. Unbounded, one
wild feature throws a model so far that the way back overshoots, further each time."""
MEAN_LEAVES = {"leaf_prediction": "mean"}
"""For regression: River's linear leaves see raw features, refuse categories and can diverge."""


def linear(schema: Schema, seed: int, rate: float = 0.05) -> Lanes:
    """Standardised features into logistic, softmax or linear regression, by SGD at a fixed rate."""
    del seed  # nothing here is random
    return {"linear": _linear(schema.label.task, rate)}


def _linear(task: Task, rate: float, scaler: Any = None) -> Any:
    from river import linear_model, optim  # noqa: PLC0415 - River loads scipy: only when asked

    from fluvial.models.encoding import Standardise, StandardiseTarget  # noqa: PLC0415 - as above

    if task is Task.BINARY:
        head: Any = linear_model.LogisticRegression(optim.SGD(rate), intercept_lr=rate)
    elif task is Task.MULTICLASS:
        head = linear_model.SoftmaxRegression(optim.SGD(rate))
    else:
        regression = linear_model.LinearRegression(
            optim.SGD(rate / 5), intercept_lr=rate / 5, clip_gradient=STEEPEST
        )
        head = StandardiseTarget(regression)
    return (Standardise() if scaler is None else scaler) | head


STEADY = (0.05, 0.01, 0.2)
RECENT = (0.05, 0.5)
"""Learning rates on features standardised by all events and by recent ones: a moving world needs speed."""
MEMORY = 50


def rates(
    schema: Schema,
    seed: int,
    steady: Sequence[float] = STEADY,
    recent: Sequence[float] = RECENT,
    memory: int = MEMORY,
) -> Lanes:
    """Linear models at several learning rates, over two scalers (all events, the last `memory`)."""
    del seed
    from fluvial.models.encoding import Standardise, StandardiseRecent  # noqa: PLC0415 - River loads scipy

    if memory < 2:
        raise SettingsError("model.options.memory: a scaler needs at least 2 events")
    task, most = schema.label.task, _stable(schema)
    lanes = {f"linear-{r:g}": _linear(task, r, Standardise()) for r in (min(rate, most) for rate in steady)}
    for r in (min(rate, most) for rate in recent):
        lanes[f"recent-{r:g}"] = _linear(task, r, StandardiseRecent(memory))
    if not lanes:
        raise SettingsError("model.options: give at least one rate, in `steady` or in `recent`")
    return lanes


def _stable(schema: Schema) -> float:
    """The highest rate at which least squares by SGD does not diverge; gradients of log-loss are bounded.

    The mean square of standardised features is their number: steps over 1/(number + 1) go too far.
    """
    regression = schema.label.task is Task.REGRESSION
    return 2.5 / (1 + max(9, len(schema.features))) if regression else math.inf


def bayes(schema: Schema, seed: int) -> Lanes:
    """Gaussian naive Bayes; categories as one-hots."""
    del seed
    from fluvial.models.bayes import GaussianNB  # noqa: PLC0415 - River loads scipy: only when asked
    from fluvial.models.encoding import OneHot  # noqa: PLC0415 - as above

    if schema.label.task is Task.REGRESSION:
        raise SettingsError("model.preset: bayes is a classifier; for regression take linear, tree or forest")
    return {"bayes": _with_categories(schema, OneHot, GaussianNB())}  # type: ignore[no-untyped-call]  # River's


def _with_categories(schema: Schema, encoder: Callable[[], Any], head: Any) -> Any:
    """Put the encoder before the head where a category can occur: a pipeline costs a microsecond."""
    categories = schema.infer is not None or any(f.type == "category" for f in schema.features)
    return encoder() | head if categories else head


def tree(schema: Schema, seed: int, **options: Any) -> Lanes:
    """One Hoeffding tree of at most 2,000 leaves and depth 20, naive Bayes in the leaves."""
    del seed
    from fluvial.models import encoding  # noqa: PLC0415 - River loads scipy: only when asked

    regression = schema.label.task is Task.REGRESSION
    make = encoding.BoundedTreeRegressor if regression else encoding.BoundedTreeClassifier
    head = make(**{**TREE, **(MEAN_LEAVES if regression else {}), **options})
    return {"tree": _with_categories(schema, encoding.LimitCategories, head)}


def adaptive_tree(schema: Schema, seed: int, **options: Any) -> Lanes:
    """A Hoeffding adaptive tree, which already answers drift by itself, branch by branch."""
    from fluvial.models import encoding  # noqa: PLC0415 - River loads scipy: only when asked

    regression = schema.label.task is Task.REGRESSION
    make = encoding.BoundedAdaptiveTreeRegressor if regression else encoding.BoundedAdaptiveTreeClassifier
    head = make(seed=seed, **{**TREE, **(MEAN_LEAVES if regression else {}), **options})
    return {"adaptive-tree": _with_categories(schema, encoding.LimitCategories, head)}


def forest(schema: Schema, seed: int, n_models: int = 10, **options: Any) -> Lanes:
    """An adaptive random forest (ten trees): the most accurate, and thirty times the cost of a tree."""
    from river import forest as river_forest  # noqa: PLC0415 - River loads scipy: only when asked

    from fluvial.models import trees  # noqa: PLC0415 - as above
    from fluvial.models.encoding import LimitCategories  # noqa: PLC0415 - as above

    regression = schema.label.task is Task.REGRESSION
    make = river_forest.ARFRegressor if regression else trees.ARFClassifier
    bounds = {"memory_estimate_period": NO_MEMORY_LIMIT, "max_depth": 15}
    head = make(n_models=n_models, seed=seed, **{**bounds, **(MEAN_LEAVES if regression else {}), **options})
    return {"forest": _with_categories(schema, LimitCategories, head)}


def auto(schema: Schema, seed: int) -> Lanes:
    """No tuning: `rates` and a Hoeffding tree, weighted by recent loss."""
    return {**rates(schema, seed), **tree(schema, seed)}


PRESETS: Mapping[str, Callable[..., Lanes]] = {
    "linear": linear,
    "rates": rates,
    "bayes": bayes,
    "tree": tree,
    "adaptive-tree": adaptive_tree,
    "forest": forest,
    "auto": auto,
}
