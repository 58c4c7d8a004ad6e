"""`make bench`: measures each part, writes benchmarks/results/NAME.json and the tables of docs/performance.md."""

from __future__ import annotations

import argparse
import importlib
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).parent
NAMES = ("sampler", "learner", "logprob", "weights", "replay", "sandbox", "startup")


def main(argv: Sequence[str] | None = None) -> int:
    """Run each benchmark in its own process; 1 if one failed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)} (default: all but gpu), or gpu"
    )
    parser.add_argument("--toy", action="store_true", help="toy sizes, nothing written: does it still run?")
    parser.add_argument("--rounds", type=int, metavar="N", help="interleaved measurements of each case (default: 3)")
    parser.add_argument("--page", action="store_true", help="only write docs/performance.md from the stored results")
    args = parser.parse_args(argv)
    names = args.names or ([] if args.page else list(NAMES))
    if unknown := [name for name in names if name not in (*NAMES, "gpu")]:
        parser.error(f"no benchmark {unknown[0]!r}: choose among {', '.join(NAMES)}, gpu")
    if len(names) == 1 and names != ["sandbox"]:
        _measure(names[0], args.toy, args.rounds)
        failed = []
    else:
        failed = [name for name in names if _process(name, args.toy, args.rounds)]
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    if not args.toy:
        from benchmarks.page import write_page

        write_page()
    return 1 if failed else 0


def _process(name: str, toy: bool, rounds: int | None) -> int:
    print(f"--- {name}", flush=True)
    words = ["-c", f"from benchmarks.__main__ import _measure; _measure({name!r}, {toy}, {rounds})"]
    if name == "sandbox":
        options = [*(["--toy"] if toy else []), *([f"--rounds={rounds}"] if rounds else [])]
        words = ["-m", "benchmarks.sandbox", *options]
    return subprocess.run([sys.executable, *words], cwd=HERE.parent, check=False).returncode


def _measure(name: str, toy: bool, rounds: int | None) -> None:
    import torch

    from benchmarks import measure

    measure.ROUNDS = rounds or measure.ROUNDS
    if name != "gpu":
        torch.set_num_threads(1)
    module = importlib.import_module(f"benchmarks.{name}")
    found = module.measure(toy)
    if toy:
        print(found)
    else:
        measure.write_result(name, module.WHAT, module.LEFT_OUT, **found)


if __name__ == "__main__":
    sys.exit(main())
