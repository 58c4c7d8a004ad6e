"""Corpora that are made from something else: a problem set's own solutions, Python's standard library."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import islice
from pathlib import Path

from couplet.data import stdlib
from couplet.data.problem_sets import load_problems
from couplet.data.sources import Row, Shard, SourceError, open_source

STDLIB = ("text", "pairs")


def open_corpus(source: str) -> list[Shard]:
    """The shards of a source, which may be, besides those of `open_source`:

    - `problems:SET`: questions with the set's canonical solutions in a code block (`prompt`, `answer`), SET as in
      `problems.train`, e.g. `problems:mbpp.jsonl@train`;
    - `stdlib:text`, `stdlib:pairs`: see `data.stdlib`.

    Raises:
        SourceError: nothing to read.
    """
    if "+" in source and not Path(source).exists():
        return [shard for part in source.split("+") for shard in open_corpus(part)]
    scheme, _, rest = source.partition(":")
    if scheme == "problems":
        return [Shard(source, partial(_solutions, rest))]
    if scheme == "stdlib":
        if rest not in STDLIB:
            raise SourceError(f"{source}: choose stdlib:{' or stdlib:'.join(STDLIB)}")
        return [Shard(source, partial(stdlib.read, rest))]
    return open_source(source)


def _solutions(source: str, skip: int) -> Iterator[tuple[str, Row]]:
    solved = (problem for problem in load_problems(source) if problem.canonical_solution)
    for problem in islice(solved, skip, None):
        program = str(problem.canonical_solution).strip("\n")
        yield problem.problem_id, {"prompt": problem.question, "answer": f"```python\n{program}\n```"}
