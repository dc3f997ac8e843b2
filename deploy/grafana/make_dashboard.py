"""Writes the dashboard: `python deploy/grafana/make_dashboard.py > deploy/grafana/dashboards/fluvial.json`.

A dashboard is mostly repetition; here each panel is its question, its queries and its thresholds. It
answers in one look: does it need somebody, is the model right, is it fresh, what happened, what came in.
"""
# ruff: noqa: INP001 - a script beside the files that it writes, no package

from __future__ import annotations

import json
import sys
from typing import Any

Json = dict[str, Any]

SOURCE = {"type": "prometheus", "uid": "prometheus"}
OF = 'service="$service"'
WINDOW = f'{OF},horizon="window"'
GREEN, YELLOW, RED = "green", "yellow", "red"


def steps(*pairs: tuple[float | None, str]) -> Json:
    """Thresholds: from each value on, that colour."""
    return {"mode": "absolute", "steps": [{"value": value, "color": color} for value, color in pairs]}


PLAIN = steps((None, GREEN))


def query(expr: str, legend: str = "", ref: str = "A", *, instant: bool = False) -> Json:
    """One PromQL query."""
    return {
        "datasource": SOURCE,
        "refId": ref,
        "expr": expr,
        "legendFormat": legend,
        "editorMode": "code",
        "instant": instant,
        "range": not instant,
    }


def named(name: str, *properties: tuple[str, Any]) -> Json:
    """Other properties for the series of that name, or of those that match /a pattern/."""
    return {
        "matcher": {"id": "byRegexp" if name.startswith("/") else "byName", "options": name},
        "properties": [{"id": key, "value": value} for key, value in properties],
    }


def color(value: str) -> tuple[str, Json]:
    """A fixed colour."""
    return "color", {"mode": "fixed", "fixedColor": value}


def stat(
    title: str,
    about: str,
    expr: str,
    unit: str,
    thresholds: Json,
    *,
    instant: bool = False,
    **defaults: Any,
) -> Json:
    """One number with its colour and its recent course; without one where only now counts."""
    return {
        "type": "stat",
        "title": title,
        "description": about,
        "datasource": SOURCE,
        "targets": [query(expr, title, instant=instant)],
        "fieldConfig": {
            "defaults": {
                "unit": unit,
                "thresholds": thresholds,
                "color": {"mode": "thresholds"},
                "noValue": "none yet",
                **defaults,
            },
            "overrides": [],
        },
        "options": {
            "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
            "colorMode": "background",
            "graphMode": "none" if instant else "area",
            "textMode": "value",
            "justifyMode": "auto",
            "orientation": "auto",
        },
    }


def series(title: str, about: str, targets: list[Json], unit: str, **options: Any) -> Json:
    """A course over time. Options: thresholds, overrides, stack, bars, low, high, decimals."""
    thresholds = options.get("thresholds", PLAIN)
    custom: Json = {
        "drawStyle": "bars" if options.get("bars") else "line",
        "lineWidth": 1 if options.get("bars") or options.get("stack") else 2,
        "fillOpacity": 60 if options.get("bars") or options.get("stack") else 8,
        "showPoints": "never",
        "spanNulls": False,
        "stacking": {"mode": "normal" if options.get("stack") else "none", "group": "A"},
        "thresholdsStyle": {"mode": "dashed" if len(thresholds["steps"]) > 1 else "off"},
    }
    defaults: Json = {
        "unit": unit,
        "thresholds": thresholds,
        "color": {"mode": "palette-classic"},
        "custom": custom,
    }
    for ours, theirs in (("low", "min"), ("high", "max"), ("decimals", "decimals")):
        if ours in options:
            defaults[theirs] = options[ours]
    return {
        "type": "timeseries",
        "title": title,
        "description": about,
        "datasource": SOURCE,
        "targets": targets,
        "fieldConfig": {"defaults": defaults, "overrides": options.get("overrides", [])},
        "options": {
            "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True, "calcs": []},
            "tooltip": {"mode": "multi", "sort": "desc"},
        },
    }


