"""Every sub-command answers every kind of mistake with one line on the error output and exit code 2."""

from __future__ import annotations

import builtins
import errno
import io
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def places(run_folder, maskless, problem_file, tmp_path):
    """The names that the command lines below use."""
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "columns.jsonl").write_text('{"question": "q", "answer": "a"}\n')
    (tmp_path / "broken.jsonl").write_text('{"task_id": 1, \n')
    (tmp_path / "samples.jsonl").write_text('{"task_id": "MBPP/601", "completion": "def f(x): return x + 601"}\n')
    (tmp_path / "config.yaml").write_text("name: nothing\n")
    (tmp_path / "loop.yaml").write_text("base: loop.yaml\n")
    (tmp_path / "twice.yaml").write_text("steps: 3\nsteps: 4\n")
    (tmp_path / "latin.yaml").write_bytes("name: \xe9".encode("latin-1"))
    start = f"{{model: {{path: {run_folder / 'policy'}}}, runs_dir: {tmp_path / 'runs'}}}\n"
    (tmp_path / "train.yaml").write_text(start)
    stage = "{name: a, steps: 1, batch: 2, length: 64, canvas: 32, objective: instruct, corpus: 'katas:tune'}"
    (tmp_path / "adapt.yaml").write_text(
        f"{{runs_dir: {tmp_path / 'runs'}, learner: {{engine: torch}}, stages: [{stage}]}}"
    )
    names = {"run": run_folder, "maskless": maskless, "problems": problem_file, "tmp": tmp_path}
    names |= {name: tmp_path / f"{name}.jsonl" for name in ("empty", "columns", "broken", "samples")}
    return names | {"train": tmp_path / "train.yaml", "adapt": tmp_path / "adapt.yaml"}


