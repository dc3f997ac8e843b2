"""The domain's words. Everything else speaks in them; this file imports nothing of ours.

An *offset* is always the next one to read. A *shard* is the set of partitions that one model learns
from. Times are seconds since the epoch, UTC. Values that are made once per event are `msgspec.Struct`s
(creating one costs a tenth of a frozen dataclass); all are frozen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any

import msgspec

Feature = float | str
"""What a feature is when it reaches River: a float, or a category's name."""

Label = bool | int | float
"""What a label is when it reaches River: bool (binary), 0..K-1 (multiclass), float (regression)."""

Answer = tuple[float, ...]
"""What a model answered: one probability per class in declared order, or one number in regression."""


class Task(StrEnum):
    """What kind of label is being predicted."""

    BINARY = "binary"
    MULTICLASS = "multiclass"
    REGRESSION = "regression"


class Event(msgspec.Struct, frozen=True, gc=False):
    """One decoded event, valid under the schema and ready for River."""

    partition: int
    offset: int
    """Its own offset in the partition (so the next one to read is `offset + 1`)."""
    time: float
    """Event time; the only time that the fold knows."""
    key: str | None
    """What its score is looked up by; None publishes no score."""
    x: dict[str, Feature]
    """Declared features in schema order; an absent optional one has no key."""
    y: Label | None
    """None: the event is scored and not learned."""
    weight: float = 1.0
    id: str | None = None


class SignalKind(StrEnum):
    """What a monitor has to say."""

    WARNING = "warning"
    DRIFT = "drift"
    RECOVERED = "recovered"


class Moved(msgspec.Struct, frozen=True):
    """One feature, or one part of the predictions, that moved."""

    name: str
    what: str
    """`mean`, `spread`, `share` of a category, `missing`, or values `above` or `below` all seen before."""
    before: float
    """Mean, deviation or share, in the feature's own unit."""
    after: float
    distance: float
    """Mean and spread: in standard deviations by ranks; else: after less before. Its sign is the way."""
    value: str | None = None
    """Which category."""

    @property
    def shown(self) -> str:
        """For people: `age (mean)`, or `country (share of fr)`."""
        return f"{self.name} ({self.what}{f' of {self.value}' if self.value is not None else ''})"


class Signal(msgspec.Struct, frozen=True):
    """A monitor noticed something at a definite event."""

    kind: SignalKind
    plane: str
    """`error`, `features` or `predictions`."""
    detector: str
    events: int
    """How many labelled events the fold had learned when it fired."""
    before: float
    """The watched mean before the change, 0 to 1."""
    after: float
    since: int
    """Back-dated start of the change, as a count of labelled events (`events - since` of them are new)."""
    moved: tuple[Moved, ...] = ()
    """Features and predictions: what moved, the surest first; `before` and `after` are the first one's."""

    @property
    def place(self) -> str:
        """The plane, and what moved on it, for people."""
        return f"{self.plane}: {', '.join(m.shown for m in self.moved)}" if self.moved else self.plane


class Version(msgspec.Struct, frozen=True):
    """A step in the model's lineage that scorers can tell apart. Ordinary learning does not make one."""

    number: int
    cause: str
    """`genesis`, `reset`, `promotion`, `restart`, `non-finite`, `events-lost`, `refit`, `recall`, `rollback`,
    later `manual`."""
    parent: int | None
    partition: int
    offset: int
    """The next offset of `partition` when it was made."""
    events: int
    """Labelled events learned by then."""
    time: float
    """Event time; 0 where no event made it (`genesis`, `events-lost`)."""
    detail: Mapping[str, Any] = {}
    """The signal that led to it, what was kept, how many events warmed it."""
    metrics: Mapping[str, float] = {}
    """The fading prequential metrics at that moment."""


class Entry(msgspec.Struct, frozen=True):
    """One line of the journal: something rare that a person may want to know years later."""

    kind: str
    """`warning`, `drift`, `recovered`, `version`, `claimed`, `started`, `lost-state`, `gap` and so on."""
    partition: int | None = None
    offset: int | None = None
    time: float | None = None
    """Event time for entries of the fold, wall time for those of the worker."""
    detail: Mapping[str, Any] = {}


class Retired(msgspec.Struct, frozen=True):
    """A model that was replaced, kept so that it can be brought back."""

    version: int
    """The version that it served as."""
    blob: bytes
    """Its champions by lane, pickled; the worker signs and stores it."""
    served: Version | None = None
    """That version."""
    weights: Mapping[str, float] = {}
    """Of its champions, by lane."""
    ages: Mapping[str, int] = {}
    """Labelled events that each champion had learned, by lane."""
    ledger: Mapping[str, Any] = {}
    """What had become of every offset when it had learned its last event: from there it can learn again."""
    metrics: Mapping[str, float] = {}
    """The fading prequential metrics at its end."""
    probes: Sequence[tuple[dict[str, Feature], Label, float]] = ()
    """Features, label and weight of the last events of its time, on which it is asked again when it is
    opened."""


