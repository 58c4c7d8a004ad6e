"""The cost of a learner step, calculated before a run: operations, memory, and the time of a step by simulation.

The counts follow the code, not the papers: a prompt's first sampling step and its fully masked view are computed once
for its G completions, steps that reveal nothing are skipped, logits are computed at masked positions alone, and rollout
actors estimate the behaviour log-probabilities of stale samples.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate

from couplet.configs.schema import AdaptConfig, AdapterConfig, EstimatorConfig, LearnerConfig, RunConfig, StageConfig
from couplet.model.cost import ModelSize, default_chunk_rows
from couplet.training.simulation import Durations, Layout, Run, Timeline

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, "auto": 2}
SIMULATED_STEPS = 60
PROCESS = 0.42e9  # bytes of a process with Ray, torch, transformers and DeepSpeed; counted where the device is the CPU


@dataclass(frozen=True)
class Machine:
    """The hardware that the calculation assumes.

    Attributes:
        flops: operations per second that one worker's device sustains.
        weights_per_second: bytes of weights gathered, packed and swapped per second.
        judge_seconds: of one completion, on a reward actor.
        spread: of the durations (`training.simulation.Durations`).
    """

    flops: float
    weights_per_second: float = 2e9
    judge_seconds: float = 0.05
    spread: float = 0.05


def group_flops(config: RunConfig, size: ModelSize) -> float:
    """Sampling one prompt group, and its behaviour estimate if samples may be stale."""
    from couplet.rollout.schedule import reveal_counts

    canvas, completions = config.sampler.completion_length, config.replay.completions
    length = config.problems.max_prompt_tokens + canvas
    counts = reveal_counts(canvas, config.sampler.steps, config.sampler.eps)
    masked = [canvas - done for done in accumulate(counts, initial=0)]
    passes = [left for left, count in zip(masked, counts) if count]
    first = size.forward_flops(1, length, passes[0])
    later = size.forward_flops(completions * (len(passes) - 1), length, completions * sum(passes[1:]))
    behaviour = _views(config, size, config.objective.mask_draws) if config.replay.max_staleness > 0 else 0.0
    return first + later + behaviour


def learn_flops(config: RunConfig, size: ModelSize) -> float:
    """One learner step over all its groups: old and reference estimates, and mu updates."""
    mu, draws = config.objective.inner_updates, config.objective.mask_draws
    one = _views(config, size, 1)
    recomputed = 1 if config.learner.gradient_checkpointing else 0
    reference = _views(config, size, draws) if config.objective.kl_weight > 0 else 0.0
    estimated = config.objective.ratio == "behaviour" and config.replay.max_staleness > 0
    old = 0.0 if draws == 1 or estimated else _views(config, size, draws - 1)
    return config.replay.groups_per_step * (mu * (3 + recomputed) * one + reference + old)


def _views(config: RunConfig, size: ModelSize, updates: int) -> float:
    """Forward passes of one group's likelihood estimate for `updates` draws of views, one of which is shared."""
    canvas, completions = config.sampler.completion_length, config.replay.completions
    estimator = _estimator(config)
    shared = int(estimator.shares_view)
    views, scores = estimator.views(canvas) * updates, estimator.scores(canvas) * updates
    length = config.problems.max_prompt_tokens + canvas
    return size.forward_flops(shared + views * completions, length, canvas * (shared + scores * completions))


def _estimator(config: RunConfig) -> EstimatorConfig:
    """The run's estimator, with no more slices than the sampler has steps to cut."""
    estimator = config.estimator
    return estimator.replace(slices=min(estimator.slices, config.sampler.steps))


def trained(adapter: AdapterConfig, size: ModelSize) -> int:
    """Weights that are trained and published: the adapter's if there is one, else all."""
    return size.adapter(adapter.rank, adapter.targets) if adapter.rank else size.total


def broadcast(config: RunConfig, size: ModelSize) -> float:
    """Bytes of one publication."""
    return float(trained(config.learner.adapter, size) * BYTES[config.learner.dtype])


def _held(adapter: AdapterConfig, size: ModelSize) -> int:
    """Weights that a policy holds, its adapter included."""
    return size.total + (trained(adapter, size) if adapter.rank else 0)


def learner_memory(config: RunConfig, size: ModelSize) -> dict[str, float]:
    """Bytes on the device of one learner rank."""
    completions = min(config.learner.micro_completions or config.replay.completions, config.replay.completions)
    views = _estimator(config).views(config.sampler.completion_length)
    rows = (completions * views + 1) * config.learner.micro_groups
    tokens = rows * (config.problems.max_prompt_tokens + config.sampler.completion_length)
    chunk = config.estimator.chunk_rows or _chunk_rows(config.learner, size)
    return _rank_memory(config.learner, size, tokens, chunk, reference=config.objective.kl_weight > 0)


def stage_memory(config: AdaptConfig, stage: StageConfig, size: ModelSize) -> dict[str, float]:
    """Bytes on the device of one rank of a supervised stage."""
    rows = -(-stage.batch // config.learner.ranks)
    tokens = min(stage.micro_rows or rows, rows) * stage.length
    return _rank_memory(config.learner, size, tokens, _chunk_rows(config.learner, size), reference=False)


def stage_flops(config: AdaptConfig, stage: StageConfig, size: ModelSize) -> float:
    """Operations of one update of a supervised stage, on all ranks; half of what may be masked is, on average."""
    scored = {"autoregressive": stage.length, "pretrain": stage.length / 2, "instruct": stage.canvas / 2}
    flops = size.training_flops(stage.batch, stage.length, stage.batch * scored[stage.objective])
    return flops * (4 / 3 if config.learner.gradient_checkpointing else 1.0)


def _chunk_rows(learner: LearnerConfig, size: ModelSize) -> int:
    return default_chunk_rows(size.vocabulary, "cuda" if learner.gpus else "cpu")


def _rank_memory(
    learner: LearnerConfig, size: ModelSize, tokens: int, chunk_rows: int, *, reference: bool
) -> dict[str, float]:
    """Bytes of a rank whose forward passes are over `tokens` tokens, with logits of `chunk_rows` rows at a time."""
    wide, sharded = BYTES[learner.dtype], {s: learner.ranks if learner.zero_stage >= s else 1 for s in (1, 2, 3)}
    changing = trained(learner.adapter, size)
    optimiser = changing * (8 + (4 if wide == 2 else 0)) / sharded[1]
    exact = changing * 4 if wide == 2 and learner.engine == "torch" else 0  # float32 sums of the micro-batches
    layer = 13 * size.hidden + 4 * size.ffn  # numbers that a layer keeps of a token for the backward pass
    kept = tokens * (2 * size.hidden * size.layers + layer if learner.gradient_checkpointing else layer * size.layers)
    return {
        **({} if learner.gpus else {"process": PROCESS}),
        "weights": _held(learner.adapter, size) * wide / sharded[3],
        "gradients": changing * wide / sharded[2] + exact,
        "optimiser": 0.0 if learner.offload != "none" else optimiser,
        "reference": changing * wide / sharded[3] if reference else 0.0,
        "activations": float(kept * wide),
        "logits": float(min(chunk_rows, tokens) * size.vocabulary * 4 * 2),
    }


OFFLOADED = (
    18  # bytes of host memory per parameter: weights, two moments and gradients in float32, gradients in bfloat16
)


def host_memory(config: RunConfig | AdaptConfig, size: ModelSize) -> dict[str, float]:
    """Bytes of main memory that one learner rank holds besides its process; of a stage without a reference."""
    learner = config.learner
    offloaded = (OFFLOADED if learner.offload != "none" else 0) + (
        BYTES[learner.dtype] if learner.offload == "all" else 0
    )
    kept = (
        isinstance(config, RunConfig) and config.objective.kl_weight > 0 and BYTES[learner.dtype] == 2
    )  # float32 weights are their own reference
    shards = learner.ranks if learner.zero_stage >= 3 else 1
    return {
        "offloaded optimiser": trained(config.learner.adapter, size) * offloaded / learner.ranks,
        "float32 reference": 4 * trained(config.learner.adapter, size) / shards if kept else 0.0,
    }


def rollout_memory(config: RunConfig, size: ModelSize) -> dict[str, float]:
    """Bytes on the device of one rollout actor."""
    rows = min(config.rollout.microbatch_rows, config.replay.completions * config.rollout.groups_per_call)
    tokens = rows * (config.problems.max_prompt_tokens + config.sampler.completion_length)
    wide = BYTES[config.learner.dtype]
    return {
        **({} if config.rollout.gpus else {"process": PROCESS}),
        "weights": float(_held(config.learner.adapter, size) * wide),
        "activations": float(tokens * (size.ffn * 3 + size.hidden * 8) * wide),
        "logits": float(rows * config.sampler.completion_length * size.vocabulary * 4) / 2,
    }


def local_memory(config: RunConfig, size: ModelSize) -> dict[str, float]:
    """Bytes on the device of `--local`, one process that samples and learns in turn.

    With an adapter both policies share the frozen weights; of what a phase needs for itself the larger counts.
    """
    learner, rollout = learner_memory(config, size), rollout_memory(config, size)
    second = broadcast(config, size)  # the rollout worker's adapter, or all its weights
    passing = ("activations", "logits")
    kept = {name: value for name, value in learner.items() if name not in passing}
    return {
        **kept,
        "sampler's own weights": second,
        "largest phase": max(sum(part[name] for name in passing) for part in (learner, rollout)),
    }


def simulated(config: RunConfig, size: ModelSize, machine: Machine) -> Timeline:
    """Some steps of the run on `machine`, by `training.simulation`."""
    moved = broadcast(config, size) / machine.weights_per_second
    group = group_flops(config, size) / (machine.flops * _share(config.rollout.gpus))
    durations = Durations(
        generate=lambda groups: groups * group,
        judge=config.replay.completions * machine.judge_seconds,
        learn=learn_flops(config, size) / config.learner.ranks / (machine.flops * _share(config.learner.gpus)),
        publish=moved,
        swap=moved,
        spread=machine.spread,
    )
    layout = Layout(
        config.rollout.actors, config.reward.actors, config.rollout.groups_per_call, config.weights.broadcast_every
    )
    return Run(config.replay, layout, durations, SIMULATED_STEPS).run()


def _share(gpus: float) -> float:
    """A worker's share of its device: actors with a fraction of a GPU share one."""
    return gpus if 0 < gpus < 1 else 1.0
