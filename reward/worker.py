"""The reward worker: completions in, verdicts out. Never torch, never Ray."""

from __future__ import annotations

import logging
import math
import random
import threading
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from couplet.configs.schema import RewardConfig, SandboxConfig
from couplet.data.answers import program_of_answer
from couplet.data.problem import Problem
from couplet.data.seeds import derive_seed
from couplet.data.verdict import Outcome, TestResult, Verdict
from couplet.reward.cache import VerdictCache, limits_fingerprint, problem_fingerprint, program_key
from couplet.reward.code_format import Formatted, read_answer
from couplet.reward.functions import Judged, Opinions, chosen, pay
from couplet.reward.planner.plan import Case, ProblemDefect, plan
from couplet.reward.runner import LocalRunner, Quarantined, Runner
from couplet.reward.sandbox.faults import SandboxFault

log = logging.getLogger(__name__)


class Run(NamedTuple):
    """The outcome of running a program: results, or why there are none."""

    results: tuple[TestResult, ...]
    outcome: Outcome | None = None  # INFRA_ERROR or QUARANTINED if there are no results
    reason: str = ""
    cached: bool = False


Plan = tuple[Case, ...] | ProblemDefect
Work = tuple[str, Problem, str, Plan]  # cache key, problem, program, its tests


def open_runner(config: SandboxConfig) -> Runner:
    """The runner of the configured tier. The cloud is used only if `sandbox.tier` names it."""
    if config.tier == "e2b":
        from couplet.reward.e2b.runner import E2BRunner

        return E2BRunner(config)
    return LocalRunner(config)


def _planned(problem: Problem) -> Plan:
    try:
        return plan(problem)
    except ProblemDefect as defect:
        return defect


def visible_tests(problem: Problem, tests: int, hidden_share: float) -> list[bool]:
    """Which tests count towards the reward: all but floor(hidden_share * tests), drawn by the problem's id; at least one."""
    hidden = min(math.floor(hidden_share * tests), tests - 1)
    seed = derive_seed(0, f"hidden tests of {problem.problem_id}")
    drawn = set(random.Random(seed).sample(range(tests), hidden))
    return [index not in drawn for index in range(tests)]


def pass_rate(results: Sequence[TestResult], rule: str) -> float:
    """Share of passed tests, or with `all_or_nothing` 1.0 only when all passed."""
    passed = sum(result.passed for result in results)
    return float(passed == len(results)) if rule == "all_or_nothing" else passed / len(results)


