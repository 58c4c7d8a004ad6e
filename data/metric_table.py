"""Every metric of a training run: name, unit, meaning, group. Documentation, charts and dashboards are made from it.

Names are flat, `[a-z0-9_]`. A name with a part in braces stands for a family: `reward_{function}`.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

GROUPS = {
    "reward": "Reward",
    "learning": "Learning",
    "decoding": "Decoding",
    "flow": "Staleness and flow",
    "speed": "Speed",
    "evaluation": "Evaluation",
    "rollout_actor": "Gauges of each rollout actor",
    "reward_actor": "Gauges of each reward actor",
}


@dataclass(frozen=True)
class Metric:
    """One metric, or a family of them.

    Attributes:
        name: flat name; parts in braces stand for any `[a-z0-9_]+`.
        unit: of the value; "" for a number without one, "share" for 0..1.
        meaning: one line.
        group: key of `GROUPS`.
    """

    name: str
    unit: str
    meaning: str
    group: str

    @property
    def pattern(self) -> str:
        """A regular expression that matches the names of the family."""
        return re.sub(r"\{[a-z]+\}", "[a-z0-9_]+", self.name)


def _group(group: str, rows: Iterable[tuple[str, str, str]]) -> tuple[Metric, ...]:
    return tuple(Metric(name, unit, meaning, group) for name, unit, meaning in rows)


METRICS = (
    *_group(
        "reward",
        (
            ("reward_mean", "", "mean reward of the judged completions"),
            ("reward_std", "", "standard deviation of the rewards of the judged completions"),
            ("reward_{function}", "", "mean of one reward function, unweighted"),
            ("pass_rate", "share", "mean share of passed tests of the judged completions"),
            ("solved_rate", "share", "judged completions that pass all tests"),
            ("format_rate", "share", "judged completions whose format is accepted and whose code parses"),
            ("zero_signal_share", "share", "groups whose rewards do not differ"),
            ("group_reward_std", "", "mean standard deviation of the rewards within a group"),
            ("excluded_share", "share", "completions without a verdict"),
            ("excluded_completions", "completions", "without a verdict, so neither in a baseline nor in the loss"),
            ("quarantined_groups", "groups", "with fewer than two verdicts, so without a baseline"),
            ("weak_verdict_share", "share", "tests judged inside the candidate's own process"),
            ("verdict_cache_hit_share", "share", "verdicts from the cache"),
        ),
    ),
    *_group(
        "learning",
        (
            ("loss", "", "mean over the inner updates"),
            ("loss_inner_{update}", "", "of one inner update"),
            ("ratio_mean", "", "mean importance ratio of the tokens"),
            ("ratio_max", "", "largest importance ratio"),
            ("clip_share", "share", "tokens whose ratio is clipped"),
            ("kl_mean", "nats", "mean KL divergence to the reference, per token"),
            ("kl_median", "nats", "median KL divergence to the reference, per token"),
            ("kl_max", "nats", "largest KL divergence to the reference, per token"),
            ("grad_norm", "", "gradient norm before clipping, mean over the inner updates"),
            ("grad_norm_max", "", "largest gradient norm before clipping"),
            ("lr", "", "learning rate"),
            ("updates", "updates", "optimiser updates since the start"),
            ("skipped_updates", "", "1 if the step had nothing to learn from"),
            ("advantage_abs_mean", "", "mean absolute advantage"),
            ("advantage_min", "", "smallest advantage"),
            ("advantage_max", "", "largest advantage"),
            ("groups", "groups", "prompt groups of the step"),
            ("tokens_trained", "tokens", "in the loss"),
            ("trained_tokens_per_second", "tokens/s", "all inner updates, on the slowest rank"),
            ("learn_seconds", "s", "of one learner step on the slowest rank"),
            ("peak_memory_mb", "MiB", "of the fullest rank's device"),
        ),
    ),
    *_group(
        "decoding",
        (
            ("draw_entropy", "nats", "of the distributions the answer's tokens were drawn from"),
            ("local_ar_ness", "share", "reveals next to the last one, AR-ness@k of the reveal order"),
            ("global_ar_ness", "share", "reveals among the leftmost masked positions, AR-ness@k of the reveal order"),
            ("order_entropy", "nats", "of the rank of the position revealed next; 0 from left to right"),
            ("completion_tokens_mean", "tokens", "mean answer length, its end token included"),
            ("answer_end_share", "share", "answers with an end token"),
        ),
    ),
    *_group(
        "flow",
        (
            ("staleness_mean", "versions", "mean over the batch"),
            ("staleness_max", "versions", "largest of the batch"),
            ("ledger_{state}", "groups", "in one state of the ledger, in total for the final ones"),
            ("ledger_issued_total", "groups", "issued so far, across restarts and resumes"),
            ("ledger_in_flight", "groups", "issued and not final"),
            ("ledger_reissued", "groups", "issued again so far"),
            ("ledger_stale_dropped", "groups", "dropped so far because they had grown too old"),
            ("reward_wait_p50", "s", "median time from generated to ready"),
            ("reward_wait_p95", "s", "95th percentile of the time from generated to ready"),
            ("weight_broadcast_seconds", "s", "slowest push of weights to an idle rollout actor since the last step"),
            ("weight_swap_seconds", "s", "slowest fetch, check and swap of weights since the last step"),
            ("rollout_workers", "workers", "in service"),
            ("reward_workers", "workers", "in service"),
            ("learner_workers", "workers", "learner ranks"),
            ("rollout_restarts", "workers", "lost and replaced so far"),
            ("reward_restarts", "workers", "lost and replaced so far"),
            ("replay_restarts", "workers", "replay queues lost and replaced so far"),
            ("learner_restarts", "workers", "times the learner ranks were replaced"),
            ("sandbox_faults_{kind}", "samples", "lost to sandbox faults so far, by kind of fault"),
        ),
    ),
    *_group(
        "speed",
        (
            ("step_seconds", "s", "wall clock of the step, evaluations not counted"),
            ("tokens_per_second", "tokens/s", "canvas tokens generated by the whole run"),
            ("rollouts_per_second", "completions/s", "generated by the whole run"),
            ("groups_per_second", "groups/s", "generated over the last minute"),
            ("judged_per_second", "completions/s", "judged over the last minute"),
            ("sampler_tokens_per_second", "tokens/s", "of one rollout actor while it decodes"),
            ("generate_seconds", "s", "busy seconds since the last step, summed over the rollout workers"),
            ("reward_seconds", "s", "busy seconds since the last step, summed over the reward workers"),
            ("train_seconds", "s", "busy seconds since the last step, summed over the learner ranks"),
            ("generate_busy_share", "share", "of the rollout workers' time"),
            ("reward_busy_share", "share", "of the reward workers' time"),
            ("train_busy_share", "share", "of the learner ranks' time"),
            ("generate_idle_share", "share", "of the rollout workers' time"),
            ("reward_idle_share", "share", "of the reward workers' time"),
            ("train_idle_share", "share", "of the learner ranks' time"),
            ("speedup_bound", "", "speed-up over sequential phases that perfect overlap would reach"),
            ("speedup_reached", "", "busy seconds of all phases over the wall clock"),
            ("bounding_stage", "", "phase that bounds the step: 0 generate, 1 reward, 2 train"),
        ),
    ),
    *_group(
        "evaluation",
        (
            ("eval_pass_at_1", "share", "pass@1 at the low temperature"),
            ("eval_pass_at_1_t1", "share", "pass@1 at evaluation.temperature"),
            ("eval_pass_at_{k}", "share", "pass@k at evaluation.temperature; k = evaluation.samples"),
            ("eval_format_rate_t1", "share", "completions whose format is accepted, at evaluation.temperature"),
            ("eval_local_ar_ness_t{temperature}", "share", "local AR-ness at one temperature, e.g. t0_2"),
            ("eval_global_ar_ness_t{temperature}", "share", "global AR-ness at one temperature"),
            ("eval_excluded", "completions", "lost to sandbox faults"),
            ("eval_{name}_low", "", "lower end of the 95% interval of a value above, over problems"),
            ("eval_{name}_high", "", "upper end of that interval"),
        ),
    ),
    *_group(
        "rollout_actor",
        (
            ("rollout_busy_share", "share", "of this actor's time"),
            ("rollout_groups_total", "groups", "generated by this process"),
            ("rollout_tokens_per_second", "tokens/s", "of the last call"),
            ("rollout_weights_version", "", "version of the weights it holds"),
        ),
    ),
    *_group(
        "reward_actor",
        (
            ("sandbox_programs", "programs", "run by this process"),
            ("sandbox_tests", "tests", "run by this process"),
            ("sandbox_weak_tests", "tests", "judged inside the candidate's own process"),
            ("sandbox_timeouts", "tests", "that ran out of time"),
            ("sandbox_joined", "programs", "that shared the run of an equal one"),
            ("sandbox_infra_errors", "programs", "lost to faults of the sandbox"),
            (
                "sandbox_quarantined",
                "programs",
                "that killed their sandbox on every attempt, or whose problem is defective",
            ),
            ("sandbox_cpu_seconds", "s", "CPU time of the programs"),
            ("sandbox_cache_hits", "programs", "found in the verdict cache"),
            ("sandbox_cache_misses", "programs", "not found in the verdict cache"),
            ("sandbox_cache_hit_rate", "share", "of the look-ups in the verdict cache"),
            ("sandbox_restarts", "sandboxes", "replaced so far"),
        ),
    ),
)


EVALUATION = "eval/"


def is_learner_step(row: Mapping[str, object]) -> bool:
    """True for a line of metrics.jsonl that is of a learner step, False if it is of an evaluation."""
    return not any(name.startswith(EVALUATION) for name in row)


@cache
def find(name: str) -> Metric | None:
    """The metric or family that `name` belongs to; an exact name goes before a family. None: not in the table.

    A learner rank exports its metrics as `learner_<name>`.
    """
    exact = [metric for metric in METRICS if metric.name == name]
    families = [metric for metric in METRICS if "{" in metric.name and re.fullmatch(metric.pattern, name)]
    found = next(iter(exact or families), None)
    if found is None and name.startswith("learner_"):
        return find(name.removeprefix("learner_"))
    return found


def markdown() -> str:
    """The table as a page of the documentation."""
    lines = [
        "# Metrics",
        "",
        "Generated from `data/metric_table.py` by `make docs`. Metrics of a learner step are in `metrics.jsonl`, TensorBoard",
        "and the tracker of the run; each is exported to Prometheus as the gauge `ray_couplet_<name>` with the tags `run`,",
        "`role` and `index`. Gauges of one actor are only there. Each learner rank also exports its metrics as",
        "`ray_couplet_learner_<name>`. Results of an evaluation have the same names in files and trackers, with `eval/`",
        "in the place of `eval_`.",
    ]
    for group, title in GROUPS.items():
        lines += ["", f"## {title}", "", "| name | unit | meaning |", "|---|---|---|"]
        lines += [
            f"| `{metric.name}` | {metric.unit} | {metric.meaning} |" for metric in METRICS if metric.group == group
        ]
    return "\n".join(lines) + "\n"


PAGE = Path(__file__).parents[1] / "docs" / "metrics.md"


def main(argv: Sequence[str] | None = None) -> int:
    """Write the page; with --check only compare, 1 if it is out of date."""
    parser = argparse.ArgumentParser(prog="python -m couplet.data.metric_table", description="Write docs/metrics.md.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 if the page is out of date")
    if not parser.parse_args(argv).check:
        PAGE.write_text(markdown(), encoding="utf-8")
        print(f"wrote {PAGE}")
    elif not PAGE.is_file() or PAGE.read_text(encoding="utf-8") != markdown():
        print(f"{PAGE}: out of date; run make docs")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
