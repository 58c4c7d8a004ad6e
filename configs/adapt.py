"""`AdaptConfig`: the configuration of `adapt`, the supervised stages before reinforcement learning."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, Strict, field_validator

from couplet.configs.learning import LearnerConfig, OptimizerConfig
from couplet.configs.section import Rule, Section, Switch, Tree
from couplet.configs.system import CheckpointConfig, FolderName, RayConfig


class ShapeConfig(Section):
    """The shape of a model built from random weights."""

    hidden: int = Field(128, gt=0, description="width")
    layers: int = Field(2, gt=0, description="number of layers")
    heads: int = Field(4, gt=0, description="attention heads")
    kv_heads: int = Field(4, gt=0, description="key and value heads")
    ffn: int = Field(320, gt=0, description="width of the feed-forward part")
    tie_embeddings: Switch = Field(True, description="output head = input embeddings")
    max_positions: int = Field(512, gt=0, description="longest sequence")
    rope_theta: float = Field(1e6, gt=0, description="base of the rotary embedding")
    embedding_std: float = Field(0.05, gt=0, description="standard deviation of random embeddings")

    def rules(self) -> Iterator[Rule]:
        yield Rule(self.hidden % self.heads == 0, "heads hidden", f"must divide shape.hidden = {self.hidden}")
        yield Rule(self.heads % self.kv_heads == 0, "kv_heads heads", f"must divide shape.heads = {self.heads}")


STAGE_OPTIMIZER = OptimizerConfig(lr=5e-3, grad_norm=1.0)


class StageConfig(Section):
    """One supervised stage: autoregressive pre-training, adaptation, mid-training or instruction tuning."""

    name: FolderName = Field("instruct", description="also of its folder")
    objective: Literal["autoregressive", "pretrain", "instruct"] = Field(
        "instruct", description="next token; denoise packed text; denoise the answer to a prompt"
    )
    corpus: str = Field(
        "katas:tune",
        description="katas:SPLIT[-messy], JSONL/Parquet file, folder of text, hub:NAME, problems:SET (a set's own solutions), "
        "or stdlib:text and stdlib:pairs (Python's standard library); several joined by +",
    )
    text_column: str = Field("text", description="pretrain and autoregressive: column of the text")
    prompt_column: str = Field("prompt", description="instruct: column of the question")
    answer_column: str = Field("answer", description="instruct: column of the answer")
    infill: float = Field(
        0.0, ge=0, le=1, description="instruct: share of the answers of which the model fills a random gap in the code"
    )
    system: str | None = Field(None, description="instruct: system message of the chat prompts")
    end_token: str | None = Field(
        None, description="token after a document or an answer; null = <|endoftext|> or eos, and the policy's end token"
    )
    pad_token: str | None = Field(None, description="instruct: token left of short prompts; null = the policy's pad")
    filler_token: str | None = Field(None, description="instruct: token after the end; null = the policy's filler")
    steps: int = Field(1000, gt=0, description="optimiser updates")
    batch: int = Field(32, gt=0, description="sequences per update, over all ranks")
    micro_rows: int | None = Field(None, gt=0, description="rows per forward/backward; null = all rows of the rank")
    length: int = Field(64, gt=0, description="tokens of a packed sequence, or of prompt + canvas")
    canvas: int = Field(32, description="instruct: tokens of the answer with its filler")
    anneal_steps: int = Field(0, ge=0, description="updates from causal to full attention; 0 = full at once")
    t_min: float = Field(1e-3, gt=0, lt=1, description="lowest mask rate")
    stratified_t: Switch = Field(False, description="low-discrepancy t across the batch")
    validate_every: int = Field(0, ge=0, description="updates between validations; 0 = none")
    validation_examples: int = Field(64, gt=0, description="held-out examples of a validation")
    validation_share: float = Field(0.02, gt=0, lt=1, description="share of the corpus held out for validation")
    patience: int = Field(
        0, ge=0, description="validations without improvement before the stage stops, with its best policy; 0 = never"
    )
    optimizer: OptimizerConfig = Field(STAGE_OPTIMIZER, description="the section optimizer with these changes")

    @field_validator("optimizer", mode="before")
    @classmethod
    def _keep_the_rest_of_the_optimizer(cls, value: Any) -> Any:
        """A section given in part keeps the rest of a stage's optimizer, not that of a run's."""
        return {**dict(STAGE_OPTIMIZER), **value} if isinstance(value, Mapping) else value

    def rules(self) -> Iterator[Rule]:
        yield Rule(
            self.patience == 0 or self.validate_every > 0,
            "patience validate_every",
            "counts validations: set validate_every as well",
        )
        yield Rule(
            self.objective != "instruct" or 0 < self.canvas < self.length,
            "canvas length objective",
            f"must lie in 1..length - 1 = {self.length - 1}, to leave room for a prompt",
        )


class AdaptConfig(Tree):
    """`adapt`: the supervised stages that lead from random or autoregressive weights to a diffusion policy."""

    name: FolderName = Field("adapt", description="of the run and its folder")
    seed: int = Field(0, description="of weights, data order and masks")
    runs_dir: str = Field("runs", description="the run's folder is runs_dir/name")
    start: str | None = Field(
        None, description="a Hugging Face folder (see docs/models.md); null builds `shape` with random weights"
    )
    shape: ShapeConfig = ShapeConfig()
    tokenizer: str | None = Field(
        None, description="a folder; null = the start's own, or the tiny one trained on the kata corpus"
    )
    vocabulary_multiple: int = Field(
        1,
        gt=0,
        description="the vocabulary is padded to a multiple of this; 64 gives matrices that a GPU multiplies faster",
    )
    stages: Annotated[tuple[StageConfig, ...], Strict(False)] = Field((StageConfig(),), min_length=1)
    # Of the learner, `adapt` has no use for micro_groups and micro_completions (a stage has micro_rows), nor for threads
    # if it runs in one process (engine: torch, ranks: 1), which takes as many as are fastest.
    learner: LearnerConfig = LearnerConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    ray: RayConfig = RayConfig()

    def rules(self) -> Iterator[Rule]:
        names = [stage.name for stage in self.stages]
        for index, name in enumerate(names):
            yield Rule(name not in names[:index], f"stages.{index}.name stages", "stage names must differ")
        for index, stage in enumerate(self.stages):
            yield Rule(
                self.start is not None or stage.length <= self.shape.max_positions,
                f"stages.{index}.length start shape.max_positions",
                f"must be at most shape.max_positions = {self.shape.max_positions}",
            )
