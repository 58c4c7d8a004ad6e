"""Scoring a file of samples against a file of problems, on several workers; no Ray needed."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from couplet.configs.schema import ConfigError, RewardConfig, SandboxConfig
from couplet.data.files import require_other, write_text, writing
from couplet.data.problem import Problem
from couplet.data.problem_sets import load_problems, split_source
from couplet.data.verdict import Outcome, Verdict
from couplet.evaluation.samples import Sample, read_samples
from couplet.reward.judgement import Judgement, judge_in_rounds
from couplet.reward.planner.plan import ProblemDefect, plan
from couplet.reward.worker import RewardWorker

# Published solutions may be slow, so the limits are higher than in training. As in published judges, a program that
# sleeps gets no more wall-clock time than CPU time, beyond what it waits for a core.
SCORING = SandboxConfig(cpu_seconds=8.0, memory_mb=1024, wall_factor=1.0)
CHUNK = 16  # samples of one problem sent to a worker at once, so that equal ones are joined
POOL_ATTEMPTS = 5  # new pools in a row that finish no chunk before scoring stops

Progress = Callable[[int, int], None]
Chunk = tuple[int, ...]  # indices of samples, all of one problem


@dataclass
class FileScore:
    """The result of scoring a file.

    Attributes:
        rows: one per sample, in the samples' order, as written to the verdict file.
        counts: (judged samples, passed samples) of every problem that has samples.
        base_counts: the same without EvalPlus's additional tests; empty for other sets.
        problems: problems in the set; `unanswered` of them have no sample.
        weak: samples whose verdict depends on a test that ran in the candidate's own process.
        infra: samples lost to the sandbox. defects: problems that cannot be judged, whose samples have no verdict
            either.
        timeouts: samples in which a test ran out of time.
        seconds: wall clock of the scoring; tier: the sandbox's; out: the verdict file.
    """

    rows: list[dict[str, Any]]
    counts: dict[str, tuple[int, int]]
    base_counts: dict[str, tuple[int, int]]
    problems: int
    unanswered: int
    weak: int
    infra: int
    defects: tuple[str, ...]
    timeouts: int
    quarantined: int
    seconds: float
    tier: str
    out: Path


def score_file(
    problems_path: str | Path,
    samples_path: str | Path,
    out: str | Path | None = None,
    workers: int = 1,
    reward: RewardConfig | None = None,
    sandbox: SandboxConfig | None = None,
    progress: Progress | None = None,
) -> FileScore:
    """Judge every sample and write one verdict per line to `out`, in the samples' order.

    Args:
        problems_path: a file in one of `PROBLEM_FORMATS`, recognised by content.
        samples_path: see `evaluation.samples`.
        out: JSON lines of verdicts (default: beside the samples, `<name>.verdicts.jsonl`); written atomically.
        workers: number of sandboxes, each in its own process; 1 judges in this process.
        progress: called with (samples judged, samples in all).

    Raises:
        ValueError: a broken, empty or contradictory file, by name and line, before any program runs.
        ConfigError: fewer than one worker, or `out` cannot be written or is one of the input files.
        TierUnavailable: no sandbox tier works on this machine.
    """
    if workers < 1:
        raise ConfigError(f"workers = {workers}: must be at least 1")
    problems = load_problems(str(problems_path))
    samples = read_samples(Path(samples_path), problems)
    for problem in {id(sample.problem): sample.problem for sample in samples}.values():
        with contextlib.suppress(ProblemDefect):  # its samples get no verdict
            plan(problem)
    reward, sandbox = reward or RewardConfig(), sandbox or SCORING
    target = Path(out) if out is not None else Path(samples_path).with_suffix(".verdicts.jsonl")
    require_other(target, split_source(str(problems_path))[0], samples_path)
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    verdicts, tier = _judge_all(samples, workers, reward, sandbox, progress or (lambda done, of: None))
    seconds = time.monotonic() - started
    rows = [_row(sample, verdict) for sample, verdict in zip(samples, verdicts)]
    write_text(target, "".join(json.dumps(row) + "\n" for row in rows))
    return _summary(samples, rows, verdicts, problems, seconds, tier, target)


def _judge_all(
    samples: Sequence[Sample], workers: int, reward: RewardConfig, sandbox: SandboxConfig, progress: Progress
) -> tuple[list[Verdict], str]:
    """Verdicts in the samples' order, and the tier. Samples lost to faults are judged again, elsewhere if possible."""
    verdicts: dict[int, Verdict] = {}
    with RewardWorker(reward, sandbox) as own:
        judge = _in_this_process(own, samples) if workers == 1 else _in_processes(samples, workers, reward, sandbox)
        work = [Judgement(chunk, len(chunk), reward.retries) for chunk in _chunks(samples)]
        for judgement in judge_in_rounds(work, judge):
            verdicts.update(zip(judgement.subject, judgement.verdicts, strict=True))
            progress(len(verdicts), len(samples))
        return [verdicts[index] for index in range(len(samples))], own.tier


def _chunks(samples: Sequence[Sample]) -> Iterator[Chunk]:
    """Samples grouped by problem, at most `CHUNK` at a time."""
    groups: dict[str, list[int]] = {}
    for index, sample in enumerate(samples):
        groups.setdefault(sample.problem.problem_id, []).append(index)
    for group in groups.values():
        for start in range(0, len(group), CHUNK):
            yield tuple(group[start : start + CHUNK])


