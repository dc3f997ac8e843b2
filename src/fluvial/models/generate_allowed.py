"""Writes `allowed.py`: run `python -m fluvial.models.generate_allowed` after a change of River's version.

The classes come from River's named subpackages, those of streams, files and networks left out. What is
no class of River's stands here, each line for a reason: it is seen in the pickle of some estimator.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType

PACKAGES = (
    "active", "anomaly", "bandit", "base", "cluster", "compose", "conf", "covariance", "drift", "dummy",
    "ensemble", "facto", "feature_extraction", "feature_selection", "forest", "imblearn", "linear_model",
    "metrics", "misc", "model_selection", "multiclass", "multioutput", "naive_bayes", "neighbors",
    "neural_net", "optim", "preprocessing", "proba", "reco", "rules", "sketch", "stats", "time_series",
    "tree", "utils",
)  # fmt: skip
"""Left out: datasets and stream (they open files and sockets), evaluate, checks, compat, api."""

SKIPPED = (
    "river.bandit.envs",
    "river.bandit.evaluate",
    "river.bandit.datasets",
    "river.base.typing",
    "river.drift.datasets",
)
"""Simulators, files and type protocols: no model holds them."""

FUNCTIONS: Mapping[str, tuple[str, ...]] = {
    "river._river_rust.vectordict": ("euclidean_distance_dict", "euclidean_distance_tuple"),
    "river.feature_extraction.vectorize": (
        "find_all_ngrams",
        "find_ngrams",
        "remove_stop_words",
        "strip_accents_unicode",
        "tokenize_using_regex_pattern",
    ),
    "river.forest.online_extra_trees": (
        "ExtraTrees._detection_mode_all",
        "ExtraTrees._detection_mode_drop",
        "ExtraTrees._detection_mode_off",
    ),
    "river.metrics.mutual_info": ("_average_arithmetic", "_average_geometric"),
    "river.naive_bayes.gaussian": ("GaussianNB._make_gaussian",),
    "river.tree.splitter.ebst_splitter": (
        "EBSTNode._update_estimator_multivariate",
        "EBSTNode._update_estimator_univariate",
    ),
    "river.tree.splitter.nominal_splitter_reg": (
        "NominalSplitterReg._update_estimator_multivariate",
        "NominalSplitterReg._update_estimator_univariate",
    ),
    "river.utils.math": ("minkowski_distance",),
}
"""River's functions that models hold as values. Loading never calls them."""

FOREIGN: Mapping[str, tuple[str, ...]] = {
    # the factories of River's defaultdicts and partials
    "builtins": (
        "bool",
        "dict",
        "float",
        "frozenset",
        "int",
        "list",
        "max",
        "min",
        "set",
        "str",
        "sum",
        "tuple",
    ),
    "collections": ("Counter", "OrderedDict", "defaultdict", "deque"),
    # partial(deepcopy, model) is how One-vs-One, chains and softmax make their members
    "copy": ("deepcopy",),
    # the latent Dirichlet allocation's defaults
    "numpy": ("array", "ones"),
}
"""What is not River's and stands in models as a value. Loading never calls it."""

METHODS: tuple[tuple[str, str, str], ...] = (
    ("builtins", "str", "lower"),
    ("random", "Random", "gauss"),
    ("river.bandit.thompson", "ThompsonSampling", "_clone_reward_obj_with_seed"),
    ("river.drift.dummy", "DummyDriftDetector", "_fixed_trigger"),
    ("river.drift.dummy", "DummyDriftDetector", "_random_trigger"),
    ("river.drift.page_hinkley", "PageHinkley", "_test_both"),
    ("river.drift.page_hinkley", "PageHinkley", "_test_decrease"),
    ("river.drift.page_hinkley", "PageHinkley", "_test_increase"),
    ("river.ensemble.bagging", "LeveragingBaggingClassifier", "_leveraging_bag"),
    ("river.ensemble.bagging", "LeveragingBaggingClassifier", "_leveraging_bag_half"),
    ("river.ensemble.bagging", "LeveragingBaggingClassifier", "_leveraging_bag_me"),
    ("river.ensemble.bagging", "LeveragingBaggingClassifier", "_leveraging_bag_wt"),
    ("river.ensemble.bagging", "LeveragingBaggingClassifier", "_leveraging_subag"),
    ("river.feature_extraction.kernel_approx", "RBFSampler", "_random_weights"),
    ("river.linear_model.pa", "PAClassifier", "_calc_tau_0"),
    ("river.linear_model.pa", "PAClassifier", "_calc_tau_1"),
    ("river.linear_model.pa", "PAClassifier", "_calc_tau_2"),
    ("river.linear_model.pa", "PARegressor", "_calc_tau_0"),
    ("river.linear_model.pa", "PARegressor", "_calc_tau_1"),
    ("river.linear_model.pa", "PARegressor", "_calc_tau_2"),
    ("river.multiclass.occ", "OutputCodeClassifier", "_next_code"),
    ("river.preprocessing.random_projection", "GaussianRandomProjector", "_rand_gauss"),
    ("river.preprocessing.random_projection", "SparseRandomProjector", "_rand_weights_for_feature"),
    ("river.tree.nodes.sgt_nodes", "SGTLeaf", "prediction"),
)
"""(module, class, attribute) of the bound methods that models hold; beside these, `clone` of statistics."""

