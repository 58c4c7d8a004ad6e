"""How the policy learns: likelihood estimator, objective, optimiser and the learner's processes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field, Strict

from couplet.configs.section import Rule, Section, Switch, Texts
from couplet.configs.system import NodeLabels

Beta = Annotated[float, Field(ge=0, lt=1)]


class EstimatorConfig(Section):
    """How log-probabilities of a completion are estimated (docs/algorithm.md, section on estimators)."""

    name: Literal["coupled", "full_mask", "decoupled", "trace", "elbo", "spg", "left_to_right"] = Field(
        "coupled", description="which masks a completion is scored under"
    )
    pairs: int = Field(1, ge=1, description="lambda: mask pairs per completion of coupled, decoupled, elbo and spg")
    slices: int = Field(
        3, ge=1, description="K of name: trace: slices of the sampled schedule; from sampler.steps up it is exact"
    )
    tokens: Literal["answer", "canvas"] = Field(
        "answer", description="what is learned: the answer with its end, or all draws, those of the filler too"
    )
    times: Literal["uniform", "stratified"] = Field(
        "uniform", description="shares of masked tokens of elbo and spg: independent, or spread over the pairs"
    )
    upper_beta: float = Field(1.5, ge=1, description="beta of the upper bound of name: spg")
    upper_mix: float = Field(0.5, ge=0, le=1, description="its share where spg uses it; the rest is the lower bound")
    t_min: float = Field(0.2, gt=0, lt=1, description="mask rates are drawn from [t_min, t_max]")
    t_max: float = Field(0.8, gt=0, lt=1, description="highest mask rate; the partner mask has 1 - t")
    weighting: Literal["inverse_t", "half_inverse_t", "none"] = Field(
        "inverse_t", description="weight of a masked token's log-probability"
    )
    t_scope: Literal["sequence", "group"] = Field("sequence", description="one t per completion, or per prompt group")
    match_temperature: Switch = Field(False, description="divide the logits by the sampling temperature")
    chunk_rows: int | None = Field(
        None, gt=0, description="rows of logits held at a time; null = 128 MiB of them on a CPU, 1 GiB on a GPU"
    )

    def rules(self) -> Iterator[Rule]:
        yield Rule(self.t_min < self.t_max, "t_min t_max", f"must be below estimator.t_max = {self.t_max}")

    @property
    def shares_view(self) -> bool:
        """Whether the fully masked view, which serves a whole prompt group, is used."""
        return self.name not in ("elbo", "spg")

    @property
    def bounds(self) -> int:
        """Estimates per token: 2 if it depends on the sign of the advantage which one is used."""
        return 2 if self.name == "spg" else 1

    def views(self, canvas: int) -> int:
        """Views of a completion of `canvas` tokens besides the shared one, each a forward pass."""
        own = {"full_mask": 0, "trace": self.slices - 1, "left_to_right": canvas - 1}
        return own.get(self.name, 2 * self.pairs)

    def scores(self, canvas: int) -> float:
        """How often a token is scored in these views, in expectation."""
        slices = {"trace": self.slices, "left_to_right": canvas}.get(self.name)
        return (slices - 1) / slices if slices else self.views(canvas) / 2


class ObjectiveConfig(Section):
    """Coupled-GRPO's clipped objective with a KL penalty to a slowly following reference."""

    inner_updates: int = Field(2, gt=0, description="mu: optimiser updates per learner step, each over the whole batch")
    fresh_masks: Switch = Field(
        True,
        description="new masks at each inner update; false: one draw per learner step, whose old, reference and "
        "behaviour estimates all its updates share (fewer forward passes, correlated updates)",
    )
    clip: Literal["conditional", "unconditional", "cispo"] = Field(
        "conditional", description="PPO; on either side whatever the advantage; or only the weight of the gradient"
    )
    clip_low: float = Field(0.5, gt=0, le=1, description="ratios are clipped at 1 - clip_low")
    clip_high: float = Field(0.5, gt=0, allow_inf_nan=True, description="and at 1 + clip_high; .inf = no upper clip")
    ratio_level: Literal["token", "sequence"] = Field(
        "token", description="one ratio per token, or one per completion: of its mean log-probabilities"
    )
    self_normalise: Switch = Field(
        False, description="divide a group's update by its mean clipped ratio (StableDRL, with clip: unconditional)"
    )
    kl_weight: float = Field(0.01, ge=0, description="beta; 0 keeps no reference model")
    kl_clamp: float | None = Field(5.0, gt=0, description="bound of the log-ratio in the KL; null = none")
    kl_estimate: Literal["k3", "k2"] = Field("k3", description="exp(d) - d - 1, or d^2/2, of the log-ratio d")
    advantage: Literal["group_mean", "leave_one_out"] = Field(
        "leave_one_out", description="baseline of a completion: the mean of its group, or of the others in it"
    )
    best_of: int = Field(
        1,
        ge=1,
        description="k: a completion's reward becomes the mean best of it and k - 1 others of its group (pass@k)",
    )
    per_reward: dict[str, float] = Field(
        {}, description="weights of the reward functions, each normalised within the group first; {} = their plain sum"
    )
    scale_by_std: Switch = Field(False, description="divide advantages by the group's standard deviation")
    zero_signal: Literal["drop", "keep"] = Field(
        "drop", description="groups whose rewards do not differ: leave them out of the loss, or keep them"
    )
    normalise: Literal["tokens", "per_sequence"] = Field(
        "tokens", description="every token has the same weight, or every completion"
    )
    ratio: Literal["current", "behaviour", "proximal"] = Field(
        "behaviour",
        description="policy ratio to the learner's own old values, to the sampler's, or to both (docs/algorithm.md)",
    )
    proximal_cap: float = Field(2.0, gt=0, description="bound of the weight that ratio: proximal adds")
    proximal_outside: Literal["truncate", "mask"] = Field(
        "truncate",
        description="weights above the bound become it (TIS), or those outside floor and cap become 0 (IcePop)",
    )
    proximal_floor: float = Field(0.5, ge=0, description="lower bound of proximal_outside: mask")
    reference_every: int = Field(64, gt=0, description="optimiser updates between moves of the reference")
    reference_alpha: float = Field(0.6, ge=0, le=1, description="ref <- (1 - alpha) ref + alpha policy; 1.0 copies")

    @property
    def mask_draws(self) -> int:
        """Draws of masks per learner step: one per inner update, or one for all."""
        return self.inner_updates if self.fresh_masks else 1


