"""Where a run keeps its state and which Ray cluster it runs on: what `train` and `adapt` share."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from couplet.configs.section import Rule, Section, Switch


def _check_folder_name(name: str) -> str:
    if not re.fullmatch(r"[\w.-]+", name) or name in ("latest", ".", ".."):
        remedy = "must be made of letters, digits, '_', '-' and '.', and must not be 'latest'"
        raise PydanticCustomError("value", remedy)  # type: ignore[arg-type]
    return name


FolderName = Annotated[str, AfterValidator(_check_folder_name)]
"""The name of a run is that of its folder, next to the link `latest`."""


LABEL = r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?"

LabelName = Annotated[str, Field(pattern=rf"^([A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?/)?{LABEL}$")]
LabelValue = Annotated[str, Field(pattern=rf"^{LABEL}$")]
NodeLabels = dict[LabelName, LabelValue]
"""Labels of Ray nodes, as `ray start --labels` takes them."""


class AutoscaleConfig(Section):
    """A number of actors that follows the load (docs/clusters.md)."""

    min: int = Field(1, gt=0, description="fewest actors")
    max: int | None = Field(None, gt=0, description="most actors; null = the number is not changed")
    target_wait: float = Field(5.0, gt=0, description="seconds that work may wait for them before more are started")
    window: float = Field(60.0, gt=0, description="seconds over which waits and busy shares are averaged")

    def rules(self) -> Iterator[Rule]:
        yield Rule(self.max is None or self.min <= self.max, "min max", f"must be at most autoscale.max = {self.max}")

    def admits(self, actors: int) -> bool:
        """False for a number outside of the bounds; True for every number while autoscaling is off."""
        return self.max is None or self.min <= actors <= self.max


class CheckpointConfig(Section):
    """Checkpoints of the learner, the ledger and the seeds."""

    every: int = Field(50, ge=0, description="learner steps between checkpoints; 0 = at the end only")
    keep: int = Field(2, gt=0, description="newest checkpoints that are kept")
    best_metric: str | None = Field(
        None,
        description="evaluation metric, e.g. pass_at_1_t1: the checkpoint with its largest value is kept too, linked as "
        "checkpoints/best; null = none",
    )


class RayConfig(Section):
    """The Ray cluster: an address to attach to, or a local one started for the run."""

    address: str | None = Field(None, description="HOST:PORT, auto, or null: RAY_ADDRESS, else a local Ray")
    dashboard: Switch = Field(True, description="of a local Ray")
    num_cpus: int | None = Field(
        None, gt=0, description="CPU slots of a local Ray; null = cores, or more if the run asks for more"
    )
    object_store_mb: int = Field(512, ge=75, description="shared memory of a local Ray; 75 is the least it accepts")
    connect_timeout: float = Field(30.0, gt=0, description="seconds to join a cluster")
    call_timeout: float = Field(300.0, gt=0, description="seconds of control calls (status, credits, acknowledgements)")
    require_auth: Switch | None = Field(
        None,
        description="refuse to join a cluster without token authentication; null = unless its address is loopback",
    )