_HEAD = '''"""Every name that a checkpoint may hold; from `python -m fluvial.models.generate_allowed`."""

from __future__ import annotations

from collections.abc import Mapping

'''


def modules() -> Iterator[ModuleType]:
    """River's modules in which models live, in order of name."""
    river = importlib.import_module("river")
    names = {f"river.{package}" for package in PACKAGES}
    for found in pkgutil.walk_packages(river.__path__, "river."):
        top = ".".join(found.name.split(".")[:2])
        if top in names and ".test_" not in found.name and not found.name.startswith(SKIPPED):
            yield importlib.import_module(found.name)


def kept(value: object, module: str) -> bool:
    """Whether this is a class that a model may hold an instance of."""
    return (
        inspect.isclass(value)
        and value.__module__ == module
        and not issubclass(value, type | BaseException)
        and not getattr(value, "_is_protocol", False)
    )


def nested(kind: type) -> Iterator[type]:
    """The class and those written inside it."""
    yield kind
    for value in vars(kind).values():
        if inspect.isclass(value) and value.__qualname__ == f"{kind.__qualname__}.{value.__name__}":
            yield value


def river_classes() -> dict[str, list[str]]:
    """Module -> the qualified names of River's classes, the native ones included."""
    found: dict[str, list[str]] = {}
    for module in modules():
        kinds = [value for value in vars(module).values() if kept(value, module.__name__)]
        names = {kind.__qualname__ for top in kinds for kind in nested(top)}
        if names:
            found[module.__name__] = sorted(names)
    native = importlib.import_module("river._river_rust")
    for part in ("drift", "stats", "vectordict"):
        values = vars(vars(native)[part]).values()
        found[f"river._river_rust.{part}"] = sorted(v.__qualname__ for v in values if inspect.isclass(v))
    return dict(sorted(found.items()))


def our_classes() -> dict[str, list[str]]:
    """Our own parts of River pipelines."""
    ours = [importlib.import_module(f"fluvial.models.{name}") for name in ("bayes", "encoding", "trees")]
    return {m.__name__: sorted(n for n in m.__all__ if inspect.isclass(getattr(m, n))) for m in ours}


def clones() -> list[tuple[str, str, str]]:
    """`clone` of metrics and statistics: bandits keep the bound method to make their arms."""
    return [
        (module, name, "clone")
        for module, names in river_classes().items()
        if module.startswith(("river.metrics.", "river.stats.", "river.proba."))
        for name in names
    ]


def _tuple(head: str, parts: Sequence[str], tail: str) -> list[str]:
    """A tuple as the formatter would leave it, so that the file compares as text."""
    line = f"{head}({', '.join(parts)}{tail}"
    if tail and len(line) <= 110:
        return [line]
    return [f"{head}(", *(f"        {part}," for part in parts), "    ),"]


def _table(name: str, table: Mapping[str, Sequence[str]]) -> str:
    lines = [f"{name}: Mapping[str, tuple[str, ...]] = {{"]
    for module, names in table.items():
        quoted = [f'"{one}"' for one in names]
        lines += _tuple(f'    "{module}": ', quoted, ",)," if len(quoted) == 1 else "")
    return "\n".join([*lines, "}", ""])


def render() -> str:
    """The text of `allowed.py`."""
    river = importlib.import_module("river")
    methods = sorted({*METHODS, *clones()})
    lines = [f'RIVER_VERSION = "{river.__version__}"', ""]
    lines += [_table("RIVER", river_classes()), _table("OURS", our_classes())]
    lines += [_table("FUNCTIONS", FUNCTIONS), _table("FOREIGN", FOREIGN)]
    lines += ["METHODS: tuple[tuple[str, str, str], ...] = ("]
    for one in methods:
        quoted = [f'"{part}"' for part in one]
        line = f"    ({', '.join(quoted)}),"
        lines += [line] if len(line) <= 110 else _tuple("    ", quoted, "")
    return _HEAD + "\n".join([*lines, ")", ""])


def main() -> None:
    """Write the file beside this one."""
    path = Path(__file__).with_name("allowed.py")
    path.write_text(render())
    sys.stdout.write(f"{path}: {sum(map(len, river_classes().values()))} classes of River\n")


if __name__ == "__main__":
    main()
