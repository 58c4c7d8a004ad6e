"""`--dry-run` of `train` and `adapt`: the cost of a run, before anything is started."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from couplet.commands.checks import check_settings
from couplet.configs.load import load
from couplet.configs.schema import AdaptConfig, ConfigError, RunConfig
from couplet.data.problem_sets import split_source
from couplet.model.cost import ModelSize
from couplet.model.hub import may_be_policy
from couplet.training.cost import (
    Machine,
    broadcast,
    group_flops,
    host_memory,
    learn_flops,
    learner_memory,
    local_memory,
    rollout_memory,
    simulated,
    stage_flops,
    stage_memory,
    trained,
)
from couplet.training.factory import for_one_process

GB, TERA = 1e9, 1e12
TINY_VOCABULARY = 512
GPU_TFLOPS, CPU_TFLOPS = 400.0, 0.05  # sustained: 40% of an H100's dense bfloat16 peak; one CPU core in float32
SEVEN_B = ModelSize(3584, 28, 28, 4, 128, 18944, 152064, tied=False)
KNOWN = dict.fromkeys(  # public checkpoints, so that a dry run of a recipe needs no download
    (
        "apple/DiffuCoder-7B-Base",
        "apple/DiffuCoder-7B-Instruct",
        "apple/DiffuCoder-7B-cpGRPO",
        "Dream-org/Dream-v0-Instruct-7B",
        "Dream-org/Dream-Coder-v0-Instruct-7B",
    ),
    SEVEN_B,
) | {
    "fredzzp/open-dcoder-0.5B": ModelSize(896, 24, 14, 2, 64, 4864, 151936, tied=True),
    "HuggingFaceTB/SmolLM2-135M-Instruct": ModelSize(576, 30, 9, 3, 64, 1536, 49152, tied=True, qkv_bias=False),
}


def describe(config: RunConfig, tflops: float | None = None, local: bool = False) -> str:
    """Memory per process, work per learner step, and the time of a step by simulation.

    Args:
        local: of a run in one process.
        tflops: what one worker's device sustains, 10^12 operations per second; None = a usual figure.

    Raises:
        UserError: what `train` would reject before it starts.
    """
    check_settings(config)
    config.warn()
    config = for_one_process(config) if local else config
    size, replay = _size(config), config.replay
    sampling, learning = replay.groups_per_step * group_flops(config, size), learn_flops(config, size)
    changing = trained(config.learner.adapter, size)
    lines = [
        f"{config.name}: configuration valid",
        f"model: {size.total:,} parameters ({size.layers} layers, hidden {size.hidden}, vocabulary {size.vocabulary})",
        f"one learner step: {replay.groups_per_step} prompts x {replay.completions} completions "
        f"x {config.objective.inner_updates} updates; staleness at most {replay.max_staleness}",
        f"trained: {changing:,} parameters"
        + (" of an adapter, the rest is frozen" if config.learner.adapter.rank else ""),
        *(_one_process(config, size) if local else _processes(config, size)),
        f"work per learner step: sampling {sampling / TERA:,.2f} TFLOP, learning {learning / TERA:,.2f} TFLOP",
        *(_turns if local else _time)(config, size, tflops),
    ]
    return "\n".join(lines + _absent(config))


def describe_adaptation(config: AdaptConfig, tflops: float | None = None) -> str:
    """Memory per rank, work and time of each stage; the inputs of `config` have been checked."""
    size, learner = _start_size(config), config.learner
    changing = trained(learner.adapter, size)
    sustained = tflops or (GPU_TFLOPS if learner.gpus else CPU_TFLOPS)
    device = "GPU" if learner.gpus else "core"
    lines = [
        f"{config.name}: configuration valid",
        f"model: {size.total:,} parameters ({size.layers} layers, hidden {size.hidden}, vocabulary {size.vocabulary})",
        f"trained: {changing:,} parameters by {learner.ranks} rank(s) ({learner.engine}, ZeRO {learner.zero_stage}, "
        f"offload {learner.offload}) at {sustained:g} TFLOP/s per {device} (--tflops)",
    ]
    total = 0.0
    for stage in config.stages:
        seconds = stage_flops(config, stage, size) / (sustained * TERA * learner.ranks)
        total += stage.steps * seconds
        lines += [
            f"stage {stage.name}: {stage.steps:,} updates of {stage.batch} x {stage.length} tokens, "
            f"{stage.steps * stage.batch * stage.length:,} tokens in all; {seconds:.3g} s per update",
            f"  memory per rank (estimate): {_sum(stage_memory(config, stage, size))}",
        ]
    if learner.offload != "none":
        lines.append(f"host memory per rank (estimate): {_sum(host_memory(config, size))}")
    gpus = learner.ranks * learner.gpus
    hours = total / 3600
    return "\n".join([*lines, f"all stages: {hours:,.2f} hours" + (f", {hours * gpus:,.0f} GPU-hours" if gpus else "")])


def _one_process(config: RunConfig, size: ModelSize) -> list[str]:
    return [
        f"memory of the process (estimate): {_sum(local_memory(config, size))}",
        f"its host memory (estimate): {_sum(host_memory(config, size))}",
    ]


def _processes(config: RunConfig, size: ModelSize) -> list[str]:
    host, ranks = host_memory(config, size), config.learner.ranks
    share = broadcast(config, size) / GB
    return [
        f"actors: {config.rollout.actors} rollout, {config.reward.actors} reward, {ranks} learner "
        f"({config.learner.engine}, ZeRO {config.learner.zero_stage}, offload {config.learner.offload})",
        f"memory per learner rank (estimate): {_sum(learner_memory(config, size))}",
        f"memory per rollout actor (estimate): {_sum(rollout_memory(config, size))}",
        f"host memory per learner rank (estimate): {_sum(host)}, {ranks * sum(host.values()) / GB:.2f} GB for all {ranks}; "
        f"object store of a local Ray {config.ray.object_store_mb * 2**20 / GB:.2f} GB",
        f"broadcast: {share:.2f} GB of weights every {config.weights.broadcast_every} step(s), two versions kept",
    ]


def _sum(parts: Mapping[str, float]) -> str:
    shown = ", ".join(f"{name} {value / GB:.2f} GB" for name, value in parts.items())
    return f"{shown} = {sum(parts.values()) / GB:.2f} GB"


def _time(config: RunConfig, size: ModelSize, tflops: float | None) -> list[str]:
    """The time of a step, who waits, and the total of the run."""
    gpus = config.rollout.actors * config.rollout.gpus + config.learner.ranks * config.learner.gpus
    device = "GPU" if gpus else "core"
    sustained = tflops or (GPU_TFLOPS if gpus else CPU_TFLOPS)
    timeline = simulated(config, size, Machine(sustained * TERA))
    step = timeline.step_seconds()
    idle = ", ".join(f"{role} {timeline.idle(role):.0%}" for role in timeline.workers)
    staleness = sum(timeline.staleness) / len(timeline.staleness)
    hours = config.steps * step / 3600
    return [
        f"simulated at {sustained:g} TFLOP/s per {device} (--tflops): {step:,.1f} s per step; idle: {idle}; "
        f"mean staleness {staleness:.2f}, {timeline.stale_dropped} groups dropped as stale",
        f"{config.steps} steps: {hours:,.1f} hours" + (f", {hours * gpus:,.0f} GPU-hours" if gpus else ""),
    ]


def _turns(config: RunConfig, size: ModelSize, tflops: float | None) -> list[str]:
    """The time of a step in one process, where the phases take turns, and the total of the run."""
    gpus = config.learner.gpus
    sustained, judged = tflops or (GPU_TFLOPS if gpus else CPU_TFLOPS), config.replay.groups_per_step
    sampling = judged * group_flops(config, size) / (sustained * TERA)
    learning = learn_flops(config, size) / (sustained * TERA)
    judging = judged * config.replay.completions * Machine(sustained).judge_seconds
    hours = config.steps * (sampling + learning + judging) / 3600
    return [
        f"at {sustained:g} TFLOP/s (--tflops): sampling {sampling:,.1f} s, judging {judging:,.1f} s, learning "
        f"{learning:,.1f} s per step",
        f"{config.steps} steps: {hours:,.1f} hours" + (f", {hours:,.0f} GPU-hours" if gpus else ""),
    ]


def _absent(config: RunConfig) -> list[str]:
    """Problem files that `train` needs and that do not exist yet."""
    wanted = {"problems.train": config.problems.train, "problems.evaluate": config.problems.evaluate}
    paths = {name: split_source(source)[0] for name, source in wanted.items()}
    missing = [name for name, path in paths.items() if ":" not in path and not Path(path).is_file()]
    return [f"not there yet: {name} = {wanted[name]}" for name in missing]


def _size(config: RunConfig) -> ModelSize:
    if config.model.recipe is None:
        assert config.model.path is not None, "check_settings requires a start"
        return KNOWN.get(config.model.path) or _read(config.model.path, "model.path")
    return _start_size(load(AdaptConfig, config.model.recipe))


def _start_size(recipe: AdaptConfig) -> ModelSize:
    """The model of an adaptation: its start's, or the shape's with the tiny tokenizer."""
    if recipe.start is not None:
        return KNOWN.get(recipe.start) or _read(recipe.start, "start")
    shape = recipe.shape
    head_size = shape.hidden // shape.heads
    sizes = (shape.hidden, shape.layers, shape.heads, shape.kv_heads, head_size, shape.ffn, TINY_VOCABULARY)
    return ModelSize(*sizes, tied=shape.tie_embeddings)


def _read(path: str, where: str) -> ModelSize:
    """The size of a folder, or of a hub name by its config.json alone, which is downloaded if it is not cached."""
    from couplet.model.folder import model_config, read_config

    folder = Path(path)
    if not may_be_policy(path):
        raise ConfigError(f"{where} = {path!r}: no such model folder (a folder with config.json is expected)")
    if not (folder / "config.json").is_file():
        from huggingface_hub import hf_hub_download

        try:
            folder = Path(hf_hub_download(path, "config.json")).parent
        except Exception as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ConfigError(
                f"{where} = {path!r}: its size is not known without its config.json, which cannot be fetched ({reason}); "
                f"name a local folder, or fetch it first with `hf download {path}`"
            ) from error
    return ModelSize.of(model_config(read_config(folder), str(folder)))
