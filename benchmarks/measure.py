"""How the benchmarks measure: CPU time interleaved in one process, operations by torch's counter, peak memory apart."""

from __future__ import annotations

import multiprocessing
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.kernel import machine
from couplet.data.files import write_json

RESULTS = Path(__file__).parent / "results"
ROUNDS = 3  # of interleaved measurements; `python -m benchmarks --rounds`


def write_result(name: str, what: str, left_out: str, **parts: object) -> None:
    """Write results/NAME.json with the machine's description."""
    write_json(
        RESULTS / f"{name}.json", {"what": what, "left_out": left_out, "machine": machine(), "rounds": ROUNDS, **parts}
    )


def cpu_seconds(run: Callable[[], object]) -> float:
    """CPU seconds of this process that `run` takes; other processes do not count."""
    started = time.process_time()
    run()
    return time.process_time() - started


def interleaved(runs: Mapping[str, Callable[[], object]], repeats: int | None = None) -> dict[str, list[float]]:
    """CPU seconds of each run, taken in turn so that a busy machine affects all alike; `ROUNDS` times by default."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats or ROUNDS):
        for name, run in runs.items():
            seconds[name].append(cpu_seconds(run))
    return seconds


def ratio(over: list[float], under: list[float]) -> float:
    """Median of the ratios of paired measurements."""
    return round(statistics.median(a / b for a, b in zip(over, under, strict=True)), 2)


def flops(run: Callable[[], object]) -> float:
    """Floating-point operations of matrix products, convolutions and attention inside `run`."""
    with FlopCounterMode(display=False) as counter:
        run()
    return float(counter.get_total_flops())


def gemm_rate(rows: int = 1024, hidden: int = 1024, repeats: int = 5) -> float:
    """float32 operations per CPU second of a square matrix product on one core: the best of some."""
    left, right = torch.randn(rows, hidden), torch.randn(hidden, hidden)
    best = min(cpu_seconds(lambda: [left @ right for _ in range(8)]) for _ in range(repeats))
    return 8 * 2.0 * rows * hidden * hidden / best


def peak_mib(task: Callable[..., Any], *arguments: object) -> float:
    """Growth of the largest resident set, in MiB, while `task(*arguments)()` runs in a process of its own.

    `task` prepares and returns the run, so that weights and imports do not count.
    """
    spawn = multiprocessing.get_context("spawn")
    receiver, sender = spawn.Pipe(duplex=False)
    process = spawn.Process(target=_peak, args=(sender, task, arguments))
    process.start()
    sender.close()
    try:
        return float(receiver.recv())
    except EOFError:
        raise RuntimeError(f"{task.__name__}{arguments}: the measured process ended without a result") from None
    finally:
        process.join()


def _peak(sender: Any, task: Callable[..., Any], arguments: tuple[object, ...]) -> None:
    torch.set_num_threads(1)
    run = task(*arguments)
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak of the preparation
    before = _resident_kib("VmRSS")
    run()
    sender.send((_resident_kib("VmHWM") - before) / 1024)


def _resident_kib(field: str) -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return float(line.split()[1])
    raise RuntimeError(f"/proc/self/status has no {field}")
