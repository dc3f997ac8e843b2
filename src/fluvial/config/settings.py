"""What can be set, with its defaults: one frozen value per service."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from fluvial.config.tables import ClientProperties, Secret, Section
from fluvial.schema import Schema

Positive = Annotated[float, Meta(gt=0)]
Count = Annotated[int, Meta(ge=1)]
Plane = Literal["error", "features", "predictions"]
DataPlane = Literal["features", "predictions"]
DETECTORS = {
    "ADWIN": "number",
    "KSWIN": "number",
    "PageHinkley": "number",
    "DDM": "binary",
    "EDDM": "binary",
    "FHDDM": "binary",
    "HDDM_A": "binary",
    "HDDM_W": "binary",
}
"""Detectors of the error by name, and what they read: any loss, or only right and wrong."""
Expectation = Annotated[int, Meta(ge=10_000, le=1_000_000_000)]
Preset = Literal["linear", "rates", "bayes", "tree", "adaptive-tree", "forest", "auto"]


class KafkaSettings(Section, frozen=True):
    """`[kafka]`: where the events come from."""

    bootstrap_servers: str
    topic: str
    group: str = ""
    """Scope topic: under which offsets are mirrored for lag tools; partition: that workers join.
    Default `fluvial-<service>`."""
    scope: Literal["topic", "partition"] = "topic"
    """One model from all partitions and one active worker; or a model per partition, shared out by Kafka."""
    protocol: Literal["classic", "consumer"] = "classic"
    """Scope partition: how the group agrees. `consumer` (KIP-848) needs brokers that know it."""
    assignor: Literal["cooperative-sticky", "range"] = "cooperative-sticky"
    """Scope partition, classic protocol: who gets which partition."""
    session_timeout_ms: Annotated[int, Meta(ge=1_000, le=300_000)] = 10_000
    """Scope partition, classic protocol: after this silence the group takes a worker's partitions away."""
    instance_id: str = "auto"
    """Scope partition: a static member's name, so that a restart moves nothing; `auto` makes one of the
    host's name, empty is none."""
    start: str = "earliest"
    """Where a new shard starts: `earliest`, `latest` or an ISO 8601 time."""
    batch: Annotated[int, Meta(ge=1, le=10_000)] = 500
    wait_ms: Annotated[int, Meta(ge=1, le=1_000)] = 20
    """How long a batch waits for company."""
    on_lost_offset: Literal["fail", "earliest", "fresh"] = "fail"
    """When the resume position is below the log's start: stop; go on from there with the same model; or
    with a fresh one."""
    on_added_partitions: Literal["fail", "learn", "ignore"] = "fail"
    """Scope topic, when the topic has more partitions than the model knows: stop; learn from them too, from
    their start; or leave them out."""
    dead_letters: str = ""
    """The dead-letter topic; default `<topic>.dead-letters`."""
    client: dict[str, str | int | float | bool] = msgspec.field(default_factory=dict)
    """Any librdkafka property, except those that the service owns."""
    client_files: dict[str, str] = msgspec.field(default_factory=dict)
    """librdkafka properties read from files into `client`: `"sasl.password" = "/run/secrets/kafka"`."""

    def __post_init__(self) -> None:
        """Let no password show itself in a repr."""
        msgspec.structs.force_setattr(self, "client", ClientProperties(self.client))


class RedisSettings(Section, frozen=True):
    """`[redis]`: where the state lives."""

    url: Secret = msgspec.field(default_factory=lambda: Secret("redis://127.0.0.1:6379/0"))
    """redis://, rediss://, unix://, redis+cluster://host:port, redis+sentinel://host:port,host:port/name/db."""
    url_file: str | None = None
    """File with the URL, when it holds a password."""
    username: str | None = None
    password: Secret | None = None
    password_file: str | None = None
    ca_file: str | None = None
    timeout_seconds: Positive = 2.0
    allow_unfit: bool = False
    """Accept a server that is not persistent, evicts keys or is older than 7.0 (demo and tests). Otherwise it
    is refused at the start, and makes the worker not ready when it becomes so later."""


