"""One frozen, validated configuration tree; every default is written here, once.

A component receives its own slice, never the tree. A value that cannot work is refused at construction with a
`ConfigError` that names the field, the value and the mend; rules that join two sections stand in `RunConfig`.
"""

from __future__ import annotations

import logging
import math
import re
from dataclasses import dataclass, field
from typing import Literal

from couplet.configs.errors import UserError

log = logging.getLogger(__name__)


class ConfigError(UserError):
    """A configuration the user must mend. The message names the field, its value and what would be accepted."""


def require(condition: bool, where: str, value: object, mend: str) -> None:
    """Raise `ConfigError` naming field `where`, its `value` and the `mend` unless `condition` holds."""
    if not condition:
        raise ConfigError(f"{where} = {value!r}: {mend}")


def _positive(where: str, **values: float) -> None:
    for name, value in values.items():
        mend = "must be finite" if value == math.inf else "must be greater than 0"
        require(0 < value < math.inf, f"{where}.{name}" if where else name, value, mend)


def _not_negative(where: str, **values: float) -> None:
    for name, value in values.items():
        require(0 <= value < math.inf, f"{where}.{name}", value, "must be 0 or above, and finite")


def _share(where: str, **values: float) -> None:
    for name, value in values.items():
        require(0.0 <= value <= 1.0, f"{where}.{name}", value, "must lie between 0 and 1")


def _limit(where: str, value: int | None) -> None:
    require(value is None or value >= 1, where, value, "must be at least 1; null takes all problems")


def _folder_name(name: str) -> None:
    """A run's name is that of its folder, beside which the link `latest` stands."""
    fits = re.fullmatch(r"[\w.-]+", name) and name not in ("latest", ".", "..")
    require(bool(fits), "name", name, "must be made of letters, digits, '_', '-' and '.', and be no 'latest'")


@dataclass(frozen=True)
class SamplerConfig:
    """The diffusion decoder. `top_p: 1.0` and `top_k: null` mean off."""

    # what decides which masked positions are revealed next
    order: Literal["origin", "maskgit_plus", "topk_margin", "entropy"] = "entropy"
    steps: int = 256  # denoising steps of the canvas
    completion_length: int = 256  # tokens of the canvas, the answer with its filler
    temperature: float = 1.0  # 0 takes the likeliest token
    top_p: float = 1.0  # draw from the likeliest tokens of this total probability
    top_k: int | None = None  # draw from that many likeliest tokens
    alg_temp: float | None = None  # temperature of the order itself; null or 0 = strict order
    # rank positions on the probabilities after top_p and top_k, or before
    rank_on: Literal["filtered", "unfiltered"] = "filtered"
    eps: float = 1e-3  # last time of the schedule
    # Declared approximations: each changes the distribution, is off by default and is recorded on the trajectory.
    early_stop: bool = False  # a completion is done when its answer has ended
    block_length: int | None = None  # tokens of a block; blocks are decoded from left to right; null = one block
    # keys and values outside the block that are kept between its forwards
    cache: Literal["none", "prefix", "dual"] = "none"
    cache_refresh: int | None = None  # forwards of a block per full one; null = one full forward per block
    confidence_threshold: float | None = None  # reveal every position whose largest probability reaches it, too

    def __post_init__(self) -> None:
        _positive("sampler", steps=self.steps, completion_length=self.completion_length, eps=self.eps)
        require(self.eps < 1, "sampler.eps", self.eps, "must be below 1")
        require(self.temperature >= 0, "sampler.temperature", self.temperature, "must be 0 (greedy) or above")
        require(0 < self.top_p <= 1, "sampler.top_p", self.top_p, "must lie in (0, 1]; 1.0 turns it off")
        if self.top_k is not None:
            require(self.top_k >= 1, "sampler.top_k", self.top_k, "must be at least 1; null turns it off")
        if self.alg_temp is not None:
            require(self.alg_temp >= 0, "sampler.alg_temp", self.alg_temp, "must be 0 (strict order) or above")
        if self.block_length is not None:
            require(
                self.block_length > 0 and self.completion_length % self.block_length == 0,
                "sampler.block_length",
                self.block_length,
                f"must divide sampler.completion_length = {self.completion_length}",
            )
        require(
            self.cache == "none" or self.block_length is not None,
            "sampler.cache",
            self.cache,
            "a key/value cache works per block: set sampler.block_length too, or cache: none",
        )
        if self.cache_refresh is not None:
            _positive("sampler", cache_refresh=self.cache_refresh)
        blocks = 1 if self.block_length is None else self.completion_length // self.block_length
        require(
            self.steps % blocks == 0,
            "sampler.steps",
            self.steps,
            f"must be divisible by the number of blocks, {blocks}",
        )
        require(
            self.confidence_threshold is None or self.order != "origin",
            "sampler.confidence_threshold",
            self.confidence_threshold,
            "needs an order that ranks positions; origin reveals at random",
        )
        if self.confidence_threshold is not None:
            _share("sampler", confidence_threshold=self.confidence_threshold)


