"""One supervised stage on one learner rank: corpus, engine, a few updates at a time. No Ray."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import torch

from couplet.configs.schema import AdaptConfig, ConfigError, StageConfig
from couplet.data.corpora.corpus import InstructBatches, PackedBatches
from couplet.data.corpora.stream import Part, Stream
from couplet.data.seeds import derive_seed
from couplet.data.tokenizer import PAD, Tokenizer, load_tokenizer
from couplet.learner.adapt import Row, SupervisedLearner, fastest_threads, run_rows
from couplet.learner.engine import Setup
from couplet.learner.engines import build_engine
from couplet.model.device import device_for
from couplet.model.policy import DiffusionPolicy
from couplet.model.tokens import TokenIds

Batches = InstructBatches | PackedBatches


class StageRunner:
    """Stage number `index` of `config`, started from the policy in folder `start`.

    Every rank reads the same global batches and trains its rows of them. A runner that is `alone` on its machine uses
    as many threads as are fastest, and measures again when it becomes slow: cores may be shared with other work.
    """

    def __init__(
        self, config: AdaptConfig, index: int, start: str, rank: int = 0, ranks: int = 1, *, alone: bool = False
    ) -> None:
        self.config = config
        self.stage: StageConfig = config.stages[index]
        self.seed = derive_seed(config.seed, "stage", index)
        device = device_for(config.learner.gpus, "learner.gpus")
        self.policy = DiffusionPolicy.from_pretrained(start, device=device, add_tokens=True)
        if config.learner.adapter.rank:
            self.policy.add_adapter(config.learner.adapter, self.seed)
        self.tokenizer = load_tokenizer(start)
        stage = self.stage
        engine = build_engine(Setup(self.policy, stage.optimizer, config.learner, stage.steps, rank, ranks))
        self.learner = SupervisedLearner(engine, self.policy, self.stage, self.seed)
        self.corpus = self._batches()
        validates = self.stage.validate_every > 0
        self.validation = (
            validation_batches(self.stage, self.tokenizer, self.policy.token_ids, self.seed) if validates else []
        )
        self._retune = alone
        self._alone = alone
        self._best_speed = 0.0

    def advance(self, updates: int) -> tuple[list[Row], int, bool]:
        """Up to `updates` more updates: (rows of metrics, updates done, whether the stage has ended)."""
        if self._retune:
            torch.set_num_threads(fastest_threads(self.policy, self.learner, next(iter(self._batches()))))
        target = min(self.learner.updates + updates, self.stage.steps)
        first = self.learner.updates == 0 and self.validation
        baseline = {"validation_loss_start": self.learner.validate(self.validation)} if first else {}
        rows = run_rows(self.learner, self.stage, self.corpus, self.validation, until=target)
        if rows:
            rows[0][1].update(baseline)
        speed = rows[-1][1]["tokens_per_second"] if rows else 0.0
        self._best_speed = max(self._best_speed, speed)
        self._retune = self._alone and speed < self._best_speed / 2
        ended = self.learner.updates >= self.stage.steps or self.learner.early_stop.stopped
        return rows, self.learner.updates, ended

    def save(self, folder: Path) -> None:
        """Write learner and policy. Collective."""
        self.learner.save(folder)

    def position(self) -> dict[str, Any]:
        """The position in the corpus; the same on every rank."""
        return self.corpus.state()

    def restore(self, folder: Path, position: dict[str, Any]) -> None:
        """Load what `save` wrote and advance the corpus to its position. Collective."""
        self.learner.restore(folder)
        self.corpus.restore(position)

    def _batches(self) -> Batches:
        return stage_batches(self.stage, self.tokenizer, self.policy.token_ids, self.seed)


def stage_batches(
    stage: StageConfig, tokenizer: Tokenizer, ids: TokenIds, seed: int, part: Part = "train", epochs: int | None = None
) -> Batches:
    """The corpus of a stage; all of it is trained on if nothing is validated."""
    instruct, share = stage.objective == "instruct", stage.validation_share
    columns = (stage.prompt_column, stage.answer_column) if instruct else (stage.text_column,)
    part = part if stage.validate_every else "all"
    stream = Stream(stage.corpus, columns, seed, epochs=epochs, part=part, validation_share=share)
    if instruct:
        return InstructBatches(
            stream,
            tokenizer,
            length=stage.length,
            batch=stage.batch,
            canvas=stage.canvas,
            infill=stage.infill,
            system=stage.system,
            end_token=stage.end_token or ids.end[0],
            pad_token=stage.pad_token or ids.pad,
            filler_token=stage.filler_token or ids.filler,
        )
    end = stage.end_token or (PAD if PAD in tokenizer.special else ids.eos)
    return PackedBatches(stream, tokenizer, length=stage.length, batch=stage.batch, end_token=end)


def validation_batches(stage: StageConfig, tokenizer: Tokenizer, ids: TokenIds, seed: int) -> list[Any]:
    """The fixed batches of a stage's validations.

    Raises:
        ConfigError: what is held out does not fill one.
    """
    wanted = max(1, stage.validation_examples // stage.batch)
    batches = list(itertools.islice(stage_batches(stage, tokenizer, ids, seed, "validation", epochs=1), wanted))
    if not batches:
        raise ConfigError(
            f"stages.{stage.name}.validate_every = {stage.validate_every}: the held-out part of {stage.corpus} does not "
            f"fill one batch of {stage.batch}; lower batch, raise validation_share, or set it to 0"
        )
    return batches


def check_batches(stage: StageConfig, tokenizer: Tokenizer) -> None:
    """Raise what the first training batch and the validation set would raise; no weights are needed."""
    any_ids = TokenIds(0, 0, 0, 0, 0, end=(0,))
    next(stage_batches(stage, tokenizer, any_ids, 0))
    if stage.validate_every:
        validation_batches(stage, tokenizer, any_ids, 0)
