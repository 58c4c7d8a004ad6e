"""The tables of docs/performance.md from benchmarks/results; the text around them is written by hand."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.measure import RESULTS
from couplet.configs.generated import with_generated
from couplet.configs.markdown import markdown_table
from couplet.data.files import write_text

PAGE = Path(__file__).parents[1] / "docs" / "performance.md"
Result = dict[str, Any]


def sampler(found: Result) -> str:
    """One row per case."""
    heads = ["trunk", "V", "filter", "rows × canvas", "tokens/s", "plain", "times plain", "bound", "of bound"]
    heads += ["GFLOP (formula)", "of GEMM rate"]
    rows = [
        [
            case["trunk"],
            f"{case['vocabulary']:,}",
            case["filter"],
            f"{case['rows']} × {case['canvas']}",
            case["tokens_per_second"],
            case["plain_tokens_per_second"],
            case["speedup"],
            case["bound"],
            f"{case['share_of_bound']:.0%}",
            f"{case['gflop']} ({case['predicted_gflop']})",
            f"{case['share_of_floor']:.0%}",
        ]
        for case in found["cases"]
    ]
    return _table(heads, rows) + f"\n\nA matrix product of 1,024³ reaches {found['gemm_gflops']} GFLOP/s on this core."


def learner(found: Result) -> str:
    """Operations measured and predicted, CPU time, and the 7B figures."""
    heads = ["trunk", "V", "prompt + canvas", "times fewer FLOPs: counter (formula)", "times less CPU", "of GEMM rate"]
    rows = [
        [
            case["trunk"],
            f"{case['vocabulary']:,}",
            f"{case['prompt']} + {case['canvas']}",
            "; ".join(f"{mode}: {n['measured']} ({n['predicted']})" for mode, n in case["times_fewer_flops"].items()),
            case["times_less_cpu"],
            f"{case['share_of_floor']:.0%}",
        ]
        for case in found["cases"]
    ]
    seven = _table(
        ["a step of mu = 2 at the 7B shape (formula)", "times fewer FLOPs"],
        found["seven_b_step_times_fewer_flops"].items(),
    )
    peaks = found["peak_mib"]
    memory = (
        f"Peak memory of the last case's step: ours {peaks['ours']} MiB, plain {peaks['plain']} MiB." if peaks else ""
    )
    views = f"One view set at 7B: {found['seven_b_views_times_fewer_flops']} times fewer FLOPs."
    return "\n\n".join([_table(heads, rows), seven, views, memory])


def logprob(found: Result) -> str:
    """One row per case."""
    heads = ["V", "hidden", "rows", "times less CPU", "peak MiB", "plain", "times less memory"]
    keys = ["vocabulary", "hidden", "rows", "times_less_cpu", "ours_peak_mib", "plain_peak_mib", "times_less_memory"]
    return _table(heads, [[case[key] for key in keys] for case in found["cases"]])


def weights(found: Result) -> str:
    """One row per stage."""
    rows = [[name, rate, found["seconds_of_15_gb"][name]] for name, rate in found["gb_per_second"].items()]
    return _table(["stage", "GB per CPU second", "CPU seconds of 15.2 GB"], rows)


def replay(found: Result) -> str:
    """One row per number of workers."""
    keys = ["rollout_workers", "groups_per_step", "microseconds_per_group", "groups_per_second"]
    rows = [[case[key] for key in keys] for case in found["cases"]]
    heads = ["rollout workers", "groups per step", "µs per group", "groups per CPU second"]
    return _table(heads, rows) + f"\n\nOne group is {found['payload_kb']} kB."


def startup(found: Result) -> str:
    """One row per stage."""
    return _table(
        ["until", "wall seconds", "CPU seconds"], [[s["until"], s["wall"], s["cpu"]] for s in found["stages"]]
    )


def sandbox(found: Result) -> str:
    """CPU time of one program by each way of running it."""
    return _table(["way", "CPU ms per program of five tests"], found["cpu_ms_per_program"].items())


def gpu(found: Result) -> str:
    """The sampler's rows, and the other parts as they are."""
    heads = ["rows", "seconds per step", "tokens/s at 1, 2, 4 per step", "floor", "of floor", "times plain"]
    keys = ["rows", "seconds_per_step", "tokens_per_second", "floor_tokens_per_second", "share_of_floor", "times_plain"]
    sampled = found["sampler"]
    table = sampled if isinstance(sampled, str) else _table(heads, [[case[key] for key in keys] for case in sampled])
    rest = _table(
        ["part", "found"], [[key, found[key]] for key in found if key not in ("sampler", "what", "left_out", "machine")]
    )
    return f"{table}\n\n{rest}"


TABLES: dict[str, Callable[[Result], str]] = {
    table.__name__: table for table in (sampler, learner, logprob, weights, replay, startup, sandbox, gpu)
}


def write_page(page: Path = PAGE, results: Path = RESULTS) -> None:
    """Fill each `<!-- NAME -->` … `<!-- end -->` of the page."""
    for name, table in TABLES.items():
        stored = results / f"{name}.json"
        body = "Not measured: no result is stored."
        if stored.is_file():
            found = json.loads(stored.read_text(encoding="utf-8"))
            body = f"{table(found)}\n\n{_described(found)}"
        write_text(page, with_generated(page, body + "\n", f"<!-- {name} -->\n", "<!-- end -->\n"))


def _described(found: Result) -> str:
    machine = found["machine"]
    return f"Machine: {machine['cpu']}, {machine['cores']} cores, load {machine['load_at_start']}."


def _table(heads: list[str], rows: Any) -> str:
    return markdown_table(heads, [[str(cell) for cell in row] for row in rows])
