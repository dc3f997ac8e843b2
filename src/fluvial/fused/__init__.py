"""River's models by shortcuts: the same numbers to the bit, sooner.

Two know a few models exactly and leave every other to River: `fuse` lets generated code answer and learn
in a member's place, `OneWalk` goes before River's own class. `pair_mix` mixes a few members' answers.
"""

from fluvial.fused.linear import Ask, Teach, fuse
from fluvial.fused.mix import Combine, Reweigh, pair_mix
from fluvial.fused.tree import OneWalk

__all__ = ["Ask", "Combine", "OneWalk", "Reweigh", "Teach", "fuse", "pair_mix"]
