"""`fluvial check`: find what would go wrong before it does, and say what to change."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from functools import partial

import msgspec
from rich.console import Console

from fluvial.cli import find_modules_here
from fluvial.config import Settings, load
from fluvial.errors import FluvialError, SourceUnavailable

SECONDS = 5.0
Check = tuple[str, Callable[[Settings], list[str]]]


class Found(msgspec.Struct, frozen=True):
    """What one check found; no faults: all is well."""

    check: str
    faults: list[str]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("file", nargs="?", default="fluvial.toml", help="the settings (default %(default)s)")
    parser.add_argument("--offline", action="store_true", help="leave Kafka and Redis alone")
    parser.add_argument(
        "--create", action="store_true", help="create the dead-letter topic when it is missing"
    )
    parser.add_argument("--json", action="store_true", help="print what was found as JSON")


def run(args: argparse.Namespace) -> int:
    """Check everything; 1 when anything is wrong."""
    settings = load(args.file)
    find_modules_here()
    console = Console(quiet=args.json)
    console.print(f"[green]ok[/]     settings: service {settings.service!r}", highlight=False)
    found = []
    for one in _run_checks(settings, offline=args.offline, create=args.create):
        found.append(one)
        for fault in one.faults:
            console.print(f"[red]fault[/]  {one.check}: ", end="")
            console.print(fault, markup=False, highlight=False, soft_wrap=True)
        if not one.faults:
            console.print(f"[green]ok[/]     {one.check}", highlight=False)
    if args.json:
        print(msgspec.json.encode(found).decode())
    return 1 if any(one.faults for one in found) else 0


def _run_checks(settings: Settings, *, offline: bool, create: bool) -> Iterator[Found]:
    checks: list[Check] = [
        ("model", _model),
        ("model replays in another process", _replay),
        ("policy", _policy),
        ("drift detector", _detector),
    ]
    if not offline:
        checks += [("Kafka", partial(_kafka, create=create)), ("Redis", _redis)]
    for name, check in checks:
        try:
            yield Found(name, check(settings))
        except FluvialError as error:
            yield Found(name, [str(error)])
            if name == "model":  # one that cannot be made cannot be replayed either
                checks.pop(1)


def _model(settings: Settings) -> list[str]:
    """Build it, and look for what cannot be replayed."""
    from fluvial.models import build  # noqa: PLC0415 - River loads for a second: settings are told first
    from fluvial.models.faults import faults  # noqa: PLC0415 - as above
    from fluvial.models.unpickle import parse_extra  # noqa: PLC0415 - as above

    extra = parse_extra(settings.model.allow)
    lanes = build(settings.model, settings.schema)
    return [f"{lane}: {fault}" for lane, model in lanes.items() for fault in faults(model, extra)]


def _policy(settings: Settings) -> list[str]:
    """Ask it about made standings; see that the model can do what it asks for."""
    from fluvial.crew import fault_of_keep  # noqa: PLC0415 - River loads for a second
    from fluvial.models import build, takes_weight  # noqa: PLC0415 - River loads for a second
    from fluvial.policies import Own, make_policy  # noqa: PLC0415 - as above
    from fluvial.policies.totality import faults  # noqa: PLC0415 - as above

    policy = make_policy(settings.policy)
    found = faults(policy.policy if isinstance(policy, Own) else policy, policy.challengers)
    needed = settings.policy.keep or settings.policy.half_life
    lanes = build(settings.model, settings.schema) if needed else {}
    if wrong := fault_of_keep(settings.policy.keep, lanes):
        found.append(wrong)
    if settings.policy.half_life:
        found += [
            f"policy.half_life: lane {lane!r} takes no sample weight; remove it or change the model"
            for lane, model in lanes.items()
            if not takes_weight(model)
        ]
    return found


def _replay(settings: Settings) -> list[str]:
    """Let two processes with different hash seeds live through the same made events."""
    from fluvial.models.faults import replay_faults  # noqa: PLC0415 - River loads for a second

    return replay_faults(settings.model, settings.schema)


def _detector(settings: Settings) -> list[str]:
    """It can be made, read losses, and come back from a checkpoint."""
    from fluvial.drift.named import make_detector  # noqa: PLC0415 - River loads for a second
    from fluvial.models import unpickle  # noqa: PLC0415 - as above
    from fluvial.shard import extra_classes  # noqa: PLC0415 - as above

    if settings.drift.detector == "ADWIN":
        return []
    detector = make_detector(settings.drift)
    try:
        for k in range(200):
            detector.update(float(k % 5 == 0))
        unpickle.loads(unpickle.dumps(detector), extra_classes(settings), settings.checkpoint.max_bytes)
    except Exception as error:  # noqa: BLE001 - a user's class may raise anything
        return [f"drift.detector: {settings.drift.detector}: {type(error).__name__}: {error}"]
    return []


def _kafka(settings: Settings, *, create: bool) -> list[str]:
    """The topic and the dead-letter topic exist; the latter is made when `create` says so."""
    from fluvial.adapters.kafka import KafkaProducer, KafkaSource  # noqa: PLC0415 - not when offline

    letters = settings.dead_letter_topic

    faults = []
    for topic in (settings.kafka.topic, letters):
        named = msgspec.structs.replace(settings.kafka, topic=topic)
        if create and topic == letters:
            KafkaProducer(named).create_topic(1, SECONDS)
        source = KafkaSource(named, settings.service)
        try:
            source.topology(SECONDS)
        except SourceUnavailable as error:
            return [str(error)]  # the other topic would only wait as long again
        except FluvialError as error:
            hint = "; for this one `fluvial check --create` does it" if topic == letters else ""
            faults.append(f"{error}{hint}")
        finally:
            source.close(SECONDS)
    return faults


def _redis(settings: Settings) -> list[str]:
    """The store answers and would keep what it acknowledges."""
    from fluvial.adapters.redis import RedisStore  # noqa: PLC0415 - not when offline
    from fluvial.fitness import unfit  # noqa: PLC0415 - as above
    from fluvial.keys import Keys  # noqa: PLC0415 - as above

    store = RedisStore(settings.redis, Keys(settings.service), settings.scores)
    try:
        return [] if settings.redis.allow_unfit else unfit(store.report())
    finally:
        store.close()
