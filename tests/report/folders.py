"""Run folders for the tests of the report: what a run has written at several moments of its life."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from couplet.configs.load import dump
from couplet.configs.schema import RunConfig
from couplet.data.tokenizer import tiny_tokenizer
from couplet.data.trajectory import GroupId, PromptGroup, ScoredGroup
from couplet.data.trajectory_file import trajectory_table
from couplet.data.verdict import Outcome, TestResult, Verdict

EVIL = "</pre></script></style><script>alert('x')</script><img src=x onerror=alert(1)>"
CODE = "```python\ndef f(x):\n    return x < 1\n```"


def scored_group(step: int) -> ScoredGroup:
    """Three completions: one that passes, an attack on the page, and one that the sandbox lost."""
    tokens_C = np.array([*tiny_tokenizer().encode(CODE), tiny_tokenizer().special["<|im_end|>"]], np.int32)
    verdicts = (
        Verdict(Outcome.PASSED, 2.5, 1.0, tests=(TestResult(True),)),
        Verdict(Outcome.FORMAT_ERROR, 0.0, reason="format"),
        Verdict(Outcome.INFRA_ERROR, math.nan),
    )
    group = PromptGroup(
        group_id=GroupId(0, step, 0),
        attempt=0,
        version=step,
        problem_id=f"toy/{EVIL}/{step}",
        prompt_tokens=np.array(tiny_tokenizer().chat_prompt(f"Write f, <b>please</b> {step}")),
        tokens_GC=np.tile(tokens_C, (3, 1)),
        reveal_step_GC=np.tile(np.arange(len(tokens_C), dtype=np.int16) // 2, (3, 1)),
        loss_mask_GC=np.ones((3, len(tokens_C)), bool),
        texts=(CODE, f"{EVIL} no code", ""),
        seeds_G=(1, 2, 3),
        group_seed=0,
        behaviour_GJC=None,
    )
    return ScoredGroup(group, verdicts)


def metrics_row(step: int) -> dict[str, float]:
    """The metrics of one learner step."""
    ledger = {
        "issued": 8.0 * step,
        "trained": 7.0 * step,
        "filtered": float(step),
        "quarantined": 0.0,
        "in_flight": 0.0,
    }
    return {
        "step": step,
        "time": 1.7e9 + step,
        "reward_mean": 0.1 * step,
        "pass_rate": 0.05 * step,
        "staleness_mean": 0.5,
        "staleness_max": 1.0,
        "generate_idle_share": 0.01 * step,
        "reward_idle_share": 0.8,
        "train_idle_share": 0.4,
        "kl_mean": float("nan"),
        **{f"ledger_{name}": value for name, value in ledger.items()},
    }


def write_run(root: Path, steps: int = 8, tokenizer: bool = True) -> Path:
    """The folder of a run after some of its 12 learner steps."""
    (root / "trajectories").mkdir(parents=True)
    (root / "config.yaml").write_text(dump(RunConfig(name="toy", steps=12)))
    (root / "run.json").write_text(json.dumps({"started": 1.7e9, "code": {"commit": EVIL}}))
    (root / "metrics.jsonl").write_text("".join(json.dumps(metrics_row(s)) + "\n" for s in range(1, steps + 1)))
    for step in range(1, steps + 1):
        path = root / "trajectories" / f"step-{step:06d}.parquet"
        pq.write_table(trajectory_table([scored_group(step)], step), path)
    if tokenizer:
        tiny_tokenizer().save(root / "policy")
    return root


def evaluation(step: int, passed: dict[str, int]) -> dict[str, object]:
    """A result of `run_suite` with `passed` of 4 samples of every problem."""
    mean = sum(passed.values()) / 4 / len(passed)
    return {
        "step": step,
        "pass_at_1": mean,
        "pass_at_1_t1": mean,
        "format_rate_t1": 1.0,
        "ar_ness": {"0.2": {"local": 0.75, "global": 0.5}},
        "excluded": 0,
        "intervals": {"pass_at_1": [mean - 0.1, mean + 0.1]},
        "levels": {"2": {"problems": len(passed), "pass_at_1_t1": mean / 2, "pass_at_8": mean}},
        "problems": [
            {
                "problem_id": name,
                "question": f"{name}? {EVIL}",
                "pass_at_1": [1, int(count > 2)],
                "pass_at_1_t1": [4, count],
                "answer": f"{CODE} {EVIL}",
                "outcome": "passed",
            }
            for name, count in passed.items()
        ],
    }


def write_evaluation(root: Path, name: str, step: int, passed: dict[str, int]) -> None:
    """evaluations/NAME.json."""
    (root / "evaluations").mkdir(exist_ok=True)
    (root / "evaluations" / f"{name}.json").write_text(json.dumps(evaluation(step, passed)))


def finish(root: Path) -> Path:
    """What the end of the run adds."""
    ledger = {"issued": 64, "trained": 60, "filtered": 3, "quarantined": 1, "in_flight": 0, "reissued": 2}
    summary = {"pass_at_1_before": 0.25, "pass_at_1_after": 0.5, "seconds": 125.0, "ledger": ledger}
    (root / "summary.json").write_text(json.dumps(summary))
    write_evaluation(root, "before", 0, {"a": 1, "b": 1, "same": 2, f"bad/{EVIL}": 2})
    write_evaluation(root, "after", 12, {"a": 3, "b": 4, "same": 2, f"bad/{EVIL}": 1})
    return root
