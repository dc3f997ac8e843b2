"""One TOML file per service, the environment over it, secrets from files: the only reader of either."""

from __future__ import annotations

import datetime as dt
import os
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import msgspec

from fluvial.config.schema_table import SchemaTable, schema_from
from fluvial.config.settings import DETECTORS, DriftSettings, PolicySettings, Settings
from fluvial.config.tables import Secret, convert, fields, join, refuse_unknown
from fluvial.errors import SettingsError
from fluvial.keys import valid_name
from fluvial.types import Task

PREFIX = "FLUVIAL__"
OWNED_PROPERTIES = {
    "bootstrap.servers": "set kafka.bootstrap_servers",
    "metadata.broker.list": "set kafka.bootstrap_servers",
    "group.id": "set kafka.group",
    "group.instance.id": "partitions are assigned by hand",
    "group.protocol": "partitions are assigned by hand",
    "partition.assignment.strategy": "partitions are assigned by hand",
    "enable.auto.commit": "the checkpoint is the position; Kafka's commit mirrors it",
    "auto.commit.enable": "the checkpoint is the position; Kafka's commit mirrors it",
    "auto.commit.interval.ms": "set checkpoint.every_seconds",
    "enable.auto.offset.store": "the checkpoint is the position; Kafka's commit mirrors it",
    "auto.offset.reset": "set kafka.start and kafka.on_lost_offset",
}
"""librdkafka properties that the service sets itself, and what to do instead."""
_SECRETS = (("redis", "url"), ("redis", "password"), ("checkpoint", "key"))
"""Each may be given in a file, under the same name with `_file`."""
_MAX_SECRET_BYTES = 65_536
_MIN_KEY_BYTES = 32


def load(
    path: str | Path, environ: Mapping[str, str] = os.environ, over: Mapping[str, str] | None = None
) -> Settings:
    """Read the file and the environment. Raises SettingsError, which never shows a secret.

    `over` are settings by their dotted names that come before both.
    """
    path = Path(path)
    if over:
        names = {PREFIX + name.replace(".", "__").upper(): value for name, value in over.items()}
        environ = {**environ, **names}
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        msg = f"{path}: cannot be read ({error.strerror}); `fluvial init` writes one to start from"
        raise SettingsError(msg) from None
    except UnicodeDecodeError:
        msg = f"{path}: is not UTF-8"
        raise SettingsError(msg) from None
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        place = str(error).rpartition("(")[2].rstrip(")")  # the rest may quote what stands there
        msg = f"{path}: not TOML {place}; a string needs quotes, each key stands once"
        raise SettingsError(msg) from None
    return parse(table, environ, path.parent)


def parse(
    table: Mapping[str, Any], environ: Mapping[str, str] | None = None, base: Path | None = None
) -> Settings:
    """Settings from a table, as `load` makes them; relative file names count from `base`."""
    merged = {key: dict(part) if isinstance(part, Mapping) else part for key, part in table.items()}
    _overlay(merged, environ or {})
    refuse_unknown(merged, Settings, "", known_paths())
    for section, kind in _sections():
        if not isinstance(merged.get(section, {}), Mapping):
            msg = f"{section}: expected a table, [{section}]"
            raise SettingsError(msg)
        if section != "schema":
            refuse_unknown(merged.get(section, {}), kind, section, known_paths())
    _read_secrets(merged, base or Path())
    if "service" not in merged:
        msg = "service: missing; it names the service in Redis, in Kafka and in metrics"
        raise SettingsError(msg)
    values: dict[str, Any] = {"service": convert(merged["service"], str, "service")}
    for section, kind in _sections():
        if section not in merged and section in {"kafka", "schema", "model"}:
            msg = f"{section}: missing; add a [{section}] table"
            raise SettingsError(msg)
        part = merged.get(section, {})
        values[section] = schema_from(part) if section == "schema" else convert(part, kind, section)
    settings = Settings(**values)
    check_settings(settings)
    return settings


