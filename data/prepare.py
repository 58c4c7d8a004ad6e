"""`prepare`: published or own problems into one checked Parquet file, with a report of what was left out and why."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Literal

from couplet.configs.schema import ConfigError
from couplet.data.answers import whole_program
from couplet.data.column_mapping import read_columns
from couplet.data.decontaminate import Overlap, find_overlaps
from couplet.data.files import require_other, write_json
from couplet.data.formats.columns import parsed
from couplet.data.formats.parquet import ProblemFileError, write_parquet
from couplet.data.levels import Level
from couplet.data.problem import CALL_RULES, STDIO_RULES, Comparison, Problem
from couplet.data.problem_sets import (
    ProblemSet,
    load_problems,
    published_split,
    read_acecode,
    read_problem_file,
    read_rows,
    split_source,
)

SETS = ("acecode", "mbpp", "humaneval", "humaneval+", "mbpp+", "katas", "columns", "published")
DEFAULT_SOURCES = {"acecode": "hub:TIGER-Lab/AceCode-87K", "katas": "katas:rl"}
# Option -> the sets that use it; the others refuse it.
USED_BY = {
    "level": ("acecode",),
    "no-double": ("acecode",),
    "columns": ("columns",),
    "split": ("mbpp", "katas"),
    "seed": ("katas",),
}
NGRAM = 10
NAMED = 10  # problems that nothing can judge, named on the terminal; the summary file names all
HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w.-]+")
UNCHECKED = "not checked against any benchmark; --benchmarks HumanEval.jsonl mbpp.jsonl leaves out what resembles them"


@dataclass
class Summary:
    """What `prepare` read, kept and left out; also written beside the problem file."""

    set_name: str
    source: str
    out: str
    read: int = 0
    kept: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    thresholds: dict[str, float] = field(default_factory=dict)
    doubled: int = 0
    overlaps: list[Overlap] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    unsound: list[str] = field(default_factory=list)
    warning: str = ""

    def text(self) -> str:
        """A few lines for people."""
        lines = [f"{self.set_name}: {self.kept} problems from {self.read} rows of {self.source} -> {self.out}"]
        lines += [f"  dropped {count}: {reason}" for reason, count in sorted(self.dropped.items()) if count]
        lines += [f"  threshold {name} = {value:.4f}" for name, value in sorted(self.thresholds.items())]
        if self.doubled:
            lines.append(f"  {self.doubled} of them are doubled prompts")
        for reason, count in sorted(Counter(overlap.reason for overlap in self.overlaps).items()):
            lines.append(f"  {count} resemble a benchmark problem by {reason}")
        for title, named in (("left out", self.refused), ("its tests cannot be trusted", self.unsound)):
            lines += [f"  {title}: {reason}" for reason in named[:NAMED]]
            if len(named) > NAMED:
                lines.append(f"  and {len(named) - NAMED} more, named in {self.out}.summary.json")
        if self.warning:
            lines.append(f"  warning: {self.warning}")
        return "\n".join(lines)


@dataclass(frozen=True)
class Request:
    """What `prepare` is to do.

    Attributes:
        set_name: one of `SETS`; `published` reads any of `PROBLEM_FORMATS`, `columns` any file through the mapping
            `columns`.
        source: a file, a hub name (`hub:NAME[@CONFIG][:SPLIT]`, or NAME if there is no such file); None for the set's
            own.
        out: the Parquet file to write.
        level, double: AceCode's difficulty level (None: `hard`) and doubled prompts.
        split: a published split of MBPP (`test`, ...) or of the katas.
        seed: of the katas.
        limit: keep the first problems.
        columns: role -> column; roles are `column_mapping.ROLES`. A column named here must be in the file.
        benchmarks: problem files that must not leak into the set; resemblances are reported.
        ngram, drop_overlaps: length of a shared run of words, and whether those problems (`ngram`), also those that
            only share a function's name (`any`), or none are left out.
        preamble: Python source that comes before every program, e.g. ``from typing import *``.
        comparison: how the set's calls and programs for stdin are compared, instead of how its format says.
        keep_unsound: keep problems whose tests cannot be trusted (they are named in any case).
    """

    set_name: str
    source: str | None
    out: str | Path
    level: Level | None = None
    double: bool = True
    split: str | None = None
    seed: int = 0
    limit: int | None = None
    columns: Mapping[str, str] | None = None
    benchmarks: Sequence[str] = ()
    ngram: int = NGRAM
    drop_overlaps: Literal["none", "ngram", "any"] = "ngram"
    preamble: str = ""
    comparison: Comparison | None = None
    keep_unsound: bool = False


FindUnsound = Callable[[Sequence[Problem]], Mapping[str, str]]


def prepare(request: Request, find_unsound: FindUnsound | None = None) -> Summary:
    """Read the problems of a source, choose, check, and write them to `out` (Parquet) with `out`.summary.json.

    Args:
        find_unsound: why tests cannot be trusted, by problem id: they check nothing, or a program that computes nothing
            passes them. Those problems are named and, unless kept, left out.

    Raises:
        ProblemFileError: as `load_problems`; also an unknown set or role, an option that the set does not use, or
            nothing left to write.
    """
    _check(request)
    source = _resolve(request)
    require_parquet(Path(request.out), source, *request.benchmarks)
    summary = Summary(request.set_name, source, str(request.out))
    problems = _read(request, source, summary)
    if request.benchmarks:
        problems = _decontaminate(request, problems, summary)
    elif request.set_name == "acecode":
        summary.warning = UNCHECKED
    if request.limit is not None and len(problems) > request.limit:
        summary.dropped["over the limit"] = len(problems) - request.limit
        problems = problems[: request.limit]
    problems = [_with_options(problem, request) for problem in problems]
    if find_unsound is not None:
        problems = _sound(problems, find_unsound(problems), request.keep_unsound, summary)
    if not problems:
        first = "".join(f"; first {reason}" for reason in [*summary.refused, *summary.unsound][:1])
        raise ProblemFileError(f"{source}: no problem left to write: dropped {summary.dropped}{first}")
    summary.kept = len(problems)
    write_parquet(problems, request.out)
    write_json(Path(f"{request.out}.summary.json"), asdict(summary))
    return summary


def _check(request: Request) -> None:
    name = request.set_name
    if name not in SETS:
        raise ProblemFileError(f"prepare: no set {name!r}; use one of {', '.join(SETS)}")
    if request.drop_overlaps not in ("none", "ngram", "any"):
        raise ProblemFileError(f"prepare: drop_overlaps = {request.drop_overlaps!r}; use none, ngram or any")
    given = {
        "level": request.level,
        "no-double": not request.double,
        "columns": request.columns,
        "split": request.split,
        "seed": request.seed,
    }
    for option, sets in USED_BY.items():
        if given[option] and name not in sets:
            raise ProblemFileError(f"prepare {name}: does not use --{option}, which is for {' and '.join(sets)}")
    if not request.benchmarks and (request.ngram != NGRAM or request.drop_overlaps != "ngram"):
        raise ProblemFileError(f"prepare {name}: --ngram and --drop have no effect without --benchmarks")


def _with_options(problem: Problem, request: Request) -> Problem:
    """The problem with the preamble and the comparison that the user asks for."""
    comparison = request.comparison
    if request.preamble:
        added = Problem("", "", preamble=parsed("--preamble", request.preamble))
        solution = problem.canonical_solution and whole_program(problem.canonical_solution, added)
        both = "\n".join(filter(None, (problem.preamble, added.preamble)))
        problem = replace(problem, preamble=both, canonical_solution=solution)
    rules = STDIO_RULES if problem.stdio else CALL_RULES if problem.calls else ()
    return replace(problem, comparison=comparison) if comparison and comparison.rule in rules else problem


def _sound(problems: list[Problem], unsound: Mapping[str, str], keep: bool, summary: Summary) -> list[Problem]:
    """The problems to write; `checked` in their metadata says that they need no second check."""
    summary.unsound = [f"problem {name!r}: {why}" for name, why in unsound.items()]
    kept = [problem for problem in problems if keep or problem.problem_id not in unsound]
    if len(kept) < len(problems):
        summary.dropped["their tests check nothing"] = len(problems) - len(kept)
    return [replace(problem, metadata={**problem.metadata, "checked": True}) for problem in kept]


def _resolve(request: Request) -> str:
    """The source, as `load_problems` takes it."""
    set_name, source, split = request.set_name, request.source, request.split
    if set_name == "katas":
        if split and source:
            raise ProblemFileError(f"prepare katas: --source {source} and --split {split}; give one of them")
        name = split or (source or DEFAULT_SOURCES["katas"]).removeprefix("katas:")
        return f"katas:{name}"
    source = source or DEFAULT_SOURCES.get(set_name)
    if source is None:
        raise ProblemFileError(f"prepare {set_name}: needs --source, a file or hub:NAME")
    if set_name == "mbpp" and "@" in source and not source.startswith("hub:") and not Path(source).exists():
        raise ProblemFileError(f"prepare mbpp: --source {source}: no such file; a split is named with --split")
    is_name = HUB_NAME.fullmatch(source) and not source.endswith((".json", ".jsonl", ".gz", ".parquet"))
    return f"hub:{source}" if is_name and not Path(source).exists() and not Path(source).parent.is_dir() else source


def require_parquet(out: Path, *inputs: str) -> None:
    """`ConfigError` if `out` is not a Parquet file, or one of the files that are read."""
    if out.suffix != ".parquet":
        raise ConfigError(f"--out {out}: problems are written as Parquet; name a file that ends in .parquet")
    require_other(out, *(split_source(source)[0] for source in inputs))


def _read(request: Request, source: str, summary: Summary) -> list[Problem]:
    set_name = request.set_name
    if set_name == "acecode":
        selection = read_acecode(source, read_rows(source), request.level or "hard", request.double)
        summary.read, summary.dropped = selection.read, dict(selection.dropped)
        summary.thresholds, summary.doubled = selection.thresholds, selection.doubled
        return selection.problems
    if set_name == "katas":
        found = ProblemSet(load_problems(source, request.seed))
    elif set_name == "columns":
        found = read_columns(source, request.columns or {}, keep_refused=True)
    else:
        found = read_problem_file(source, keep_refused=True)
        if set_name != "published" and found.problems:
            of = found.problems[0].source
            if of != set_name:
                raise ProblemFileError(f"{source}: holds problems of {of or 'another set'}, not of {set_name}")
    problems, summary.refused = found.problems, found.refused
    summary.read = len(problems) + len(found.refused)
    if found.refused:
        summary.dropped["nothing can judge them"] = len(found.refused)
    if request.split and set_name == "mbpp":
        kept = published_split(source, problems, request.split)
        summary.dropped[f"not of split {request.split}"] = len(problems) - len(kept)
        problems = kept
    return problems


def _decontaminate(request: Request, problems: list[Problem], summary: Summary) -> list[Problem]:
    summary.overlaps = find_overlaps(problems, *map(load_problems, request.benchmarks), n=request.ngram)
    drop = request.drop_overlaps
    if drop == "none":
        return problems
    leaking = {overlap.problem_id for overlap in summary.overlaps if drop == "any" or overlap.reason == "ngram"}
    summary.dropped["resembles a benchmark problem"] = len(leaking)
    return [problem for problem in problems if problem.problem_id not in leaking]