class OptimizerConfig(Section):
    """AdamW with warm-up and a decay to a floor."""

    lr: float = Field(1e-6, gt=0, description="peak learning rate")
    betas: Annotated[tuple[Beta, Beta], Strict(False)] = Field((0.9, 0.99), description="of AdamW")
    eps: float = Field(1e-8, gt=0, description="of AdamW")
    weight_decay: float = Field(0.1, ge=0, description="of matrices only")
    grad_norm: float = Field(0.2, gt=0, description="gradients are clipped to this norm")
    warmup_ratio: float = Field(1e-4, ge=0, le=1, description="share of the updates that warm up")
    schedule: Literal["cosine", "linear", "constant"] = Field("cosine", description="form of the decay")
    decay_start: float = Field(0.0, ge=0, le=1, description="share of the updates before the decay begins")
    min_lr_ratio: float = Field(0.1, ge=0, le=1, description="floor of the decay, as a share of lr")


class AdapterConfig(Section):
    """A LoRA adapter, through peft: the policy's weights are frozen and only the adapter is trained and published."""

    rank: int = Field(0, ge=0, description="of the adapter's factors; 0 = none, all weights are trained")
    alpha: float = Field(32.0, gt=0, description="the adapter's change is scaled by alpha / rank")
    targets: Texts = Field(
        ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
        min_length=1,
        description="layers that get one, by the last part of their name",
    )
    dropout: float = Field(
        0.0, ge=0, lt=1, description="of the adapter's input; above 0 a run cannot be repeated exactly"
    )

    @classmethod
    def place(cls) -> str:
        return "learner.adapter"


class LearnerConfig(Section):
    """Learner ranks and their engine."""

    engine: Literal["deepspeed", "torch"] = Field("deepspeed", description="torch keeps everything on every rank")
    ranks: int = Field(1, gt=0, description="processes that learn together")
    cpus: float = Field(1.0, ge=0, description="CPUs Ray reserves per rank")
    gpus: float = Field(0.0, ge=0, description="GPUs per rank; 0 = on the CPU")
    labels: NodeLabels = Field({}, description="labels that a Ray node must have to run them")
    threads: int = Field(1, gt=0, description="of torch, on the CPU")
    zero_stage: Literal[0, 1, 2, 3] = Field(
        0, description="what is sharded over ranks: 1 optimiser, 2 also gradients, 3 also weights"
    )
    offload: Literal["none", "optimizer", "all"] = Field("none", description="what is kept in host memory")
    dtype: Literal["float32", "bfloat16"] = Field(
        "float32", description="of weights and activations, also those of the rollout actors"
    )
    micro_groups: int = Field(1, gt=0, description="prompt groups per forward/backward")
    micro_completions: int | None = Field(
        None, gt=0, description="completions of a group per forward/backward; null = all of them"
    )
    gradient_checkpointing: Switch = Field(False, description="recompute activations to save memory")
    adapter: AdapterConfig = AdapterConfig()
    timeout: float = Field(1800.0, gt=0, description="seconds of one collective and of one learner step")

    def rules(self) -> Iterator[Rule]:
        yield Rule(
            self.zero_stage == 0 or self.engine == "deepspeed",
            "zero_stage engine",
            "needs engine: deepspeed; the torch engine keeps everything on every rank",
        )
        yield Rule(
            self.offload == "none" or (self.engine == "deepspeed" and self.zero_stage >= 1),
            "offload engine zero_stage",
            "needs engine: deepspeed and zero_stage 1 or above",
        )
        yield Rule(self.offload != "all" or self.zero_stage == 3, "offload zero_stage", "'all' needs zero_stage: 3")
