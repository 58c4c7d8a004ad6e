"""Who may import whom: the rooms of the house stay what they are."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from couplet import PACKAGES

ROOT = Path(__file__).parent.parent
ROOMS = PACKAGES
MAY_IMPORT = {
    "configs": set(),
    "model": {"configs"},
    "data": {"configs"},
    "reward": {"configs", "data"},
    "rollout": {"configs", "model", "data"},
    "learner": {"configs", "model", "data"},
    "evaluation": {"configs", "model", "data", "rollout", "reward"},
    "actors": set(ROOMS),
}
# The loop, the local wiring and everything they need run without Ray.
WITHOUT_RAY = (
    "__init__", "adapt", "analyze", "arguments", "batch_metrics", "bench", "cluster", "display", "dry_run",
    "evaluate", "export", "local_cluster", "loop", "model_card", "parts", "rate", "run_folder", "stage", "start", "telemetry",
    "tiers", "trackers", "train", "vllm_keeper", "vllm_server",
)  # fmt: skip


def files(room):
    return sorted((ROOT / room).rglob("*.py"))


def imported(path, top_level_only=False):
    tree = ast.parse(path.read_text())
    nodes = tree.body if top_level_only else ast.walk(tree)
    names = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add(node.module or "")
    return names


def tops(names):
    """First parts of the names, within the namespace `couplet`."""
    return {name.removeprefix("couplet.").partition(".")[0] for name in names}


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_what_the_table_allows(room):
    for path in files(room):
        foreign = (tops(imported(path)) & (set(ROOMS) | {"launch", "tests", "benchmarks"})) - {room} - MAY_IMPORT[room]
        assert not foreign, f"{path.relative_to(ROOT)} imports {sorted(foreign)}"


@pytest.mark.parametrize("room", [room for room in ROOMS if room != "actors"])
def test_ray_stays_in_actors(room):
    for path in files(room):
        assert "ray" not in tops(imported(path)), path.relative_to(ROOT)


@pytest.mark.parametrize("name", WITHOUT_RAY)
def test_the_loop_and_the_local_wiring_do_not_name_ray(name):
    assert "ray" not in tops(imported(ROOT / "actors" / f"{name}.py"))


def test_deepspeed_stays_in_its_engine_file():
    users = [p.relative_to(ROOT).as_posix() for room in ROOMS for p in files(room) if "deepspeed" in tops(imported(p))]
    assert users == ["learner/deepspeed_engine.py"]


@pytest.mark.parametrize("room", ["reward", "data", "configs"])
def test_torch_stays_out_of_reward_data_and_configs(room):
    for path in files(room):
        assert "torch" not in tops(imported(path)), path.relative_to(ROOT)


def loaded_modules(statement):
    code = f"import sys; {statement}; print(' '.join(m for m in ('torch', 'ray', 'deepspeed') if m in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_the_reward_actor_never_loads_torch():
    assert loaded_modules("import couplet.actors.reward_actor") == {"ray"}


def test_the_replay_actor_never_loads_torch():
    assert loaded_modules("import couplet.actors.replay_actor") == {"ray"}


def test_the_local_wiring_never_loads_ray_or_deepspeed():
    assert loaded_modules(
        "import couplet.commands.train, couplet.actors.local_cluster, couplet.learner.learner, couplet.rollout.worker"
    ) <= {"torch"}


def test_the_drivers_of_the_commands_never_load_ray_or_deepspeed():
    drivers = ("analyze", "arguments", "evaluate", "export", "rate", "vllm_server")
    assert loaded_modules("import " + ", ".join(f"couplet.actors.{name}" for name in drivers)) <= {"torch"}


def test_the_plain_classes_need_torch_and_transformers_only():
    code = "import sys; sys.modules |= dict.fromkeys(('ray', 'deepspeed', 'pyarrow', 'tensorboard', 'matplotlib')); "
    subprocess.run(
        [sys.executable, "-c", f"{code}import couplet.rollout.worker, couplet.learner.learner"], cwd=ROOT, check=True
    )


def test_the_command_line_loads_nothing_heavy():
    assert loaded_modules("import launch") == set()