def row(title: str) -> Json:
    """A heading."""
    return {"type": "row", "title": title, "collapsed": False, "panels": []}


KAPPA_TEMPORAL = f'fluvial_prequential{{{WINDOW},metric="kappa_temporal"}}'
MAE = f'fluvial_prequential{{{WINDOW},metric="mae"}}'
LAST_VALUE_MAE = f'fluvial_prequential{{{WINDOW},metric="last_value_mae"}}'
SKILL = (
    f"max by (shard) ({KAPPA_TEMPORAL}) or max by (shard) (1 - {MAE} / ignoring (metric) {LAST_VALUE_MAE})"
)
LATENCY = f"sum by (le) (rate(fluvial_score_latency_seconds_bucket{{{OF}}}[$__rate_interval]))"
P99 = f"histogram_quantile(0.99, {LATENCY})"
TRIPPED = f"fluvial_flood_breaker_tripped{{{OF}}}"
# A shard is paused since it was last seen not to be: a worker that starts anew finds it paused, and does
# not know since when. Over one day, and a day where it was paused for all of it.
PAUSED_FOR = (
    f"max by (shard) ({TRIPPED})"
    f" * on (shard) (time() - max by (shard) (max_over_time(timestamp({TRIPPED} == 0)[1d:1m])))"
    f" or 86400 * max by (shard) ({TRIPPED})"
)


# The first line: each question as one number. Sections hold (panel, width, height).
ready = stat(
    "Ready",
    "Whether a worker holds the model and events flow; /readyz says why not.",
    f"max(fluvial_ready{{{OF}}})",
    "none",
    steps((None, RED), (1, GREEN)),
    mappings=[
        {"type": "value", "options": {"0": {"text": "not ready"}, "1": {"text": "ready"}}},
    ],
)
skill = stat(
    "Better than the naive guess",
    "Over the running window: kappa-temporal (accuracy against 'the same label as last time'), in "
    "regression the error saved against 'the last value'. 0 is no better than guessing.",
    SKILL,
    "percentunit",
    steps((None, RED), (0, YELLOW), (0.1, GREEN)),
    decimals=1,
)
lag = stat(
    "Lag",
    "Events in the log that the model has not seen yet.",
    f"sum(fluvial_lag_events{{{OF}}})",
    "short",
    steps((None, GREEN), (5_000, YELLOW), (50_000, RED)),
)
checkpoint = stat(
    "Checkpoint age",
    "How much work a crash would have to repeat.",
    f"max(fluvial_checkpoint_age_seconds{{{OF}}})",
    "s",
    steps((None, GREEN), (30, YELLOW), (120, RED)),
)
latency = stat(
    "Score latency, p99",
    "From an event's Kafka timestamp until its score can be read.",
    P99,
    "s",
    steps((None, GREEN), (0.1, YELLOW), (1, RED)),
)
rate = stat(
    "Events",
    "Events per second, whatever became of them.",
    f"sum(rate(fluvial_events_total{{{OF}}}[$__rate_interval]))",
    "eps",
    PLAIN,
)
drifts = stat(
    "Drifts, last hour",
    "How often a monitor said that the world has changed.",
    f'sum(increase(fluvial_drift_signals_total{{{OF},kind="drift"}}[1h]))',
    "none",
    PLAIN,
    decimals=0,
)
version = stat(
    "Model version",
    "Rises with each reset, promotion or rollback; docs/metrics.md lists the causes.",
    f"max(fluvial_model_version{{{OF}}})",
    "none",
    PLAIN,
)
NOW = [(panel, 3, 4) for panel in (ready, skill, lag, checkpoint, latency, rate, drifts, version)]


