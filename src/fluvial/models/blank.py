"""The blank: what a fresh model is made of, for the whole life of a lineage.

The factory runs once, at genesis. Its product's pickle is kept in the state, and every fresh member is
loaded from it: River's `clone()` keeps trained state in voting, stacking and others, and a second call
of the factory would be other code after a deployment.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fluvial.errors import CheckpointRefused, ModelRefused
from fluvial.models.unpickle import LIMIT, Names, dumps, loads


def make_blank(factory: Callable[[], Any], extra: Names = frozenset()) -> bytes:
    """Call the factory and pickle what it made. `extra`: the user's own classes (`parse_extra`).

    Raises ModelRefused, which names the part and the mend, when the model cannot be kept in a checkpoint.
    """
    model = factory()
    try:
        blank = dumps(model)
    except Exception as error:
        # pickle.PicklingError, and whatever a user's own __reduce__ raises
        raise ModelRefused(_told(model, f"{type(error).__name__}: {error}")) from error
    try:
        loads(blank, extra)
    except CheckpointRefused as error:
        raise ModelRefused(_told(model, str(error))) from error
    return blank


def fresh(blank: bytes, extra: Names = frozenset(), limit: int = LIMIT) -> Any:
    """A new untrained model, equal to every other one of this blank. Raises CheckpointRefused."""
    return loads(blank, extra, limit)


def _told(model: Any, why: str) -> str:
    return (
        f"the {type(model).__name__} cannot be kept in a checkpoint: {why}. "
        "Lambdas, closures, open files and locks cannot; take a function of a module instead"
    )