class Outcome(msgspec.Struct, frozen=True, gc=False):
    """What one step of the fold returned."""

    answer: Answer
    """What was served, made before the label was seen."""
    choice: int
    """Index of the chosen class; 0 in regression."""
    version: int
    """The version that answered."""
    known: bool = True
    """False: no member could predict, or none gave a finite number; `answer` is uniform and not published."""
    rare: Rare | None = None


class Rare(msgspec.Struct, frozen=True):
    """What a step has to say beside its answer, which is seldom anything."""

    signals: tuple[Signal, ...] = ()
    versions: tuple[Version, ...] = ()
    entries: tuple[Entry, ...] = ()
    retired: tuple[Retired, ...] = ()


class Score(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """The latest score of a key, as applications read it from Redis (JSON, these names)."""

    prediction: str | int | float | bool
    """The declared class, or the number in regression."""
    version: int
    shard: str
    partition: int
    offset: int
    event_time: float
    made_at: float
    """Wall time at which it was made."""
    probabilities: Mapping[str, float] | None = None


class PartitionLedger(msgspec.Struct):
    """What became of every offset of one partition: the counts sum to `next - start`."""

    start: int
    next: int
    learned: int = 0
    scored: int = 0
    """Scored only: the event had no label."""
    dead: int = 0
    """Dead-lettered with a reason."""
    skipped: int = 0
    """Skipped by a journalled decision."""
    gaps: int = 0
    """Offsets that Kafka itself leaves (compaction, transaction markers)."""
    pending: int = 0
    """Scored, and to be learned when their labels are known (`policy.label_delay`)."""

    def balanced(self) -> bool:
        """Whether every offset is accounted for."""
        done = self.learned + self.scored + self.dead + self.skipped + self.gaps
        return done + self.pending == self.next - self.start


class DeadLetter(msgspec.Struct, frozen=True):
    """An event that broke the schema or the model: the original bytes, and why."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...]
    timestamp_ms: int
    reason: str
    """One of `errors.Reason`: a fixed word, safe as a metric label."""
    message: str
    """Where and what, for a person: `$.features.age: expected a number, got a string`."""
    topic_id: str | None = None
    """Tells a topic from one of the same name that was deleted; None where the broker does not tell it."""


class Trip(msgspec.Struct, frozen=True):
    """The flood breaker paused a shard; it stands until a person resumes it."""

    partition: int
    offset: int
    """The event that was one too many."""
    because: str
    """For a person; nothing that an event said."""

    @property
    def id(self) -> str:
        """The same after a replay: the same event trips it again."""
        return f"{self.partition}/{self.offset}"


class Rollback(msgspec.Struct, frozen=True):
    """A person asks for an earlier version to answer again."""

    id: str
    """Made by who asks; the same request again is known by it."""
    version: int
    by: str
    because: str
    at: float
    """Wall time."""
    relearn: bool = False
    """Read the log again from where that version had learned its last event."""
    skip: tuple[tuple[int, int, int], ...] = ()
    """Spans that are then left out: partition, first offset, the next one after it."""
    taken: bool = False
    """The owner carries it out: it cannot be taken back any more."""


class Reply(msgspec.Struct, frozen=True):
    """What became of a request."""

    id: str
    version: int | None
    """The version that it made; None: it was refused."""
    because: str = ""
    """Why it was refused."""


class Kept(msgspec.Struct, frozen=True):
    """What a store says of a version."""

    at: float | None = None
    """Wall time since which its model is kept; None: it is not (any more)."""
    size: int = 0
    """Bytes."""
    pinned: str | None = None
    """By whom; a pinned model is never dropped."""
    note: str | None = None


class Topology(msgspec.Struct, frozen=True):
    """Which log this is. Compared at each start: another cluster or a recreated topic is another log."""

    cluster_id: str
    topic_id: str | None
    """None where the broker does not tell it."""
    partitions: int


class Commit(msgspec.Struct, frozen=True):
    """Kafka's committed offset: a mirror for lag tools and a witness, never a resume position."""

    offset: int
    metadata: str
    """`sequence:epoch` of the checkpoint it mirrors."""


class Head(msgspec.Struct, frozen=True):
    """What the store says about a shard's newest checkpoint."""

    sequence: int
    digest: str
    """SHA-256 of the blob, hex."""
    offsets: Mapping[int, int]
    """The next offset of each partition."""


class Claim(msgspec.Struct, frozen=True):
    """Ownership of a shard: epoch and token travel with every guarded write."""

    shard: str
    epoch: int
    token: str
    head: Head | None
    """None: there is no checkpoint (a new shard, or a lost store)."""
    published: Mapping[int, int]
    """Per partition, the next offset whose score is not yet published."""


class Membership(msgspec.Struct, frozen=True):
    """What a consumer group says of the member that claims a shard."""

    group: str
    """Group and protocol: generations of another one cannot be compared."""
    generation: int
    owner: str
    milliseconds: int
    """How long the claim keeps members of older generations out without being renewed (as the lease)."""


class StoreReport(msgspec.Struct, frozen=True):
    """What a store says of itself."""

    version: str
    persistent: bool
    """Whether what it acknowledged survives its restart (append-only file on)."""
    eviction: str
    """Its eviction policy; anything but `noeviction` can drop a checkpoint."""
    embedded: bool = False
    """A server fit for demo and tests only."""
    told: bool = True
    """False: it may not be asked, so nothing of this is known."""


class MemberStanding(msgspec.Struct, frozen=True):
    """How one member of the mixture stands."""

    name: str
    champion: bool
    weight: float
    age: int
    """Labelled events since it was fresh."""


class RivalStanding(msgspec.Struct, frozen=True):
    """How a model in the shadow stands: it learns what the champion learns, and serves nothing."""

    lane: str
    age: int
    """Labelled events that it learned."""
    tested: int
    """Labelled events on which both were compared."""
    evidence: float
    """E-value against "the rival is no better": over 100 happens by chance once in a hundred trials."""
    against: float
    """E-value against "the rival is no worse"."""


class Standing(msgspec.Struct, frozen=True):
    """Everything a drift policy may look at. Frozen: a policy decides, the learner acts."""

    events: int
    """Labelled events learned."""
    since_reaction: int
    """Labelled events since the last reaction (or since genesis)."""
    recent_reactions: int
    """Reactions within the last `policies.STORM_WINDOW` labelled events."""
    signals: tuple[Signal, ...]
    """What fired at this event; empty when the policy is asked by its period."""
    members: tuple[MemberStanding, ...]
    time: float = 0.0
    """Event time."""
    asked: float | None = None
    """Event time when the policy was asked before, the middle of the last nine times; None: never yet."""
    versions: tuple[Version, ...] = ()
    """The newest hundred, the newest last."""
    retired: tuple[int, ...] = ()
    """Versions whose models the fold keeps and could recall, the oldest first."""
    rival: RivalStanding | None = None
    """The model in the shadow, if one is on trial."""
    loss: float = 0.0
    """Mean loss (0 to 1) over the window in which it did not change, as the warning's detector sees it."""
    metrics: Mapping[str, float] = {}
    """The fading prequential metrics; derived when they are looked at, which takes a millisecond."""


Served = tuple[Label, Answer] | tuple[Label, Answer, Label]
"""A label and what was served for it; and the label that came before it, where that is not the row before."""


class Action(StrEnum):
    """What a policy can ask for."""

    RESET = "reset"
    """Replace all members by fresh ones, warmed on the back-dated events."""
    RESTART = "restart"
    """Replace one challenger by a fresh one."""
    PROMOTE = "promotion"
    """Make a challenger (`member`), or the rival (`rival`), the champion; the champion retires."""
    REFIT = "refit"
    """Replace all members by fresh ones, taught the last `events` events or those since the change."""
    RECALL = "recall"
    """Bring a retired version back if it fits the events since the change better than the present model
    and a fresh one; otherwise reset."""
    CHALLENGE = "challenge"
    """Put a fresh model on trial in the shadow, warmed on the events since the change."""
    DISMISS = "dismissal"
    """End the trial; the champion stays."""
    HOLD = "hold"
    """Do nothing although something fired, and say why."""


class Decision(msgspec.Struct, frozen=True):
    """One thing to do, and why."""

    action: Action
    member: int = 0
    """Index into `Standing.members`, for restart and promotion."""
    because: str = ""
    signal: Signal | None = None
    rival: bool = False
    """Promotion: of the rival, whatever `member` says."""
    events: int = 0
    """Refit: on so many of the newest events; 0: on those since the change."""
    half_life: float = 0.0
    """Refit: an event that is so many events old weighs half; 0: all weigh the same."""


class Changes(msgspec.Struct, frozen=True):
    """What a consumer group did to this member's partitions since it was last asked."""

    given: tuple[int, ...] = ()
    """Ours now, not yet read."""
    lost: tuple[int, ...] = ()
    """Taken away without a word: somebody else may have them by now."""


class Lag(msgspec.Struct, frozen=True):
    """How far the fold is behind one partition."""

    low: int
    high: int
    """The log's end: the offset that the next event will get."""


JsonValue = Any
"""A decoded JSON value."""
