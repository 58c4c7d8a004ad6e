"""The arguments of every sub-command of the command line. What they call stands in `launch.py`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import get_args, get_type_hints

from couplet.configs.schema import ConfigError, SamplerConfig
from couplet.data.levels import LEVELS
from couplet.data.prepare import DEFAULT_SOURCES, NGRAM, ROLES, SETS, USED_BY

Call = Callable[[argparse.Namespace], None]
PROBLEMS = "problem file (HumanEval, MBPP, EvalPlus, AceCode, own Parquet; FILE@SPLIT for MBPP), or katas:SPLIT"
POLICY = "policy folder, run folder, or hub name"
DEFAULT_RECIPE = "tiny.yaml"
KEYS = "Every key, with type and default: docs/configuration.md; `--dry-run` checks them and starts nothing."
EPILOGS = {
    "train": KEYS,
    "adapt": "Every key, with type and default: docs/configuration.md.",
    "score": "Keys that count here: reward.* and sandbox.* of docs/configuration.md.",
    "evaluate": "Keys and defaults: docs/configuration.md, but for the limits of `score` (10 CPU seconds per test, 1 GB).",
    "analyze": "Keys and defaults: docs/configuration.md, but for the limits of `score` (10 CPU seconds per test, 1 GB).",
}
ORDERS = get_args(get_type_hints(SamplerConfig)["order"])


def parse(arguments: Sequence[str], calls: Mapping[str, Call], description: str) -> argparse.Namespace:
    """Parsed arguments, with `call` set; `key=value` overrides may stand anywhere behind the sub-command."""
    root = argparse.ArgumentParser(
        prog="couplet" if Path(sys.argv[0]).name == "couplet" else "launch.py",
        description=description,
        epilog="`COMMAND --help` shows its options. Without a command: train configs/tiny.yaml.",
    )
    commands = root.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, call in calls.items():
        text = (call.__doc__ or "").strip()
        sub = commands.add_parser(name, help=text, description=text, epilog=EPILOGS.get(name))
        sub.set_defaults(call=call, parser=sub)
        OPTIONS[name](sub)
    args, rest = root.parse_known_args(arguments)
    if rest and (not hasattr(args, "overrides") or any(word.startswith("-") or "=" not in word for word in rest)):
        args.parser.error(f"unrecognised arguments: {' '.join(rest)}")
    if hasattr(args, "overrides"):
        args.overrides = [*args.overrides, *rest]
        for word in args.overrides:
            if "=" not in word:
                args.parser.error(f"unrecognised argument: {word} (settings are written key=value)")
    return args


def _train(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("config", nargs="?", default=DEFAULT_RECIPE, help="recipe (default: configs/tiny.yaml)")
    _overrides(sub, "e.g. seed=1 sampler.temperature=1.2")
    sub.add_argument("--resume", action="store_true", help="go on from the newest checkpoint of this run")
    sub.add_argument("--dry-run", action="store_true", help="validate, estimate memory and cost, start nothing")
    _local(sub)


def _adapt(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("config", help="recipe of the stages, e.g. configs/tiny_adapt.yaml")
    _overrides(sub, "e.g. stages.0.steps=100")
    sub.add_argument("--resume", action="store_true", help="go on from the newest checkpoint of this run")


def _prepare(sub: argparse.ArgumentParser) -> None:
    sets = sub.add_subparsers(dest="set", metavar="SET", required=True)
    texts = {
        "acecode": "AceCode: pass rates of two models decide the level, prompts are doubled",
        "mbpp": "MBPP, the full or the sanitised file",
        "humaneval": "HumanEval",
        "humaneval+": "HumanEval+ as EvalPlus publishes it",
        "mbpp+": "MBPP+ as EvalPlus publishes it",
        "katas": "the generated problems of the tiny recipes",
        "columns": "any JSONL, JSON or Parquet file with prompts and tests",
    }
    for name in SETS:
        one = sets.add_parser(name, help=texts[name], description=f"{texts[name]}, as a checked Parquet problem set.")
        one.set_defaults(parser=one)
        _prepare_set(one, name)
    text = "rate problems by a model: levels of difficulty, and the model's own pass@k"
    rate = sets.add_parser("rate", help=text, description=text)
    rate.set_defaults(parser=rate)
    _rate(rate)


def _prepare_set(sub: argparse.ArgumentParser, name: str) -> None:
    default = f" (default: {DEFAULT_SOURCES[name]})" if name in DEFAULT_SOURCES else ""
    places = (
        "katas:tune, katas:rl or katas:heldout" if name == "katas" else "file, hub name or hub:NAME[@CONFIG][:SPLIT]"
    )

    def only(option: str, text: str) -> str:
        """The help of an option that some sets use; the others do not show it, and refuse it by name."""
        return text if name in USED_BY[option] else argparse.SUPPRESS

    sub.add_argument("--source", required=not default, help=f"{places}{default}")
    sub.add_argument("--out", required=True, type=Path, metavar="FILE", help="Parquet file to write")
    sub.add_argument("--limit", type=positive, metavar="N", help="keep the first N problems (default: all)")
    splits = "tune, rl, heldout; default: rl" if name == "katas" else "train, validation, test, prompt; default: all"
    sub.add_argument("--split", help=only("split", f"a published split: {splits}"))
    sub.add_argument("--seed", type=int, default=0, help=only("seed", "of the generated problems (default: 0)"))
    sub.add_argument("--level", choices=LEVELS, help=only("level", "difficulty to keep (default: hard)"))
    sub.add_argument("--no-double", action="store_true", help=only("no-double", "no second prompt from a signature"))
    roles = only("columns", f"which column has which role; roles: {', '.join(ROLES)}; needed: prompt, tests")
    sub.add_argument("--columns", nargs="+", default=[], metavar="role=column", help=roles)
    text = "problem sets that must not leak into this one, e.g. HumanEval.jsonl (default: none, nothing is compared)"
    sub.add_argument("--benchmarks", nargs="+", default=[], metavar="FILE", help=text)
    text = f"words in a row that count as a leak (default: {NGRAM}); needs --benchmarks"
    sub.add_argument("--ngram", type=positive, default=NGRAM, metavar="N", help=text)
    text = (
        "which problems that resemble one of --benchmarks are left out: ngram, those that share --ngram words in a row "
        "(default); any, also those that share only a function's name; none, they are only reported"
    )
    sub.add_argument("--drop", choices=("ngram", "any", "none"), default="ngram", help=text)


def _rate(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("problems", help=PROBLEMS)
    _overrides(sub)
    sub.add_argument("--out", required=True, type=Path, metavar="FILE", help="Parquet file of the chosen level")
    model = sub.add_mutually_exclusive_group(required=True)
    model.add_argument("--policy", metavar="FOLDER", help="our own policy, on rollout actors")
    model.add_argument("--endpoint", metavar="URL", help="a running server, e.g. http://127.0.0.1:8000/v1")
    model.add_argument("--vllm", metavar="MODEL", help="start `vllm serve MODEL` and stop it afterwards")
    sub.add_argument("--model", metavar="NAME", help="name at the endpoint (default: its first)")
    sub.add_argument("--base", action="store_true", help="no chat model: let it continue the problem's code")
    sub.add_argument("--vllm-python", metavar="PATH", help="interpreter of vLLM's own environment")
    sub.add_argument(
        "--vllm-gpus", type=float, default=1.0, metavar="N", help="GPUs of the server (default: 1; CPU: 0)"
    )
    sub.add_argument("--vllm-options", default="", metavar="TEXT", help="further options of vllm serve, in quotes")
    sub.add_argument("--vllm-timeout", type=float, default=1200.0, metavar="S", help="seconds until it must be ready")
    sub.add_argument("--samples", type=positive, default=8, metavar="N", help="completions per problem (default: 8)")
    sub.add_argument("--temperature", type=float, default=0.8, metavar="T", help="of the samples (default: 0.8)")
    sub.add_argument("--top-p", type=float, default=0.95, metavar="P", help="of a served model (default: 0.95)")
    sub.add_argument(
        "--max-tokens", type=positive, default=1024, metavar="N", help="of a served model's answer (default: 1024)"
    )
    sub.add_argument("--seed", type=int, default=0, metavar="N", help="of the samples (default: 0)")
    sub.add_argument("--level", choices=LEVELS, default="hard", help="which problems to keep (default: hard)")
    _subset(sub)
    _local(sub)


def _score(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("problems", help=PROBLEMS)
    sub.add_argument("samples", help='JSON lines {"task_id", "completion"} or {"task_id", "solution"}')
    _overrides(sub, "limits, e.g. sandbox.cpu_seconds=5")
    sub.add_argument("--out", type=Path, metavar="FILE", help="verdicts, JSON lines (default: beside the samples)")
    sub.add_argument("--workers", type=positive, default=1, metavar="N", help="sandboxes at a time (default: 1)")


def _evaluate(sub: argparse.ArgumentParser) -> None:
    _policy_and_problems(sub)
    sub.add_argument("--temperatures", type=numbers, metavar="T,T", help="default: evaluation.greedy_temperature, 0.2")
    sub.add_argument("--steps", type=counts, metavar="N,N", help="denoising steps (default: the policy's own)")
    sub.add_argument("--samples", type=positive, default=8, metavar="N", help="completions per problem (default: 8)")
    where = "(default: RUN/benchmarks/SET); the same command goes on there after a kill"
    sub.add_argument("--k", type=counts, metavar="K,K", help="k of pass@k (default: 1 and the number of samples)")
    sub.add_argument("--seed", type=int, default=0, metavar="N", help="of the samples (default: 0)")
    sub.add_argument("--out", type=Path, metavar="DIR", help=f"results {where}")
    sub.add_argument("--canonical", action="store_true", help="judge the set's own solutions instead of sampling")
    _subset(sub)
    _local(sub)


def _analyze(sub: argparse.ArgumentParser) -> None:
    _policy_and_problems(sub)
    sub.add_argument("--before", metavar="POLICY", help="a second policy to set beside the first, e.g. the start of RL")
    sub.add_argument("--temperatures", type=numbers, metavar="T,T", help="of the sweep (default: 0.2,0.4 … 1.2)")
    sub.add_argument("--steps", type=counts, metavar="N,N", help="of the step halving (default: canvas, half, quarter)")
    sub.add_argument("--samples", type=positive, default=8, metavar="N", help="completions per problem (default: 8)")
    sub.add_argument(
        "--words", default="arithmetic:heldout", metavar="SET", help="word problems beside the code; or none"
    )
    sub.add_argument("--seed", type=int, default=0, metavar="N", help="of the samples (default: 0)")
    sub.add_argument("--out", type=Path, metavar="DIR", help="figures and data (default: RUN/analysis/SET)")
    _subset(sub)
    _local(sub)


def _sample(sub: argparse.ArgumentParser) -> None:
    own = "(default: the policy's own, else that of sampler.* in docs/configuration.md)"
    sub.add_argument("policy", help=POLICY)
    sub.add_argument(
        "--once", metavar="PROMPT", help="answer this and end; without a terminal only the text is printed"
    )
    sub.add_argument("--order", choices=ORDERS, help=f"order of the reveals {own}")
    sub.add_argument("--steps", type=positive, metavar="N", help=f"denoising steps {own}")
    sub.add_argument("--temperature", type=float, metavar="T", help=f"0 takes the likeliest token {own}")
    sub.add_argument(
        "--top-p", type=float, metavar="P", help=f"draw from the likeliest tokens of total probability P {own}"
    )
    sub.add_argument("--top-k", type=positive, metavar="K", help=f"draw from the K likeliest tokens {own}")
    sub.add_argument("--length", type=positive, metavar="N", help=f"tokens of the canvas {own}")
    sub.add_argument("--seed", type=int, default=0, metavar="N", help="of the samples (default: 0)")
    sub.add_argument("--gif", type=Path, metavar="FILE", help="write the denoising as an animation")
    sub.add_argument("--svg", type=Path, metavar="FILE", help="likewise, as SVG")
    sub.add_argument("--device", default="cpu", help="where the policy runs, e.g. cuda (default: cpu)")


def _report(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("run", help="run folder, e.g. runs/latest")
    sub.add_argument("--out", type=Path, metavar="FILE", help="HTML file (default: report.html in the run folder)")


def _export(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("run", help="run folder, e.g. runs/latest, or a policy folder")
    sub.add_argument("out", help="new folder")
    text = "type of the weights (default: auto, as they are stored)"
    sub.add_argument("--dtype", choices=("auto", "float32", "bfloat16", "float16"), default="auto", help=text)
    sub.add_argument("--shard-gb", type=float, default=5.0, metavar="GB", help="largest weight file (default: 5)")
    text = "hub repository with Dream's code, which transformers then uses where it is trusted"
    sub.add_argument("--auto-map", metavar="REPO", help=text)


def _status(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--json", action="store_true", help="for scripts")
    _job(sub)


def _scale(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("targets", nargs="+", metavar="reward=N|rollout=N", help="numbers of workers")
    _job(sub)


def _job(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--run", help="name of the run, where several are going on")
    sub.add_argument("--address", help="Ray cluster (default: RAY_ADDRESS, or the one on this machine)")


def _policy_and_problems(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("policy", help=POLICY)
    sub.add_argument("problems", help=PROBLEMS)
    _overrides(sub, "e.g. sampler.steps=128 rollout.actors=4")


def _overrides(sub: argparse.ArgumentParser, text: str = "settings") -> None:
    sub.add_argument("overrides", nargs="*", default=[], metavar="key=value", help=text)


def _subset(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--limit", type=positive, metavar="N", help="first N problems only")
    sub.add_argument("--config", metavar="RECIPE", help="settings (default: those of the run the policy lies in)")


def _local(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--local", action="store_true", help="one process, without Ray")


OPTIONS: dict[str, Callable[[argparse.ArgumentParser], None]] = {
    "train": _train,
    "adapt": _adapt,
    "prepare": _prepare,
    "score": _score,
    "evaluate": _evaluate,
    "analyze": _analyze,
    "sample": _sample,
    "report": _report,
    "export": _export,
    "status": _status,
    "scale": _scale,
}


def numbers(text: str) -> tuple[float, ...]:
    """`0.2,1` as numbers."""
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: write numbers with commas, e.g. 0.2,0.4") from None


def counts(text: str) -> tuple[int, ...]:
    """`1,8` as whole numbers of at least 1."""
    return tuple(positive(part) for part in text.split(","))


def positive(text: str) -> int:
    """A whole number of at least 1."""
    if not text.strip().isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: must be a whole number of at least 1")
    return int(text)


def column_mapping(pairs: Sequence[str]) -> dict[str, str]:
    """`prompt=question tests=asserts` as role -> column."""
    for pair in pairs:
        if "=" not in pair:
            raise ConfigError(f"--columns {pair!r}: write role=column, e.g. prompt=question")
    return dict(pair.split("=", 1) for pair in pairs)
