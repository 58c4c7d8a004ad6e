"""How completions are judged: the sandbox that runs them and the reward that their results earn."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from pydantic import Field

from couplet.configs.section import Rule, Section, Switch, Texts
from couplet.configs.system import AutoscaleConfig, NodeLabels


class SandboxConfig(Section):
    """Isolation and limits of model-written code (docs/sandbox.md)."""

    tier: Literal["auto", "namespace", "landlock", "seccomp", "rlimits", "e2b"] = Field(
        "auto", description="isolation; auto takes the strongest that works on this machine"
    )
    allow_unsafe: Switch = Field(False, description="needed for tier rlimits")
    cpu_seconds: float = Field(2.0, gt=0, description="CPU time of one test")
    wall_factor: float = Field(
        4.0, ge=1, description="wall-clock limit = wall_factor * cpu_seconds, more for a program that waits for a core"
    )
    memory_mb: int = Field(512, gt=0, description="address space of a program")
    file_mb: int = Field(8, gt=0, description="largest file a program may write")
    processes: int = Field(32, gt=0, description="threads of a program")
    open_files: int = Field(64, gt=0, description="file descriptors of a program")
    reply_kb: int = Field(1024, gt=0, description="largest answer to one test")
    max_timeouts: int = Field(2, gt=0, description="after so many timeouts the remaining tests are skipped")
    program_factor: float = Field(
        12.0, ge=1, description="CPU and wall-clock limit of all tests together = program_factor * cpu_seconds"
    )
    fresh_process_per_test: Switch = Field(False, description="tests of one program share no state")
    strict: Switch = Field(False, description="a test that can only be judged weakly fails")
    packages: Texts = Field((), description="site packages the programs may import, e.g. numpy")
    e2b_template: str | None = Field(None, description="template of the cloud sandboxes; null = the service's own")
    e2b_pool: int = Field(4, gt=0, description="cloud sandboxes kept per worker")
    e2b_programs: int = Field(64, gt=0, description="programs before a cloud sandbox is recycled")

    def rules(self) -> Iterator[Rule]:
        yield Rule(
            self.tier != "rlimits" or self.allow_unsafe,
            "tier allow_unsafe",
            "runs model-written code without isolation; set sandbox.allow_unsafe: true to accept that",
        )

    @property
    def program_seconds(self) -> float:
        """Limit of a whole program, CPU and wall clock alike; never below the wall-clock limit of one test."""
        return max(self.program_factor, self.wall_factor) * self.cpu_seconds


class RewardConfig(Section):
    """Reward actors and what they reward."""

    actors: int = Field(1, gt=0, description="processes that judge, each with its sandbox")
    cpus: float = Field(1.0, ge=0, description="CPUs Ray reserves per actor")
    labels: NodeLabels = Field({}, description="labels that a Ray node must have to run them")
    functions: dict[str, float] = Field(
        {"code": 2.0, "code_format": 0.5},
        min_length=1,
        description="reward function: weight; one of your own is named module:function",
    )
    pass_rate: Literal["partial", "all_or_nothing"] = Field(
        "partial", description="reward the share of passed tests, or only passing all of them"
    )
    hidden_share: float = Field(
        0.0, ge=0, le=1, description="share of each problem's tests kept for the verdict only, never for the reward"
    )
    strict_format: Switch = Field(False, description="exactly one newline before the closing fence, as published")
    answers: Literal["formatted", "any"] = Field(
        "formatted",
        description="which answers are run: those that the format rule accepts, or code in any form that models write",
    )
    cache_entries: int = Field(100_000, ge=0, description="results remembered per actor; 0 = none")
    retries: int = Field(3, ge=0, description="of an infrastructure fault, each on another worker if there is one")
    max_fault_share: float = Field(
        0.05, ge=0, le=1, description="the run stops if a larger share of samples is lost to infrastructure faults"
    )
    timeout: float = Field(600.0, gt=0, description="seconds of one score call")
    autoscale: AutoscaleConfig = Field(AutoscaleConfig(), description="what waits is a generated group, to be judged")

    def rules(self) -> Iterator[Rule]:
        yield Rule(self.autoscale.admits(self.actors), "actors autoscale", "must lie in reward.autoscale.min .. max")
