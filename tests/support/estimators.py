"""Every River estimator that can be made without asking, and streams to teach it."""

import importlib
import inspect
import pkgutil
import random
import warnings

LEFT_OUT = {
    "checks", "compat", "datasets", "evaluate", "stream", "api", "test_skops",
}  # fmt: skip


def _classes():
    import river
    from river import base

    found = {}
    for module in pkgutil.walk_packages(river.__path__, "river."):
        parts = module.name.split(".")
        if parts[1] in LEFT_OUT or any(p.startswith("test_") for p in parts) or "datasets" in parts:
            continue
        try:
            loaded = importlib.import_module(module.name)
        except ImportError:
            continue  # needs a package that the estimators do not
        for value in vars(loaded).values():
            if inspect.isclass(value) and issubclass(value, base.Base) and value.__module__ == module.name:
                found[f"{value.__module__}:{value.__qualname__}"] = value
    return dict(sorted(found.items()))


def made():
    """(name, estimator) of each class and each of its own sets of test parameters."""
    for name, kind in _classes().items():
        if inspect.isabstract(kind) or name.startswith("river.bandit.envs"):
            continue
        try:
            sets = list(kind._unit_test_params()) if hasattr(kind, "_unit_test_params") else [{}]
            models = [kind(**params) for params in sets]
        except (TypeError, ValueError, RuntimeError, AttributeError):
            continue  # needs arguments that River's own checks do not give either
        for model in models:
            if getattr(model, "steps", True):  # an empty pipeline is no estimator yet
                yield name, model


def numeric(rng):
    return {f"f{i}": rng.random() for i in range(5)}


def nominal(rng):
    return {f"c{i}": "abc"[rng.randrange(3)] for i in range(3)}


def _label(model, rng):
    from river import base

    if isinstance(model, base.Regressor):
        return rng.random()
    y = rng.randrange(3)
    multiclass = isinstance(model, base.Classifier) and getattr(model, "_multiclass", False)
    return y if multiclass else bool(y % 2)


def _ask(model, x):
    said = []
    for method in ("predict_proba_one", "predict_one", "score_one", "transform_one"):
        try:
            said.append((method, repr(getattr(model, method)(dict(x)))))
        except Exception as error:  # noqa: BLE001 - not every estimator takes every stream
            said.append((method, type(error).__name__))
    return said


def _learn(model, x, y, rng):
    learn = getattr(model, "learn_one", None) or getattr(model, "update", None)
    numbers = (rng.random(), rng.random())
    for args in ((x, y), (x,), (y,), numbers[:1], numbers):
        if learn is None:
            return
        try:
            learn(*args)
        except TypeError:
            continue
        except Exception:  # noqa: BLE001 - as above; a half-changed state is welcome here
            return
        else:
            return


def live(model, stream, count, seed):
    """Teach `count` events and return what it answered before each."""
    rng = random.Random(seed)
    said = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(count):
            x = stream(rng)
            said.append(_ask(model, x))
            _learn(model, x, _label(model, rng), rng)
    return said
