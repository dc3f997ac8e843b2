"""River's models by shortcuts: the same numbers to the bit, sooner.

They know a few models exactly and leave every other to River: `fuse` lets generated code answer and learn
in a member's place, `Panel` in the place of several; `OneWalk` and `StraightBayes` go before River's own
classes. `pair_mix` mixes a few members' answers.
"""

from fluvial.fused.bayes import StraightBayes
from fluvial.fused.ladder import RESTING, Panel
from fluvial.fused.linear import Ask, Teach, fuse
from fluvial.fused.mix import Combine, Reweigh, Shares, pair_mix
from fluvial.fused.tree import OneWalk

__all__ = [
    "RESTING",
    "Ask",
    "Combine",
    "OneWalk",
    "Panel",
    "Reweigh",
    "Shares",
    "StraightBayes",
    "Teach",
    "fuse",
    "pair_mix",
]
