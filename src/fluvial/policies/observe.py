"""Watch, say, and do nothing: plain River, with every number beside it."""

from __future__ import annotations

from collections.abc import Sequence

from fluvial.types import Decision, Standing


class Observe:
    """Never reacts."""

    name = "observe"
    challengers = 0
    period = 0
    recalls = 0
    ready = 0

    def __call__(self, standing: Standing) -> Sequence[Decision]:
        """Decide nothing, whatever the standing."""
        del standing
        return ()
