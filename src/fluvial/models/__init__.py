"""From the settings to River objects, by preset or by the user's own factory."""

from __future__ import annotations

import importlib
import inspect
from typing import Any

from fluvial.config import ModelSettings
from fluvial.errors import SettingsError
from fluvial.models.presets import PRESETS, Lanes
from fluvial.schema import Schema
from fluvial.types import Task

__all__ = ["Lanes", "build", "takes_weight"]


def build(settings: ModelSettings, schema: Schema) -> Lanes:
    """Make the model: lane name to River object. Called once in a lineage, at genesis.

    Raises SettingsError with what to change.
    """
    if (settings.preset is None) == (settings.factory is None):
        raise SettingsError("model: give either `preset` or `factory`")
    try:
        lanes = _from_preset(settings, schema) if settings.preset else _from_factory(settings)
    except TypeError as error:
        raise SettingsError(f"model.options: {error}") from error
    for name, model in lanes.items():
        _fit_for(name, model, schema)
    return lanes


def _from_preset(settings: ModelSettings, schema: Schema) -> Lanes:
    return PRESETS[str(settings.preset)](schema, settings.seed, **settings.options)


def _from_factory(settings: ModelSettings) -> Lanes:
    where = str(settings.factory)
    module_name, _, name = where.partition(":")
    try:
        factory = getattr(importlib.import_module(module_name), name)
    except Exception as error:  # a module of the user's may raise anything
        hint = f"model.factory: {where!r} cannot be imported ({error}); it reads `package.module:function`"
        raise SettingsError(hint) from error
    try:
        made = factory(**settings.options)
    except TypeError:
        raise
    except Exception as error:  # as above
        raise SettingsError(f"model.factory: {where!r} raised {type(error).__name__}: {error}") from error
    return dict(made) if isinstance(made, dict) else {"model": made}


def _fit_for(name: str, model: Any, schema: Schema) -> None:
    """Refuse a model that cannot do the task, before it meets an event."""
    if not (hasattr(model, "learn_one") and hasattr(model, "predict_one")):
        raise SettingsError(f"model: lane {name!r} is a {type(model).__name__}, not a River estimator")
    from river.base import Classifier, Regressor  # noqa: PLC0415 - River loads scipy: only when asked

    wanted = Regressor if schema.label.task is Task.REGRESSION else Classifier
    if not _is_a(model, wanted):
        raise SettingsError(
            f"model: lane {name!r} is no {wanted.__name__.lower()}, but the label asks for one"
        )
    if schema.weight is not None and not takes_weight(model):
        raise SettingsError(
            f"schema.weight: lane {name!r} takes no sample weight; remove it or change the model"
        )


def _is_a(model: Any, wanted: type) -> bool:
    """Whether the model, or the last step of a pipeline, is of the kind that is wanted."""
    return isinstance(_head(model), wanted)


def _head(model: Any) -> Any:
    from river.compose import Pipeline  # noqa: PLC0415 - River loads scipy: only when asked

    while isinstance(model, Pipeline):
        model = list(model.steps.values())[-1]
    return model


def takes_weight(model: Any) -> bool:
    """Whether `learn_one` takes `w`, looking through a pipeline to its last step."""
    return "w" in inspect.signature(_head(model).learn_one).parameters
