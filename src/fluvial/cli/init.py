"""`fluvial init`: write a settings file to start from, with every section and every default in it."""

from __future__ import annotations

import argparse
import re
import sys
import tomllib
from importlib import resources
from pathlib import Path
from typing import get_args

from fluvial.adapters.parquet import rows_of
from fluvial.cli.guessing import guess_schema, toml
from fluvial.cli.mapping import add_reading
from fluvial.config import Preset, parse
from fluvial.errors import SettingsError
from fluvial.keys import valid_name

_SCHEMA = re.compile(r"^\[schema\]$.*?(?=^\[model\]$)", re.MULTILINE | re.DOTALL)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "file", nargs="?", default="fluvial.toml", help="where to write (default %(default)s)"
    )
    parser.add_argument("--service", default="example", help="the service's name (default %(default)s)")
    parser.add_argument("--topic", default="events", help="the topic to learn from (default %(default)s)")
    parser.add_argument("--bootstrap-servers", default="localhost:9092", help="Kafka (default %(default)s)")
    parser.add_argument(
        "--preset", default="auto", choices=get_args(Preset), help="the model (default %(default)s)"
    )
    parser.add_argument(
        "--from",
        dest="sample",
        metavar="DATA",
        help="guess the schema from a CSV, JSON-lines or Parquet file",
    )
    add_reading(parser.add_argument, "with --from: ")
    parser.add_argument(
        "--label", default="label", help="with --from: the label's column (default %(default)s)"
    )
    parser.add_argument("--force", action="store_true", help="overwrite the file")


def run(args: argparse.Namespace) -> int:
    """Write the file and say what comes next. Returns 1, with the reason on stderr, when it cannot."""
    if not valid_name(args.service):
        return _refuse(f"{args.service!r} is no service name: letters, digits, '.', '_', '-', at most 64")
    try:
        schema = None if args.sample is None else _guessed(args)
    except SettingsError as error:
        return _refuse(str(error))
    text = start_text(args.service, args.topic, args.bootstrap_servers, args.preset, schema)
    try:
        parse(tomllib.loads(text))
    except (SettingsError, tomllib.TOMLDecodeError) as error:
        return _refuse(f"these settings would not load: {error}")
    path = Path(args.file)
    try:
        with path.open("w" if args.force else "x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        return _refuse(f"{path} exists; --force overwrites it")
    except (OSError, UnicodeEncodeError) as error:
        return _refuse(f"{path} cannot be written: {error}")
    print(f"wrote {path}\nnext: describe your events under [schema] in it, then")
    print(f"  fluvial check {path}    # the settings, the model, Kafka and Redis\n  fluvial run {path}")
    return 0


def _guessed(args: argparse.Namespace) -> str:
    with rows_of(args.sample, args.format, args.delimiter) as file:
        return guess_schema(file, args.label)


def start_text(service: str, topic: str, servers: str, preset: str, schema: str | None = None) -> str:
    """The file's text; `schema` replaces the example's `[schema]` tables."""
    text = resources.files("fluvial.cli").joinpath("start.toml").read_text(encoding="utf-8")
    text = _set(text, "service", service)
    text = _set(text, "bootstrap_servers", servers)
    text = _set(text, "topic", topic)
    text = _set(text, "preset", preset)
    text = text.replace('#group = "fluvial-example"', f"#group = {toml(f'fluvial-{service}')}", 1)
    text = text.replace(
        '#dead_letters = "events.dead-letters"', f"#dead_letters = {toml(f'{topic}.dead-letters')}", 1
    )
    return text if schema is None else _SCHEMA.sub(lambda _: schema, text)


def _set(text: str, name: str, value: str) -> str:
    """Replace the value of the one line that sets `name`, keeping its comment."""
    line = re.compile(rf'^{name} = "[^"]*"', re.MULTILINE)
    return line.sub(lambda _: f"{name} = {toml(value)}", text, count=1)


def _refuse(message: str) -> int:
    print(f"fluvial init: {message}", file=sys.stderr)
    return 1
