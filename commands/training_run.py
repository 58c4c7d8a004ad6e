"""A training run: the initial policy, the cluster, evaluation before and after, the loop, and the results."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from couplet.commands import cli
from couplet.commands.backends import open_cluster
from couplet.commands.checks import check_settings
from couplet.commands.display import Display, Pace, identity, interval, percent
from couplet.commands.initial_policy import resolve_start
from couplet.commands.soundness import without_unsound
from couplet.commands.unfinished import leaving_no_empty_folder
from couplet.configs.load import to_dict
from couplet.configs.schema import RunConfig, require
from couplet.data.problem_sets import load_problems
from couplet.data.prompts import PromptSet
from couplet.evaluation.suite import run_suite, suite_metrics
from couplet.learner.checkpoint import latest_checkpoint
from couplet.training.cluster import Batch, Cluster
from couplet.training.evaluation_log import EvaluationLog
from couplet.training.factory import load_prompts
from couplet.training.interruption import Deferred, Interrupted, Interruption
from couplet.training.loop import train
from couplet.training.run_folder import RunFolder
from couplet.training.step_metrics import PHASES, overlap
from couplet.training.trackers import open_tracker


def run_training(config: RunConfig, *, resume: bool = False, local: bool = False) -> dict[str, Any]:
    """Train `config` from its start to its last step; returns what `summary.json` holds.

    Raises:
        ConfigError, ValueError: a mistake of the user, by name.
    """
    display = Display()
    config.warn()
    check_inputs(config, local=local)
    with ExitStack() as ends:
        folder = RunFolder.reopen(config) if resume else RunFolder.create(config)
        ends.callback(folder.close)
        if resume and (ended := _ended(folder, config)):
            display.say(
                f"the run in {cli.relative(folder.root)} has done all of its {config.steps} steps: nothing to do"
            )
            return ended
        ends.enter_context(leaving_no_empty_folder(folder))
        interruption = ends.enter_context(Interruption())
        display.say(f"run folder {folder.root}")
        start = str(Path(resolve_start(config, display)).absolute())
        longest = config.evaluation.max_prompt_tokens or config.problems.max_prompt_tokens
        held_out = load_prompts(
            start,
            config.problems.evaluate,
            config.problems.replace(max_prompt_tokens=longest),
            config.model,
            config.evaluation.limit,
            answer_prefix=config.evaluation.answer_prefix,
        )
        config = without_unsound(config, folder, display)
        display.headline(_starting(config, local=local))
        cluster = open_cluster(config, start, folder.checkpoints, local=local, ended=partial(_ray_ended, folder))
        ends.callback(cluster.close)
        folder.note_cluster(config.name, cluster.address)
        interruption.install()
        folder.tracker = open_tracker(config.tracker, folder.root, to_dict(config))
        display.say(f"  {cluster.describe()}")
        prompts = {"train": cluster.schedule.prompts, "held_out": held_out}
        if any(some.dropped or some.truncated for some in prompts.values()):
            display.say(f"  too long (problems.max_prompt_tokens, evaluation.max_prompt_tokens): {_shortened(prompts)}")
        if resume:
            step = cluster.restore()
            require(config.steps >= step, "steps", config.steps, f"the run is at learner step {step} already")
            folder.rewind(step)
            display.say(f"resumed at learner step {cluster.step}")
        cluster.publish()
        run = _Run(config, cluster, folder, display, held_out)
        ends.enter_context(run.saving_if_interrupted())
        before = run.evaluate(0, "before")
        folder.point_latest()
        run.train(interruption.deferred)
        after = run.evaluate(config.steps, "after")
        folder.keep_policy(config.sampler)
        summary = _summary(config, cluster, folder, before, after, prompts)
    _report(display, folder, config, summary, (before, after))
    return summary


def _ended(folder: RunFolder, config: RunConfig) -> dict[str, Any]:
    """The summary of a run that has done all that `config` asks for; else empty."""
    summary: dict[str, Any] = folder.read_json("summary.json") if (folder.root / "summary.json").is_file() else {}
    return summary if summary.get("steps") == config.steps else {}


def _ray_ended(folder: RunFolder, what: str) -> NoReturn:
    """End this process, whose calls to Ray may never return; what a run has written is whole at any moment."""
    if (folder.root / "summary.json").is_file():
        cli.leave(f"{what}; the run had ended before", 0)
    found = latest_checkpoint(folder.checkpoints) is not None
    cli.leave(f"error: {what}; {cli.continuation(found)}", cli.RAY_ENDED)


def _starting(config: RunConfig, *, local: bool) -> str:
    address = config.ray.address or os.environ.get("RAY_ADDRESS")
    if local:
        return "Starting in one process"
    return f"Joining the Ray cluster at {address}" if address else "Starting Ray on this machine"


def check_inputs(config: RunConfig, *, local: bool) -> None:
    """Check the inputs before any time is spent: model, problem sets, Ray's address.

    Raises:
        ConfigError, ValueError: the first that cannot work.
    """
    check_settings(config)
    for source in (config.problems.train, config.problems.evaluate):
        load_problems(source, seed=config.problems.seed)
    if not local:
        from couplet.actors.ray_init import require_listener

        require_listener(config.ray)


class _Run:
    """The loop's surroundings: progress, evaluations, files."""

    def __init__(
        self, config: RunConfig, cluster: Cluster, folder: RunFolder, display: Display, held_out: PromptSet
    ) -> None:
        self.config, self.cluster, self.folder, self.display, self.held_out = config, cluster, folder, display, held_out
        self.log = EvaluationLog(folder, config.checkpoint.best_metric)

    def evaluate(self, step: int, name: str) -> dict[str, Any]:
        """Run the evaluation suite, or read its result if an interrupted run has it already."""
        if (found := self.log.find(name, step)) is not None:
            self._link_best(step)  # the interruption may have come before it
            self.cluster.show(suite_metrics(found))
            return found
        when = f"{name} training" if name in ("before", "after") else f"at step {step}"
        self.display.headline(f"Evaluating {when} on {len(self.held_out)} held-out problems")
        with self.display.bar("evaluate", len(self.held_out)) as bar:
            result = run_suite(
                self.config.evaluation,
                self.config.sampler,
                self.held_out,
                self.cluster.evaluate,
                lambda what, done, total: bar.update(done, what, total),
            )
        self.log.add(name, step, result)
        self.cluster.show(suite_metrics(result))
        self._link_best(step)
        samples = self.config.evaluation.samples
        self.display.say(
            f"  pass@1 {percent(result['pass_at_1'])} at T = {self.config.evaluation.greedy_temperature:g}, "
            f"{percent(result['pass_at_1_t1'])} at T = {self.config.evaluation.temperature:g}"
            + (f", pass@{samples} {percent(result[f'pass_at_{samples}'])}" if samples > 1 else "")
        )
        return result

    def _link_best(self, step: int) -> None:
        if self.log.is_best(step):
            self.folder.link_best(self._checkpoint(step))

    def _checkpoint(self, step: int) -> Path:
        """The checkpoint of the step that has just been done, written if there is none."""
        found = latest_checkpoint(self.folder.checkpoints)
        return found[0] if found is not None and found[1]["step"] == step else self.cluster.save()

    @contextmanager
    def saving_if_interrupted(self) -> Iterator[None]:
        """Write a checkpoint of the steps done so far if a signal ends the run.

        If it ended inside a step, the learner may have done this step or a part of it: the last checkpoint stays.
        """
        try:
            yield
        except Interrupted as interrupt:
            if self.cluster.step > 0 and not interrupt.abandoned:
                self.display.say(f"saving the checkpoint of step {self.cluster.step}")
                self._checkpoint(self.cluster.step)
            raise

    def train(self, deferred: Deferred) -> None:
        """All remaining learner steps."""
        self.display.headline(
            f"Coupled-GRPO: {self.config.steps} steps of {self.config.replay.groups_per_step} prompts "
            f"x {self.config.replay.completions} completions"
        )
        with self.display.bar("train", self.config.steps) as bar:
            pace = Pace()

            def observe(step: int, batch: Batch, metrics: dict[str, float]) -> None:
                bar.update(step, pace.note(metrics))
                lost = {name: int(value) for name, value in metrics.items() if name.endswith("_restarts")}
                self.folder.note_process({name.removesuffix("_restarts"): count for name, count in lost.items()})

            train(self.config, self.cluster, self.folder, observe, self._midway, deferred)

    def _midway(self, step: int) -> None:
        self.evaluate(step, f"step-{step:06d}")