MISTAKES = {
    # a missing folder or file
    "train {tmp}/nowhere.yaml": "config file '.*nowhere.yaml' does not exist",
    "train {train} model.path={tmp}/nowhere --local": "model.path = .*nowhere.*no such model folder",
    "train {train} problems.evaluate={tmp}/nowhere.jsonl --local": "nowhere.jsonl: no such file",
    "train {train} --resume --local": "no checkpoint of a run named",
    "adapt {tmp}/nowhere.yaml": "does not exist",
    "adapt {adapt} start={tmp}/nowhere": "start = .*nowhere.*no such model folder",
    "adapt {adapt} stages.0.corpus={tmp}/nowhere.jsonl": "nowhere.jsonl: no such file or folder",
    "prepare columns --source {tmp}/nowhere.jsonl --out {tmp}/o.parquet": "nowhere.jsonl: no such file",
    "prepare rate {tmp}/nowhere.jsonl --policy {run} --out {tmp}/o.parquet --local": "nowhere.jsonl: no such file",
    "prepare rate {problems} --policy {tmp}/nowhere --out {tmp}/o.parquet --local": "policy = .*no such model folder",
    "score {tmp}/nowhere.jsonl {samples}": "nowhere.jsonl: no such file",
    "score {problems} {tmp}/nowhere.jsonl": "nowhere.jsonl",
    "evaluate {tmp}/nowhere {problems} --local": "policy = .*nowhere.*no such model folder",
    "evaluate {run} {tmp}/nowhere.jsonl --local": "nowhere.jsonl: no such file",
    "analyze {tmp}/nowhere {problems} --local": "no such model folder",
    "analyze {run} {problems} --before {tmp}/nowhere --local": "no such model folder",
    "sample {tmp}/nowhere --once hi": "no such model folder",
    "report {tmp}/nowhere": "run folder .*nowhere does not exist",
    "export {tmp}/nowhere {tmp}/out": "nowhere does not exist",
    # wrong columns
    "train {train} problems.train={columns} --local": r"columns.jsonl: unknown problem format \(columns question, answer\)",
    "adapt {adapt} stages.0.corpus={columns}": "columns.jsonl.*'?prompt'?",
    "prepare mbpp --source {columns} --out {tmp}/o.parquet": "columns.jsonl: unknown problem format",
    "prepare columns --source {columns} --out {tmp}/o.parquet": "columns.jsonl:1: missing column 'prompt'",
    "prepare acecode --source {columns} --out {tmp}/o.parquet": "columns.jsonl:1: missing column",
    "prepare humaneval --source {problems} --out {tmp}/o.parquet": "holds problems of mbpp, not of humaneval",
    "prepare rate {columns} --policy {run} --out {tmp}/o.parquet --local": "unknown problem format",
    "score {columns} {samples}": "columns.jsonl: unknown problem format",
    "score {problems} {columns}": "columns.jsonl:1: a sample is an object",
    "evaluate {run} {columns} --local": "columns.jsonl: unknown problem format",
    "analyze {run} {columns} --local": "columns.jsonl: unknown problem format",
    # an empty file, a broken one
    "train {train} problems.train={empty} --local": "empty.jsonl: the file is empty",
    "adapt {adapt} stages.0.corpus={empty}": "empty.jsonl",
    "prepare mbpp --source {empty} --out {tmp}/o.parquet": "empty.jsonl: the file is empty",
    "prepare rate {empty} --policy {run} --out {tmp}/o.parquet --local": "empty.jsonl: the file is empty",
    "score {empty} {samples}": "empty.jsonl: the file is empty",
    "score {problems} {empty}": "empty.jsonl: the file has no samples",
    "score {problems} {broken}": "broken.jsonl:1: broken JSON",
    "evaluate {run} {empty} --local": "empty.jsonl: the file is empty",
    "evaluate {run} {broken} --local": "broken.jsonl:1: broken JSON",
    "analyze {run} {empty} --local": "empty.jsonl: the file is empty",
    "report {tmp}": "has no learner step yet",
    "export {tmp} {tmp}/out": "holds no policy",
    # a model without a mask token
    "train {train} model.path={maskless} --local": "mask",
    "prepare rate {problems} --policy {maskless} --out {tmp}/o.parquet --local": "has no mask token.*adapt",
    "evaluate {maskless} {problems} --local": "has no mask token.*adapt",
    "analyze {maskless} {problems} --local": "has no mask token.*adapt",
    "analyze {run} {problems} --before {maskless} --local": "has no mask token.*adapt",
    "sample {maskless} --once hi": "has no mask token.*adapt",
    "export {maskless} {tmp}/out": "has no mask token.*adapt",
    # what cannot be asked for
    "evaluate {run} {problems} --samples 2 --k 4 --local": "pass@k needs 1 <= k <= samples = 2",
    "evaluate {run} {problems} sampler.stps=4 --local": "did you mean 'sampler.steps'",
    "evaluate {run} {problems} --config {tmp}/nowhere.yaml --local": "nowhere.yaml' does not exist",
    "analyze {run} {problems} --words {problems} --local": "word problems need a known result",
    "prepare columns --source {columns} --columns prompt --out {tmp}/o.parquet": "--columns 'prompt': write role=column",
    "prepare columns --source {columns} --columns title=question --out {tmp}/o.parquet": "no role title",
    "prepare katas --split nowhere --out {tmp}/o.parquet": "nowhere",
    "prepare rate {problems} --endpoint nowhere --out {tmp}/o.parquet --local": "is not the address of a server",
    "sample {run} --once hi --temperature -1": "sampler.temperature = -1",
    "export {run} {tmp}/out --shard-gb 0": "--shard-gb",
    "train {train} sampler.temperature=0 --local": "sampler.temperature = 0.*nothing could be learned",
    "train {train} sampler.completion_length=600 --local": "= 800: the model has positions for 512 tokens",
    "train {train} reward.functions.coed=1 --dry-run": "no reward function of that name; did you mean 'code'",
    "train {train} reward.functions.code=.nan --local": "reward.functions.code = nan: must be a finite number",
    "train {train} evaluation.temperature=-1 --dry-run": "evaluation.temperature = -1: must be at least 0",
    "train {train} evaluation.ar_ness_temperatures=[1,-1] --local": r"evaluation.ar_ness_temperatures\[1\] = -1: must",
    "train {train} evaluation.ar_ness_problems=0 --local": "evaluation.ar_ness_problems = 0",
    "train {train} optimizer.lr=.inf --local": "optimizer.lr = inf",
    "train {train} steps=0 --local": "^error: steps = 0",
    "train {train} ray.num_cpus=0 --dry-run": "ray.num_cpus = 0",
    "train {adapt} --local": "adapt.yaml: is a recipe of `launch.py adapt`",
    "adapt tiny.yaml": "tiny.yaml: is a recipe of `launch.py train`",
    "adapt {adapt} shape.kv_heads=0": "shape.kv_heads = 0",
    "adapt {adapt} stages.0.length=513": "stages.0.length = 513: must be at most shape.max_positions = 512",
    "adapt {adapt} stages.0=1": "name a setting of the entry, as stages.0.KEY=VALUE",
    "adapt {adapt} stages.0.optimizer.lr=1e30 stages.0.optimizer.grad_norm=1e30 stages.0.steps=3": "gradient of optimiser",
    "evaluate {run} {problems} --temperatures 0,0 --local": "temperatures = .*name each once",
    "evaluate {problems} {problems} --local": "no such model folder",
    "score {problems} {samples} --out {samples}": "samples.jsonl: is the file that is read",
    "score {problems} {samples} --out {problems}": "is the file that is read",
    "score {problems}@train {samples} --out {problems}": "is the file that is read",
    "score {problems}@test {samples}": "no problem of split 'test'; it has",
    "prepare mbpp --source {problems} --out {problems}": "name a file that ends in .parquet",
    "prepare mbpp --source {problems}@train --out {tmp}/o.parquet": "no such file; a split is named with --split",
    "prepare mbpp --source {problems} --split up --out {tmp}/o.parquet": "no problem of split 'up'; it has",
    "prepare rate {problems} --policy {run} --out {problems} --local": "name a file that ends in .parquet",
    "train {tmp}/loop.yaml --local": "loop.yaml: is its own base",
    "train {tmp}/twice.yaml --local": "twice.yaml: broken YAML: line 1: key 'steps' is given twice",
    "train {tmp}/latin.yaml --local": "latin.yaml: broken YAML: .*utf-8",
    "status --address 127.0.0.1:1": "no Ray cluster there",
    "scale reward=2 --address 127.0.0.1:1": "no Ray cluster there",
}


