"""Settings: one TOML file per service, the environment over it. Nothing else reads the environment."""

from fluvial.config.loading import OWNED_PROPERTIES, check_settings, load, parse
from fluvial.config.settings import (
    DETECTORS,
    CheckpointSettings,
    DataPlane,
    DeadLetterSettings,
    DriftSettings,
    EvaluationSettings,
    KafkaSettings,
    LogSettings,
    MetricsSettings,
    ModelSettings,
    PolicySettings,
    Preset,
    RedisSettings,
    ScoreSettings,
    Settings,
    VersionSettings,
    WorkerSettings,
)
from fluvial.config.showing import describe, fingerprint, json_schema, shown_url
from fluvial.config.tables import Secret

__all__ = [
    "DETECTORS",
    "OWNED_PROPERTIES",
    "CheckpointSettings",
    "DataPlane",
    "DeadLetterSettings",
    "DriftSettings",
    "EvaluationSettings",
    "KafkaSettings",
    "LogSettings",
    "MetricsSettings",
    "ModelSettings",
    "PolicySettings",
    "Preset",
    "RedisSettings",
    "ScoreSettings",
    "Secret",
    "Settings",
    "VersionSettings",
    "WorkerSettings",
    "check_settings",
    "describe",
    "fingerprint",
    "json_schema",
    "load",
    "parse",
    "shown_url",
]
