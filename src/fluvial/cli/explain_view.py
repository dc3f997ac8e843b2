"""An explanation for a person: tables that fit a terminal."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fluvial.cli.signal_words import change, moved_in, moved_words

LINES = 12
"""Features shown; `--json` has all."""
BAR = 16

Told = Mapping[str, Any]


def show_score(console: Console, told: Told) -> None:
    """What is said, who says it, and why."""
    _headline(console, told)
    _print(console, _voices(told))
    if told["linear"] is not None:
        _print(console, _linear(told))
    for voice in told["voices"]:
        if voice["why"] is not None and voice["why"]["type"] == "tree":
            _print(console, _path(told, voice))
    if told["ablation"]:
        _print(console, _ablation(told))


def _print(console: Console, table: Table) -> None:
    """The title on a line of its own: a table would break it to its own width."""
    title, table.title = table.title, None
    console.print()
    console.print(title)
    console.print(table)


def _headline(console: Console, told: Told) -> None:
    if told["answer"] is None:
        console.print("no member of the model can predict this event")
        return
    chance = "" if not told["classes"] else f" at {told['answer'][told['choice']]:.4f}"
    what = told["explained"] if told["classes"] else f"{told['answer'][0]:.6g}"
    age = time.time() - told["checkpoint"]["created_at"]
    console.print(
        f"[bold]{escape(what)}[/]{chance}, version {told['version']}, after {told['events']:,} labelled "
        f"events (checkpoint {told['checkpoint']['sequence']}, {age:.0f} s old)"
    )
    served = told["served"]
    if served is not None:
        chances = served["probabilities"] or {}
        said = f"{served['prediction']}" + (f" at {max(chances.values()):.4f}" if chances else "")
        console.print(
            f"served was {escape(said)} by version {served['version']}, at offset {served['offset']}: "
            "the model has learned since, or had learned less, so the two may differ"
        )


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, box=None)
    for index, name in enumerate(columns):
        table.add_column(name, justify="right" if index and name else "left")
    return table


def _voices(told: Told) -> Table:
    table = _table("who says it", "member", "weight", "says", "learned", "")
    for voice in told["voices"]:
        said = "-" if voice["answer"] is None else f"{voice['answer'][told['choice']]:.4g}"
        name = voice["lane"] if voice["champion"] else f"{voice['lane']} (challenger)"
        rests = "rests" if voice["rests"] else ""
        table.add_row(escape(name), f"{voice['weight']:.3f}", said, f"{voice['age']:,}", rests)
    return table


def _linear(told: Told) -> Table:
    linear, logit = told["linear"], bool(told["classes"])
    unit = f"log-odds of {told['explained']}" if logit else "the target's unit"
    title = f"linear members, {100 * told['linear_weight']:.0f} % of the weight: {unit}"
    table = _table(escape(title), "feature", "value", "adds", "")
    for part in linear["parts"][:LINES]:
        added = part["contribution"]
        bar = _bar(added, linear["parts"][0]["contribution"])
        table.add_row(escape(part["feature"]), _value(part["value"]), f"{added:+.4g}", bar)
    _rest(table, linear["parts"], "contribution")
    table.add_row("base", "", f"{linear['base']:+.4g}", "")
    table.add_row("sum", "", f"{linear['total']:+.4g}", "")
    return table


def _path(told: Told, voice: Told) -> Table:
    name = voice["lane"] if voice["champion"] else f"{voice['lane']} (challenger)"
    what = f"share of {told['explained']}" if told["classes"] else "mean"
    table = _table(escape(f"{name}: the way through the tree"), "test", "events", what, "change")
    for node in voice["why"]["nodes"]:
        share = node["shares"][told["choice"] if told["classes"] else 0]
        table.add_row(
            escape(node["test"]) or "(root)",
            f"{node['events']:,.0f}",
            f"{share:.4g}",
            f"{node['change']:+.4g}",
        )
    return table


def _ablation(told: Told) -> Table:
    what = f"chance of {told['explained']}" if told["classes"] else "answer"
    table = _table(
        escape(f"without the feature's value ({what})"), "feature", "value", "instead", "its value adds", ""
    )
    for one in told["ablation"][:LINES]:
        bar = _bar(one["change"], told["ablation"][0]["change"])
        instead = "left out" if one["instead"] is None else _value(one["instead"])
        table.add_row(escape(one["feature"]), _value(one["value"]), instead, f"{one['change']:+.4g}", bar)
    _rest(table, told["ablation"], "change")
    return table


def _rest(table: Table, rows: Sequence[Told], field: str) -> None:
    if len(rows) > LINES:
        table.add_row(f"{len(rows) - LINES} more", "", f"{sum(r[field] for r in rows[LINES:]):+.4g}", "")


def _bar(value: float, most: float) -> str:
    """Length by size; `+` and `-` so that it reads without colours."""
    width = round(BAR * abs(value) / abs(most)) if most else 0
    return ("+" if value > 0 else "-") * width


def _value(value: object) -> str:
    return escape(value) if isinstance(value, str) else f"{value:.6g}"


# --- drifts ----------------------------------------------------------------------------------------


def show_drift(console: Console, told: Told) -> None:
    """When, how much, since when, what was done, which features moved."""
    when = datetime.fromtimestamp(float(told["at"]), UTC).strftime("%Y-%m-%d %H:%M:%S")
    facts = Table.grid(padding=(0, 2))
    facts.add_row("drift", f"{told['plane']} plane, by {told['detector']}, shard {told['shard']}")
    facts.add_row("journalled", f"{when} UTC")
    if told["event_time"] is not None:
        moment = datetime.fromtimestamp(float(told["event_time"]), UTC).strftime("%Y-%m-%d %H:%M:%S")
        facts.add_row("event", f"{told['partition']}:{told['offset']}, of {moment} UTC")
    _what_moved(facts, told)
    late = told["events"] - told["since"]
    facts.add_row("began", f"at labelled event {told['since']:,}; noticed {late:,} events later")
    for name, value in told["own"].items():
        if name != "moved":
            facts.add_row(escape(str(name)), escape(str(value)))
    for done in told["done"]:
        facts.add_row("then", escape(_done(done)))
    if not told["done"]:
        facts.add_row("then", f"nothing: {told['not_done']}")
    console.print(facts)
    _show_moved(console, told)


def _what_moved(facts: Table, told: Told) -> None:
    """The error is one watched mean; the other planes tell of parts, each with what of it moved."""
    moved = moved_in(told["own"])
    for index, one in enumerate(moved):
        facts.add_row("also moved" if index else "moved", escape(moved_words(one)))
    if not moved:
        facts.add_row("watched mean", change(told["before"], told["after"]))


def _done(done: Told) -> str:
    detail = done["detail"]
    if done["kind"] == "hold":
        return f"held: {detail.get('because', '')}"
    because = (detail.get("detail") or {}).get("because", "")
    return f"version {detail['number']} by {detail['cause']}" + (f" ({because})" if because else "")


def _show_moved(console: Console, told: Told) -> None:
    before, after = told["covered"]
    if told["not_covered"] is not None:
        console.print(f"\nfeatures: {told['not_covered']}", markup=False)
        return
    if not told["moved"]:
        console.print("\nfeatures: the recent events that are kept do not reach back before this change")
        return
    title = f"features that moved: {after:,} events since the change against {before:,} before it"
    table = _table(title, "feature", "before", "after", "moved", "")
    for one in told["moved"][:LINES]:
        name = one["feature"] if one["value"] is None else f"{one['feature']} = {one['value']}"
        shown = ["-" if one[k] is None else f"{one[k]:.5g}" for k in ("before", "after")]
        missing = f"missing {100 * one['missing']:+.0f} %" if one["missing"] else ""
        table.add_row(escape(name), *shown, f"{one['moved']:+.3f}", missing)
    _print(console, table)
