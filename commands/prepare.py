"""`prepare`: published or own problem sets as checked Parquet files; `prepare rate` measures their difficulty."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from couplet.commands import cli, rate
from couplet.configs.errors import UserError
from couplet.data.column_mapping import ROLES
from couplet.data.levels import LEVELS
from couplet.data.prepare import DEFAULT_SOURCES, NGRAM, SETS, USED_BY, Request
from couplet.data.prepare import prepare as prepare_set
from couplet.data.problem import CALL_RULES, STDIO_RULES, Comparison

TEXTS = {
    "acecode": "AceCode: pass rates of two models decide the level, prompts are doubled",
    "mbpp": "MBPP, the full or the sanitised file",
    "humaneval": "HumanEval",
    "humaneval+": "HumanEval+ as EvalPlus publishes it",
    "mbpp+": "MBPP+ as EvalPlus publishes it",
    "published": "any other published format (docs/problems.md), recognised by its columns",
    "katas": "the generated problems of the tiny recipes",
    "columns": "any JSONL, JSON or Parquet file with prompts and tests",
}
RATE = "rate problems by a model: levels of difficulty, and the model's own pass@k"


def options(parser: argparse.ArgumentParser) -> None:
    """A sub-command for each set, and `rate`."""
    sets = parser.add_subparsers(dest="set", metavar="SET", required=True)
    for name in SETS:
        one = sets.add_parser(name, help=TEXTS[name], description=f"{TEXTS[name]}, as a checked Parquet problem set.")
        one.set_defaults(parser=one)
        _options_of_set(one, name)
    one = sets.add_parser("rate", help=RATE, description=RATE)
    one.set_defaults(parser=one, driver=rate.run)
    rate.options(one)


def run(args: argparse.Namespace) -> None:
    """Write the set and print which problems were kept and left out."""
    request = Request(
        args.set,
        args.source,
        args.out,
        level=args.level,
        double=not args.no_double,
        split=args.split,
        seed=args.seed,
        limit=args.limit,
        columns=column_mapping(args.columns),
        benchmarks=args.benchmarks,
        ngram=args.ngram,
        drop_overlaps=args.drop,
        preamble=args.preamble.replace("\\n", "\n"),
        comparison=Comparison(args.compare, args.tolerance) if args.compare else None,
        keep_unsound=args.keep_unsound,
    )
    from couplet.commands.soundness import find_unsound

    summary = prepare_set(request, None if args.unchecked or args.set == "katas" else find_unsound)
    print(summary.text())


def column_mapping(pairs: Sequence[str]) -> dict[str, str]:
    """`prompt=question tests=asserts` as role -> column."""
    for pair in pairs:
        if "=" not in pair:
            raise UserError(f"--columns {pair!r}: write role=column, e.g. prompt=question")
    return dict(pair.split("=", 1) for pair in pairs)


def _options_of_set(parser: argparse.ArgumentParser, name: str) -> None:
    default = f" (default: {DEFAULT_SOURCES[name]})" if name in DEFAULT_SOURCES else ""
    places = (
        "katas:tune, katas:rl or katas:heldout" if name == "katas" else "file, hub name or hub:NAME[@CONFIG][:SPLIT]"
    )

    def only(option: str, text: str) -> str:
        """The help of an option that only some sets use; the others hide it and reject it by name."""
        return text if name in USED_BY[option] else argparse.SUPPRESS

    parser.add_argument("--source", required=not default, help=f"{places}{default}")
    parser.add_argument("--out", required=True, type=Path, metavar="FILE", help="Parquet file to write")
    parser.add_argument("--limit", type=cli.positive, metavar="N", help="keep the first N problems (default: all)")
    splits = "tune, rl, heldout; default: rl" if name == "katas" else "train, validation, test, prompt; default: all"
    parser.add_argument("--split", help=only("split", f"a published split: {splits}"))
    parser.add_argument("--seed", type=int, default=0, help=only("seed", "of the generated problems (default: 0)"))
    parser.add_argument("--level", choices=LEVELS, help=only("level", "difficulty to keep (default: hard)"))
    parser.add_argument("--no-double", action="store_true", help=only("no-double", "no second prompt from a signature"))
    roles = only("columns", f"which column has which role; roles: {', '.join(ROLES)}; needed: prompt, tests")
    parser.add_argument("--columns", nargs="+", default=[], metavar="role=column", help=roles)
    text = "problem sets that must not leak into this one, e.g. HumanEval.jsonl (default: none, nothing is compared)"
    parser.add_argument("--benchmarks", nargs="+", default=[], metavar="FILE", help=text)
    text = f"words in a row that count as a leak (default: {NGRAM}); needs --benchmarks"
    parser.add_argument("--ngram", type=cli.positive, default=NGRAM, metavar="N", help=text)
    text = (
        "which problems that resemble one of --benchmarks are left out: ngram, those that share --ngram words in a row "
        "(default); any, also those that share only a function's name; none, they are only reported"
    )
    parser.add_argument(
        "--preamble",
        default="",
        metavar="CODE",
        help="Python that comes before every program, e.g. 'from typing import *'",
    )
    rules = sorted({*STDIO_RULES, *CALL_RULES} - {"checker"})
    parser.add_argument(
        "--compare", choices=rules, help="how results and output are compared (default: as the format says)"
    )
    parser.add_argument("--tolerance", type=float, default=0.0, metavar="X", help="of --compare (default: 0)")
    parser.add_argument(
        "--unchecked", action="store_true", help="do not run the tests against programs that compute nothing"
    )
    parser.add_argument("--keep-unsound", action="store_true", help="keep problems whose tests such programs pass")
    parser.add_argument("--drop", choices=("ngram", "any", "none"), default="ngram", help=text)
