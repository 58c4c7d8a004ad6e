"""`RunConfig`: the configuration of `train`, one coupled-GRPO run."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Literal

from pydantic import Field

from couplet.configs.generation import RolloutConfig, SamplerConfig, WeightsConfig
from couplet.configs.judging import RewardConfig, SandboxConfig
from couplet.configs.learning import EstimatorConfig, LearnerConfig, ObjectiveConfig, OptimizerConfig
from couplet.configs.problems import EvaluationConfig, ProblemsConfig, ReplayConfig
from couplet.configs.section import Rule, Section, Texts, Tree
from couplet.configs.system import CheckpointConfig, FolderName, RayConfig

log = logging.getLogger(__name__)


class ModelConfig(Section):
    """Where the policy comes from: a Hugging Face folder, or an adaptation recipe that makes (and caches) one."""

    path: str | None = Field(None, description="a Hugging Face folder or a hub name; give this or recipe")
    recipe: str | None = Field(None, description="an adapt recipe that makes the initial policy, e.g. tiny_adapt.yaml")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="auto: as stored; training uses learner.dtype"
    )
    attention: Literal["sdpa", "eager", "flex_attention", "flash_attention_2", "flash_attention_3"] = Field(
        "sdpa", description="implementation in transformers; flash_attention_2 needs the extra gpu"
    )
    mask_token: str | None = Field(
        None, description="name of the mask token, for a model whose own loader adds it (Open-dCoder); null = as stored"
    )
    end_tokens: Texts = Field(
        ("<|im_end|>",), min_length=1, description="tokens that end an answer, by their names in the tokenizer"
    )


class RunConfig(Tree):
    """`train`: one coupled-GRPO run."""

    name: FolderName = Field("run", description="of the run and its folder")
    seed: int = Field(0, description="of the schedule of problems, samples and masks")
    steps: int = Field(100, gt=0, description="learner steps")
    runs_dir: str = Field("runs", description="the run's folder is runs_dir/name")
    tracker: Literal["none", "wandb", "mlflow"] = Field("none", description="beyond metrics.jsonl and TensorBoard")
    model: ModelConfig = ModelConfig()
    problems: ProblemsConfig = ProblemsConfig()
    sampler: SamplerConfig = SamplerConfig()
    estimator: EstimatorConfig = EstimatorConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    replay: ReplayConfig = ReplayConfig()
    weights: WeightsConfig = WeightsConfig()
    learner: LearnerConfig = LearnerConfig()
    rollout: RolloutConfig = RolloutConfig()
    reward: RewardConfig = RewardConfig()
    sandbox: SandboxConfig = SandboxConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    ray: RayConfig = RayConfig()

    def rules(self) -> Iterator[Rule]:
        yield Rule(
            self.replay.groups_per_step % self.learner.ranks == 0,
            "replay.groups_per_step learner.ranks",
            f"must be divisible by learner.ranks = {self.learner.ranks}, so that every rank runs as many forward passes",
        )
        yield Rule(
            self.replay.max_staleness >= self.weights.broadcast_every - 1,
            "replay.max_staleness weights.broadcast_every",
            f"must be at least weights.broadcast_every - 1 = {self.weights.broadcast_every - 1}",
        )
        yield Rule(
            self.objective.ratio != "current" or self.replay.max_staleness == 0,
            "objective.ratio replay.max_staleness",
            "ignores staleness: use behaviour or proximal, or replay.max_staleness: 0",
        )
        yield Rule(
            self.objective.zero_signal == "drop" or not self.replay.refill,
            "replay.refill objective.zero_signal",
            "gives the place of a zero-signal group to another, so that objective.zero_signal: keep has nothing to keep",
        )
        yield Rule(
            not self.objective.self_normalise or self.learner.micro_completions is None,
            "learner.micro_completions objective.self_normalise",
            "splits a group, which objective.self_normalise needs in one piece: use null",
        )
        unknown = sorted(set(self.objective.per_reward) - set(self.reward.functions))
        yield Rule(
            not unknown,
            "objective.per_reward reward.functions",
            f"must name functions of reward.functions, which has no {', '.join(unknown)}",
        )
        samples = self.evaluation.samples
        metrics = ("pass_at_1", "pass_at_1_t1", f"pass_at_{samples}", "format_rate_t1")
        best = self.checkpoint.best_metric
        yield Rule(
            best is None or best.removeprefix("eval/") in metrics,
            "checkpoint.best_metric evaluation.samples",
            f"must be one of {', '.join(metrics)}",
        )
        yield Rule(
            self.sampler.temperature > 0 or not self.estimator.match_temperature,
            "estimator.match_temperature sampler.temperature",
            "divides the logits by sampler.temperature, which must then be above 0",
        )

    def warn(self) -> None:
        """Log what can work but is likely to be a mistake."""
        longest = self.replay.completions * self.sandbox.program_seconds
        if longest >= self.reward.timeout:
            log.warning(
                "reward.timeout = %g: judging replay.completions = %d programs may take %g s (%g s each, the greater of "
                "sandbox.program_factor and wall_factor times cpu_seconds), after which a reward actor is replaced and its "
                "group lost; raise reward.timeout or lower sandbox.program_factor",
                *(self.reward.timeout, self.replay.completions, longest, self.sandbox.program_seconds),
            )
        self.sampler.warn()
