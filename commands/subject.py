"""Which policy, which problems, and where the results go: what `evaluate`, `analyze`, `sample` and `prepare rate` share."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from couplet.commands.checks import check_policy_folder
from couplet.configs.load import to_dict
from couplet.data.fingerprint import fingerprint
from couplet.model.hub import find_policy
from couplet.training.policy_settings import config_for

if TYPE_CHECKING:
    from couplet.configs.schema import RunConfig
    from couplet.data.problem import Problem
    from couplet.data.prompts import PromptSet

NO_LIMIT = 2**31 - 1
# Settings of reward and sandbox that say how fast verdicts come, not what they are.
OPERATION = frozenset(
    ("actors", "cpus", "cache_entries", "retries", "max_fault_share", "timeout", "e2b_pool", "e2b_programs")
)
SAMPLED_BYTES = 2**16  # of each of `SAMPLED_PARTS` places of a weight file that enter its fingerprint
SAMPLED_PARTS = 16


@dataclass(frozen=True)
class Subject:
    """What a command samples and judges, and where its results go.

    Attributes:
        policy: a policy folder, a run folder, or a hub name; None: a served model is rated.
        problems: as `data.problem_sets.load_problems`.
        recipe, overrides: settings other than the policy's own (`training.policy_settings`).
        limit: first problems only.
        out: results, which an interrupted command continues from; None: beside the policy.
        local: in this process, without Ray.
    """

    policy: str | None
    problems: str
    recipe: str | None = None
    overrides: tuple[str, ...] = ()
    limit: int | None = None
    out: Path | None = None
    local: bool = False

    @classmethod
    def of(cls, args: argparse.Namespace) -> Subject:
        """The subject that a command line names."""
        settings = args.config, tuple(args.overrides), args.limit
        return cls(args.policy, args.problems, *settings, args.out, args.local)

    def open(self, policy: str | None = None) -> tuple[Path, RunConfig]:
        """`open_policy` of the policy, or of another one under the same settings."""
        name = policy or self.policy
        assert name is not None, "only `prepare rate` has subjects without a policy"
        return open_policy(name, self.recipe, self.overrides)

    def prompts(self, config: RunConfig, folder: Path, source: str | None = None) -> PromptSet:
        """`prompts_of` the problems, or of those of another source."""
        return prompts_of(config, folder, source or self.problems, self.limit, self.overrides)

    def facts(self, config: RunConfig, problems: Sequence[Problem]) -> dict[str, Any]:
        """What results depend on besides the policy: the problems, and how they are judged."""
        known = (repr((one.problem_id, one.question, one.tests, one.inputs)) for one in problems)
        return {"problems": self.problems, "problem_print": fingerprint(known), **judging_facts(config)}

    def results(self, folder: Path, kind: str) -> Path:
        """Where the results of `kind` go: `out`, else beside the policy in `folder`, by the name of the set."""
        name = f"{set_name(self.problems)}{f'-first{self.limit}' if self.limit else ''}"
        return self.out or results_folder(folder).with_name(kind) / name


def open_policy(policy: str, recipe: str | None, overrides: Sequence[str]) -> tuple[Path, RunConfig]:
    """The folder of a policy (or of a run's policy), checked, and the settings it is sampled and judged by.

    Raises:
        ConfigError: no such folder, or settings that cannot be.
        ValueError: a folder that holds no diffusion policy, by what it lacks.
    """
    kept = Path(policy) / "policy"
    folder = Path(find_policy(str(kept) if (kept / "config.json").is_file() else policy, "policy"))
    config = config_for(folder, recipe, overrides)
    config.sampler.warn()
    check_policy_folder(folder, config.model, str(folder))
    return folder, with_scoring_limits(config, overrides)


def with_scoring_limits(config: RunConfig, overrides: Sequence[str]) -> RunConfig:
    """The sandbox limits of `score` if they are higher than the recipe's: published solutions may be slow.

    A limit that an override names is left as it is.
    """
    from couplet.evaluation.score_file import SCORING

    wider = {
        name: max(getattr(config.sandbox, name), getattr(SCORING, name))
        for name in ("cpu_seconds", "memory_mb")
        if not any(override.startswith(f"sandbox.{name}=") for override in overrides)
    }
    if not any(override.startswith("sandbox.wall_factor=") for override in overrides):
        wider["wall_factor"] = SCORING.wall_factor
    return config.replace(sandbox=config.sandbox.replace(**wider))


def prompts_of(
    config: RunConfig, folder: Path, source: str, limit: int | None, overrides: Sequence[str] = ()
) -> PromptSet:
    """Every problem as a prompt, with `evaluation.answer_prefix`: a length limit is training's, unless an override asks for one here."""
    from couplet.training.factory import load_prompts

    if not any(override.startswith("problems.max_prompt_tokens=") for override in overrides):
        config = config.replace(problems=config.problems.replace(max_prompt_tokens=NO_LIMIT))
    prefix = config.evaluation.answer_prefix
    return load_prompts(str(folder), source, config.problems, config.model, limit, answer_prefix=prefix)


def results_folder(folder: Path) -> Path:
    """`RUN/benchmarks` for the policy of a run, else `runs/benchmarks/NAME`; a hub's snapshot has its model's name."""
    if folder.name == "policy" and (folder.parent / "config.yaml").is_file() and (folder.parent / "run.json").is_file():
        return folder.parent / "benchmarks"
    name = folder.parent.name if folder.name == "policy" else folder.name
    if folder.parent.name == "snapshots":
        name = folder.parents[1].name.removeprefix("models--")
    return Path("runs") / "benchmarks" / name


def set_name(problems: str) -> str:
    """A file name for a problem set: `katas:heldout` -> katas-heldout, `data/mbpp.jsonl@test` -> mbpp-test."""
    path, _, split = problems.partition("@")
    stem = Path(path).name.split(".")[0].replace(":", "-")
    return f"{stem}-{split}" if split else stem


def weights_fingerprint(folder: Path) -> str:
    """A fingerprint of the weights from evenly spaced samples of their files; the same for a copy of the folder."""

    def parts() -> Iterator[str | bytes]:
        for path in sorted(folder.glob("*.safetensors")):
            size = path.stat().st_size
            yield f"{path.name}:{size};"
            with path.open("rb") as file:
                for part in range(SAMPLED_PARTS):
                    file.seek(max(0, size - SAMPLED_BYTES) * part // (SAMPLED_PARTS - 1))
                    yield file.read(SAMPLED_BYTES)

    return fingerprint(parts())


def judging_facts(config: RunConfig) -> dict[str, Any]:
    """What a verdict depends on: how answers begin, and the settings of reward and sandbox but `OPERATION`."""
    parts = {"reward": to_dict(config.reward), "sandbox": to_dict(config.sandbox)}
    kept = {name: {key: value for key, value in part.items() if key not in OPERATION} for name, part in parts.items()}
    prefix = config.evaluation.answer_prefix
    return kept | ({"answer_prefix": prefix} if prefix else {})