@dataclass(frozen=True)
class EstimatorConfig:
    """How log-probabilities of a completion are estimated (docs/algorithm.md, section on estimators)."""

    name: Literal["coupled", "full_mask", "decoupled"] = "coupled"  # which masks a completion is scored under
    pairs: int = 1  # lambda: mask pairs per completion
    t_min: float = 0.2  # mask rates are drawn from [t_min, t_max]
    t_max: float = 0.8  # at most this mask rate; its partner has 1 - t
    # weight of a masked token's log-probability
    weighting: Literal["inverse_t", "half_inverse_t", "none"] = "inverse_t"
    t_scope: Literal["sequence", "group"] = "sequence"  # one t per completion, or per prompt group
    match_temperature: bool = False  # divide the logits by the sampling temperature
    chunk_rows: int = 2048  # rows of logits held at a time

    def __post_init__(self) -> None:
        require(self.pairs >= 1, "estimator.pairs", self.pairs, "must be at least 1; name: full_mask uses no pair")
        require(0 < self.t_min < self.t_max < 1, "estimator.t_min", self.t_min, "needs 0 < t_min < t_max < 1")
        _positive("estimator", chunk_rows=self.chunk_rows)

    @property
    def active_pairs(self) -> int:
        """Mask pairs in use: 0 for `full_mask`."""
        return 0 if self.name == "full_mask" else self.pairs