@pytest.mark.parametrize("line", MISTAKES)
def test_a_mistake_is_one_clear_line(line, places, command):
    code, _, error = command(*line.format(**places).split())
    assert code == 2 and error.startswith("error: ") and error.count("\n") == 1, error
    assert re.search(MISTAKES[line], error), error


USAGE = {
    "nonsense": "invalid choice",
    "evaluate onlyone": "required: problems",
    "evaluate a b c": "unrecognised argument: c",
    "train --bogus": "unrecognised arguments: --bogus",
    "evaluate a b --samples 0": "must be a whole number of at least 1",
    "evaluate a b --temperatures hot": "write numbers with commas",
    "prepare rate a --out b": "one of the arguments --policy --endpoint --vllm is required",
    "prepare mbpp --out b": "required: --source",
}


@pytest.mark.parametrize("line", USAGE)
def test_a_wrong_command_line_shows_the_usage(line, command):
    code, _, error = command(*line.split())
    assert code == 2 and error.startswith("usage: launch.py") and USAGE[line] in error


FULL_DISK = (
    "prepare columns --source {problems} --columns prompt=text tests=test_list id=task_id --out {tmp}/d/o.parquet",
    "prepare rate {problems} --policy {run} --samples 2 --level all --out {tmp}/d/o.parquet --local",
    "score {problems} {samples} --out {tmp}/d/v.jsonl",
    "evaluate {run} {problems} --samples 1 --local --out {tmp}/d/e",
    "analyze {run} {problems} --samples 1 --temperatures 1 --words none --local --out {tmp}/d/a",
    "sample {run} --once hi --gif {tmp}/d/s.gif",
    "sample {run} --once hi --svg {tmp}/d/s.svg",
    "report {run} --out {tmp}/d/r.html",
    "export {run} {tmp}/d/out",
    "train {train} --local",
    "adapt {adapt}",
)


@pytest.mark.parametrize("line", FULL_DISK)
def test_a_full_disk_is_one_clear_line(line, places, command, monkeypatch):
    """Whatever is put into its place or opened for writing below a folder of this test finds no space."""
    root = str(places["tmp"])

    def full(path):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    def guarded(original, index):
        def call(*arguments, **options):
            path = arguments[index] if len(arguments) > index else None
            mode = next((m for m in [*arguments[1:2], options.get("mode", "")] if isinstance(m, str)), "")
            writes = original not in (builtins_open,) or any(letter in mode for letter in "wax+")
            if writes and isinstance(path, (str, os.PathLike)) and os.fspath(path).startswith(root):
                full(path)
            return original(*arguments, **options)

        return call

    builtins_open = io.open
    monkeypatch.setattr(builtins, "open", guarded(builtins_open, 0))
    monkeypatch.setattr(io, "open", guarded(builtins_open, 0))
    monkeypatch.setattr(os, "replace", guarded(os.replace, 1))
    monkeypatch.setattr(os, "rename", guarded(os.rename, 1))
    code, _, error = command(*line.format(**places).split())
    assert code == 2 and error.startswith("error: ") and error.count("\n") == 1, error
    assert "No space left on device" in error or "no space left" in error, error


SMALL_DISK = """
mount -t tmpfs -o size=24k none {disk} || exit 77
cd {root} && exec {python} -c '
import sys, launch
codes = [launch.main(line.format(run=sys.argv[1], disk=sys.argv[2]).split()) for line in sys.argv[3:]]
print("codes", *codes, file=sys.stderr)' {run} {disk} \\
    "export {{run}} {{disk}}/out" "prepare katas --split rl --out {{disk}}/k.parquet"
"""


def test_a_disk_that_is_really_full(run_folder, tmp_path):
    """24 KiB, in a mount namespace of its own."""
    disk = tmp_path / "disk"
    disk.mkdir()
    script = SMALL_DISK.format(disk=disk, root=ROOT, run=run_folder, python=sys.executable)
    if shutil.which("unshare") is None:
        pytest.skip("no unshare here")
    done = subprocess.run(["unshare", "-rm", "sh", "-c", script], capture_output=True, text=True, timeout=600)
    if "codes" not in done.stderr:
        pytest.skip(f"this machine lets nobody mount a small disk: {done.stderr}")
    *errors, codes = done.stderr.splitlines()
    assert codes == "codes 2 2" and len(errors) == 2, done.stderr
    assert all(line.startswith("error: ") and "No space left on device" in line for line in errors), done.stderr
