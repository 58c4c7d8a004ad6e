"""A Grafana dashboard of the metric table, and the files that let Prometheus and Grafana find a Ray session."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from couplet.data.metric_table import GROUPS, METRICS, Metric
from couplet.report.render import template

PREFIX = "ray_couplet_"
ROLES = {
    "rollout_actor": "rollout",
    "reward_actor": "reward",
    "learner_rank": "learner",
}  # of the groups whose gauges are not the driver's
LIVE = re.compile(r"ledger_|(rollout|reward)_(workers|restarts)|replay_restarts|groups_per_second|judged_per_second")
UNITS = {
    "share": "percentunit", "s": "s", "MiB": "mbytes", "tokens/s": "tokens/s", "groups/s": "groups/s",
    "completions/s": "completions/s",
}  # fmt: skip
WIDTH, HEIGHT, COLUMNS = 8, 7, 3  # of a panel, on Grafana's grid of 24 columns
SOURCE = {"type": "prometheus", "uid": "couplet"}
PROMETHEUS = "http://127.0.0.1:9090"
GRAFANA = "http://127.0.0.1:3000"
TEMPLATES = {  # file -> its template
    "prometheus.yml": "prometheus.yml",
    "grafana/grafana.ini": "grafana.ini",
    "grafana/provisioning/datasources/prometheus.yml": "grafana_source.yml",
    "grafana/provisioning/dashboards/couplet.yml": "grafana_dashboards.yml",
}


def query(metric: Metric) -> str:
    """PromQL of a metric or a family. The replay queue exports depths all the time, the driver once per step."""
    role = ROLES.get(metric.group, "replay" if LIVE.match(metric.name) else "driver")
    tags = f'run=~"$run", role="{role}"'
    if "{" not in metric.name:
        return f"{PREFIX}{metric.name}{{{tags}}}"
    others = "|".join(one.name for one in METRICS if "{" not in one.name and re.fullmatch(metric.pattern, one.name))
    family = f'__name__=~"{PREFIX}{metric.pattern}"' + (f', __name__!~"{PREFIX}({others})"' if others else "")
    return f"{{{family}, {tags}}}"


def dashboard() -> dict[str, Any]:
    """The dashboard's JSON document: one row per group of the table, one panel per metric or family."""
    return {
        "uid": "couplet",
        "title": "Couplet",
        "tags": ["couplet", "ray"],
        "schemaVersion": 39,
        "time": {"from": "now-1h", "to": "now"},
        "refresh": "10s",
        "graphTooltip": 1,
        "templating": {"list": [_run_variable()]},
        "panels": list(_panels()),
    }


def _run_variable() -> dict[str, Any]:
    values = f"label_values({PREFIX}ledger_issued_total, run)"
    shared = {"name": "run", "label": "run", "type": "query", "datasource": SOURCE, "refresh": 2}
    return {**shared, "query": {"query": values, "refId": "runs"}, "includeAll": True, "multi": True, "allValue": ".*"}


def _panels() -> Iterator[dict[str, Any]]:
    number, y = 0, 0
    for group, title in GROUPS.items():
        metrics = [metric for metric in METRICS if metric.group == group]
        number += 1
        row = {"id": number, "type": "row", "title": title, "collapsed": False, "panels": []}
        yield {**row, "gridPos": _place(0, y, 24, 1)}
        y += 1
        for place, metric in enumerate(metrics):
            line, column = divmod(place, COLUMNS)
            number += 1
            yield _panel(number, metric, _place(column * WIDTH, y + line * HEIGHT, WIDTH, HEIGHT))
        y += -(-len(metrics) // COLUMNS) * HEIGHT


def _place(x: int, y: int, width: int, height: int) -> dict[str, int]:
    return {"x": x, "y": y, "w": width, "h": height}


def _panel(number: int, metric: Metric, place: dict[str, int]) -> dict[str, Any]:
    legend = "{{__name__}} {{run}}" if "{" in metric.name else "{{run}}"
    if metric.group in ROLES:
        legend += " {{index}}"
    scale = {"unit": UNITS.get(metric.unit, "none"), **({"min": 0, "max": 1} if metric.unit == "share" else {})}
    return {
        "id": number,
        "type": "timeseries",
        "title": metric.name,
        "description": f"{metric.meaning} [{metric.unit}]" if metric.unit else metric.meaning,
        "datasource": SOURCE,
        "gridPos": place,
        "fieldConfig": {"defaults": scale, "overrides": []},
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}},
        "targets": [{"refId": "A", "datasource": SOURCE, "expr": query(metric), "legendFormat": legend}],
    }


def files(out: Path, session: Path) -> dict[str, str]:
    """Name below `out` -> text of every file; `session` is Ray's session folder, on the head node."""
    grafana = out / "grafana"
    folders = {"Couplet": grafana / "dashboards", "Ray": session / "metrics" / "grafana" / "dashboards"}
    values = {
        "discovery": str(session / "prom_metrics_service_discovery.json"),
        "folders": {name: str(path) for name, path in folders.items()},
        "prometheus": PROMETHEUS,
        "data": grafana / "data",
        "provisioning": grafana / "provisioning",
    }
    found = {name: f"{template(source).render(values)}\n" for name, source in TEMPLATES.items()}
    return found | {"grafana/dashboards/couplet.json": json.dumps(dashboard(), indent=1) + "\n"}