def _pending(samples: Sequence[Sample], job: Judgement[Chunk]) -> tuple[Problem, list[str]]:
    """The problem of a chunk and the programs to judge now."""
    chosen = [samples[job.subject[place]] for place in job.pending]
    return chosen[0].problem, [sample.program for sample in chosen]


Judge = Callable[[Iterable[Judgement[Chunk]]], Iterator[tuple[Judgement[Chunk], list[Verdict]]]]


def _in_this_process(worker: RewardWorker, samples: Sequence[Sample]) -> Judge:
    def judge(jobs: Iterable[Judgement[Chunk]]) -> Iterator[tuple[Judgement[Chunk], list[Verdict]]]:
        for job in jobs:
            problem, programs = _pending(samples, job)
            yield job, worker.judge([problem] * len(programs), programs)

    return judge


_worker: RewardWorker | None = None  # in a process of the pool


def _start_worker(reward: RewardConfig, sandbox: SandboxConfig) -> None:
    global _worker
    _worker = RewardWorker(reward, sandbox)


def _judge_chunk(problem: Problem, programs: list[str]) -> list[Verdict]:
    assert _worker is not None
    return _worker.judge([problem] * len(programs), programs)


def _in_processes(samples: Sequence[Sample], workers: int, reward: RewardConfig, sandbox: SandboxConfig) -> Judge:
    """A pool of processes; if one dies no verdict is lost, and its chunks are judged again by a new pool."""

    def judge(jobs: Iterable[Judgement[Chunk]]) -> Iterator[tuple[Judgement[Chunk], list[Verdict]]]:
        left = dict.fromkeys(jobs)
        failures = 0
        while left:
            context = multiprocessing.get_context("spawn")
            with ProcessPoolExecutor(workers, context, _start_worker, (reward, sandbox)) as pool:
                try:
                    futures = {pool.submit(_judge_chunk, *_pending(samples, job)): job for job in left}
                    for future in as_completed(futures):
                        result = futures[future], future.result()
                        del left[futures[future]]
                        failures = 0
                        yield result
                except BrokenProcessPool:
                    failures += 1
                    if failures == POOL_ATTEMPTS:
                        raise
                except BaseException:
                    pool.shutdown(wait=False, cancel_futures=True)
                    raise

    return judge


def _row(sample: Sample, verdict: Verdict) -> dict[str, Any]:
    # Not if the sandbox or the problem itself is at fault.
    judged = verdict.outcome is not Outcome.INFRA_ERROR and verdict.reason != "problem_defect"
    weak = any(test.strength == "weak" for test in verdict.tests)
    return {
        "task_id": sample.task_id,
        "sample": sample.number,
        "passed": verdict.outcome is Outcome.PASSED if judged else None,
        "pass_rate": verdict.pass_rate if judged else None,
        "verdict": ("weak" if weak else "strong") if judged else None,
        "reason": verdict.reason,
        "tests": [
            {
                "passed": test.passed,
                "reason": test.reason,
                "verdict": test.strength,
                "cpu_seconds": round(test.cpu_seconds, 6),
            }
            for test in verdict.tests
        ],
        "cpu_seconds": round(verdict.cpu_seconds, 6),
    }


def _passes_base(problem: Problem, verdict: Verdict) -> bool:
    """Whether a sample passes a problem without EvalPlus's additional tests."""
    base = len(verdict.tests) - problem.metadata["plus_tests"]
    return base > 0 and all(test.passed for test in verdict.tests[:base])


def _summary(
    samples: Sequence[Sample],
    rows: list[dict[str, Any]],
    verdicts: Sequence[Verdict],
    problems: Sequence[Problem],
    seconds: float,
    tier: str,
    out: Path,
) -> FileScore:
    judged, passed, base_passed = Counter[str](), Counter[str](), Counter[str]()
    has_base = all(sample.problem.metadata.get("plus_tests") is not None for sample in samples)
    for sample, row, verdict in zip(samples, rows, verdicts):
        name = sample.problem.problem_id
        judged[name] += row["passed"] is not None
        passed[name] += row["passed"] is True
        base_passed[name] += has_base and row["passed"] is not None and _passes_base(sample.problem, verdict)
    return FileScore(
        rows=rows,
        counts={task: (judged[task], passed[task]) for task in judged},
        base_counts={task: (judged[task], base_passed[task]) for task in judged} if has_base else {},
        problems=len(problems),
        unanswered=len(problems) - len(judged),
        weak=sum(row["verdict"] == "weak" for row in rows),
        infra=sum(verdict.outcome is Outcome.INFRA_ERROR for verdict in verdicts),
        defects=tuple(
            dict.fromkeys(s.problem.problem_id for s, v in zip(samples, verdicts) if v.reason == "problem_defect")
        ),
        timeouts=sum(any(test.reason == "timeout" for test in verdict.tests) for verdict in verdicts),
        quarantined=sum(row["reason"] == "quarantined" for row in rows),
        seconds=seconds,
        tier=tier,
        out=out,
    )
