"""Every benchmark runs at toy size, the GPU one too, and the page is made of what they store."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import page
from benchmarks.measure import flops, peak_mib
from benchmarks.plain import IDS, SHAPES, random_policy
from couplet.model.cost import ModelSize

ROOT = Path(__file__).parents[1]
NAMES = ("sampler", "learner", "logprob", "weights", "replay", "gpu")


@pytest.mark.parametrize("name", NAMES)
def test_a_benchmark_runs_at_toy_size(name: str) -> None:
    found = importlib.import_module(f"benchmarks.{name}").measure(toy=True)
    json.dumps(found, allow_nan=False)
    assert page.TABLES[name](found).startswith("| ")
    for part in found.values():
        assert not (isinstance(part, str) and part.startswith(("out of memory", "needs"))), part


def test_what_the_gpu_benchmark_decodes_on_both_devices_is_equal() -> None:
    from benchmarks.gpu import TOY, _equality

    assert set(_equality(TOY).values()) == {1.0}


def test_the_gpu_benchmark_imports_neither_ray_nor_deepspeed() -> None:
    code = "import sys, benchmarks.gpu; sys.exit(bool({'ray', 'deepspeed'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_the_7b_shape_has_its_number_of_parameters() -> None:
    with torch.device("meta"):
        config = random_policy("7b", 152_064, "meta", "bfloat16").config
    assert ModelSize.of(config).total == 7_615_616_512
    assert SHAPES["7b"].layers == 28 and IDS.mask not in IDS.end


def test_the_counter_counts_multiply_and_add_as_two() -> None:
    left = torch.ones(8, 16)
    assert flops(lambda: left @ left.t()) == 2 * 8 * 16 * 8


@pytest.mark.slow
def test_the_peak_is_that_of_a_known_computation() -> None:
    assert peak_mib(_allocates, 64) == pytest.approx(64, abs=8)


def _allocates(mebibytes: int):  # type: ignore[no-untyped-def]
    return lambda: torch.ones(mebibytes, 2**18)


def test_a_page_is_filled_between_its_marks(tmp_path: Path) -> None:
    text = "".join(f"before {name}\n<!-- {name} -->\nold\n<!-- end -->\n" for name in page.TABLES)
    path = tmp_path / "performance.md"
    path.write_text(text)
    page.write_page(path, tmp_path)
    filled = path.read_text()
    assert "old" not in filled and filled.count("Not measured") == len(page.TABLES)
    assert filled.count("before") == len(page.TABLES)
    stored = {"machine": {"cpu": "m", "cores": 2, "load_at_start": 0.5}, "payload_kb": 1.0, "cases": []}
    (tmp_path / "replay.json").write_text(json.dumps(stored))
    page.write_page(path, tmp_path)
    assert "One group is 1.0 kB." in path.read_text()