def check_settings(settings: Settings) -> None:
    """What one table alone cannot tell. Raises SettingsError."""
    model, key = settings.model, settings.checkpoint.key
    owned = next((name for name in settings.kafka.client if name in OWNED_PROPERTIES), None)
    if not valid_name(settings.service):
        msg = "service: expected letters, digits, '.', '_' and '-', at most 64, a letter or digit first"
    elif (model.preset is None) == (model.factory is None):
        msg = "model: set one of model.preset and model.factory"
    elif model.factory is not None and model.factory.count(":") != 1:
        msg = "model.factory: expected package.module:function"
    elif settings.policy.factory is not None and settings.policy.factory.count(":") != 1:
        msg = "policy.factory: expected package.module:Policy"
    elif fault := _fault_of_policy(settings.policy):
        msg = fault
    elif owned is not None:
        msg = f"kafka.client.{owned}: the service sets it itself; {OWNED_PROPERTIES[owned]}"
    elif not settings.kafka.topic:
        msg = "kafka.topic: empty"
    elif settings.dead_letter_topic == settings.kafka.topic:
        msg = "kafka.dead_letters: is the topic itself"
    elif key is not None and len(key.reveal().encode()) < _MIN_KEY_BYTES:
        msg = f"checkpoint.key: shorter than {_MIN_KEY_BYTES} bytes; `openssl rand -hex 32` makes one"
    else:
        _check_start(settings.kafka.start)
        _check_detector(settings)
        return
    raise SettingsError(msg)


def _fault_of_policy(policy: PolicySettings) -> str:
    """What is wrong with when a policy acts; empty when nothing is."""
    for k, rung in enumerate(policy.rungs):
        if rung.plane == "error" and rung.rise > 1.0:
            return (
                f"policy.rungs[{k}].rise: {rung.rise:g}, and the error never rises by more than 1; lower it"
            )
    return "" if policy.factory is not None else _fault_of_schedule(policy)


def _fault_of_schedule(policy: PolicySettings) -> str:
    """What is wrong with when a scheduled policy acts; empty when nothing is."""
    if policy.name != "scheduled":
        return ""
    if bool(policy.interval_events) == bool(policy.interval_seconds):
        return 'policy: name = "scheduled" needs one of policy.interval_events and policy.interval_seconds'
    if policy.action == "refit" and not policy.refit_events:
        return "policy.refit_events: 0 means since the change, and a scheduled refit answers none; set it"
    return ""


def known_paths() -> list[str]:
    """Every key that can be set, dotted; those below `schema` too."""
    paths = ["service"]
    for section, kind in _sections():
        known = fields(SchemaTable if section == "schema" else kind)
        paths += [section, *(f"{section}.{field.name}" for field in known)]
    return paths


def _sections() -> Iterator[tuple[str, type[msgspec.Struct]]]:
    for field in fields(Settings):
        if field.name != "service":
            yield field.name, field.type


def _check_start(start: str) -> None:
    if start in {"earliest", "latest"}:
        return
    try:
        dt.datetime.fromisoformat(start)
    except ValueError:
        msg = "kafka.start: expected earliest, latest or a time such as 2026-01-31T12:00:00+00:00"
        raise SettingsError(msg) from None


def _check_detector(settings: Settings) -> None:
    drift, regression = settings.drift, settings.schema.label.task == Task.REGRESSION
    if drift.detector not in DETECTORS and drift.detector.count(":") != 1:
        msg = f"drift.detector: expected one of {', '.join(DETECTORS)}, or package.module:Class"
    elif regression and DETECTORS.get(drift.detector) == "binary":
        numbers = ", ".join(name for name, reads in DETECTORS.items() if reads == "number")
        msg = f"drift.detector: {drift.detector} reads right and wrong only; in regression take {numbers}"
    elif drift.detector == "ADWIN" and drift.options:
        msg = "drift.options: ADWIN has none; set drift.drift_delta and drift.warning_delta"
    elif drift.detector != "ADWIN" and (given := _of_adwin(drift)):
        msg = f"{given}: of ADWIN; {drift.detector} has no stated expectation, and drift.options of its own"
    else:
        return
    raise SettingsError(msg)


def _of_adwin(drift: DriftSettings) -> str:
    """The first of what only ADWIN goes by that is set."""
    given = {
        "drift.expect.error": "error" in drift.expect,
        "drift.expect_warning.error": "error" in drift.expect_warning,
        "drift.drift_delta": bool(drift.drift_delta),
        "drift.warning_delta": bool(drift.warning_delta),
    }
    return next((name for name, there in given.items() if there), "")


def _overlay(table: dict[str, Any], environ: Mapping[str, str]) -> None:
    """Put the environment over the file. An empty variable counts as not set, as compose files make them."""
    kinds = dict(_sections())
    for name in sorted(environ):
        if not name.startswith(PREFIX) or not environ[name]:
            continue
        section, *rest = name[len(PREFIX) :].lower().split("__")
        if section == "service" and not rest:
            table["service"] = environ[name]
            continue
        if section not in kinds or not rest or not all(rest):
            refuse_unknown({section: None}, Settings, "", known_paths())
            msg = f"{name}: not a setting; write {PREFIX}SECTION__NAME"
            raise SettingsError(msg)
        part = table.setdefault(section, {})
        if not isinstance(part, dict):
            msg = f"{section}: expected a table, [{section}]"
            raise SettingsError(msg)
        if section == "schema":
            _nest(part, rest, _value(environ[name]))
        else:
            _set(part, kinds[section], section, rest, environ[name])