# Does it need somebody?
paused = stat(
    "Paused by the flood breaker",
    "For how long: too many events were refused, and nothing is consumed until somebody looks. Why is in "
    "/readyz and in the journal (`tripped`). `fluvial dead-letters list`, mend the sender or the schema, "
    "then `fluvial resume`. A day stands for a day or more.",
    f"max({PAUSED_FOR})",
    "s",
    steps((None, GREEN), (1, RED)),
    instant=True,
    mappings=[{"type": "value", "options": {"0": {"text": "no"}}}],
    decimals=1,
)
incidents = stat(
    "Incidents",
    "Journal entries that a person should look at, since the worker started. `fluvial status --journal "
    "50` shows them, docs/operating.md says what to do.",
    f"sum(fluvial_incidents_total{{{OF}}})",
    "none",
    steps((None, GREEN), (1, YELLOW)),
    decimals=0,
)
kinds = series(
    "Incidents by kind",
    "Counted since the worker started: one that happens while it starts would be in no increase.",
    [query(f"sum by (incident) (fluvial_incidents_total{{{OF}}})", "{{incident}}")],
    "none",
    low=0,
    decimals=0,
    overrides=[named("/./", ("custom.lineInterpolation", "stepAfter"))],
)
flood = series(
    "Refused events and the flood breaker",
    "Share of the events that never reached the model, and where the breaker paused a shard (1). Dead "
    "letters by reason, below, tell what is wrong with them.",
    [
        query(
            f'sum(rate(fluvial_events_total{{{OF},outcome="dead"}}[$__rate_interval]))'
            f" / sum(rate(fluvial_events_total{{{OF}}}[$__rate_interval]))",
            "refused",
        ),
        query(f"max by (shard) ({TRIPPED})", "paused: {{shard}}", "B"),
    ],
    "percentunit",
    low=0,
    high=1,
    thresholds=steps((None, GREEN), (0.5, RED)),
    overrides=[
        named("refused", color("orange")),
        named("/^paused/", color(RED), ("custom.fillOpacity", 40), ("custom.lineInterpolation", "stepAfter")),
    ],
)
NEEDED = [(paused, 4, 7), (incidents, 4, 7), (kinds, 8, 7), (flood, 8, 7)]


# Is the model right?
quality = series(
    "Model against baseline",
    "Prequential (predict, then learn), over the running window: accuracy and that of 'the same label "
    "as last time'; in regression the mean absolute error and that of 'the last value'.",
    [
        query(
            f'max by (metric) (fluvial_prequential{{{WINDOW},metric=~"accuracy|no_change_accuracy"}})'
            f' or max by (metric) (fluvial_prequential{{{WINDOW},metric=~"mae|last_value_mae"}})',
            "{{metric}}",
        )
    ],
    "percentunit",
    overrides=[
        named("/^(accuracy|mae)$/", color("blue"), ("custom.lineWidth", 3)),
        named("/^(no_change_accuracy|last_value_mae)$/", color("orange")),
        named("/mae$/", ("unit", "short")),
    ],
)
agreement = series(
    "Agreement beyond chance",
    "Over the running window: kappa (beyond chance) and kappa-temporal (beyond 'the same as last "
    "time'), in regression R2. Above 0 the model is worth having.",
    [
        query(
            f'max by (metric) (fluvial_prequential{{{WINDOW},metric=~"kappa.*|r2"}})',
            "{{metric}}",
        )
    ],
    "percentunit",
    high=1,
    thresholds=steps((None, RED), (0, GREEN)),
)
RIGHT = [(quality, 12, 9), (agreement, 12, 9)]