class RewardWorker:
    """Judges completions with one sandbox; stateless but for its verdict cache.

    Raises `ConfigError` for an unknown reward function and `TierUnavailable` if no sandbox tier works here. Calls may
    come from several threads; they take turns.
    """

    def __init__(self, reward: RewardConfig, sandbox: SandboxConfig) -> None:
        self.config = reward
        self.functions = chosen(reward.functions)
        self.opinions = Opinions(self.functions)
        self.runner = open_runner(sandbox)
        self.tier = self.runner.tier
        self.limits = limits_fingerprint(sandbox, self.tier)
        self.cache = VerdictCache(reward.cache_entries)
        self.counts: Counter[str] = Counter()
        self.cpu = 0.0
        self.lock = threading.Lock()
        self.plans: dict[str, Plan] = {}
        self.defects: set[str] = set()  # problems named in the log

    def __enter__(self) -> RewardWorker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the sandbox and everything it started."""
        self.runner.close()

    def score(self, problem: Problem, texts: Sequence[str]) -> list[Verdict]:
        """One verdict per completion of `problem`, in order. `texts` end before their first end token."""
        return self.score_batch([problem] * len(texts), texts)

    def score_batch(self, problems: Sequence[Problem], texts: Sequence[str]) -> list[Verdict]:
        """One verdict per (problem, completion) pair, in order. Raises ValueError for a problem without tests."""
        formats = [self._read(problem, text) for problem, text in zip(problems, texts, strict=True)]
        every = self.config.answers == "any"
        wanted = [index for index, answer in enumerate(formats) if every or answer.score == 1.0]
        runs = dict(zip(wanted, self.run_batch([problems[i] for i in wanted], [formats[i].program for i in wanted])))
        verdicts = []
        for index, (problem, text) in enumerate(zip(problems, texts)):
            answer, run = formats[index], runs.get(index)
            if run is not None and run.outcome is not None:
                verdicts.append(Verdict(run.outcome, math.nan, reason=run.reason))
                continue
            results = run.results if run else ()
            rewarded = self._rewarded(problem, results)
            rate = pass_rate(rewarded, self.config.pass_rate) if rewarded else 0.0
            judged = Judged(problem, text, answer.program, answer.score, rewarded, rate)
            total, parts = pay(self.functions, judged)
            self.opinions.count(self.functions, judged, parts)
            verdicts.append(self._verdict(run, total, parts))
        return verdicts

    def _read(self, problem: Problem, text: str) -> Formatted:
        """The answer by the format rule; one that the rule refuses keeps its score, and may be read more freely."""
        answer = read_answer(text, problem, self.config.strict_format)
        if answer.score == 1.0 or self.config.answers == "formatted":
            return answer
        return Formatted(answer.score, program_of_answer(text, problem))

    def judge(self, problems: Sequence[Problem], programs: Sequence[str]) -> list[Verdict]:
        """Verdicts of whole programs, without the format rule; the reward is the pass rate."""
        verdicts = []
        for run in self.run_batch(problems, programs):
            if run.outcome is not None:
                verdicts.append(Verdict(run.outcome, math.nan, reason=run.reason))
            else:
                verdicts.append(self._verdict(run, pass_rate(run.results, "partial"), {}))
        return verdicts

    def _rewarded(self, problem: Problem, results: tuple[TestResult, ...]) -> tuple[TestResult, ...]:
        if not results or self.config.hidden_share == 0:
            return results
        visible = visible_tests(problem, len(results), self.config.hidden_share)
        return tuple(result for result, shown in zip(results, visible) if shown)

    def _verdict(self, run: Run | None, reward: float, parts: dict[str, float]) -> Verdict:
        if run is None:
            return Verdict(Outcome.FORMAT_ERROR, reward, parts=parts, reason="format")
        failed = next((result.reason for result in run.results if not result.passed), "")
        return Verdict(
            Outcome.FAILED if failed else Outcome.PASSED,
            reward,
            pass_rate(run.results, "partial"),
            parts,
            run.results,
            failed,
            sum(result.cpu_seconds for result in run.results),
            run.cached,
        )

    def run_batch(self, problems: Sequence[Problem], programs: Sequence[str]) -> list[Run]:
        """Run each program once; equal programs of equal problems share one run. Faults come back as outcomes, and a
        problem that cannot be judged as a quarantine. Raises ValueError for a problem without tests.
        """
        prints = {id(problem): problem_fingerprint(problem) for problem in problems}
        keys = [program_key(text, prints[id(problem)], self.limits) for problem, text in zip(problems, programs)]
        cases = []
        for problem in problems:
            fingerprint = prints[id(problem)]
            if fingerprint not in self.plans:
                self.plans[fingerprint] = _planned(problem)
            cases.append(self.plans[fingerprint])
        first = {key: index for index, key in reversed(list(enumerate(keys)))}
        with self.lock:
            self.counts["joined"] += len(keys) - len(first)
            runs = self._run_all([(key, problems[i], programs[i], cases[i]) for key, i in first.items()])
        return [runs[key] for key in keys]

    def _run_all(self, work: Sequence[Work]) -> dict[str, Run]:
        """Runs by key, from the cache if it has them."""
        runs: dict[str, Run] = {}
        todo = []
        for item in work:
            remembered = self.cache.get(item[0])
            if remembered is None:
                todo.append(item)
            else:
                runs[item[0]] = Run(remembered, cached=True)
        if self.runner.parallel > 1 and len(todo) > 1:
            with ThreadPoolExecutor(self.runner.parallel) as pool:
                fresh = list(pool.map(self._run, todo))
        else:
            fresh = [self._run(item) for item in todo]
        for (key, *_), run in zip(todo, fresh):
            runs[key] = run
            self._account(key, run)
        return runs

    def _run(self, work: Work) -> Run:
        _, problem, program, cases = work
        if isinstance(cases, ProblemDefect):
            return self._left_out(problem, cases)
        try:
            return Run(self.runner.run(problem, program, cases))
        except ProblemDefect as defect:
            return self._left_out(problem, defect)
        except Quarantined:
            return Run((), Outcome.QUARANTINED, "quarantined")
        except SandboxFault as fault:
            return Run((), Outcome.INFRA_ERROR, fault.kind)

    def _left_out(self, problem: Problem, defect: ProblemDefect) -> Run:
        if problem.problem_id not in self.defects:
            self.defects.add(problem.problem_id)
            log.warning("%s; its samples are left out", defect)
        return Run((), Outcome.QUARANTINED, "problem_defect")

    def _account(self, key: str, run: Run) -> None:
        self.counts["programs"] += 1
        self.counts["quarantined"] += run.outcome is Outcome.QUARANTINED
        self.counts["infra_errors"] += run.outcome is Outcome.INFRA_ERROR
        if run.outcome is None:
            self.cache.put(key, run.results)
        self.cpu += sum(result.cpu_seconds for result in run.results)
        self.counts["tests"] += len(run.results)
        self.counts["weak_tests"] += sum(result.strength == "weak" for result in run.results)
        self.counts["timeouts"] += sum(result.reason == "timeout" for result in run.results)

    def stats(self) -> dict[str, float]:
        """Counters since the start, as flat metrics."""
        names = ("programs", "tests", "weak_tests", "timeouts", "joined", "infra_errors", "quarantined")
        looked_up = self.cache.hits + self.cache.misses
        return {
            **{name: float(self.counts[name]) for name in names},
            "cpu_seconds": self.cpu,
            "cache_hits": float(self.cache.hits),
            "cache_misses": float(self.cache.misses),
            "cache_hit_rate": self.cache.hits / looked_up if looked_up else 0.0,
            "restarts": float(self.runner.restarts),
            **{f"faults_{kind}": float(count) for kind, count in self.runner.faults.items()},
        }