@dataclass(frozen=True)
class ObjectiveConfig:
    """Coupled-GRPO's clipped objective with a KL penalty to a slowly following reference."""

    inner_updates: int = 2  # mu: optimiser updates per learner step, each over the whole batch
    clip_low: float = 0.5  # ratios are clipped at 1 - clip_low
    clip_high: float = 0.5  # and at 1 + clip_high
    kl_weight: float = 0.01  # beta; 0 keeps no reference model
    kl_clamp: float | None = 5.0  # bound of the log-ratio in the KL; null = none
    # baseline of a completion: its group's mean, or the mean of the others
    advantage: Literal["group_mean", "leave_one_out"] = "leave_one_out"
    scale_by_std: bool = False  # divide advantages by the group's standard deviation
    zero_signal: Literal["drop", "keep"] = "drop"  # groups whose rewards do not differ: leave out of the loss, or keep
    normalise: Literal["tokens", "per_sequence"] = "tokens"  # every token counts the same, or every completion
    # to the learner's own old values, to the sampler's, or to both (docs/algorithm.md)
    ratio: Literal["current", "behaviour", "proximal"] = "behaviour"
    proximal_cap: float = 2.0  # bound of the weight that ratio: proximal adds
    reference_every: int = 64  # optimiser updates between moves of the reference
    reference_alpha: float = 0.6  # ref <- (1 - alpha) ref + alpha policy; 1.0 copies

    def __post_init__(self) -> None:
        _positive("objective", inner_updates=self.inner_updates, proximal_cap=self.proximal_cap)
        _positive("objective", reference_every=self.reference_every)
        require(0 < self.clip_low <= 1, "objective.clip_low", self.clip_low, "must lie in (0, 1]")
        require(self.clip_high > 0, "objective.clip_high", self.clip_high, "must be greater than 0")
        _not_negative("objective", kl_weight=self.kl_weight)
        _share("objective", reference_alpha=self.reference_alpha)


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW with warm-up and a decay to a floor."""

    lr: float = 1e-6  # peak learning rate
    betas: tuple[float, float] = (0.9, 0.99)  # of AdamW
    eps: float = 1e-8  # of AdamW
    weight_decay: float = 0.1  # of matrices only
    grad_norm: float = 0.2  # gradients are clipped to this norm
    warmup_ratio: float = 1e-4  # share of the updates that warm up
    schedule: Literal["cosine", "linear", "constant"] = "cosine"  # form of the decay
    decay_start: float = 0.0  # share of the updates before the decay begins
    min_lr_ratio: float = 0.1  # floor of the decay, as a share of lr

    def __post_init__(self) -> None:
        _positive("optimizer", lr=self.lr, eps=self.eps, grad_norm=self.grad_norm)
        require(all(0 <= b < 1 for b in self.betas), "optimizer.betas", self.betas, "both must lie in [0, 1)")
        _not_negative("optimizer", weight_decay=self.weight_decay)
        _share(
            "optimizer", warmup_ratio=self.warmup_ratio, min_lr_ratio=self.min_lr_ratio, decay_start=self.decay_start
        )


@dataclass(frozen=True)
class ModelConfig:
    """Where the policy comes from: a Hugging Face folder, or an adaptation recipe that makes (and caches) one."""

    path: str | None = None  # a Hugging Face folder or a hub name; give this or recipe
    recipe: str | None = None  # an adapt recipe, e.g. tiny_adapt.yaml; its last stage is the start
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"  # auto: as stored; training uses learner.dtype
    # implementation in transformers; flash_attention_2 needs the extra gpu
    attention: Literal["sdpa", "eager", "flex_attention", "flash_attention_2", "flash_attention_3"] = "sdpa"
    end_tokens: tuple[str, ...] = ("<|im_end|>",)  # tokens that end an answer, by their names in the tokenizer

    def __post_init__(self) -> None:
        require(len(self.end_tokens) > 0, "model.end_tokens", self.end_tokens, "needs at least one end token")


@dataclass(frozen=True)
class ProblemsConfig:
    """Problem sets: a file written by `prepare`, or `katas:SPLIT` for the generated family."""

    train: str = "katas:rl"  # problems to learn from
    evaluate: str = "katas:heldout"  # held-out problems
    seed: int = 0  # of the generated families; the order of problems follows the run's seed
    limit: int | None = None  # first problems of the training set only
    max_prompt_tokens: int = 200  # longest prompt
    long_prompts: Literal["drop", "truncate_left"] = "drop"  # what happens to longer ones

    def __post_init__(self) -> None:
        _positive("problems", max_prompt_tokens=self.max_prompt_tokens)
        _limit("problems.limit", self.limit)


@dataclass(frozen=True)
class ReplayConfig:
    """Admission to the replay queue: how far generation may run ahead of learning."""

    groups_per_step: int = 8  # P: prompts of one learner step
    completions: int = 8  # G: completions per prompt
    max_staleness: int = 1  # learner steps a trained sample may lag behind
    refill: bool = False  # a zero-signal group gives its credit back, so each step learns from P groups
    max_attempts: int = 5  # losses of one group after which it is quarantined

    def __post_init__(self) -> None:
        _positive("replay", groups_per_step=self.groups_per_step)
        _positive("replay", max_attempts=self.max_attempts)
        require(self.completions >= 2, "replay.completions", self.completions, "a baseline needs at least 2")
        require(self.max_staleness >= 0, "replay.max_staleness", self.max_staleness, "must be 0 (synchronous) or above")


@dataclass(frozen=True)
class WeightsConfig:
    """Broadcast of new weights to the rollout actors."""

    broadcast_every: int = 1  # learner steps
    bucket_mb: int = 256  # size of one packed piece
    verify: bool = True  # rollout actors check the manifest's checksum before the swap
    timeout: float = 120.0  # seconds until a rollout actor must have taken them

    def __post_init__(self) -> None:
        _positive("weights", broadcast_every=self.broadcast_every, bucket_mb=self.bucket_mb, timeout=self.timeout)


@dataclass(frozen=True)
class LearnerConfig:
    """Learner ranks and their engine."""

    engine: Literal["deepspeed", "torch"] = "deepspeed"  # torch keeps everything on every rank
    ranks: int = 1  # processes that learn together
    cpus: float = 1.0  # CPUs Ray reserves per rank
    gpus: float = 0.0  # GPUs per rank; 0 = on the CPU
    threads: int = 1  # of torch, on the CPU
    zero_stage: Literal[0, 1, 2, 3] = 0  # what is sharded over ranks: 1 optimiser, 2 and gradients, 3 and weights
    offload: Literal["none", "optimizer", "all"] = "none"  # what lies in host memory
    dtype: Literal["float32", "bfloat16"] = "float32"  # of weights and activations, also those of the rollout actors
    micro_groups: int = 1  # prompt groups per forward/backward
    micro_completions: int | None = None  # completions of a group per forward/backward; null = all of them
    gradient_checkpointing: bool = False  # recompute activations to save memory
    timeout: float = 1800.0  # of one collective and of one learner step

    def __post_init__(self) -> None:
        _positive("learner", ranks=self.ranks, threads=self.threads, micro_groups=self.micro_groups)
        _positive("learner", timeout=self.timeout)
        _not_negative("learner", cpus=self.cpus, gpus=self.gpus)
        if self.micro_completions is not None:
            _positive("learner", micro_completions=self.micro_completions)
        require(
            self.zero_stage == 0 or self.engine == "deepspeed",
            "learner.zero_stage",
            self.zero_stage,
            "needs engine: deepspeed; the torch engine keeps everything on every rank",
        )
        require(
            self.offload == "none" or (self.engine == "deepspeed" and self.zero_stage >= 1),
            "learner.offload",
            self.offload,
            "needs engine: deepspeed and zero_stage 1 or above",
        )
        require(
            self.offload != "all" or self.zero_stage == 3, "learner.offload", self.offload, "'all' needs zero_stage: 3"
        )


@dataclass(frozen=True)
class RolloutConfig:
    """Rollout actors."""

    actors: int = 1  # processes that decode
    cpus: float = 1.0  # CPUs Ray reserves per actor
    gpus: float = 0.0  # GPUs per actor, fractions allowed; 0 = on the CPU
    threads: int = 1  # of torch, on the CPU
    groups_per_call: int = 1  # prompt groups decoded in one batch
    microbatch_rows: int = 256  # completions per forward
    max_restarts: int = -1  # of one actor; -1 = no bound
    timeout: float = 1800.0  # of one generate call

    def __post_init__(self) -> None:
        _positive("rollout", actors=self.actors, threads=self.threads, groups_per_call=self.groups_per_call)
        _positive("rollout", microbatch_rows=self.microbatch_rows, timeout=self.timeout)
        _not_negative("rollout", cpus=self.cpus, gpus=self.gpus)


@dataclass(frozen=True)
class SandboxConfig:
    """Where and under which limits model-written code runs (docs/sandbox.md)."""

    # walls; auto takes the strongest that holds here
    tier: Literal["auto", "namespace", "landlock", "seccomp", "rlimits", "e2b"] = "auto"
    allow_unsafe: bool = False  # needed for tier rlimits
    cpu_seconds: float = 2.0  # CPU time of one test
    wall_factor: float = 4.0  # wall-clock limit = wall_factor * cpu_seconds, more where a program waits for a core
    memory_mb: int = 512  # address space of a program
    file_mb: int = 8  # largest file a program may write
    processes: int = 32  # threads of a program
    open_files: int = 64  # descriptors of a program
    reply_kb: int = 1024  # largest answer to one test
    max_timeouts: int = 2  # after that many timeouts the remaining tests are skipped
    program_factor: float = 12.0  # CPU and wall-clock limit of all tests together = program_factor * cpu_seconds
    fresh_process_per_test: bool = False  # tests of one program share no state
    strict: bool = False  # a test that can only be judged weakly fails
    packages: tuple[str, ...] = ()  # site packages the programs may import, e.g. numpy
    e2b_template: str | None = None  # template of the cloud sandboxes; null = the service's own
    e2b_pool: int = 4  # cloud sandboxes kept per worker
    e2b_programs: int = 64  # programs before a cloud sandbox is recycled

    def __post_init__(self) -> None:
        _positive(
            "sandbox",
            cpu_seconds=self.cpu_seconds,
            memory_mb=self.memory_mb,
            file_mb=self.file_mb,
            processes=self.processes,
            open_files=self.open_files,
            reply_kb=self.reply_kb,
            max_timeouts=self.max_timeouts,
            e2b_pool=self.e2b_pool,
            e2b_programs=self.e2b_programs,
        )
        require(self.wall_factor >= 1, "sandbox.wall_factor", self.wall_factor, "must be at least 1")
        require(self.program_factor >= 1, "sandbox.program_factor", self.program_factor, "must be at least 1")
        require(
            self.tier != "rlimits" or self.allow_unsafe,
            "sandbox.tier",
            self.tier,
            "runs model-written code without isolation; say sandbox.allow_unsafe: true to accept that",
        )

    @property
    def program_seconds(self) -> float:
        """Limit of a whole program, CPU and wall clock alike; never below the wall-clock limit of one test."""
        return max(self.program_factor, self.wall_factor) * self.cpu_seconds


@dataclass(frozen=True)
class RewardConfig:
    """Reward actors and what they pay for."""

    actors: int = 1  # processes that judge, each with its sandbox
    cpus: float = 1.0  # CPUs Ray reserves per actor
    # reward function: weight; one of your own is named module:function
    functions: dict[str, float] = field(default_factory=lambda: {"code": 2.0, "code_format": 0.5})
    # pay for the share of passed tests, or only for all of them
    pass_rate: Literal["partial", "all_or_nothing"] = "partial"
    hidden_share: float = 0.0  # share of each problem's tests kept for the verdict only, never for the reward
    strict_format: bool = False  # exactly one newline before the closing fence, as published
    cache_entries: int = 100_000  # results remembered per actor; 0 = none
    retries: int = 3  # of an infrastructure fault, each on another worker where there is one
    max_fault_share: float = 0.05  # the run stops when more samples than this are lost to infrastructure faults
    timeout: float = 600.0  # of one score call

    def __post_init__(self) -> None:
        _positive("reward", actors=self.actors, timeout=self.timeout)
        _not_negative("reward", cpus=self.cpus, retries=self.retries)
        require(len(self.functions) > 0, "reward.functions", self.functions, "name at least one reward function")
        for name, weight in self.functions.items():
            require(math.isfinite(weight), f"reward.functions.{name}", weight, "must be a finite number")
        require(self.cache_entries >= 0, "reward.cache_entries", self.cache_entries, "must be 0 (off) or above")
        _share("reward", hidden_share=self.hidden_share, max_fault_share=self.max_fault_share)


@dataclass(frozen=True)
class EvaluationConfig:
    """Evaluation before, during and after training."""

    every: int = 0  # learner steps between evaluations; 0 = before and after only
    limit: int | None = None  # first problems of problems.evaluate only
    samples: int = 8  # per problem at `temperature`, for pass@1 and pass@samples
    temperature: float = 1.0  # the high temperature: pass@1 and pass@samples
    greedy_temperature: float = 0.2  # the low temperature of pass@1
    greedy_samples: int = 1  # per problem at greedy_temperature
    ar_ness_k: int = 1  # k of AR-ness@k
    ar_ness_temperatures: tuple[float, ...] = (0.2, 1.2)  # at which AR-ness is measured
    ar_ness_problems: int = 32  # on that many problems
    seed: int = 1234  # of the samples

    def __post_init__(self) -> None:
        _positive("evaluation", samples=self.samples, greedy_samples=self.greedy_samples, ar_ness_k=self.ar_ness_k)
        _positive("evaluation", ar_ness_problems=self.ar_ness_problems)
        _not_negative("evaluation", every=self.every, temperature=self.temperature)
        _not_negative("evaluation", greedy_temperature=self.greedy_temperature)
        for index, temperature in enumerate(self.ar_ness_temperatures):
            _not_negative("evaluation", **{f"ar_ness_temperatures[{index}]": temperature})
        _limit("evaluation.limit", self.limit)


@dataclass(frozen=True)
class CheckpointConfig:
    """Checkpoints of the learner, the ledger and the seeds."""

    every: int = 50  # learner steps; 0 = at the end only
    keep: int = 2  # newest checkpoints that are kept

    def __post_init__(self) -> None:
        _not_negative("checkpoint", every=self.every)
        _positive("checkpoint", keep=self.keep)


@dataclass(frozen=True)
class RayConfig:
    """The Ray cluster: an address to attach to, or a local one started for the run."""

    address: str | None = None  # HOST:PORT, auto, or null: RAY_ADDRESS, else a local Ray
    dashboard: bool = True  # of a local Ray
    num_cpus: int | None = None  # CPU slots of a local Ray; null = cores, or more where the run asks for more
    object_store_mb: int = 512  # shared memory of a local Ray
    connect_timeout: float = 30.0  # seconds to join a cluster
    call_timeout: float = 300.0  # of control calls (status, credits, acknowledgements)

    def __post_init__(self) -> None:
        _positive("ray", object_store_mb=self.object_store_mb)
        if self.num_cpus is not None:
            _positive("ray", num_cpus=self.num_cpus)
        _positive("ray", connect_timeout=self.connect_timeout, call_timeout=self.call_timeout)


@dataclass(frozen=True)
class ShapeConfig:
    """The shape of a model built from random weights."""

    hidden: int = 128  # width
    layers: int = 2  # number of layers
    heads: int = 4  # attention heads
    kv_heads: int = 4  # key and value heads
    ffn: int = 320  # width of the feed-forward part
    tie_embeddings: bool = True  # output head = input embeddings
    max_positions: int = 512  # longest sequence
    rope_theta: float = 1e6  # base of the rotary embedding
    embedding_std: float = 0.05  # standard deviation of random embeddings

    def __post_init__(self) -> None:
        _positive(
            "shape", hidden=self.hidden, layers=self.layers, heads=self.heads, kv_heads=self.kv_heads, ffn=self.ffn
        )
        _positive(
            "shape", max_positions=self.max_positions, rope_theta=self.rope_theta, embedding_std=self.embedding_std
        )
        require(self.hidden % self.heads == 0, "shape.heads", self.heads, f"must divide shape.hidden = {self.hidden}")
        require(
            self.heads % self.kv_heads == 0, "shape.kv_heads", self.kv_heads, f"must divide shape.heads = {self.heads}"
        )


@dataclass(frozen=True)
class StageConfig:
    """One supervised stage: autoregressive pre-training, adaptation, mid-training or instruction tuning."""

    name: str = "instruct"  # also of its folder
    # next token; denoise packed text; denoise the answer to a prompt
    objective: Literal["autoregressive", "pretrain", "instruct"] = "instruct"
    corpus: str = "katas:tune"  # katas:SPLIT[-messy], a JSONL/Parquet file, a folder of text, or hub:NAME
    text_column: str = "text"  # pretrain and autoregressive: column of the text
    prompt_column: str = "prompt"  # instruct: column of the question
    answer_column: str = "answer"  # instruct: column of the answer
    system: str | None = None  # instruct: system message of the chat prompts
    steps: int = 1000  # optimiser updates
    batch: int = 32  # sequences per update, over all ranks
    micro_rows: int | None = None  # rows per forward/backward; null = all rows of the rank
    length: int = 64  # tokens of a packed sequence, or of prompt + canvas
    canvas: int = 32  # instruct: tokens of the answer with its filler
    anneal_steps: int = 0  # 0 switches from causal to full attention at once
    t_min: float = 1e-3  # smallest mask rate
    stratified_t: bool = False  # low-discrepancy t across the batch
    validate_every: int = 0  # updates between validations; 0 = none
    validation_examples: int = 64  # held-out examples of a validation
    patience: int = 0  # validations without improvement before the stage stops, with its best policy; 0 = never
    # of this stage: the section optimizer with these changes
    optimizer: OptimizerConfig = field(default_factory=lambda: OptimizerConfig(lr=5e-3, grad_norm=1.0))

    def __post_init__(self) -> None:
        where = f"stages.{self.name}"
        _positive(where, steps=self.steps, batch=self.batch, length=self.length, t_min=self.t_min)
        require(self.t_min < 1, f"{where}.t_min", self.t_min, "must be below 1")
        require(
            self.patience == 0 or self.validate_every > 0,
            f"{where}.patience",
            self.patience,
            "counts validations: set validate_every as well",
        )
        if self.micro_rows is not None:
            _positive(where, micro_rows=self.micro_rows)
        require(
            self.objective != "instruct" or 0 < self.canvas < self.length,
            f"{where}.canvas",
            self.canvas,
            f"must lie in 1..length - 1 = {self.length - 1}, to leave room for a prompt",
        )


@dataclass(frozen=True)
class AdaptConfig:
    """`adapt`: the supervised stages that lead from random or autoregressive weights to a diffusion policy."""

    name: str = "adapt"  # of the run and its folder
    seed: int = 0  # of weights, data order and masks
    runs_dir: str = "runs"  # the run's folder is runs_dir/name
    start: str | None = None  # a Hugging Face folder (Qwen2 or Dream); null builds `shape` with random weights
    shape: ShapeConfig = field(default_factory=ShapeConfig)
    tokenizer: str | None = None  # a folder; null = the start's own, or the tiny one trained on the kata corpus
    stages: tuple[StageConfig, ...] = (StageConfig(),)
    # Of the learner, `adapt` has no use for micro_groups and micro_completions (a stage has micro_rows), nor for threads
    # where it runs in one process (engine: torch, ranks: 1), which takes as many as are fastest.
    learner: LearnerConfig = field(default_factory=LearnerConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    ray: RayConfig = field(default_factory=RayConfig)

    def __post_init__(self) -> None:
        _folder_name(self.name)
        require(len(self.stages) > 0, "stages", self.stages, "needs at least one stage")
        names = [stage.name for stage in self.stages]
        require(len(set(names)) == len(names), "stages", names, "stage names must differ")
        for stage in self.stages:
            require(
                self.start is not None or stage.length <= self.shape.max_positions,
                f"stages.{stage.name}.length",
                stage.length,
                f"must be at most shape.max_positions = {self.shape.max_positions}",
            )


@dataclass(frozen=True)
class RunConfig:
    """`train`: one coupled-GRPO run."""

    name: str = "run"  # of the run and its folder
    seed: int = 0  # of the problems' order, samples and masks
    steps: int = 100  # learner steps
    runs_dir: str = "runs"  # the run's folder is runs_dir/name
    tracker: Literal["none", "wandb", "mlflow"] = "none"  # besides metrics.jsonl and TensorBoard
    model: ModelConfig = field(default_factory=ModelConfig)
    problems: ProblemsConfig = field(default_factory=ProblemsConfig)
    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    estimator: EstimatorConfig = field(default_factory=EstimatorConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    replay: ReplayConfig = field(default_factory=ReplayConfig)
    weights: WeightsConfig = field(default_factory=WeightsConfig)
    learner: LearnerConfig = field(default_factory=LearnerConfig)
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    reward: RewardConfig = field(default_factory=RewardConfig)
    sandbox: SandboxConfig = field(default_factory=SandboxConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    ray: RayConfig = field(default_factory=RayConfig)

    def __post_init__(self) -> None:
        _folder_name(self.name)
        _positive("", steps=self.steps)
        require(
            self.replay.groups_per_step % self.learner.ranks == 0,
            "replay.groups_per_step",
            self.replay.groups_per_step,
            f"must be divisible by learner.ranks = {self.learner.ranks}, so that every rank runs the same forwards",
        )
        require(
            self.replay.max_staleness >= self.weights.broadcast_every - 1,
            "replay.max_staleness",
            self.replay.max_staleness,
            f"must be at least weights.broadcast_every - 1 = {self.weights.broadcast_every - 1}",
        )
        require(
            self.objective.ratio != "current" or self.replay.max_staleness == 0,
            "objective.ratio",
            self.objective.ratio,
            "ignores staleness: use behaviour or proximal, or replay.max_staleness: 0",
        )
        require(
            self.objective.zero_signal == "drop" or not self.replay.refill,
            "replay.refill",
            self.replay.refill,
            "gives the place of a group without signal to another, so objective.zero_signal: keep cannot keep any",
        )
        require(
            self.sampler.temperature > 0 or not self.estimator.match_temperature,
            "estimator.match_temperature",
            self.estimator.match_temperature,
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