# Is it fresh?
lags = series(
    "Lag by partition",
    "Events in the log that the model has not seen yet.",
    [query(f"max by (partition) (fluvial_lag_events{{{OF}}})", "partition {{partition}}")],
    "short",
    low=0,
    thresholds=steps((None, GREEN), (50_000, RED)),
)
latencies = series(
    "Event to readable score",
    "From an event's Kafka timestamp until its score can be read; aim: 99 of 100 within 100 ms.",
    [query(f"histogram_quantile(0.5, {LATENCY})", "median"), query(P99, "p99", "B")],
    "s",
    low=0,
    thresholds=steps((None, GREEN), (0.1, RED)),
)
checkpoints = series(
    "Checkpoints",
    "Age of the newest one, and what it took to write.",
    [
        query(f"max(fluvial_checkpoint_age_seconds{{{OF}}})", "age"),
        query(f"max(fluvial_checkpoint_duration_seconds{{{OF}}})", "duration", "B"),
        query(f"max(fluvial_checkpoint_bytes{{{OF}}})", "size", "C"),
    ],
    "s",
    low=0,
    thresholds=steps((None, GREEN), (120, RED)),
    overrides=[named("size", ("unit", "bytes"), ("custom.axisPlacement", "right"))],
)
FRESH = [(lags, 8, 8), (latencies, 8, 8), (checkpoints, 8, 8)]


# What happened?
signals = series(
    "Drift signals",
    "What the monitors had to say, in each interval.",
    [
        query(
            f"sum by (kind, plane) (increase(fluvial_drift_signals_total{{{OF}}}[$__rate_interval]))",
            "{{kind}}, {{plane}}",
        )
    ],
    "none",
    bars=True,
    stack=True,
    low=0,
    overrides=[
        named("/^warning/", color(YELLOW)),
        named("/^drift/", color(RED)),
        named("/^recovered/", color(GREEN)),
    ],
)
reactions = series(
    "Reactions and versions",
    "What the policy asked for in each interval, and the version that serves.",
    [
        query(f"sum by (action) (increase(fluvial_reactions_total{{{OF}}}[$__rate_interval]))", "{{action}}"),
        query(f"max(fluvial_model_version{{{OF}}})", "version", "B"),
    ],
    "none",
    bars=True,
    low=0,
    overrides=[
        named(
            "version",
            ("custom.drawStyle", "line"),
            ("custom.lineInterpolation", "stepAfter"),
            ("custom.fillOpacity", 0),
            ("custom.axisPlacement", "right"),
            color("purple"),
        )
    ],
)
weights = series(
    "Mixture weights",
    "Whom the answers come from: fixed-share weights of the champion and its challengers.",
    [query(f"max by (member, role) (fluvial_member_weight{{{OF}}})", "{{member}}, {{role}}")],
    "percentunit",
    stack=True,
    low=0,
    high=1,
)
distances = series(
    "Features against their reference",
    "Population stability index of the last thousand events: under 0.1 little has moved, over 0.25 much. "
    "The ten that moved most; the journal says which way (`fluvial status`).",
    [query(f"topk(10, max by (feature) (fluvial_feature_distance{{{OF}}}))", "{{feature}}")],
    "short",
    low=0,
    thresholds=steps((None, GREEN), (0.25, RED)),
)
HAPPENED = [(signals, 6, 8), (distances, 6, 8), (reactions, 6, 8), (weights, 6, 8)]


# What came in?
outcomes = series(
    "Events by outcome",
    "Each event is learned, scored only (no label), dead-lettered, or skipped by decision.",
    [query(f"sum by (outcome) (rate(fluvial_events_total{{{OF}}}[$__rate_interval]))", "{{outcome}}")],
    "eps",
    stack=True,
    low=0,
    overrides=[named("dead", color(RED))],
)
letters = series(
    "Dead letters by reason",
    "Events that never reached the model; the originals are in the dead-letter topic.",
    [query(f"sum by (reason) (rate(fluvial_dead_letters_total{{{OF}}}[$__rate_interval]))", "{{reason}}")],
    "eps",
    stack=True,
    low=0,
)
trouble = series(
    "Trouble",
    "What failed, and how busy the worker is (1: it cannot take more).",
    [
        query(f"sum(rate(fluvial_busy_seconds_total{{{OF}}}[$__rate_interval]))", "busy share"),
        query(
            f"sum by (error) (rate(fluvial_store_errors_total{{{OF}}}[$__rate_interval]))",
            "store: {{error}}",
            "B",
        ),
        query(
            f"sum(rate(fluvial_checkpoint_failures_total{{{OF}}}[$__rate_interval]))",
            "checkpoint failed",
            "C",
        ),
        query(f"sum(rate(fluvial_model_errors_total{{{OF}}}[$__rate_interval]))", "model raised", "D"),
        query(f"sum(rate(fluvial_nonfinite_answers_total{{{OF}}}[$__rate_interval]))", "not finite", "E"),
        query(f"sum(rate(fluvial_score_errors_total{{{OF}}}[$__rate_interval]))", "scores not written", "F"),
    ],
    "none",
    low=0,
    thresholds=steps((None, GREEN), (0.9, RED)),
    overrides=[named("busy share", ("unit", "percentunit"))],
)
CAME_IN = [(outcomes, 8, 8), (letters, 8, 8), (trouble, 8, 8)]