class ModelSettings(Section, frozen=True):
    """`[model]`: a preset by name, or your own factory."""

    preset: Preset | None = None
    factory: str | None = None
    """`package.module:function` returning a River classifier or regressor."""
    options: dict[str, Any] = msgspec.field(default_factory=dict)
    """Keyword arguments for the factory or the preset."""
    allow: tuple[str, ...] = ()
    """Classes of your own that a checkpoint may hold: `package.module:Class`."""
    seed: int = 1


class RungSettings(Section, frozen=True):
    """`[[policy.rungs]]`: what a signal leads to when the error rose, or data moved, by at least so much."""

    action: Literal["hold", "challenger", "refit", "reset", "recall"]
    on: Literal["warning", "drift"] = "drift"
    rise: Annotated[float, Meta(ge=0, le=10)] = 0.0
    """Of the error: of its mean, at most 1; of data: the furthest `Moved.distance`, either way."""
    plane: Literal["error", "features", "predictions"] = "error"


class PolicySettings(Section, frozen=True):
    """`[policy]`: what drift leads to."""

    name: Literal["observe", "reset", "reweight", "challenger", "refit", "recall", "scheduled", "ladder"] = (
        "reweight"
    )
    factory: str | None = None
    """Instead of a name: `package.module:Policy`, your own."""
    options: dict[str, Any] = msgspec.field(default_factory=dict)
    """Keyword arguments for the factory."""
    restart_every: Count = 2_000
    """reweight: each challenger starts afresh every so many labelled events."""
    challengers: Annotated[int, Meta(ge=1, le=8)] = 2
    keep: tuple[str, ...] = ()
    """reset: pipeline steps that keep what they learned."""
    part: Literal["all", "last-step", "leaves"] = "all"
    """reset, refit: replace the whole model, a pipeline's last step, or what a tree's leaves know."""
    warm: bool = True
    """reset: teach the fresh model the events since the back-dated change."""
    refit_events: Annotated[int, Meta(ge=0, le=2_000)] = 500
    """refit, scheduled: on so many of the newest labelled events; 0: on those since the change."""
    half_life: Annotated[float, Meta(ge=0)] = 0.0
    """refit, scheduled: an event that is so many events old weighs half; 0: all weigh the same."""
    ready: Annotated[int, Meta(ge=1, le=100_000)] = 100
    """challenger, recall, ladder: labelled events that a rival learns in the shadow before it is compared."""
    evidence: Annotated[float, Meta(ge=2, le=1e9)] = 100.0
    """challenger, recall, ladder: e-value from which a trial is decided; 1 over the chance of a wrong one."""
    trial: Count = 2_000
    """challenger, recall, ladder: labelled events compared after which an undecided rival is dismissed."""
    recalls: Annotated[int, Meta(ge=1, le=20)] = 5
    """recall, ladder: retired models that the state keeps."""
    interval_events: Annotated[int, Meta(ge=0)] = 0
    """scheduled: labelled events."""
    interval_seconds: Annotated[float, Meta(ge=0)] = 0.0
    """scheduled: seconds of event time, counted from the epoch."""
    action: Literal["refit", "reset"] = "refit"
    """scheduled: what is done."""
    rungs: tuple[RungSettings, ...] = ()
    """ladder: from mild to severe."""
    cooldown: Annotated[int, Meta(ge=0)] = 200
    """Labelled events after a reaction during which no other follows."""
    max_reactions: Count = 10
    """Reactions within 10,000 labelled events after which the policy holds still."""
    label_delay: Annotated[int, Meta(ge=0, le=100_000)] = 0
    """Further labelled events after which a label counts as known, and is learned; 0: at once."""


class DriftSettings(Section, frozen=True):
    """`[drift]`: what is watched, and how often it may be wrong."""

    planes: tuple[DataPlane, ...] = ("features", "predictions")
    """What is watched beside the error."""
    expect: dict[Plane, Expectation] = msgspec.field(default_factory=dict)
    """Labelled events between two false drifts, by plane: a million for features and predictions; for the
    error, `drift_delta` decides unless a number stands here."""
    expect_warning: dict[Plane, Expectation] = msgspec.field(default_factory=dict)
    """The same for warnings: 100,000, and `warning_delta`."""
    warning_delta: Annotated[float, Meta(gt=0, lt=1)] | None = None
    """The error's ADWIN: its confidence, in place of an expectation; 0.05 when neither is set."""
    drift_delta: Annotated[float, Meta(gt=0, lt=1)] | None = None
    """Likewise for a drift; 0.002 when neither is set."""
    detector: str = "ADWIN"
    """Of the error: a detector of River's by name, or `package.module:Class`."""
    options: dict[str, Any] = msgspec.field(default_factory=dict)
    """Keyword arguments for that detector."""

    def levels(self, plane: DataPlane) -> tuple[int, int]:
        """Labelled events between two false warnings of a plane, and between two false drifts."""
        return self.expect_warning.get(plane, 100_000), self.expect.get(plane, 1_000_000)


