"""`train --dry-run`: what a run would cost, before anything is started."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from couplet.commands.checks import check_settings
from couplet.configs.json_file import read_object
from couplet.configs.schema import ConfigError, RunConfig
from couplet.data.problem_sets import split_source
from couplet.model.hub import may_be_policy

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, "auto": 2}
GB = 1e9
HOST_BYTES = 18  # offloaded, per parameter: weights, two moments and gradients in float32, gradients in bfloat16


@dataclass(frozen=True)
class Shape:
    """The sizes that memory and time depend on."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    ffn: int
    vocab: int
    tied: bool

    @property
    def trunk(self) -> int:
        """Parameters of the layers and the final norm."""
        head_dim = self.hidden // self.heads
        kv = self.kv_heads * head_dim
        attention = 2 * self.hidden**2 + 2 * self.hidden * kv + self.hidden + 2 * kv
        return self.layers * (attention + 3 * self.hidden * self.ffn + 2 * self.hidden) + self.hidden

    @property
    def head(self) -> int:
        """Parameters of the output head."""
        return self.hidden * self.vocab

    @property
    def total(self) -> int:
        """All parameters."""
        return self.trunk + self.head * (1 if self.tied else 2)


KNOWN = {  # public checkpoints by hub name, so that a dry run of a recipe needs no download
    name: Shape(3584, 28, 28, 4, 18944, 152064, False)
    for name in (
        "apple/DiffuCoder-7B-Base",
        "apple/DiffuCoder-7B-Instruct",
        "apple/DiffuCoder-7B-cpGRPO",
        "Dream-org/Dream-v0-Instruct-7B",
        "Dream-org/Dream-Coder-v0-Instruct-7B",
    )
}


def describe(config: RunConfig) -> str:
    """Memory per process, FLOPs per learner step, and the ratio of rollout to learner workers they ask for.

    Raises:
        ConfigError, ValueError: a start or a setting that cannot be, as `train` would say.
    """
    check_settings(config)
    config.warn()
    shape = _shape(config)
    learner = _learner_memory(config, shape)
    rollout = _rollout_memory(config, shape)
    generate, train = _flops(config, shape)
    lines = [
        f"{config.name}: configuration valid",
        f"model: {shape.total:,} parameters ({shape.layers} layers, hidden {shape.hidden}, vocabulary {shape.vocab})",
        f"one learner step: {config.replay.groups_per_step} prompts x {config.replay.completions} completions "
        f"x {config.objective.inner_updates} updates; staleness at most {config.replay.max_staleness}",
        "memory per learner rank (estimate): "
        + ", ".join(f"{name} {size / GB:.2f} GB" for name, size in learner.items())
        + f" = {sum(learner.values()) / GB:.2f} GB",
        "memory per rollout actor (estimate): "
        + ", ".join(f"{name} {size / GB:.2f} GB" for name, size in rollout.items())
        + f" = {sum(rollout.values()) / GB:.2f} GB",
        _host_memory(config, shape),
        f"weights in flight per broadcast: {shape.total * BYTES[config.learner.dtype] / GB:.2f} GB "
        f"every {config.weights.broadcast_every} step(s), two versions kept",
        f"generation {generate / 1e12:,.2f} TFLOP, learning {train / 1e12:,.2f} TFLOP per step: "
        f"about {generate / train:.1f} rollout workers per learner rank keep both busy; "
        f"configured {config.rollout.actors / config.learner.ranks:.1f} ({_bound(config, generate, train)})",
        f"actors: {config.rollout.actors} rollout, {config.reward.actors} reward, {config.learner.ranks} learner "
        f"({config.learner.engine}, ZeRO {config.learner.zero_stage}, offload {config.learner.offload})",
    ]
    return "\n".join(lines + _absent(config))


def _absent(config: RunConfig) -> list[str]:
    """Problem files that `train` will ask for and that are not there yet."""
    wanted = {"problems.train": config.problems.train, "problems.evaluate": config.problems.evaluate}
    found = []
    for name, source in wanted.items():
        path, _ = split_source(source)
        if ":" not in path and not Path(path).is_file():
            found.append(f"not there yet: {name} = {source}")
    return found


def _bound(config: RunConfig, generate: float, train: float) -> str:
    """Which side of a step is the slower one, at the same FLOPs per second everywhere, and how long the other waits."""
    sides = {"generation": generate / config.rollout.actors, "learning": train / config.learner.ranks}
    slow, quick = sorted(sides, key=lambda side: sides[side], reverse=True)
    return f"{slow} bounds the step, {quick} waits for {1 - sides[quick] / sides[slow]:.0%} of it"


def _shape(config: RunConfig) -> Shape:
    if config.model.recipe is not None:
        from couplet.configs.load import load
        from couplet.configs.schema import AdaptConfig

        recipe = load(AdaptConfig, config.model.recipe)
        if recipe.start is None:
            s = recipe.shape
            return Shape(s.hidden, s.layers, s.heads, s.kv_heads, s.ffn, 512, s.tie_embeddings)
        return _read(recipe.start, "start")
    assert config.model.path is not None, "a start was checked for"
    return KNOWN.get(config.model.path) or _read(config.model.path, "model.path")


