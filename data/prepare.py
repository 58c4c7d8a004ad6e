"""`prepare`: published or own problems into one checked Parquet file, with a report of what was left out and why."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from couplet.configs.schema import ConfigError
from couplet.data.answers import whole_program
from couplet.data.decontaminate import Overlap, find_overlaps
from couplet.data.files import require_other, write_json
from couplet.data.formats.cases import read_tests
from couplet.data.formats.columns import Row, RowError, chat, column, identifier, parsed, text
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
    read_with,
    split_source,
)

SETS = ("acecode", "mbpp", "humaneval", "humaneval+", "mbpp+", "katas", "columns", "published")
DEFAULT_SOURCES = {"acecode": "hub:TIGER-Lab/AceCode-87K", "katas": "katas:rl"}
# Role -> column, for any other file with prompts and tests; `prompt` and `tests` are needed.
DEFAULT_COLUMNS = {"id": "id", "prompt": "prompt", "tests": "tests"}
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
ROLES = ("id", "prompt", "tests", "entry_point", "solution", "setup", "prefix", "suffix")


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


def prepare(
    set_name: str,
    source: str | None,
    out: str | Path,
    *,
    level: Level | None = None,
    double: bool = True,
    split: str | None = None,
    seed: int = 0,
    limit: int | None = None,
    columns: Mapping[str, str] | None = None,
    benchmarks: Sequence[str] = (),
    ngram: int = NGRAM,
    drop_overlaps: Literal["none", "ngram", "any"] = "ngram",
    preamble: str = "",
    comparison: Comparison | None = None,
    find_unsound: Callable[[Sequence[Problem]], Mapping[str, str]] | None = None,
    keep_unsound: bool = False,
) -> Summary:
    """Read the problems of `source`, choose, check, and write them to `out` (Parquet) with `out`.summary.json.

    Args:
        set_name: one of `SETS`; `columns` reads any JSONL, JSON or Parquet file through the mapping `columns`.
        source: a file, a hub name (`hub:NAME[@CONFIG][:SPLIT]`, or NAME if there is no such file); None for the set's own.
        level, double: AceCode's difficulty level (None: `hard`) and doubled prompts.
        split: a published split of MBPP (`test`, ...) or of the katas.
        columns: role -> column; roles are `ROLES`. A column named here must be in the file.
        benchmarks: problem files that must not leak into the set; resemblances are reported.
        ngram, drop_overlaps: length of a shared run of words, and whether those problems (`ngram`), also those that
            only share a function's name (`any`), or none are left out.
        preamble: Python source that comes before every program, e.g. ``from typing import *``.
        comparison: how the set's calls and programs for stdin are compared, instead of how its format says.
        find_unsound, keep_unsound: says of problems, by id, why their tests cannot be trusted (they check nothing, or a
            program that computes nothing passes them); those are named and, unless kept, left out.

    Raises:
        ProblemFileError: as `load_problems`; also an unknown set or role, an option that the set does not use, or
            nothing left to write.
    """
    if set_name not in SETS:
        raise ProblemFileError(f"prepare: no set {set_name!r}; use one of {', '.join(SETS)}")
    if drop_overlaps not in ("none", "ngram", "any"):
        raise ProblemFileError(f"prepare: drop_overlaps = {drop_overlaps!r}; use none, ngram or any")
    given = {"level": level, "no-double": not double, "columns": columns, "split": split, "seed": seed}
    _refuse_unused(set_name, given)
    if not benchmarks and (ngram != NGRAM or drop_overlaps != "ngram"):
        raise ProblemFileError(f"prepare {set_name}: --ngram and --drop have no effect without --benchmarks")
    source = _resolve(set_name, source, split)
    require_parquet(Path(out), source, *benchmarks)
    summary = Summary(set_name, source, str(out))
    problems = _read(set_name, source, split, level, double, seed, columns, summary)
    if benchmarks:
        problems = _decontaminate(problems, benchmarks, ngram, drop_overlaps, summary)
    elif set_name == "acecode":
        summary.warning = UNCHECKED
    if limit is not None and len(problems) > limit:
        summary.dropped["over the limit"] = len(problems) - limit
        problems = problems[:limit]
    problems = [_with_options(problem, preamble, comparison) for problem in problems]
    if find_unsound is not None:
        problems = _sound(problems, find_unsound(problems), keep_unsound, summary)
    if not problems:
        first = "".join(f"; first {reason}" for reason in [*summary.refused, *summary.unsound][:1])
        raise ProblemFileError(f"{source}: no problem left to write: dropped {summary.dropped}{first}")
    summary.kept = len(problems)
    write_parquet(problems, out)
    write_json(Path(f"{out}.summary.json"), asdict(summary))
    return summary


def _with_options(problem: Problem, preamble: str, comparison: Comparison | None) -> Problem:
    if preamble:
        solution = problem.canonical_solution
        both = "\n".join(filter(None, (problem.preamble, parsed("--preamble", preamble))))
        problem = replace(
            problem,
            preamble=both,
            canonical_solution=solution
            and whole_program(solution, replace(problem, code_prefix="", preamble=preamble)),
        )
    rules = STDIO_RULES if problem.stdio else CALL_RULES if problem.calls else ()
    return replace(problem, comparison=comparison) if comparison and comparison.rule in rules else problem


def _sound(problems: list[Problem], unsound: Mapping[str, str], keep: bool, summary: Summary) -> list[Problem]:
    """The problems to write; `checked` in their metadata says that they need no second check."""
    summary.unsound = [f"problem {name!r}: {why}" for name, why in unsound.items()]
    kept = [problem for problem in problems if keep or problem.problem_id not in unsound]
    if len(kept) < len(problems):
        summary.dropped["their tests check nothing"] = len(problems) - len(kept)
    return [replace(problem, metadata={**problem.metadata, "checked": True}) for problem in kept]


def _refuse_unused(set_name: str, given: Mapping[str, object]) -> None:
    for option, sets in USED_BY.items():
        if given[option] and set_name not in sets:
            raise ProblemFileError(f"prepare {set_name}: does not use --{option}, which is for {' and '.join(sets)}")


def _resolve(set_name: str, source: str | None, split: str | None) -> str:
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


def _read(
    set_name: str,
    source: str,
    split: str | None,
    level: Level | None,
    double: bool,
    seed: int,
    columns: Mapping[str, str] | None,
    summary: Summary,
) -> list[Problem]:
    if set_name == "acecode":
        selection = read_acecode(source, read_rows(source), level or "hard", double)
        summary.read, summary.dropped = selection.read, dict(selection.dropped)
        summary.thresholds, summary.doubled = selection.thresholds, selection.doubled
        return selection.problems
    if set_name == "katas":
        found = ProblemSet(load_problems(source, seed))
    elif set_name == "columns":
        found = read_columns(source, columns or {}, keep_refused=True)
    else:
        found = read_problem_file(source, keep_refused=True)
        if set_name != "published" and found.problems:
            _check_set(set_name, source, found.problems)
    problems, summary.refused = found.problems, found.refused
    summary.read = len(problems) + len(found.refused)
    if found.refused:
        summary.dropped["nothing can judge them"] = len(found.refused)
    if split and set_name == "mbpp":
        kept = published_split(source, problems, split)
        summary.dropped[f"not of split {split}"] = len(problems) - len(kept)
        problems = kept
    return problems


def _check_set(set_name: str, source: str, problems: list[Problem]) -> None:
    found = problems[0].source
    if found != set_name:
        raise ProblemFileError(f"{source}: holds problems of {found or 'another set'}, not of {set_name}")


def read_columns(source: str, columns: Mapping[str, str], keep_refused: bool = False) -> ProblemSet:
    """Problems of any file with a prompt and tests, through a mapping of roles (`ROLES`) to its columns.

    Tests come in any form of `data.formats.cases`, the prompt as text or as chat messages; dots lead into nested columns.
    Without an id column the problems are numbered. A column that `columns` names must be in some row, those of `id`,
    `prompt` and `tests` in every one. `keep_refused` as in `read_problem_file`.
    """
    unknown = set(columns) - set(ROLES)
    if unknown:
        raise ProblemFileError(f"columns: no role {', '.join(sorted(unknown))}; use {', '.join(ROLES)}")
    mapping = {**DEFAULT_COLUMNS, **columns}
    absent, last = set(columns), ("", {})

    def watched() -> Iterator[tuple[str, Row]]:
        nonlocal absent, last
        for place, row in read_rows(source):
            absent = {role for role in absent if mapping[role] not in row and column(row, mapping[role]) is None}
            last = place, row
            yield place, row

    read = partial(_mapped, mapping=mapping, id_needed="id" in columns, source=Path(source).name.split(".")[0])
    problems = read_with(source, read, watched(), keep_refused)
    if absent:
        names = ", ".join(f"{mapping[role]!r} (role {role})" for role in sorted(absent))
        raise ProblemFileError(f"{last[0]}: missing column {names}, as in every row; it has {', '.join(last[1])}")
    return problems


def _mapped(row: Row, mapping: Mapping[str, str], id_needed: bool, source: str) -> Problem:
    needed = ["prompt", "tests", *(["id"] if id_needed else [])]
    missing = [f"{mapping[role]!r} (role {role})" for role in needed if column(row, mapping[role]) is None]
    if missing:
        raise RowError(f"missing column {', '.join(missing)}; it has {', '.join(row)}")

    def optional(role: str, default: str | None) -> Any:
        return text(row, mapping[role], default) if role in mapping else default

    question, system = chat(row, mapping["prompt"])
    entry_point = optional("entry_point", None)
    tests = read_tests(mapping["tests"], column(row, mapping["tests"]), entry_point)
    return Problem(
        problem_id=identifier(row, mapping["id"], ""),
        question=question,
        code_prefix=optional("prefix", ""),
        suffix=optional("suffix", ""),
        test_setup=parsed(mapping.get("setup", ""), optional("setup", "")),
        canonical_solution=optional("solution", None),
        source=source,
        metadata={"system": system} if system else {},
        **{"entry_point": entry_point, **tests},
    )


def _decontaminate(
    problems: list[Problem], benchmarks: Sequence[str], ngram: int, drop: str, summary: Summary
) -> list[Problem]:
    summary.overlaps = find_overlaps(problems, *map(load_problems, benchmarks), n=ngram)
    if drop == "none":
        return problems
    leaking = {overlap.problem_id for overlap in summary.overlaps if drop == "any" or overlap.reason == "ngram"}
    summary.dropped["resembles a benchmark problem"] = len(leaking)
    return [problem for problem in problems if problem.problem_id not in leaking]