class EvaluationSettings(Section, frozen=True):
    """`[evaluation]`: prequential metrics."""

    window: Annotated[int, Meta(ge=100, le=100_000)] = 1_000
    half_life: Positive = 1_000.0
    """Of the fading metrics, in labelled events."""


class CheckpointSettings(Section, frozen=True):
    """`[checkpoint]`: when, how large, and what happens when one cannot be used."""

    every_seconds: Positive = 1.0
    every_events: Count = 50_000
    max_bytes: Count = 256_000_000
    key_file: str | None = None
    """File with the signing key (32 bytes or more); or `key` in the environment."""
    key: Secret | None = None
    key_id: str = "default"
    on_refused: Literal["fail", "replay", "try"] = "fail"
    """When no kept checkpoint may be loaded: stop; rebuild from the log; load although answers differ."""
    on_lost_state: Literal["fail", "fresh"] = "fail"
    """When Kafka has a commit and Redis has no checkpoint."""


class VersionSettings(Section, frozen=True):
    """`[versions]`: which replaced models stay, to be compared and rolled back to. Pinned ones always do."""

    keep: Annotated[int, Meta(ge=0, le=1_000)] = 10
    """So many of a shard, the newest."""
    keep_days: Positive = 90.0
    """And none that was replaced longer ago."""


class DeadLetterSettings(Section, frozen=True):
    """`[dead_letters]`: how many refused events in the topic are too many to go on without a person."""

    max_run: Annotated[int, Meta(ge=0)] = 500
    """So many refused in a row trip the breaker; 0: no limit."""
    max_share: Annotated[float, Meta(gt=0, le=1)] = 0.5
    """A larger share refused of the last `window` events trips the breaker; 1: no limit."""
    window: Annotated[int, Meta(ge=10, le=1_000_000)] = 5_000


class ScoreSettings(Section, frozen=True):
    """`[scores]`: what applications read."""

    enabled: bool = True
    ttl_seconds: Count = 3_600
    max_keys: Count = 10_000_000


class WorkerSettings(Section, frozen=True):
    """`[worker]`: the process."""

    lease_seconds: Positive = 5.0
    grace_seconds: Positive = 20.0
    """How long a shutdown may take before the watchdog ends the process."""
    max_model_errors: Annotated[int, Meta(ge=0)] = 20
    """Events on which the model raised, within 10,000, after which the worker stops and says why."""


class MetricsSettings(Section, frozen=True):
    """`[metrics]`: /metrics, /livez and /readyz."""

    enabled: bool = True
    host: str = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65_535)] = 9_108


class LogSettings(Section, frozen=True):
    """`[log]`."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["text", "json"] = "text"


class Settings(Section, frozen=True):
    """The whole file."""

    service: str
    """Names the service in Redis, in Kafka and in metrics."""
    kafka: KafkaSettings
    schema: Schema
    model: ModelSettings
    redis: RedisSettings = RedisSettings()
    policy: PolicySettings = PolicySettings()
    drift: DriftSettings = DriftSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    checkpoint: CheckpointSettings = CheckpointSettings()
    versions: VersionSettings = VersionSettings()
    dead_letters: DeadLetterSettings = DeadLetterSettings()
    scores: ScoreSettings = ScoreSettings()
    worker: WorkerSettings = WorkerSettings()
    metrics: MetricsSettings = MetricsSettings()
    log: LogSettings = LogSettings()

    @property
    def group(self) -> str:
        """The consumer group under which offsets are mirrored."""
        return self.kafka.group or f"fluvial-{self.service}"

    @property
    def dead_letter_topic(self) -> str:
        """The dead-letter topic."""
        return self.kafka.dead_letters or f"{self.kafka.topic}.dead-letters"
