"""The same fold over a file or a stretch of a topic, one or several settings side by side.

`replay` folds, `trace` remembers what happened on the way, `results` says what it was worth, `gates` holds
it against what it must be, `page` draws it. Nothing here writes to Kafka or Redis.
"""

from fluvial.backtest.gates import Gate, failures, parse_gate
from fluvial.backtest.page import render
from fluvial.backtest.replay import Folded, Record, Records, Run, replay
from fluvial.backtest.results import Question, Result, told

__all__ = [
    "Folded",
    "Gate",
    "Question",
    "Record",
    "Records",
    "Result",
    "Run",
    "failures",
    "parse_gate",
    "render",
    "replay",
    "told",
]
