"""One namespace: a user's own files are never imported, and every module of ours is found once, however it is started."""

from __future__ import annotations

import os
import site
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from couplet import PACKAGES

ROOT = Path(__file__).parents[2]
TRAP = 'raise SystemExit("a file of the user was imported")\n'
SETTINGS = {
    "steps": 1,
    "problems": {"evaluate": "katas:heldout", "limit": 4},
    "sampler": {"steps": 4, "completion_length": 8},
    "replay": {"groups_per_step": 1, "completions": 2},
    "rollout": {"actors": 1, "groups_per_call": 1},
    "reward": {"actors": 1},
    "learner": {"engine": "torch"},
    "sandbox": {"memory_mb": 256},
    "evaluation": {"limit": 2, "samples": 2, "ar_ness_problems": 1},
    "ray": {"object_store_mb": 128, "dashboard": False},
}


@pytest.fixture
def trapped(run_folder, tmp_path) -> Path:
    """A folder of a user whose modules have the names of our packages, and a recipe."""
    for package in PACKAGES:
        (tmp_path / f"{package}.py").write_text(TRAP)
    (tmp_path / "data.py").unlink()
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "__init__.py").write_text(TRAP)
    tree = SETTINGS | {
        "model": {"path": str(run_folder / "policy"), "recipe": None},
        "runs_dir": str(tmp_path / "runs"),
    }
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(tree))
    return tmp_path


def start(folder: Path, *words: str, seconds: float = 500.0) -> subprocess.CompletedProcess[str]:
    """A command started from `folder`, which Python itself does not search."""
    return subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=seconds, check=False)


def test_a_run_in_one_process_imports_no_file_of_the_user(trapped):
    done = start(trapped, sys.executable, str(ROOT / "launch.py"), "train", "run.yaml", "--local")
    assert done.returncode == 0, done.stderr
    assert (trapped / "runs" / "tiny" / "policy" / "config.json").is_file() or any((trapped / "runs").glob("*/policy"))


@pytest.mark.slow
def test_ray_workers_import_no_file_of_the_user(trapped):
    done = start(trapped, sys.executable, str(ROOT / "launch.py"), "train", "run.yaml")
    assert done.returncode == 0, done.stderr
    assert any((trapped / "runs").glob("*/policy"))


ONCE = """
import collections, os, sys
files = collections.defaultdict(set)
for name, module in list(sys.modules.items()):
    path = getattr(module, "__file__", None)
    if path and os.path.realpath(path).startswith({root!r} + os.sep) and ".venv" not in path:
        files[os.path.realpath(path)].add(name)
print([sorted(names) for names in files.values() if len(names) > 1 and "__main__" not in names])
print(sorted(name for names in files.values() for name in names if name.partition(".")[0] in {packages!r}))
"""


@pytest.mark.parametrize(
    "beginning", ["import launch; launch.main", "import couplet.commands as commands; commands.main"]
)
def test_every_module_is_imported_under_one_name(beginning):
    code = (
        f"{beginning}(['train', 'tiny.yaml', '--dry-run'])\nimport couplet.commands.prepare, couplet.rollout.worker\n"
    )
    done = start(ROOT, sys.executable, "-c", code + ONCE.format(root=str(ROOT), packages=PACKAGES))
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-2:] == ["[]", "[]"]


@pytest.mark.ray
def test_a_ray_worker_imports_every_module_under_one_name(ray_cluster):
    code = ONCE.format(root=str(ROOT), packages=PACKAGES)

    def look():
        import contextlib
        import io

        import couplet.actors.reward_actor
        import couplet.rollout.worker  # noqa: F401

        with contextlib.redirect_stdout(io.StringIO()) as said:
            exec(code, {})
        return said.getvalue().splitlines()

    assert ray_cluster.get(ray_cluster.remote(look).options(num_cpus=0).remote(), timeout=300) == ["[]", "[]"]


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """`bin` of an environment with the wheel; the packages it needs come from this interpreter's environment."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    files = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    for name in files:
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    build = [*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", str(folder), str(source)]
    subprocess.run(build, check=True, capture_output=True, timeout=300)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder / "env")], check=True)
    python = folder / "env" / "bin" / "python"
    (wheel,) = folder.glob("*.whl")
    subprocess.run([*pip, "--python", str(python), "install", "--no-deps", str(wheel)], check=True, timeout=300)
    packages = next((folder / "env" / "lib").glob("python*/site-packages"))
    (packages / "others.pth").write_text("\n".join(site.getsitepackages()) + "\n")
    return python.parent


WHEEL = (
    ("couplet", "--help"),
    ("couplet", "train", "tiny.yaml", "--dry-run"),
    ("couplet", "prepare", "katas", "--limit", "2", "--out", "k.parquet"),
    ("python", "-m", "couplet.studies.variance", "--help"),
)


@pytest.mark.slow
@pytest.mark.parametrize("words", WHEEL, ids=" ".join)
def test_the_wheel_works_from_any_folder(installed, trapped, words):
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [str(installed / words[0]), *words[1:]]
    done = subprocess.run(command, cwd=trapped, capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr
