"""A replaced model as signed bytes: the envelope of a checkpoint around it, under the same rules of loading.

    header    a checkpoint's, with `served`: which version this was, and how it did at its end
    payload   a pickle of the champions and what belongs to them
    answers   what a loaded copy said to the newest events of that time, which are in the payload

It is opened as a checkpoint is: the signature before anything is parsed, the header against what is asked
for, the pickle through the allow-list, and the same answers again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from fluvial.checkpoint import Expectation, Header, Opened, Served, SigningKey, compare, seal, unseal
from fluvial.crew import Crew, Spec
from fluvial.errors import CheckpointRefused
from fluvial.memory import Learned
from fluvial.models import unpickle
from fluvial.types import Retired

FORMAT = 1
"""Of the payload's dictionary."""


Loads = Callable[[bytes], Any]
"""`models.unpickle.loads` with the allow-list and the limit of the settings."""


def seal_kept(retired: Retired, header: Header, crew: Crew, key: SigningKey | None, most: int) -> bytes:
    """The envelope around a model that was replaced. Raises CheckpointTooLarge above `most` bytes.

    `header` is the checkpoint's that goes with it; what differs is put in here.
    """
    assert retired.served is not None  # noqa: S101 - the learner says it
    state = {
        "format": FORMAT,
        "blob": retired.blob,
        "weights": dict(retired.weights),
        "ages": dict(retired.ages),
        "ledger": dict(retired.ledger),
        "probes": [dict(x) for x, _, _ in retired.probes],
    }
    payload = unpickle.dumps(state)
    answers = crew.answers(crew.champions(retired, 0), retired.probes)
    offsets = {partition: row[1] for partition, row in retired.ledger["partitions"].items()}
    served = Served(version=retired.served, metrics=retired.metrics)
    header = msgspec.structs.replace(header, served=served, lineage=(), offsets=offsets, size=len(payload))
    return seal(payload, header, answers, key, most)


def open_kept(blob: bytes, expect: Expectation, keys: Sequence[SigningKey], model: str) -> Opened:
    """Check the envelope; the payload is not loaded. Raises CheckpointRefused.

    `model`: fingerprint of the model's settings, which a lineage keeps.
    """
    opened = unseal(blob, expect, keys)
    if opened.header.model != model:
        raise CheckpointRefused("the kept version's model was made under other [model] settings")
    return opened


def _check_format(found: object) -> None:
    if found != FORMAT:
        raise CheckpointRefused(f"kept version format {found}, this release reads {FORMAT}")


def load_kept(opened: Opened, loads: Loads, spec: Spec, crew: Crew | None = None) -> tuple[Retired, Crew]:
    """Load the payload of an opened envelope and hold its answers against those that are recorded.

    `crew`: the lineage's; without one it is made of the model itself. Raises CheckpointRefused.
    """
    assert opened.header.served is not None  # noqa: S101 - unseal compared it
    version = opened.header.served.version
    try:
        state = loads(opened.payload)
        _check_format(state["format"])
        models = loads(state["blob"])  # checked here, since the fold loads it as its own
        retired = Retired(
            version=version.number,
            blob=state["blob"],
            served=version,
            weights=state["weights"],
            ages=state["ages"],
            ledger=state["ledger"],
            metrics=opened.header.served.metrics,
        )
        crew = crew or Crew(spec, {lane: spec.dump(model) for lane, model in models.items()})
        rows: list[Learned] = [(x, 0.0, 1.0) for x in state["probes"]]
        answers = crew.answers(crew.champions(retired, 0), rows)
    except CheckpointRefused:
        raise
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # it may be anything, and a standing request must not end each owner
        why = f"{type(error).__name__}: {error}"
        raise CheckpointRefused(f"the kept version has another shape than this release's ({why})") from error
    compare(opened.answers, answers, exact=opened.portable)
    return retired, crew
