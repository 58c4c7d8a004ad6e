"""`adapt`: the supervised stages in sequence, in one process or on learner ranks that are Ray actors."""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from couplet.commands import cli
from couplet.commands.display import Display
from couplet.commands.unfinished import leaving_no_empty_folder
from couplet.configs.load import load
from couplet.configs.schema import AdaptConfig, SamplerConfig, StageConfig
from couplet.data.files import writing
from couplet.learner.checkpoint import latest_checkpoint, save_checkpoint
from couplet.model.hub import find_policy
from couplet.training.interruption import Interrupted, Interruption
from couplet.training.run_folder import ADVICE, RunFolder, keep_policy

if TYPE_CHECKING:
    from couplet.commands.display import Bar
    from couplet.learner.adapt import Row

UPDATES_PER_CALL = 20  # updates between two progress reports


def options(parser: argparse.ArgumentParser) -> None:
    """Options of `adapt`."""
    parser.epilog = "Every key, with type and default: docs/configuration.md."
    parser.add_argument("config", help="recipe of the stages, e.g. configs/tiny_adapt.yaml")
    cli.add_overrides(parser, "e.g. stages.0.steps=100")
    parser.add_argument("--resume", action="store_true", help="continue from the newest checkpoint of this run")
    parser.add_argument("--dry-run", action="store_true", help="check, estimate memory and time, start nothing")
    cli.add_tflops(parser)


def run(args: argparse.Namespace) -> None:
    """Run every stage of the recipe, or estimate what that would cost."""
    config = load(AdaptConfig, args.config, args.overrides)
    if args.dry_run:
        from couplet.commands.dry_run import describe_adaptation

        check_inputs(config)
        print(describe_adaptation(config, args.tflops))
        return
    display = Display()
    with Interruption() as interruption:
        policy = run_adaptation(config, display, resume=args.resume, interruption=interruption)
    display.say(f"policy in {policy}")


class Stage(Protocol):
    """A running stage, in this process or on several ranks."""

    def advance(self, updates: int) -> tuple[list[Row], int, bool]: ...
    def save(self, folder: Path) -> None: ...
    def position(self) -> dict[str, Any]: ...
    def restore(self, folder: Path, position: dict[str, Any]) -> None: ...


def run_adaptation(
    config: AdaptConfig, display: Display, *, resume: bool = False, interruption: Interruption | None = None
) -> Path:
    """Run every stage of `config`. Returns the folder of the last stage's policy, `runs_dir/name/policy`.

    Each stage's policy is kept in `stages/NUMBER-NAME`, a finished stage is not repeated on `resume`, and an unfinished
    one resumes from its newest checkpoint. A signal of `interruption` finishes the current updates and saves them.
    """
    config = config.replace(stages=tuple(stage.replace(corpus=_absolute(stage.corpus)) for stage in config.stages))
    if not resume:
        check_inputs(config)
    with (
        closing(RunFolder.reopen(config) if resume else RunFolder.create(config)) as folder,
        leaving_no_empty_folder(folder),
    ):
        start = folder.root / "start"
        if not start.exists():
            _prepare_start(config, start)
        done_before = 0
        for index, stage in enumerate(config.stages):
            target = folder.root / "stages" / f"{index}-{stage.name}"
            if not target.exists():
                _run_stage(config, index, start, folder, done_before, display, interruption)
                found = latest_checkpoint(folder.checkpoints)
                assert found is not None, "a stage ends with a checkpoint"
                keep_policy(found[0] / "policy", target, _decoding(config.stages[: index + 1]))
            folder.point_latest()
            start, done_before = target, done_before + stage.steps
        keep_policy(start, folder.root / "policy", _decoding(config.stages))
    return folder.root / "policy"


def check_inputs(config: AdaptConfig) -> None:
    """Check the inputs before weights are read: start, tokenizer, device, the first batches of each corpus.

    Raises:
        ConfigError, ValueError: the first that cannot work.
    """
    from couplet.data.corpora.stream import Stream
    from couplet.data.tokenizer import add_diffusion_tokens, load_tokenizer, tiny_tokenizer
    from couplet.model.device import device_for
    from couplet.training.supervised_stage import check_batches

    start = None if config.start is None else find_policy(config.start, "start")
    words = config.tokenizer or start
    tokenizer = tiny_tokenizer() if words is None else load_tokenizer(words)
    if start is not None:
        add_diffusion_tokens(tokenizer)
    for stage in config.stages:
        instruct = stage.objective == "instruct"
        columns = (stage.prompt_column, stage.answer_column) if instruct else (stage.text_column,)
        for part in _parts(stage.corpus):
            next(Stream(part, columns, buffer=1))
        check_batches(stage, tokenizer)
    if _is_one_process(config):
        device_for(config.learner.gpus, "learner.gpus")


def _absolute(corpus: str) -> str:
    """The corpus by a name that is valid in any working directory, such as that of a learner rank."""

    def absolute(part: str) -> str:
        scheme, colon, rest = part.rpartition("problems:")
        path, at, split = (rest, "", "") if Path(rest).exists() else rest.partition("@")
        return f"{scheme}{colon}{Path(path).absolute()}{at}{split}" if Path(path).exists() else part

    return "+".join(map(absolute, _parts(corpus)))


