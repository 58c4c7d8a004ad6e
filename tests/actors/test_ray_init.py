"""Joining a cluster: who listens, what code travels, what a refusal leaves behind; the ranks of a supervised stage."""

import json
import socket
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest
import ray

from couplet import PACKAGES
from couplet.actors import rank_group, storage
from couplet.actors import ray_init as connect
from couplet.actors.stage_group import StageGroup
from couplet.commands.adapt import run_adaptation
from couplet.commands.display import Display
from couplet.commands.training_run import check_inputs
from couplet.configs.load import from_dict
from couplet.configs.schema import AdaptConfig, ConfigError, RayConfig
from tests.actors.runs import run_config

ROOT = Path(__file__).parent.parent.parent


def adaptation(start, folder, **changes):
    stage = {"corpus": "katas:tune-lists", "steps": 2, "batch": 4, "length": 64, "canvas": 32}
    tree = {"name": "ranks", "start": str(start), "runs_dir": str(folder), "stages": [stage]}
    tree["ray"] = {"dashboard": False, "object_store_mb": 128}
    tree["learner"] = {"engine": "torch", "ranks": 2}
    for key, value in changes.items():
        tree[key] = {**tree[key], **value} if isinstance(value, dict) else value
    return from_dict(AdaptConfig, tree)


@pytest.mark.parametrize("address", ["auto", "ray://nowhere.invalid:10001", "nowhere.invalid:port"])
def test_only_an_address_of_a_socket_is_looked_at(address):
    connect.require_listener(RayConfig(address=address))


def test_a_listener_is_found_and_its_end_is_noticed_by_either_protocol(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr("couplet.commands.training_run.check_settings", lambda config: None)
    for family, host, written in ((socket.AF_INET, "127.0.0.1", "127.0.0.1"), (socket.AF_INET6, "::1", "[::1]")):
        try:
            listener = socket.create_server((host, 0), family=family)
        except OSError:
            assert family == socket.AF_INET6, "this machine has no loopback"
            continue
        address = f"{written}:{listener.getsockname()[1]}"
        config = run_config("/policy", "any", ray={"address": address})
        with closing(listener):
            check_inputs(config, local=False)
        with pytest.raises(ConfigError, match=r"ray.address = '.*': no Ray cluster there \(.*refused\)"):
            check_inputs(config, local=False)
        check_inputs(config, local=True)
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(ConfigError, match=r"no Ray cluster there"):
        check_inputs(run_config("/policy", "any"), local=False)


def test_only_code_and_recipes_travel(tmp_path, monkeypatch):
    kept = {"actors/loop.py", "configs/tiny.yaml", "configs/ablations/mu1.yaml", "reward/sandbox/child.py"}
    left = {"launch.py", "policy/model.safetensors", "data/corpus.jsonl", "wandb/run.py", "vllm-env/lib/site.py"}
    left |= {"runs/tiny/config.yaml", "actors/__pycache__/loop.pyc", ".git/config"}
    for name in kept | left:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    kept |= {"__init__.py"}
    (tmp_path / "couplet").mkdir()
    (tmp_path / "couplet" / "__init__.py").write_text("")
    monkeypatch.setattr(connect, "ROOT", str(tmp_path))
    with connect._code_alone() as code:
        assert {str(p.relative_to(code / "couplet")) for p in code.rglob("*") if p.is_file()} == kept
    assert not code.exists()


def test_every_package_with_code_travels():
    with_code = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert with_code - {"benchmarks", "couplet", "tests"} == set(PACKAGES)


def test_a_slow_upload_is_not_a_missing_cluster(monkeypatch):
    """`ray.init` is a stand-in: it joins at once, and needs longer than `connect_timeout` for the code."""
    monkeypatch.setattr(ray._private.worker, "_global_node", None)
    seconds = 1.6

    def init(**options):
        monkeypatch.setattr(ray._private.worker, "_global_node", "joined")
        time.sleep(seconds)
        return options

    monkeypatch.setattr(ray, "init", init)
    config = RayConfig(address="auto", connect_timeout=0.8, call_timeout=60.0, require_auth=False)
    assert "working_dir" in connect.attach(config)["runtime_env"]
    config = config.replace(call_timeout=0.1)
    with pytest.raises(ConfigError, match=r"the cluster answers, but .*not done within ray.call_timeout = 0.1 s"):
        connect.attach(config)
    monkeypatch.setattr(ray._private.worker, "_global_node", None)
    monkeypatch.setattr(ray, "init", lambda **_: time.sleep(seconds))
    with pytest.raises(ConfigError, match=r"no Ray cluster there \(no answer within ray.connect_timeout = 0.8 s\)"):
        connect.attach(config)


DRIVER = """
import json, sys
from pathlib import Path
import ray
from ray.exceptions import RuntimeEnvSetupError
from couplet.actors import ray_init as connect
from couplet.configs.load import from_dict
from couplet.configs.schema import ConfigError, RayConfig, RunConfig
address, said = sys.argv[1], {}
upload = ray._private.worker.upload_working_dir_if_needed

def full(*arguments, **options):
    raise RuntimeEnvSetupError("Failed to upload working_dir: the disk is full")

def look():
    from couplet.rollout import sampler
    return [str(Path.cwd()), sorted(p.name for p in Path.cwd().iterdir()), sampler.__file__]

ray._private.worker.upload_working_dir_if_needed = full
try:
    connect.attach(RayConfig(address=address, require_auth=False))
except ConfigError as error:
    said["full"] = str(error)
ray.shutdown()
ray._private.worker.upload_working_dir_if_needed = upload
connect.attach(RayConfig(address=address, require_auth=False))
said["seen"] = ray.get(ray.remote(look).options(num_cpus=0).remote(), timeout=200)
ray.shutdown()
try:
    connect.connect(from_dict(RunConfig, {"rollout": {"cpus": 640}, "ray": {"address": address, "require_auth": False}}))
except ConfigError as error:
    said["refused"] = str(error)
said["left"] = not ray.is_initialized()
print(json.dumps(said))
"""


@pytest.mark.slow
@pytest.mark.ray
def test_a_driver_brings_its_code_names_a_failed_upload_and_leaves_when_it_is_refused(ray_cluster):
    address = ray.get_runtime_context().gcs_address
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, address], cwd=ROOT, capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, done.stderr[-4000:]
    said = json.loads(done.stdout.splitlines()[-1])
    assert "the cluster answers, but" in said["full"] and "the disk is full" in said["full"]
    where, names, module = said["seen"]
    assert names == ["couplet"] and where != str(ROOT) and module.startswith(where)
    assert "rollout.cpus = 640.0: the largest node has" in said["refused"] and said["left"]


