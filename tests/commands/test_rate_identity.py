"""A rating is only resumed with the same model, sampler and sandbox; a failed start restricts no later one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from couplet.configs.schema import ConfigError
from couplet.data.rate import read_ratings
from couplet.evaluation.records import same_run
from couplet.serving.completions import Client


def nothing_there(client, path, body):
    return "HTTP 404: Not Found", None


def served(server, out, *more):
    words = ("--samples", 2, "--level", "all", "--local", "--out", out, *more)
    return "--endpoint", server.url, *words


def rated(folder):
    return sorted(path.name for path in folder.iterdir() if path.name.startswith("r."))


@pytest.mark.parametrize("named", [(), ("--model", "toy-coder")])
def test_a_server_that_does_not_answer_leaves_nothing_behind(server, problem_file, tmp_path, command, named):
    words = ("prepare", "rate", problem_file, *served(server, tmp_path / "r.parquet", *named))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Client, "_attempt", nothing_there)
        code, _, error = command(*words)
    assert code == 2 and "HTTP 404" in error and rated(tmp_path) == []
    code, _, error = command(*words, "--temperature", "0.1")  # the corrected call may ask for something else
    assert code == 0, error


def test_a_served_model_is_known_by_its_name_not_by_its_address(server, problem_file, tmp_path, command):
    out = tmp_path / "r.parquet"
    words = ("prepare", "rate", problem_file)
    assert command(*words, *served(server, out))[0] == 0
    assert json.loads((tmp_path / "r.run.json").read_text())["model"] == "toy-coder"
    asked = len(server.asked)
    server.url = server.url.replace("127.0.0.1", "localhost")
    code, _, error = command(*words, *served(server, out))
    assert code == 0 and len(server.asked) == asked, error
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Client, "models", lambda self: ["another-coder"])
        code, _, error = command(*words, *served(server, out))
    assert code == 2 and "model = 'toy-coder', this run has 'another-coder'" in error
    for override in ("sandbox.cpu_seconds=1", "reward.strict_format=true"):
        code, _, error = command(*words, *served(server, out), override)
        assert code == 2 and f"holds results with {override.partition('=')[0]} = " in error
    assert command(*words, *served(server, out), "reward.actors=2", "sandbox.e2b_pool=2")[0] == 0  # only faster
    assert len(server.asked) == asked


def test_a_policy_is_rated_again_for_another_sampler_and_the_error_names_the_files(
    run_folder, problem_file, tmp_path, command, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    words = ("prepare", "rate", problem_file, "--policy", run_folder, "--samples", 2, "--level", "all", "--local")
    words = (*words, "--out", "r.parquet")
    assert command(*words)[0] == 0
    first = read_ratings("r.ratings.jsonl")
    assert command(*words)[0] == 0 and read_ratings("r.ratings.jsonl") == first
    changes = {
        "sampler.order=origin": "sampler.order = 'entropy', this run has 'origin'",
        "sampler.steps=2": "sampler.steps = 4, this run has 2",
        "model.dtype=bfloat16": "model.dtype = ",
        "sandbox.cpu_seconds=1": "sandbox.cpu_seconds = ",
        "reward.strict_format=true": "reward.strict_format = False, this run has True",
    }
    for override, named in changes.items():
        code, _, error = command(*words, override)
        assert code == 2 and f"error: r.run.json holds results with {named}" in error
        assert error.endswith(
            ": name another --out, or delete r.run.json and r.ratings.jsonl and r.completions.jsonl\n"
        )
    (tmp_path / "r.run.json").unlink()
    code, _, error = command(*words)
    assert code == 2 and "r.ratings.jsonl holds results, but r.run.json, which describes them, is missing" in error
    (tmp_path / "r.ratings.jsonl").unlink()
    code, _, error = command(*words)
    assert code == 2 and "r.completions.jsonl holds results, but r.run.json" in error
    (tmp_path / "r.completions.jsonl").unlink()
    assert command(*words, "sampler.steps=2")[0] == 0


def test_facts_that_differ_are_named_with_the_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = Path("run.json")
    same_run(run, {"a": 1, "b": {"c": (1, 2), "d": 3}})
    same_run(run, {"a": 1, "b": {"c": [1, 2], "d": 3}})
    with pytest.raises(
        ConfigError, match=r"^run\.json holds results with b\.d = 3, this run has 4: name another --out, "
    ):
        same_run(run, {"a": 1, "b": {"c": [1, 2], "d": 4}})
    with pytest.raises(ConfigError, match=r"or delete run\.json and the results beside it$"):
        same_run(run, {"a": 2})
    for broken in ("[1]", "{", "\udcff"):
        run.write_bytes(broken.encode("utf-8", "surrogateescape"))
        with pytest.raises(ValueError, match=r"run\.json.*JSON"):
            same_run(run, {"a": 1})
