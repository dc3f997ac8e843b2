"""What `fluvial backtest` compares: each combination of policy, model and settings is a run with a name."""

from __future__ import annotations

import argparse
import itertools
import os
import re
from collections.abc import Mapping
from typing import Any, get_args

import msgspec

from fluvial.backtest import Run
from fluvial.config import Preset, Settings, check_settings, load
from fluvial.config.loading import PREFIX
from fluvial.errors import SettingsError
from fluvial.policies import make_policy
from fluvial.shard import blanks_of

MOST_RUNS = 32
POLICY, FACTORY, DELAY = "policy.name", "policy.factory", "policy.label_delay"


def runs_of(args: argparse.Namespace) -> list[Run]:
    """Every combination of what was given, each with a name. Raises SettingsError."""
    axes = _axes(args)
    models = args.model or [None]
    combinations = list(itertools.product(models, *axes.values()))
    if len(combinations) > MOST_RUNS:
        raise SettingsError(f"{len(combinations)} runs; at most {MOST_RUNS} are compared at a time")
    runs = []
    for model, *values in combinations:
        chosen = dict(zip(axes, values, strict=True))
        settings = _with_model(_loaded(args.config, chosen), model, args.config, chosen)
        runs.append(Run(_name(settings, model if len(models) > 1 else None, axes, chosen), settings))
    doubled = {r.name for r in runs if sum(r.name == other.name for other in runs) > 1}
    if doubled:
        raise SettingsError(f"two runs are {min(doubled)!r}: the same value was given twice")
    if len({r.settings.schema.label.task for r in runs}) > 1:
        raise SettingsError("--set: runs of different tasks cannot be compared")
    return runs


def _axes(args: argparse.Namespace) -> dict[str, list[str]]:
    """Each setting that was given, with its values. Raises SettingsError."""
    axes: dict[str, list[str]] = {}
    if args.policy:
        axes[POLICY] = args.policy
    for text in args.set:
        name, equals, value = text.partition("=")
        if not equals or "." not in name:
            raise SettingsError(f"--set {text}: write SECTION.NAME=VALUE, as policy.restart_every=1000")
        # TOML wants a digit before the point.
        value = re.sub(r"^([+-]?)\.(?=\d)", r"\g<1>0.", value.strip())
        name = name.strip().lower()  # as settings read it
        axes[name] = [*axes.get(name, []), value]
    _refuse_two_delays(args, axes)
    if args.label_delay is not None:
        axes[DELAY] = [str(args.label_delay)]
    if POLICY in axes and FACTORY in axes:
        raise SettingsError(f"--set {FACTORY}: beside a policy's name; write --policy module:Policy")
    return axes


def _refuse_two_delays(args: argparse.Namespace, axes: Mapping[str, list[str]]) -> None:
    """Only one of them could count, and nobody would see which."""
    given = {
        "--label-delay": args.label_delay is not None,
        "--label-delay-column": args.label_delay_column is not None,
        f"--set {DELAY}": DELAY in axes,
    }
    names = [name for name, there in given.items() if there]
    if len(names) > 1:
        raise SettingsError(f"{' and '.join(names)}: each says when labels are known; give one of them")


def _loaded(config: str, chosen: Mapping[str, str]) -> Settings:
    """The settings under what was chosen. A policy that was named is meant, whatever the file says."""
    policy = chosen.get(POLICY)
    settings = load(config, over=_understood(chosen))
    if policy is None:
        return settings
    factory = policy if ":" in policy else None
    options: Mapping[str, Any] = {}
    if factory is not None:
        same = factory == settings.policy.factory
        options = settings.policy.options if same else _options_given(config, chosen, "policy")
    replaced = msgspec.structs.replace(settings.policy, factory=factory, options=options)
    settings = msgspec.structs.replace(settings, policy=replaced)
    check_settings(settings)
    make_policy(replaced)  # a factory that makes none is said before anything is folded
    return settings


def _understood(chosen: Mapping[str, str]) -> dict[str, str]:
    """What settings may say: a policy of the user's own is put in its place afterwards."""
    return {name: value for name, value in chosen.items() if name != POLICY or ":" not in value}


def _options_given(config: str, chosen: Mapping[str, str], section: str) -> Mapping[str, Any]:
    """A section's options of this command line alone: the settings' own are for another model or policy."""
    options = f"{section}.options"
    if not any(name.lower().startswith(options) for name in chosen):
        return {}
    own = f"{PREFIX}{section}__options".upper()
    environ = {name: value for name, value in os.environ.items() if not name.upper().startswith(own)}
    settings = load(config, environ, {options: "{}", **_understood(chosen)})
    given: Mapping[str, Any] = getattr(settings, section).options
    return given


def _with_model(settings: Settings, model: str | None, config: str, chosen: Mapping[str, str]) -> Settings:
    """Another preset or factory; options were those of the one before."""
    if model is None:
        return settings
    if ":" in model:
        changed = {"preset": None, "factory": model}
    elif model in get_args(Preset):
        changed = {"preset": model, "factory": None}
    else:
        raise SettingsError(
            f"--model: {model!r} is not one of {', '.join(get_args(Preset))}, nor module:function"
        )
    same = (settings.model.preset, settings.model.factory) == (changed["preset"], changed["factory"])
    options = settings.model.options if same else _options_given(config, chosen, "model")
    replaced = msgspec.structs.replace(settings.model, **changed, options=options)
    settings = msgspec.structs.replace(settings, model=replaced)
    check_settings(settings)
    blanks_of(settings)  # options that it does not take are said before anything is folded
    return settings


def _name(settings: Settings, model: str | None, axes: dict[str, list[str]], chosen: dict[str, str]) -> str:
    """The policy, and whatever else differs among the runs."""
    parts = [model] if model else []
    parts.append(settings.policy.factory or settings.policy.name)
    parts += [
        f"{name.rpartition('.')[2]}={chosen[name]}"
        for name, values in axes.items()
        if len(values) > 1 and name not in {POLICY, FACTORY}
    ]
    return " ".join(parts)