def annotation(name: str, shown: str, expr: str, title: str, *, enable: bool = True) -> Json:
    """Marks the exact moment: the series' value is the time, in milliseconds."""
    return {
        "name": name,
        "enable": enable,
        "iconColor": shown,
        "datasource": SOURCE,
        "expr": f"max by (shard, plane, action, cause) ({expr} > 0) * 1000",
        "step": "5s",
        "titleFormat": title,
        "textFormat": "{{shard}}",
        "useValueForTime": True,
    }


def marks() -> list[Json]:
    """What happened, drawn over every panel."""
    signal = f"fluvial_last_drift_signal_timestamp_seconds{{{OF},kind="
    reaction = f'fluvial_last_reaction_timestamp_seconds{{{OF},action=~"reset|refit|recall|promotion"}}'
    version = f'fluvial_last_version_timestamp_seconds{{{OF},cause!="restart"}}'
    return [
        annotation("Drifts", RED, signal + '"drift"}', "Drift: {{plane}}"),
        annotation("Warnings", YELLOW, signal + '"warning"}', "Warning: {{plane}}", enable=False),
        annotation("Reactions", "blue", reaction, "Reaction: {{action}}"),
        annotation("Versions", "purple", version, "Version: {{cause}}"),
    ]


def laid_out() -> list[Json]:
    """All panels with their places, filled from the left, each section under its heading."""
    sections = [
        (None, NOW),
        ("Does it need somebody?", NEEDED),
        ("Is the model right?", RIGHT),
        ("What happened?", HAPPENED),
        ("Is it fresh?", FRESH),
        ("What came in?", CAME_IN),
    ]
    panels: list[Json] = []
    y = 0
    for title, section in sections:
        if title is not None:
            panels.append({**row(title), "gridPos": {"x": 0, "y": y, "w": 24, "h": 1}})
            y += 1
        x = 0
        for panel, width, height in section:
            panels.append({**panel, "gridPos": {"x": x, "y": y, "w": width, "h": height}})
            x += width
        y += section[0][2]
    return [{"id": number, **panel} for number, panel in enumerate(panels, 1)]


def dashboard() -> Json:
    """The whole of it."""
    service = {
        "name": "service",
        "label": "Service",
        "type": "query",
        "datasource": SOURCE,
        "query": {"query": "label_values(fluvial_service_info, service)", "refId": "service"},
        "definition": "label_values(fluvial_service_info, service)",
        "refresh": 2,
        "sort": 1,
        "multi": False,
        "includeAll": False,
        "options": [],
        "hide": 0,
    }
    return {
        "uid": "fluvial",
        "title": "Fluvial",
        "description": "Does it need somebody, is the model right, is it fresh, what happened, what came in.",
        "tags": ["fluvial"],
        "schemaVersion": 39,
        "version": 1,
        "editable": False,
        "graphTooltip": 1,
        "refresh": "5s",
        "time": {"from": "now-15m", "to": "now"},
        "timezone": "browser",
        "templating": {"list": [service]},
        "annotations": {"list": marks()},
        "panels": laid_out(),
    }


if __name__ == "__main__":
    sys.stdout.write(json.dumps(dashboard(), indent=2) + "\n")
