"""Who may import whom: packages keep to their layer, no file is in a circle, heavy libraries stay where they belong."""

import ast
import graphlib
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from couplet import PACKAGES, ROOT
from couplet.commands.cli import COMMANDS

BELOW_TRAINING = {"evaluation", "learner", "rollout", "reward", "replay", "model", "data"}
BELOW_ACTORS = {"report", "training", "serving", *BELOW_TRAINING}
MAY_IMPORT = {  # besides `configs`
    "configs": set(),
    "model": set(),
    "data": set(),
    "serving": {"data"},
    "learner": {"model", "data"},
    "reward": {"data"},
    "rollout": {"model", "data"},
    "replay": {"data"},
    "evaluation": {"reward", "rollout", "model", "data"},
    "training": BELOW_TRAINING,
    "report": {"evaluation", "replay", "data"},
    "actors": BELOW_ACTORS,
    "studies": {"actors", *BELOW_ACTORS},
    "commands": {"actors", *BELOW_ACTORS},
}


@cache
def modules():
    """Dotted name within the namespace -> syntax tree, of every file of the packages."""
    found = {}
    for package in PACKAGES:
        for path in sorted(Path(ROOT, package).rglob("*.py")):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
            found[name] = ast.parse(path.read_text())
    return found


def of_package(package):
    return [(name, tree) for name, tree in modules().items() if name.partition(".")[0] == package]


def imported(tree):
    """Full names of what a file imports, anywhere in it: modules, and members of modules."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def libraries(tree):
    return {name.partition(".")[0] for name in imported(tree)}


def own_modules(tree):
    """Names within the namespace of the project's own modules that a file imports."""
    names = [name.removeprefix("couplet.") for name in imported(tree) if name.startswith("couplet.")]
    found = {name if name in modules() else name.rpartition(".")[0] for name in names}
    return {name for name in found if name in modules()}


def test_the_table_names_every_package():
    assert set(MAY_IMPORT) == set(PACKAGES)


def test_the_page_on_architecture_has_the_same_table():
    """A row allows nothing (–), packages by name, "all above", or "all above but" some."""
    page = Path(ROOT, "docs", "architecture.md").read_text()
    documented: dict[str, set[str]] = {}
    for package, cell in re.findall(r"^\| `(\w+)/` \|.*\| ([^|]+) \|$", page, re.MULTILINE):
        named = set(re.findall(r"`(\w+)`", cell))
        documented[package] = set(documented) - {"configs"} - named if cell.startswith("all above") else named
    assert documented == MAY_IMPORT


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_imports_only_what_the_table_allows(package):
    allowed = {package, "configs"} | MAY_IMPORT[package]
    for name, tree in of_package(package):
        foreign = {module.partition(".")[0] for module in own_modules(tree)} - allowed
        assert not foreign, f"{name} imports {sorted(foreign)}"


def test_only_the_namespace_is_imported():
    own = {*PACKAGES, "launch", "tests", "benchmarks", "setup"}
    for name, tree in modules().items():
        assert not own & libraries(tree), name


def test_no_file_is_in_a_circle():
    graph = {name: own_modules(tree) - {name} for name, tree in modules().items()}
    graphlib.TopologicalSorter(graph).prepare()


def test_every_file_of_actors_imports_ray_and_only_commands_do_besides():
    for name, tree in modules().items():
        package, _, file = name.partition(".")
        if package == "actors" and file:
            assert "ray" in libraries(tree), name
        elif package != "commands":
            assert "ray" not in libraries(tree), name


def test_deepspeed_is_imported_in_one_file():
    users = [name for name, tree in modules().items() if "deepspeed" in libraries(tree)]
    assert users == ["learner.deepspeed_engine"]


@pytest.mark.parametrize("package", ["reward", "data", "configs", "replay", "serving"])
def test_torch_stays_out(package):
    for name, tree in of_package(package):
        assert "torch" not in libraries(tree), name


def loaded_modules(statement):
    """Which of the heavy libraries a statement loads, in a fresh interpreter."""
    code = f"import sys; {statement}; print(' '.join(m for m in ('torch', 'ray', 'deepspeed') if m in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize("actor", ["reward_actor", "replay_actor"])
def test_the_actors_without_weights_never_load_torch(actor):
    assert loaded_modules(f"import couplet.actors.{actor}") == {"ray"}


def test_training_in_one_process_never_loads_ray_or_deepspeed():
    parts = ("commands.training_run", "training.local_cluster", "learner.learner", "rollout.worker")
    assert loaded_modules("import " + ", ".join(f"couplet.{part}" for part in parts)) <= {"torch"}


@pytest.mark.parametrize("command", COMMANDS)
def test_the_module_of_a_command_loads_nothing_heavy(command):
    assert loaded_modules(f"import couplet.commands.{command}") == set()


def test_the_plain_classes_need_torch_and_transformers_only():
    code = "import sys; sys.modules |= dict.fromkeys(('ray', 'deepspeed', 'pyarrow', 'tensorboard', 'matplotlib')); "
    code += "import couplet.rollout.worker, couplet.learner.learner"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_the_command_line_loads_nothing_heavy():
    assert loaded_modules("import launch") == set()
