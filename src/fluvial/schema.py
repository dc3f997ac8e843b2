"""The events' contract: which fields there are, where they stand in the JSON, and what they may be.

The order of `features` is the order in which every model sees them. Nothing else reaches a model.
"""

from __future__ import annotations

import hashlib
from typing import Literal

import msgspec

from fluvial.types import Task

FeatureType = Literal["number", "integer", "boolean", "category"]
Path = tuple[str, ...]

LIMIT = 1e100
"""Largest magnitude of a number without a declared range: its square is still finite."""
MAX_FEATURES = 10_000
MAX_CLASSES = 1_000
MAX_KEY_BYTES = 512


class FeatureSpec(msgspec.Struct, frozen=True):
    """One declared feature."""

    name: str
    type: FeatureType
    path: Path
    required: bool = True
    default: float | str | None = None
    """Used when the field is absent or null; without it an absent optional feature is an absent key."""
    low: float = -LIMIT
    high: float = LIMIT
    values: tuple[str, ...] = ()
    """The allowed names of a category; empty: any, of which the model tells at most 100 apart."""


class LabelSpec(msgspec.Struct, frozen=True):
    """What is being predicted."""

    task: Task
    path: Path = ("label",)
    classes: tuple[str | int | bool, ...] = ()
    """In declared order; the names that scores use. Binary: (negative, positive)."""
    low: float = -LIMIT
    high: float = LIMIT

    @property
    def size(self) -> int:
        """Length of an answer: the number of classes, 1 in regression."""
        return len(self.classes) or 1


class Inference(msgspec.Struct, frozen=True):
    """`infer = true`: the features are learned from the first events and then fixed."""

    events: int = 100
    """Valid events after which the set of features is fixed."""
    max_features: int = 64
    path: Path = ("features",)
    """The JSON object whose scalar members are the features."""


class Schema(msgspec.Struct, frozen=True):
    """The whole contract."""

    features: tuple[FeatureSpec, ...]
    label: LabelSpec
    id: Path | None = None
    key: Path | None = None
    """None: Kafka's message key."""
    time: Path | None = None
    """None: Kafka's timestamp."""
    time_unit: Literal["s", "ms", "us", "iso"] = "s"
    weight: Path | None = None
    unknown: Literal["refuse", "ignore"] = "refuse"
    """What happens to an event with a field that is not declared."""
    max_bytes: int = 1_000_000
    infer: Inference | None = None

    @property
    def hash(self) -> str:
        """Digest of the contract: a checkpoint made under another one is refused."""
        return hashlib.sha256(msgspec.json.encode(self, order="sorted")).hexdigest()[:16]

    @property
    def names(self) -> tuple[str, ...]:
        """Feature names in schema order."""
        return tuple(feature.name for feature in self.features)
