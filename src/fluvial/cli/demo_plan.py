"""What the demo runs: the stream, the pace and the service's settings, the same for worker and twin."""

from __future__ import annotations

import secrets
from typing import Literal

import msgspec

from fluvial.config import (
    CheckpointSettings,
    KafkaSettings,
    MetricsSettings,
    ModelSettings,
    PolicySettings,
    RedisSettings,
    Secret,
    Settings,
)
from fluvial.streams import named

STREAM = "market"
TOPIC = "market"
SERVICE = "demo"
PARTITION = 0
"""All events go to one partition, so that an event's number is its offset."""
EMBEDDED: dict[str, str | int | float | bool] = {"fetch.wait.max.ms": 20}
"""The embedded Kafka answers an empty fetch only after this time, also when an event comes meanwhile."""
RIGHT, WRONG = b"10"
"""How the twin tells its judgements, a byte an event."""


class Plan(msgspec.Struct, frozen=True):
    """What is to be run."""

    events: int
    every: int
    """Events between two changes."""
    rate: float
    """Events per second."""
    model: Literal["linear", "bayes", "tree", "adaptive-tree", "auto"] = "tree"
    policy: Literal["observe", "reset", "reweight"] = "reweight"
    seed: int = 1
    most_seconds: float | None = None
    """When the feeding ends at the latest, on a machine that cannot hold the rate."""


def settings_of(plan: Plan, servers: str, url: str) -> Settings:
    """The service's settings, as a TOML file would give them."""
    return Settings(
        service=SERVICE,
        kafka=KafkaSettings(bootstrap_servers=servers, topic=TOPIC, client=EMBEDDED),
        schema=named(STREAM).schema(),
        model=ModelSettings(preset=plan.model),
        redis=RedisSettings(url=Secret(url), allow_unfit=True),
        policy=PolicySettings(name=plan.policy),
        checkpoint=CheckpointSettings(every_seconds=1.0, key=Secret(secrets.token_hex(32))),
        metrics=MetricsSettings(port=0),
    )
