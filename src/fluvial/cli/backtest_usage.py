"""What would do nothing, or only fail after the fold: refused before anything is folded."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from fluvial.backtest import Run
from fluvial.config import Settings
from fluvial.errors import SettingsError


def refuse_idle(args: argparse.Namespace, runs: Sequence[Run]) -> None:
    """Raises SettingsError."""
    if args.label_delay_column is None and args.label_delay_unit == "seconds":
        raise SettingsError("--label-delay-unit: of --label-delay-column, which is not given")
    if args.files:
        _refuse_places(args)
        for run in runs:
            _refuse_seconds(args, run.settings)
    elif args.topic is not None:
        _refuse_columns(args)
    if args.report:
        _refuse_page(Path(args.report))


def _refuse_places(args: argparse.Namespace) -> None:
    places = {"--from": args.first, "--to": args.end, "--partition": args.partition}
    given = [name for name, place in places.items() if place is not None]
    if given:
        msg = f"{', '.join(given)}: of a topic; files are read whole, or as far as --limit says"
        raise SettingsError(msg)


def _refuse_columns(args: argparse.Namespace) -> None:
    names = ("format", "delimiter", "key", "id", "time", "time_unit", "label", "features", "types")
    given = [f"--{name.replace('_', '-')}" for name in names if getattr(args, name) not in {None, ""}]
    if given:
        raise SettingsError(f"{', '.join(given)}: of files; a topic's messages are read as the service does")


def _refuse_seconds(args: argparse.Namespace, settings: Settings) -> None:
    """What counts seconds would stand still: without a time in the schema it is 0 in a file."""
    policy = settings.policy
    scheduled = policy.factory is None and policy.name == "scheduled" and policy.interval_seconds > 0.0
    if settings.schema.time is not None:
        return
    if scheduled or args.label_delay_unit == "seconds":
        what = "policy.interval_seconds" if scheduled else "--label-delay-unit seconds"
        raise SettingsError(f"{what}: events of a file have no time of their own; declare schema.time")


def _refuse_page(page: Path) -> None:
    if page.is_dir():
        raise SettingsError(f"--report {page}: is a folder; name a file in it")
    if not page.parent.is_dir():
        raise SettingsError(f"--report {page}: there is no folder {page.parent}")
    if not os.access(page if page.exists() else page.parent, os.W_OK):
        raise SettingsError(f"--report {page}: may not be written")
