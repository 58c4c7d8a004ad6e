"""Verdicts remembered per program: G samples of a sharp policy are often equal, and epochs repeat problems."""

from __future__ import annotations

import json
import sys
from collections import OrderedDict
from dataclasses import fields
from functools import lru_cache
from pathlib import Path

from couplet.configs.load import to_dict
from couplet.configs.schema import SandboxConfig
from couplet.data.fingerprint import fingerprint
from couplet.data.problem import Problem
from couplet.data.verdict import TestResult

Results = tuple[TestResult, ...]


@lru_cache(maxsize=1)
def runner_fingerprint() -> str:
    """Hash of the code that judges, so that a changed runner never answers from an older one's memory."""
    code = (path.read_bytes() for path in sorted(Path(__file__).parent.rglob("*.py")))
    return fingerprint((sys.version, *code))


def limits_fingerprint(config: SandboxConfig, tier: str) -> str:
    """Hash of everything about the sandbox that may change a verdict."""
    return fingerprint([json.dumps([to_dict(config), tier, runner_fingerprint()], sort_keys=True)])


def problem_fingerprint(problem: Problem) -> str:
    """Hash of everything about a problem that may change a verdict."""
    parts = [getattr(problem, field.name) for field in fields(problem) if field.name not in ("problem_id", "metadata")]
    return fingerprint([repr(parts)])


def program_key(program: str, problem: str, limits: str) -> str:
    """Key of one program's results; `problem` and `limits` are fingerprints."""
    return fingerprint([f"{problem}:{limits}:", program])


class VerdictCache:
    """The most recently used `entries` results. Faults are never stored; a timeout only when a second run agrees."""

    def __init__(self, entries: int) -> None:
        self.entries = entries
        self.stored: OrderedDict[str, Results] = OrderedDict()
        self.suspected: OrderedDict[str, Results] = OrderedDict()
        self.hits = self.misses = 0

    def get(self, key: str) -> Results | None:
        """The remembered results, or None."""
        results = self.stored.get(key)
        if results is None:
            self.misses += 1
            return None
        self.hits += 1
        self.stored.move_to_end(key)
        return results

    def put(self, key: str, results: Results) -> None:
        """Remember results; those with a timeout only from the second time on that they come out the same."""
        if any(result.reason == "timeout" for result in results):
            before = self.suspected.pop(key, None)
            if before is None or outcomes(before) != outcomes(results):
                self._keep(self.suspected, key, results)
                return
        self._keep(self.stored, key, results)

    def _keep(self, table: OrderedDict[str, Results], key: str, results: Results) -> None:
        if self.entries > 0:
            table[key] = results
            if len(table) > self.entries:
                table.popitem(last=False)


def outcomes(results: Results) -> tuple[tuple[bool, str], ...]:
    """What results say, without their times."""
    return tuple((result.passed, result.reason) for result in results)