def _read(path: str, where: str) -> Shape:
    """The shape of a folder, or of a hub name by its config.json alone, which is fetched where it is not cached."""
    file = Path(path) / "config.json"
    if not may_be_policy(path):
        raise ConfigError(f"{where} = {path!r}: no such model folder (a folder with config.json is expected)")
    if not file.is_file():
        from huggingface_hub import hf_hub_download

        try:
            file = Path(hf_hub_download(path, "config.json"))
        except Exception as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ConfigError(
                f"{where} = {path!r}: its shape is not known without fetching its config.json ({reason}); name a local "
                f"folder, or fetch it first with `hf download {path}`"
            ) from error
    tree = read_object(file, error=ConfigError)
    return Shape(
        hidden=tree["hidden_size"],
        layers=tree["num_hidden_layers"],
        heads=tree["num_attention_heads"],
        kv_heads=tree.get("num_key_value_heads", tree["num_attention_heads"]),
        ffn=tree["intermediate_size"],
        vocab=tree["vocab_size"],
        tied=tree.get("tie_word_embeddings", False),
    )


def _learner_memory(config: RunConfig, shape: Shape) -> dict[str, float]:
    learner, n = config.learner, shape.total
    wide = BYTES[learner.dtype]
    ranks = learner.ranks
    shard = {stage: ranks if learner.zero_stage >= stage else 1 for stage in (1, 2, 3)}
    optimiser = n * (8 + (4 if wide == 2 else 0)) / shard[1]
    completions = min(learner.micro_completions or config.replay.completions, config.replay.completions)
    rows = completions * config.estimator.active_pairs * 2 + 1
    tokens = rows * (config.problems.max_prompt_tokens + config.sampler.completion_length) * learner.micro_groups
    per_token = shape.hidden * (2 if learner.gradient_checkpointing else 34) * shape.layers
    logits = min(config.estimator.chunk_rows, tokens) * shape.vocab * 4 * 2
    return {
        "weights": n * wide / shard[3],
        "gradients": n * wide / shard[2],
        "optimiser": 0.0 if learner.offload != "none" else optimiser,
        "reference": 0.0 if config.objective.kl_weight == 0 else n * wide / shard[3],
        "activations": float(tokens * per_token * wide + tokens * shape.hidden * 34 * wide),
        "logits": float(logits),
    }


def _host_memory(config: RunConfig, shape: Shape) -> str:
    """What lies in main memory besides the processes themselves: a learner rank's share, and Ray's object store."""
    learner = config.learner
    offloaded = HOST_BYTES if learner.offload != "none" else 0  # per parameter
    offloaded += BYTES[learner.dtype] if learner.offload == "all" else 0
    optimiser = shape.total * offloaded / learner.ranks
    return (
        f"host memory (estimate): offloaded optimiser {optimiser / GB:.2f} GB and float32 reference "
        f"{_host_reference(config, shape) / GB:.2f} GB per learner rank; a local Ray's object store "
        f"{config.ray.object_store_mb * 2**20 / GB:.2f} GB"
    )


def _host_reference(config: RunConfig, shape: Shape) -> float:
    """Bytes of the float32 reference beside 16-bit weights; float32 weights need none of their own."""
    learner = config.learner
    if config.objective.kl_weight == 0 or BYTES[learner.dtype] > 2:
        return 0.0
    return 4 * shape.total / (learner.ranks if learner.zero_stage >= 3 else 1)


def _rollout_memory(config: RunConfig, shape: Shape) -> dict[str, float]:
    rows = min(config.rollout.microbatch_rows, config.replay.completions * config.rollout.groups_per_call)
    tokens = rows * (config.problems.max_prompt_tokens + config.sampler.completion_length)
    wide = BYTES[config.learner.dtype]
    return {
        "weights": shape.total * wide,
        "activations": float(tokens * (shape.ffn * 3 + shape.hidden * 8) * wide),
        "logits": float(rows * config.sampler.completion_length * shape.vocab * 4) / 2,
    }


def _flops(config: RunConfig, shape: Shape) -> tuple[float, float]:
    """FLOPs of generating and of training one step's groups: 2 per parameter and token forward, 4 backward."""
    canvas = config.sampler.completion_length
    length = config.problems.max_prompt_tokens + canvas
    trunk = 2 * shape.trunk * length + 4 * length**2 * shape.hidden * shape.layers
    completions = config.replay.groups_per_step * config.replay.completions
    steps = min(config.sampler.steps, canvas)
    generate = completions * steps * (trunk + 2 * shape.head * canvas / 2)
    pairs = config.estimator.active_pairs
    views = 1 / config.replay.completions + 2 * pairs
    forward = views * trunk + (1 / config.replay.completions + pairs) * canvas * 2 * shape.head
    mu = config.objective.inner_updates
    recompute = 1 if config.learner.gradient_checkpointing else 0
    reference = mu if config.objective.kl_weight > 0 else 0
    train = completions * forward * (mu * (3 + recompute) + reference)
    return generate, train
