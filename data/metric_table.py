"""Every metric of a training run (`metrics.yaml`): documentation, charts and dashboards are made from it.

Names are flat, `[a-z0-9_]`. A name with a part in braces stands for a family: `reward_{function}`.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import yaml

from couplet.configs.generated import with_generated, write_or_check
from couplet.configs.markdown import markdown_table


@dataclass(frozen=True)
class Metric:
    """One metric, or a family of them.

    Attributes:
        name: flat name; parts in braces stand for any `[a-z0-9_]+`.
        unit: of the value; "" for a number without one, "share" for 0..1.
        meaning: one line.
        group: key of `GROUPS`, which gives its title.
    """

    name: str
    unit: str
    meaning: str
    group: str

    @property
    def pattern(self) -> str:
        """A regular expression that matches the names of the family."""
        return re.sub(r"\{[a-z]+\}", "[a-z0-9_]+", self.name)


_TABLE = yaml.safe_load(Path(__file__).with_name("metrics.yaml").read_text(encoding="utf-8"))
GROUPS: dict[str, str] = {group: part["title"] for group, part in _TABLE.items()}
METRICS = tuple(
    Metric(name, unit, meaning, group) for group, part in _TABLE.items() for name, unit, meaning in part["metrics"]
)
EVALUATION = "eval/"


def is_learner_step(row: Mapping[str, object]) -> bool:
    """True for a line of metrics.jsonl that is of a learner step, False if it is of an evaluation."""
    return not any(name.startswith(EVALUATION) for name in row)


def tag(name: str) -> str:
    """`GROUP/name`, under which TensorBoard and trackers show a metric; an unknown one and `eval/…` keep their names."""
    metric = None if "/" in name else find(name)
    return name if metric is None else f"{metric.group}/{name}"


@cache
def find(name: str) -> Metric | None:
    """The metric or family that `name` belongs to; an exact name goes before a family. None: not in the table.

    A learner rank exports its metrics as `learner_<name>`.
    """
    exact = [metric for metric in METRICS if metric.name == name]
    families = [metric for metric in METRICS if "{" in metric.name and re.fullmatch(metric.pattern, name)]
    found = next(iter(exact or families), None)
    if found is None and name.startswith("learner_"):
        return find(name.removeprefix("learner_"))
    return found


PAGE = Path(__file__).parents[1] / "docs" / "metrics.md"


def markdown() -> str:
    """The page of the documentation, with the table."""
    tables = []
    for group, title in GROUPS.items():
        rows = [(f"`{one.name}`", one.unit, one.meaning) for one in METRICS if one.group == group]
        tables.append(f"## {title}\n\n{markdown_table(('name', 'unit', 'meaning'), rows)}\n")
    return with_generated(PAGE, "\n".join(tables))


def main(argv: Sequence[str] | None = None) -> int:
    """Write the page; with --check only compare, 1 if it is out of date."""
    return write_or_check({PAGE: markdown()}, argv, "couplet.data.metric_table", "Write docs/metrics.md.")


if __name__ == "__main__":
    sys.exit(main())