def _set(part: dict[str, Any], kind: type[msgspec.Struct], section: str, rest: list[str], text: str) -> None:
    """One variable into one section: strings as they are, anything else as TOML when it parses."""
    known = {field.name: field.type for field in fields(kind)}
    field, *inner = rest
    refuse_unknown({field: None}, kind, section, known_paths())
    if get_origin(known[field]) is dict and len(inner) == 1:
        client = field.startswith("client")
        table = part.get(field, {})
        if not isinstance(table, Mapping):
            msg = f"{section}.{field}: expected a table"
            raise SettingsError(msg)
        entries = part[field] = dict(_flat(table) if client else table)
        entries[inner[0].replace("_", ".") if client else inner[0]] = text if client else _value(text)
        return
    if inner:
        msg = f"{join(section, '.'.join(rest))}: unknown; {section}.{field} is not a table"
        raise SettingsError(msg)
    part[field] = text if _is_text(known[field]) else _value(text)
    part.pop(field.removesuffix("_file") if field.endswith("_file") else f"{field}_file", None)


def _nest(part: dict[str, Any], path: list[str], value: Any) -> None:
    for name in path[:-1]:
        inner = part.get(name)
        part[name] = dict(inner) if isinstance(inner, Mapping) else {}
        part = part[name]
    part[path[-1]] = value


def _is_text(kind: Any) -> bool:
    """Whether a field takes a string and nothing else (beside None)."""
    if get_origin(kind) is Annotated:
        return _is_text(get_args(kind)[0])
    if get_origin(kind) is Literal:
        return all(isinstance(word, str) for word in get_args(kind))
    parts = [part for part in get_args(kind) if part is not type(None)]
    return kind in {str, Secret} or (
        bool(parts) and get_origin(kind) is not tuple and all(map(_is_text, parts))
    )


def _value(text: str) -> Any:
    """The text as a TOML value when it is one, else itself; dates stay text."""
    try:
        table = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    value = table["value"]
    plain = set(table) == {"value"} and not isinstance(value, dt.date | dt.time)
    return value if plain else text


def _read_secrets(table: dict[str, Any], base: Path) -> None:
    """Fetch what is given as a file, so that adapters see `redis.password`, `kafka.client` and so on only."""
    for section, name in _SECRETS:
        part = table.get(section)
        file = part.get(f"{name}_file") if isinstance(part, dict) else None
        if not isinstance(part, dict) or not isinstance(file, str):
            continue
        if name in part:
            msg = f"{section}.{name}: given twice; remove it or {section}.{name}_file"
            raise SettingsError(msg)
        part[name] = _read_secret(base / file, f"{section}.{name}_file")
    kafka = table.get("kafka")
    if isinstance(kafka, dict):
        for name in ("client", "client_files"):
            if isinstance(kafka.get(name), Mapping):
                kafka[name] = dict(_flat(kafka[name]))
        files = kafka.get("client_files")
        if isinstance(files, dict) and isinstance(kafka.setdefault("client", {}), dict):
            for name, file in files.items():
                kafka["client"][name] = _read_secret(base / str(file), f"kafka.client_files.{name}")


def _flat(table: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """`sasl.password = ...` without quotes makes nested tables in TOML; librdkafka's names have dots."""
    for name, value in table.items():
        if isinstance(value, Mapping):
            yield from _flat(value, join(path, name))
        else:
            yield join(path, name), value


def _read_secret(path: Path, where: str) -> str:
    try:
        with path.open("rb") as file:
            text = file.read(_MAX_SECRET_BYTES + 1).decode()
    except OSError as error:
        msg = f"{where}: {path} cannot be read ({error.strerror})"
        raise SettingsError(msg) from None
    except UnicodeDecodeError:
        msg = f"{where}: {path} is not text"
        raise SettingsError(msg) from None
    text = text.rstrip("\r\n")
    if not text or len(text) > _MAX_SECRET_BYTES:
        msg = f"{where}: {path} is empty or larger than {_MAX_SECRET_BYTES} bytes"
        raise SettingsError(msg)
    return text