def test_a_local_ray_has_resources_for_the_ranks_of_a_stage(tmp_path, monkeypatch):
    monkeypatch.setattr(connect.os, "cpu_count", lambda: 1)
    config = adaptation(None, tmp_path, learner={"ranks": 3, "cpus": 2.5})
    assert connect._logical_cpus(config) >= 8 + 2


@pytest.mark.ray
def test_a_stage_that_asks_for_more_than_there_is_is_refused_at_once(ray_cluster, start, tmp_path):
    with pytest.raises(ConfigError, match=r"learner.cpus = 640.0: the largest node has \d+ CPU"):
        StageGroup(adaptation(start, tmp_path, learner={"cpus": 640.0}), 0, str(start), tmp_path)
    with pytest.raises(ConfigError, match=r"asks for 1280 CPU \(640 learner x 2\).*lower learner.ranks or their cpus"):
        StageGroup(adaptation(start, tmp_path, learner={"ranks": 640, "cpus": 2.0}), 0, str(start), tmp_path)
    assert ray.is_initialized()  # it was there before


@pytest.mark.ray
def test_ranks_without_resources_are_named(ray_cluster, start, tmp_path):
    class Holder:
        def ready(self):
            return True

    free = ray.available_resources()["CPU"]
    holder = ray.remote(Holder).options(num_cpus=free - 1).remote()
    ray.get(holder.ready.remote(), timeout=100)
    config = adaptation(start, tmp_path, ray={"call_timeout": 4.0})
    try:
        with pytest.raises(ConfigError, match=r"learner.ranks = 2: they did not start within ray.call_timeout = 4 s; "):
            StageGroup(config, 0, str(start), tmp_path)
    finally:
        ray.kill(holder)


@pytest.mark.ray
def test_a_stage_looks_at_the_storage_of_all_nodes(ray_cluster, start, tmp_path, monkeypatch):
    node = storage.alive_nodes()[0]
    monkeypatch.setattr(storage, "alive_nodes", lambda: [node, node])
    monkeypatch.setattr(storage, "_look", lambda probe, config: (False, None))
    monkeypatch.setattr(rank_group.RankGroup, "reserve", lambda *_: pytest.fail("started all the same"))
    with pytest.raises(ConfigError, match=r"the run folder .*checkpoints is not the same on node.*HF_HOME"):
        StageGroup(adaptation(start, tmp_path), 0, str(start), tmp_path / "checkpoints")


@pytest.mark.slow
@pytest.mark.ray
def test_two_ranks_read_a_corpus_that_is_named_relative_to_the_drivers_folder(
    ray_cluster, start, tmp_path, monkeypatch
):
    rows = [{"prompt": f"Add {n}.", "answer": f"```python\ndef f(x):\n    return x + {n}\n```"} for n in range(8)]
    (tmp_path / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.chdir(tmp_path)
    stage = {"corpus": "corpus.jsonl+katas:tune-lists", "steps": 2, "batch": 4, "length": 64, "canvas": 32}
    policy = run_adaptation(adaptation(start, "runs", stages=[stage]), Display())
    assert (policy / "config.json").is_file() and policy == tmp_path / "runs" / "ranks" / "policy"


def test_the_code_that_is_sent_to_a_cluster_has_the_tables_it_reads():
    modules = (
        "reward.sandbox.zygote",
        "data.metric_table",
        "data.katas.compositions",
        "evaluation.figures",
        "report.curves",
    )
    starter = f"import sys; sys.path.insert(0, {{root!r}}); import {', '.join(f'couplet.{name}' for name in modules)}"
    with connect._code_alone() as code:
        command = [sys.executable, "-c", starter.format(root=str(code))]
        done = subprocess.run(command, cwd="/", capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
