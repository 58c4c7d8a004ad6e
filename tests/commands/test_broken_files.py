"""Every command, fed every kind of broken file: one line that names the file, exit code 2, never a traceback."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _truncate(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2 + 3])  # within a line


BREAK: dict[str, Callable[[Path], object]] = {
    "missing": Path.unlink,
    "empty": lambda path: path.write_bytes(b""),
    "truncated": _truncate,
    "folder": _folder,
    "binary": lambda path: path.write_bytes(bytes(range(256)) * 8),
    "list": lambda path: path.write_text("[1, 2]\n"),
    "nested": lambda path: path.write_text("[" * 100_000),
}

EVALUATE = "evaluate {run} {problems} --samples 1 --limit 1 --local --out {tmp}/out"
SAMPLE = "sample {run} --once hi"
EXPORT = "export {run} {tmp}/out"
TRAIN = "train {recipe} --dry-run"
REPORT = "report {run} --out {tmp}/page.html"
RATE = "prepare rate {problems} --policy {run} --samples 1 --limit 1 --level all --out {tmp}/o.parquet --local"

# File within the folder of a test -> command lines that read it.
READERS = {
    "toy/policy/config.json": (EVALUATE, SAMPLE, EXPORT, TRAIN),
    "toy/policy/tokenizer.json": (EVALUATE, SAMPLE, EXPORT, TRAIN),
    "toy/policy/tokenizer_config.json": (EVALUATE, SAMPLE, EXPORT, TRAIN),
    "alone/generation_config.json": ("sample {tmp}/alone --once hi",),
    "toy/policy/model.safetensors": (EVALUATE, SAMPLE, EXPORT, TRAIN),
    "toy/config.yaml": (EVALUATE, SAMPLE, EXPORT, REPORT),
    "toy/summary.json": (EXPORT, REPORT),
    "toy/run.json": (REPORT,),
    "toy/metrics.jsonl": (REPORT,),
    "toy/evaluations/before.json": (REPORT,),
    "problems.jsonl": (
        EVALUATE,
        RATE,
        "score {problems} {samples}",
        "prepare mbpp --source {problems} --out {tmp}/o.parquet",
        "prepare columns --source {problems} --out {tmp}/o.parquet",
        "prepare katas --limit 2 --benchmarks {problems} --out {tmp}/o.parquet",
        "train {recipe} problems.evaluate={problems} --local",
    ),
    "samples.jsonl": ("score {problems} {samples}",),
    "recipe.yaml": (TRAIN, "evaluate {run} {problems} --limit 1 --config {recipe} --local"),
    "adapt.yaml": ("adapt {adapt}",),
    "corpus.jsonl": ("adapt {adapt}",),
}
# What may be missing, or may hold nothing, without harm to the command.
HARMLESS = {
    "missing": (
        "alone/generation_config.json",
        "toy/policy/tokenizer.json",  # `export` and `--dry-run` do without
        "toy/policy/tokenizer_config.json",
        "toy/config.yaml",
        "toy/summary.json",
        "toy/run.json",
        "toy/evaluations/before.json",
        "toy/metrics.jsonl",
    ),
    "truncated": ("toy/metrics.jsonl", "toy/config.yaml"),  # as a killed run leaves it; cut between two settings
    "empty": ("toy/metrics.jsonl",),
    "folder": ("toy/metrics.jsonl",),
    "nested": ("toy/metrics.jsonl",),  # one unfinished line
}


@pytest.fixture
def places(run_folder, problem_file, tmp_path):
    """Copies that a test may break."""
    shutil.copytree(run_folder, tmp_path / "toy")
    (tmp_path / "toy" / "evaluations").mkdir()
    (tmp_path / "toy" / "evaluations" / "before.json").write_text('{"step": 0}')
    shutil.copytree(run_folder / "policy", tmp_path / "alone")
    (tmp_path / "alone" / "generation_config.json").write_text('{"alg": "entropy", "steps": 4}')
    shutil.copyfile(problem_file, tmp_path / "problems.jsonl")
    (tmp_path / "samples.jsonl").write_text('{"task_id": "MBPP/601", "completion": "def f(x): return x + 601"}\n')
    (tmp_path / "corpus.jsonl").write_text('{"prompt": "Add one.", "response": "x + 1"}\n' * 4)
    start = f"model: {{path: {tmp_path / 'toy' / 'policy'}}}\nruns_dir: {tmp_path / 'runs'}\n"
    (tmp_path / "recipe.yaml").write_text(start)
    stage = (
        f"{{name: a, steps: 1, batch: 2, length: 64, canvas: 32, objective: instruct, corpus: {tmp_path}/corpus.jsonl}}"
    )
    (tmp_path / "adapt.yaml").write_text(
        f"runs_dir: {tmp_path / 'runs'}\nlearner: {{engine: torch}}\nstages: [{stage}]\n"
    )
    names = {"run": "toy", "problems": "problems.jsonl", "samples": "samples.jsonl", "recipe": "recipe.yaml"}
    names |= {"adapt": "adapt.yaml"}
    return {name: str(tmp_path / file) for name, file in names.items()} | {"tmp": str(tmp_path)}


CASES = [(file, line, kind) for file, lines in READERS.items() for line in lines for kind in BREAK]


@pytest.mark.parametrize(("file", "line", "kind"), CASES)
def test_a_broken_file_is_one_line(file, line, kind, places, tmp_path, command):
    BREAK[kind](tmp_path / file)
    code, _, error = command(*line.format(**places).split())
    if code == 0 and file in HARMLESS.get(kind, ()):
        return
    assert code == 2 and error.startswith("error: ") and error.count("\n") == 1, error
    assert Path(file).name in error or Path(file).parent.name in error, error


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is forbidden to root")
@pytest.mark.parametrize("file", READERS)
def test_a_file_without_permission_is_one_line(file, places, tmp_path, command):
    (tmp_path / file).chmod(0)
    code, _, error = command(*READERS[file][0].format(**places).split())
    assert code == 2 and error.startswith("error: ") and error.count("\n") == 1, error
