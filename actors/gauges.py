"""Exports flat metric dictionaries through Ray, to Prometheus and the dashboard, as `ray_couplet_*`."""

from __future__ import annotations

import math
from collections.abc import Mapping

from ray.util.metrics import Gauge

from couplet.data.metric_table import find

TAGS = ("run", "role", "index")


class Exporter:
    """One process's gauges, created as names appear.

    Args:
        run: name of the run, a tag of every gauge.
        role: driver | rollout | reward | learner | replay.
        index: number of the actor within its role.
    """

    def __init__(self, run: str, role: str, index: int = 0) -> None:
        self.tags = {"run": run, "role": role, "index": str(index)}
        self._gauges: dict[str, Gauge] = {}
        self._values: dict[str, float] = {}

    def export(self, metrics: Mapping[str, float]) -> None:
        """Set each gauge; values that are not finite are left out.

        Gauges without a new value are set to their last one again: Ray forgets a value once it has been collected, and
        an evaluation's would be gone before Prometheus asks.
        """
        self._values |= {name: value for name, value in metrics.items() if math.isfinite(value)}
        for name, value in self._values.items():
            if name not in self._gauges:
                self._gauges[name] = Gauge(f"couplet_{name}", description=_description(name), tag_keys=TAGS)
            self._gauges[name].set(value, tags=self.tags)


def _description(name: str) -> str:
    metric = find(name)
    if metric is None:
        return name.replace("_", " ")
    return f"{metric.meaning} [{metric.unit}]" if metric.unit else metric.meaning