def _summary(
    config: RunConfig,
    cluster: Cluster,
    folder: RunFolder,
    before: dict[str, Any],
    after: dict[str, Any],
    prompts: Mapping[str, PromptSet],
) -> dict[str, Any]:
    samples = config.evaluation.samples
    summary: dict[str, Any] = {}
    for name in ("pass_at_1", "pass_at_1_t1", f"pass_at_{samples}", "format_rate_t1"):
        if name in before and name in after:  # a resumed run may have other evaluation settings than before
            summary[f"{name}_before"] = before[name]
            summary[f"{name}_after"] = after[name]
    summary |= {
        "steps": cluster.step,
        "seed": config.seed,
        "problems": {
            name: {"kept": len(some), "dropped": some.dropped, "truncated": some.truncated}
            for name, some in prompts.items()
        },
        "levels": {"before": before.get("levels", {}), "after": after.get("levels", {})},
        "ar_ness": {"before": before["ar_ness"], "after": after["ar_ness"]},
        "ledger": cluster.totals(),
        **folder.note_process(cluster.restarts()),
        "sandbox_tier": cluster.sandbox_tier(),
        **_overlap(folder),
        "config": to_dict(config),
    }
    folder.write_json("summary.json", summary)
    return summary


def _shortened(prompts: Mapping[str, PromptSet]) -> str:
    """Which problems were dropped or truncated."""
    changes = []
    for name, some in prompts.items():
        what = f"{some.dropped} dropped" if some.dropped else f"{some.truncated} cut on the left"
        changes.append(f"of {len(some) + some.dropped} {name.replace('_', '-')} prompts {what}")
    return ", ".join(changes)


