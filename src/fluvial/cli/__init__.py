"""The command. Each subcommand is a module with `add_arguments(parser)` and `run(args) -> int`.

Only the module of the command that was asked for is imported: River alone takes a second to load.
"""

from __future__ import annotations

import argparse
import errno
import importlib
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from fluvial import __version__
from fluvial.errors import FluvialError

COMMANDS = {
    "demo": "a minute of drifting events through the real worker, with no server",
    "init": "write a settings file to start from",
    "check": "check the settings, the model, Kafka and Redis, and say what to change",
    "run": "run one service until it is told to stop",
    "status": "what a service is doing: its checkpoint, its lag, its journal",
    "score": "read the latest score of a key",
    "explain": "why a score is what it is, and why a drift fired",
    "dead-letters": "list, show and redrive the events that were refused",
    "resume": "let a service go on that the flood breaker has paused",
    "versions": "list, show, compare, pin and annotate a model's versions, and roll back to one",
    "produce": "feed a CSV or JSON-lines file into a topic",
    "backtest": "what a policy, model or setting is worth on your own events, before it runs",
    "generate": "write events of a drifting stream",
    "schema": "print the JSON schema of the settings file, for editors",
}

INTERRUPTED = 130
"""As a shell reports a command that Ctrl-C ended: 128 and the signal's number."""
BROKEN_PIPE = 141
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""What a write fails with where there is no room; nothing else does."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit status: 0 done, 1 refused with a reason, 2 wrong usage."""
    argv = list(sys.argv[1:] if argv is None else argv)
    try:
        status = _run(argv)
        sys.stdout.flush()  # here, where a reader that has gone can still be answered
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of our output has gone (`| head`); nothing is wrong, and nothing more can be said.
        _drop_output()
        return BROKEN_PIPE
    except OSError as error:
        if error.errno not in FULL:
            raise
        print(f"fluvial: cannot write: {error.strerror}", file=sys.stderr)
        _drop_output()
        return 1
    return status


def _drop_output() -> None:
    """What is still buffered goes nowhere: at the exit Python would try again, and complain."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _run(argv: Sequence[str]) -> int:
    """Parse, and run the command that was asked for; a refusal is told on standard error."""
    args = _parser(argv).parse_args(argv)
    try:
        status: int = args.run(args)
    except FluvialError as error:
        print(f"fluvial {args.command}: {error}", file=sys.stderr)
        return 1
    return status


def _parser(argv: Sequence[str]) -> argparse.ArgumentParser:
    """All commands by name, and the arguments of the one that `argv` asks for."""
    parser = argparse.ArgumentParser(
        prog="fluvial",
        description="Keeps River models right while the world changes.",
        epilog="`fluvial COMMAND --help` says more. Begin with `fluvial demo`.",
    )
    parser.add_argument("--version", action="version", version=f"fluvial {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    asked = next((word for word in argv if not word.startswith("-")), None)
    for name, says in COMMANDS.items():
        command = commands.add_parser(name, help=says, description=says.capitalize() + ".")
        if name == asked:
            module = importlib.import_module(f"fluvial.cli.{name.replace('-', '_')}")
            module.add_arguments(command)
            command.set_defaults(run=module.run)
    return parser


def find_modules_here() -> None:
    """Let `model.factory` name a module of the working directory; installed ones come first."""
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)


def log_to_stderr(level: str, *, as_json: bool = False) -> None:
    """Send the log to standard error, as text or as one JSON object a line."""
    handler = logging.StreamHandler()
    if as_json:
        from fluvial.cli.json_log import JsonFormatter  # noqa: PLC0415 - only where it is asked for

        handler.setFormatter(JsonFormatter())
    else:
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s"))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
