"""`fluvial run`: one service in the foreground."""

from __future__ import annotations

import argparse

from fluvial.cli import find_modules_here, log_to_stderr
from fluvial.config import load


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("file", nargs="?", default="fluvial.toml", help="the settings (default %(default)s)")
    parser.epilog = (
        "SIGTERM and Ctrl-C finish the batch, save a checkpoint and give the lease back; a second one ends "
        "at once. Either is safe. Any setting can be given in the environment: FLUVIAL__KAFKA__TOPIC=events. "
        "A factory of your own may be a module in the working directory."
    )


def run(args: argparse.Namespace) -> int:
    """Run until told to stop."""
    settings = load(args.file)
    find_modules_here()
    log_to_stderr(settings.log.level, as_json=settings.log.format == "json")
    from fluvial import app  # noqa: PLC0415 - River loads for a second; a wrong setting is told before

    app.run(settings)
    return 0
