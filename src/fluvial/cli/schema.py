"""`fluvial schema`: the JSON schema of the settings file, for editors that complete and check TOML."""

from __future__ import annotations

import argparse

import msgspec

from fluvial.config import json_schema


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.epilog = "Use it in an editor: `#:schema ./fluvial.schema.json` as the first line of the TOML."


def run(args: argparse.Namespace) -> int:
    """Print it."""
    del args
    print(msgspec.json.format(msgspec.json.encode(json_schema()), indent=2).decode())
    return 0