def _overlap(folder: RunFolder) -> dict[str, Any]:
    """Speed-up bound and speed-up reached over the whole training phase, without its first step (warm-up)."""
    rows = folder.metrics()[1:]
    if not rows:
        return {"speedup_bound": None, "speedup_reached": None, "bounding_stage": None}
    spent = {stage: sum(row[f"{stage}_seconds"] for row in rows) for stage in PHASES}
    names = {"generate": "rollout_workers", "reward": "reward_workers", "train": "learner_workers"}
    workers = {stage: rows[-1].get(name, 1) for stage, name in names.items()}
    bound, reached, slowest = overlap(spent, workers, sum(row["step_seconds"] for row in rows))
    return {"speedup_bound": bound, "speedup_reached": reached, "bounding_stage": slowest, "stage_seconds": spent}


def _comparison(config: RunConfig, summary: dict[str, Any], both: Sequence[dict[str, Any]]) -> list[list[str]]:
    """Rows of pass rates with their intervals and of AR-ness, of what was measured both before and after training."""
    settings = config.evaluation
    labels = {f"pass@1, T = {settings.greedy_temperature:g}": "pass_at_1"}
    labels |= {f"pass@1, T = {settings.temperature:g}": "pass_at_1_t1"}
    if settings.samples > 1:
        labels |= {f"pass@{settings.samples}, T = {settings.temperature:g}": f"pass_at_{settings.samples}"}
    rows = [
        [label, *(interval(result[name], *result.get("intervals", {}).get(name, (None, None))) for result in both)]
        for label, name in labels.items()
        if all(name in result for result in both)
    ]
    for level in _common_levels(both):
        for label, name in list(labels.items())[1:]:
            values = [result["levels"][level].get(name) for result in both]
            rows.append([f"level {level}: {label}", *("-" if v is None else percent(v) for v in values)])
    before, after = (summary["ar_ness"][when] for when in ("before", "after"))
    for temperature in (temperature for temperature in before if temperature in after):
        for kind in ("local", "global"):
            orders = (f"{measured[temperature][kind]:.2f}" for measured in (before, after))
            rows.append([f"{kind} AR-ness, T = {temperature}", *orders])
    return rows


def _common_levels(both: Sequence[dict[str, Any]]) -> list[str]:
    """The difficulty levels that were measured before and after training."""
    before, after = (result.get("levels", {}) for result in both)
    return [level for level in before if level in after]


def _report(
    display: Display, folder: RunFolder, config: RunConfig, summary: dict[str, Any], both: Sequence[dict[str, Any]]
) -> None:
    """Print the results of the run, its files, and the next commands."""
    from couplet.evaluation.figures import reward_curve

    reward_curve(folder.metrics(), folder.root / "reward.png", title=f"{folder.root.name}: reward per learner step")
    display.table("Held-out problems [95% interval]", ["", "before", "after"], _comparison(config, summary, both))
    ledger = summary["ledger"]
    display.say(identity(ledger))
    if ledger["trained"] == 0:
        display.say("no group had a learning signal (its rewards did not differ): the policy is as it was")
    if summary["speedup_reached"] is not None and "rollout_workers" in folder.metrics()[-1]:  # phases can overlap
        display.say(
            f"overlap: {summary['speedup_reached']:.2f}x of at most {summary['speedup_bound']:.2f}x "
            f"({summary['bounding_stage']} bounds the step)"
        )
    root = cli.relative(folder.root)
    display.say(f"done in {summary['seconds']:.0f} s; in {root}: summary.json, metrics.jsonl, reward.png, policy/")
    display.say("next:")
    for words, what in (("report {}", "one HTML page of the run"), ("sample {}/policy", "watch it denoise an answer")):
        display.say(f"  {cli.launcher()} {words.format(root)}    # {what}")
    display.say(f"  {cli.relative(Path(sys.executable).parent / 'tensorboard')} --logdir {root}/tensorboard")
