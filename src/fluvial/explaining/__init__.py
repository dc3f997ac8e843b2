"""Why a score is what it is, and why a drift fired: pure functions over a state that was loaded to be asked.

Everything here works on copies. The live model is in the worker's process and learns nothing of it.
"""

from fluvial.explaining.drifts import Moved, moved
from fluvial.explaining.scores import Explanation, explain

__all__ = ["Explanation", "Moved", "explain", "moved"]
