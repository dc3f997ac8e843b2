"""What the figures of the runs leave out, in sentences: for below the table and for the page."""

from __future__ import annotations

from collections.abc import Sequence

from fluvial.backtest.results import Question, Result, true_drifts


def remarks(results: Sequence[Result], question: Question) -> list[str]:
    """Once what holds for every run alike, else for each run of which there is something to say."""

    def beyond(result: Result) -> str:
        left = sorted(set(question.drift_at) - set(true_drifts(result, question)))
        places = ", ".join(f"{at:,}" for at in left)
        return f"true drifts at or beyond the end of the labelled events, left out: {places}" if left else ""

    def refused(result: Result) -> str:
        return _refused(result, whose=question.partitions > 1)

    lines = list[str]()
    for say in (refused, _paused, _at_fault, _pending, _unpredicted, beyond):
        said = [say(result) for result in results]
        if len(set(said)) == 1:
            lines += filter(None, said[:1])
        else:
            lines += [f"{r.name}: {text}" for r, text in zip(results, said, strict=True) if text]
    return lines


def _refused(result: Result, *, whose: bool) -> str:
    """Of each reason how many, and what the first was: `whose` partition too, where there are several."""
    parts = []
    for reason, count in sorted(result.dead.items()):
        first = result.dead_first[reason]
        place = f"{first.partition}:{first.offset}" if whose else f"{first.offset}"
        parts.append(f"{count:,} {reason}, the first at offset {place}: {_printable(first.message)}")
    return f"refused: {'; '.join(parts)}" if parts else ""


def _printable(message: str) -> str:
    """It may quote the sender: no line breaks, no orders to the terminal."""
    return "".join(c if c.isprintable() else " " for c in message)


def _paused(result: Result) -> str:
    times = "once" if result.trips == 1 else f"{result.trips} times"
    why = f"the live service would have paused {times} for a person: too many were refused"
    return why if result.trips else ""


def _at_fault(result: Result) -> str:
    if result.first_fault is None:
        return ""
    times = "once" if result.faults == 1 else f"{result.faults:,} times, the first"
    why = _printable(result.first_fault["because"])
    place = f"{result.first_fault['at']:,} labelled events"
    return f"the policy failed, so that nothing was done, {times} at {place}: {why}"


def _pending(result: Result) -> str:
    return f"{result.pending:,} labels were not known at the end: in no metric" if result.pending else ""


def _unpredicted(result: Result) -> str:
    counts = f"{result.unpredicted:,} of {result.learned:,} labels that were learned"
    why = f"{counts} are in no metric: the model had no answer"
    return why if result.unpredicted else ""
