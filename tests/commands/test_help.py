"""Every way to start something tells what it takes, and names the interpreter that works."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import kernel
from couplet import PACKAGES
from couplet.commands import cli
from couplet.commands.cli import COMMANDS

ROOT = Path(__file__).parents[2]
MODULES = (
    "benchmarks",
    "benchmarks.runs",
    "benchmarks.sandbox",
    "couplet.configs.reference",
    "couplet.data.metric_table",
    "tests.golden",
)
STUDIES = tuple(
    f"couplet.studies.{name}" for name in ("ablations", "arena", "chaos", "chaos_memory", "path", "variance")
)


def test_every_module_that_is_started_is_known():
    started = {
        ("" if folder == "benchmarks" else "couplet.")
        + str(path.relative_to(ROOT).with_suffix("")).replace("/", ".").removesuffix(".__main__")
        for folder in (*PACKAGES, "benchmarks")
        for path in (ROOT / folder).rglob("*.py")
        if "__main__" in path.name or '\nif __name__ == "__main__":' in path.read_text()
    }
    internal = {"couplet.serving.vllm_keeper"}
    assert started - internal == {*MODULES, *STUDIES} - {"tests.golden"}


@pytest.mark.parametrize("module", (*MODULES, *STUDIES))
def test_help_of_a_module_starts_nothing(module):
    command = [sys.executable, "-m", module, "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0 and done.stdout.startswith(f"usage: python -m {module}"), done.stderr
    assert "options:" in done.stdout


def test_the_kernel_version_is_reported_without_its_owners_name(monkeypatch):
    monkeypatch.setattr("platform.release", lambda: "6.18.44-our-own-7")
    assert kernel.kernel_version() == "6.18"


def test_a_table_of_an_unfinished_run_is_rejected(tmp_path):
    command = [sys.executable, "-m", "benchmarks.runs", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2 and "summary.json: no such file" in done.stderr and "Traceback" not in done.stderr


def test_an_interpreter_without_the_packages_is_reported():
    command = [sys.executable, "-S", "-E", "launch.py", "train"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    assert (
        "has no package" in done.stderr
        and "`make setup`" in done.stderr
        and "`.venv/bin/python launch.py`" in done.stderr
    )


def test_a_set_shows_only_the_options_it_takes(command):
    _, shown, _ = command("prepare", "humaneval", "--help")
    assert not any(option in shown for option in ("--level", "--no-double", "--columns", "--split", "--seed"))
    _, shown, _ = command("prepare", "katas", "--help")
    assert "--split" in shown and "--seed" in shown and "--level" not in shown
    code, _, error = command("prepare", "humaneval", "--source", "x.jsonl", "--out", "o.parquet", "--level", "easy")
    assert code == 2 and "does not use --level" in error


def test_every_option_has_a_help_text():
    import argparse
    import importlib

    def without(parser):
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                for name, sub in action.choices.items():
                    yield from (f"{name} {found}" for found in without(sub))
            elif not action.help:
                yield action.dest

    for name in COMMANDS:
        parser = argparse.ArgumentParser()
        importlib.import_module(f"couplet.commands.{name}").options(parser)
        assert list(without(parser)) == [], name


def cpu_seconds_of_help(words):
    """User and system seconds of one `launch.py WORDS --help`."""
    child = os.posix_spawn(
        sys.executable,
        [sys.executable, str(ROOT / "launch.py"), *words, "--help"],
        os.environ,
        file_actions=[(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)],
    )
    _, status, usage = os.wait4(child, 0)
    assert status == 0
    return usage.ru_utime + usage.ru_stime


@pytest.mark.parametrize("words", [(), *((name,) for name in COMMANDS), ("prepare", "rate"), ("prepare", "mbpp")])
def test_help_is_quick(words):
    assert any(cpu_seconds_of_help(words) < 0.5 for _ in range(3))


def test_the_program_has_the_name_it_was_started_by(command, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/somewhere/bin/couplet"])
    assert command("train", "--help")[1].startswith("usage: couplet train")
    assert cli.launcher() == "/somewhere/bin/couplet"
    monkeypatch.setattr(sys, "argv", ["launch.py"])
    assert command("train", "--help")[1].startswith("usage: launch.py train")


def test_the_next_commands_name_this_interpreter(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["launch.py"])
    monkeypatch.setattr(sys, "executable", str(ROOT / ".venv" / "bin" / "python"))
    monkeypatch.chdir(ROOT)
    assert cli.launcher() == ".venv/bin/python launch.py"
    monkeypatch.chdir(tmp_path)
    assert cli.launcher() == f"{ROOT}/.venv/bin/python {ROOT}/launch.py"