def _parts(corpus: str) -> list[str]:
    return [corpus] if Path(corpus).exists() else corpus.split("+")


def _is_one_process(config: AdaptConfig) -> bool:
    return config.learner.engine == "torch" and config.learner.ranks == 1


def _run_stage(
    config: AdaptConfig,
    index: int,
    start: Path,
    folder: RunFolder,
    done_before: int,
    display: Display,
    interruption: Interruption | None,
) -> None:
    stage = config.stages[index]
    with _running(config, index, start, folder) as runner, display.bar(f"stage {stage.name}", stage.steps) as bar:
        if interruption is not None:
            interruption.install()  # Ray has set its own handlers
        updates, ended = _resume(runner, index, folder)
        folder.rewind(done_before + updates)
        saved = updates

        def save() -> None:
            state = {"stage": index, "updates": updates, "ended": ended, "corpus": runner.position()}
            save_checkpoint(folder.checkpoints, done_before + updates, runner.save, state, config.checkpoint.keep)

        try:
            while not ended:
                with interruption.deferred() if interruption is not None else nullcontext():
                    rows, updates, ended = runner.advance(_until_checkpoint(config, updates))
                    for done, metrics in rows:
                        folder.log_metrics(done_before + done, {"stage": float(index), **metrics})
                        _show(bar, done, metrics)
                    if ended or (config.checkpoint.every and updates % config.checkpoint.every == 0):
                        save()
                        saved = updates
        except Interrupted as interrupt:
            if updates > saved and not interrupt.abandoned:
                save()
            raise


def _until_checkpoint(config: AdaptConfig, updates: int) -> int:
    """Updates until the next report: after the first of a stage, then every `UPDATES_PER_CALL`; or the checkpoint."""
    every = config.checkpoint.every
    report = UPDATES_PER_CALL - updates % UPDATES_PER_CALL if updates else 1
    return min(report, every - updates % every) if every else report


def _resume(runner: Stage, index: int, folder: RunFolder) -> tuple[int, bool]:
    """(updates done, whether the stage had ended) of the newest checkpoint, which is loaded; (0, False) without one."""
    found = latest_checkpoint(folder.checkpoints)
    if found is None or found[1]["stage"] != index:
        return 0, False
    path, state = found
    runner.restore(path, state["corpus"])
    return int(state["updates"]), bool(state["ended"])


@contextmanager
def _running(config: AdaptConfig, index: int, start: Path, folder: RunFolder) -> Iterator[Stage]:
    if _is_one_process(config):
        from couplet.learner.adapt import threads
        from couplet.training.supervised_stage import StageRunner

        runner = StageRunner(config, index, str(start), alone=True)
        with threads(1):
            yield runner
        return
    from couplet.actors.stage_group import StageGroup

    group = StageGroup(config, index, str(start), folder.checkpoints)
    try:
        yield group
    finally:
        group.close()


def _prepare_start(config: AdaptConfig, target: Path) -> None:
    """The initial policy with the tokens that diffusion needs, or one with random weights; and its tokenizer."""
    from couplet.data.tokenizer import PAD, add_diffusion_tokens, load_tokenizer, tiny_tokenizer
    from couplet.model.policy import DiffusionPolicy
    from couplet.model.tokens import DEFAULT_END_TOKENS, resolve_token_ids

    part = target.with_name("start.part")
    words = target.with_name("tokenizer")
    shutil.rmtree(part, ignore_errors=True)
    words.mkdir(exist_ok=True)
    if config.start is not None:
        start = find_policy(config.start, "start")
        tokenizer = load_tokenizer(config.tokenizer or start)
        add_diffusion_tokens(tokenizer)
        tokenizer.save(words)
        policy = DiffusionPolicy.from_pretrained(start, add_tokens=True, tokenizer_folder=words)
        policy.pad_vocabulary(config.vocabulary_multiple)
    else:
        tokenizer = load_tokenizer(config.tokenizer) if config.tokenizer else tiny_tokenizer()
        tokenizer.save(words)
        fields = {"vocab_size": len(tokenizer), "eos_token_id": tokenizer.id(PAD)}
        ids = resolve_token_ids(fields, tokenizer.special, DEFAULT_END_TOKENS, str(words))
        vocabulary = -(-len(tokenizer) // config.vocabulary_multiple) * config.vocabulary_multiple
        policy = DiffusionPolicy.from_shape(config.shape, vocabulary, ids, config.seed, tokenizer_folder=words)
    with writing(target, **ADVICE):
        policy.save_pretrained(part)
        part.replace(target)


def _decoding(stages: Sequence[StageConfig]) -> SamplerConfig | None:
    """Decoding defaults of a policy of these stages: the canvas of the last instruction stage, a token per step."""
    canvases = [stage.canvas for stage in stages if stage.objective == "instruct"]
    return SamplerConfig(completion_length=canvases[-1], steps=canvases[-1]) if canvases else None


def _show(bar: Bar, updates: int, metrics: dict[str, float]) -> None:
    note = f"loss {metrics['loss']:.3f}  {metrics['tokens_per_second']:,.0f} tokens/s"
    if "validation_loss" in metrics:
        note += f"  validation {metrics['validation_loss']:.3f}"
    if "validation_loss_start" in metrics:
        note += f"  validation at the start {metrics['validation_loss_start']:.3f}"
    bar.update(updates, note)
