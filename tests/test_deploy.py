"""The files in deploy/: fields that KubeRay knows, commands and settings of this project, names that agree."""

import re
import shlex
import shutil
import subprocess
import tomllib
from pathlib import Path

import jsonschema
import pytest
import yaml
from ray._private.label_utils import validate_label_key, validate_label_value

from couplet.commands.cli import parse
from couplet.configs.load import load
from couplet.configs.schema import RunConfig

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
SBATCH = DEPLOY / "slurm" / "couplet.sbatch"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def closed(required, **properties):
    """A schema of an object that has these fields and no others."""
    return {"type": "object", "additionalProperties": False, "required": required, "properties": properties}


TEXT, COUNT, FLAG = {"type": "string"}, {"type": "integer", "minimum": 0}, {"type": "boolean"}
TEXTS = {"type": "object", "additionalProperties": TEXT}  # a map[string]string: a number must be quoted
OBJECTS = {"type": "array", "items": {"type": "object"}}
POD = closed(["containers"], securityContext={"type": "object"}, nodeSelector=TEXTS, tolerations=OBJECTS,
             terminationGracePeriodSeconds=COUNT, volumes=OBJECTS, containers={
    "type": "array", "minItems": 1,
    "items": closed(["name", "image"], name=TEXT, image=TEXT, env=OBJECTS, ports=OBJECTS, volumeMounts=OBJECTS,
                    resources=closed([], requests=TEXTS, limits=TEXTS)),
})  # fmt: skip
TEMPLATE = closed(["spec"], metadata={"type": "object"}, spec=POD)
GROUP = {"template": TEMPLATE, "rayStartParams": TEXTS, "labels": TEXTS, "resources": TEXTS}
# The fields of ray.io/v1 that are used here, as in raycluster_types.go and rayjob_types.go of KubeRay 1.6.
RAY_JOB = closed(
    ["apiVersion", "kind", "metadata", "spec"],
    apiVersion={"const": "ray.io/v1"},
    kind={"const": "RayJob"},
    metadata={"type": "object", "required": ["name"]},
    spec=closed(
        ["entrypoint", "rayClusterSpec"],
        entrypoint=TEXT,
        backoffLimit=COUNT,
        submissionMode={"enum": ["K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"]},
        submitterConfig=closed([], backoffLimit=COUNT),
        shutdownAfterJobFinishes=FLAG,
        ttlSecondsAfterFinished=COUNT,
        rayClusterSpec=closed(
            ["headGroupSpec"],
            rayVersion=TEXT,
            authOptions=closed([], mode={"enum": ["disabled", "token"]}, secretName=TEXT),
            enableInTreeAutoscaling=FLAG,
            autoscalerOptions=closed([], version={"enum": ["v1", "v2"]}, idleTimeoutSeconds=COUNT),
            headGroupSpec=closed(["template"], **GROUP),
            workerGroupSpecs={
                "type": "array",
                "items": closed(
                    ["groupName", "template", "minReplicas", "maxReplicas"],
                    groupName=TEXT, replicas=COUNT, minReplicas=COUNT, maxReplicas=COUNT, **GROUP,
                ),
            },
        ),
    ),
)  # fmt: skip


@pytest.fixture(scope="module")
def job():
    return yaml.safe_load((DEPLOY / "kuberay" / "rayjob.yaml").read_text())


@pytest.fixture(scope="module")
def config(job):
    """What the entry point of the RayJob trains."""
    program, *words = shlex.split(job["spec"]["entrypoint"])
    assert program in PROJECT["scripts"]
    args = parse(words)
    assert args.command == "train"
    return load(RunConfig, args.config, args.overrides)


def groups(job):
    return {group["groupName"]: group for group in job["spec"]["rayClusterSpec"]["workerGroupSpecs"]}


def test_the_rayjob_has_only_fields_of_the_crd(job):
    jsonschema.validate(job, RAY_JOB)


def test_the_schema_refuses_what_the_api_server_would(job):
    for path, value in ((("spec", "backofLimit"), 0), (("spec", "rayClusterSpec", "authOptions", "mode"), "on")):
        broken = yaml.safe_load(yaml.safe_dump(job))
        place = broken
        for name in path[:-1]:
            place = place[name]
        place[path[-1]] = value
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(broken, RAY_JOB)
    broken = yaml.safe_load(yaml.safe_dump(job))
    broken["spec"]["rayClusterSpec"]["headGroupSpec"]["rayStartParams"]["num-cpus"] = 0
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(broken, RAY_JOB)


def test_the_rayjob_asks_for_a_token_from_a_secret(job):
    assert job["spec"]["rayClusterSpec"]["authOptions"] == {"mode": "token", "secretName": "couplet-token"}
    assert (
        "create secret generic couplet-token --from-literal=auth_token="
        in (DEPLOY / "kuberay" / "rayjob.yaml").read_text()
    )


def test_labels_of_the_recipe_are_those_of_a_group(job, config):
    offered = [group["labels"] for group in groups(job).values()]
    for role in ("learner", "rollout", "reward"):
        labels = getattr(config, role).labels
        assert labels in offered
        assert not any(validate_label_key(name) or validate_label_value(value) for name, value in labels.items())
    assert config.learner.labels != config.rollout.labels  # learners on demand, rollouts on spot
    selectors = {name: group["template"]["spec"]["nodeSelector"] for name, group in groups(job).items()}
    assert selectors["learner"] == {"couplet/capacity": "on-demand"} and selectors["rollout"] != selectors["learner"]


@pytest.mark.parametrize("resource", ["cpus", "gpus"])
def test_the_groups_hold_the_recipe(job, config, resource):
    name, key = {"cpus": ("cpu", "num-cpus"), "gpus": ("nvidia.com/gpu", "num-gpus")}[resource]
    have = {}
    for group in groups(job).values():
        (container,) = group["template"]["spec"]["containers"]
        assert container["resources"]["requests"][name] == group["rayStartParams"][key]
        role = group["labels"]["couplet/role"]
        have[role] = have.get(role, 0) + group["replicas"] * int(group["rayStartParams"][key])
    wanted = {"learner": config.learner.ranks * getattr(config.learner, resource)}
    reward = config.reward.actors * config.reward.cpus if resource == "cpus" else 0
    wanted["rollout"] = config.rollout.actors * getattr(config.rollout, resource) + reward
    assert all(wanted[role] <= have[role] for role in wanted), (wanted, have)


def test_shared_memory_holds_the_object_store(job):
    cluster = job["spec"]["rayClusterSpec"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        pod = group["template"]["spec"]
        (limit,) = (v["emptyDir"]["sizeLimit"] for v in pod["volumes"] if v["name"] == "memory")
        assert int(group["rayStartParams"]["object-store-memory"]) <= int(limit.removesuffix("Gi")) * 2**30
        mounted = {mount["name"] for mount in pod["containers"][0]["volumeMounts"]}
        assert mounted == {volume["name"] for volume in pod["volumes"]}


def test_every_container_runs_the_image_of_the_dockerfile_as_its_user(job):
    dockerfile = (DEPLOY / "Dockerfile").read_text()
    cluster = job["spec"]["rayClusterSpec"]
    pods = [group["template"]["spec"] for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"])]
    (image,) = {container["image"] for pod in pods for container in pod["containers"]}
    assert f"-t {image.partition('/')[2]} " in dockerfile
    (user,) = {pod["securityContext"]["runAsUser"] for pod in pods}
    assert f"--uid {user} couplet" in dockerfile and re.search(r"^USER couplet$", dockerfile, re.M)
    pinned = re.search(r"^ray==(.+)$", (ROOT / "constraints.txt").read_text(), re.M)[1]
    assert cluster["rayVersion"] == pinned


def test_the_dockerfile_names_what_exists():
    dockerfile = (DEPLOY / "Dockerfile").read_text()
    for extra in re.findall(r"EXTRAS=(\w+)", dockerfile) + re.findall(r"\.\[(\w+)\]", dockerfile):
        assert extra in PROJECT["optional-dependencies"]
    listed = re.search(r"^# Names of optional dependencies, with commas: (.+)\.$", dockerfile, re.M)[1]
    assert set(listed.split(", ")) == set(PROJECT["optional-dependencies"]) - {"dev"}
    for argument in re.findall(r"--build-arg (\w+)=", dockerfile):
        assert re.search(rf"^ARG {argument}=", dockerfile, re.M)
    for name in re.findall(r"-c (\S+)", dockerfile):
        assert (ROOT / name).is_file()
    ignored = (ROOT / ".dockerignore").read_text().split()
    assert {".git", ".venv", "runs"} <= set(ignored)
    assert not {"couplet", "configs", "setup.py", "constraints.txt", "pyproject.toml"} & set(ignored)


def test_the_slurm_script_is_sound_bash():
    subprocess.run(["bash", "-n", SBATCH], check=True)
    if shutil.which("shellcheck") is None:
        pytest.skip("shellcheck is not installed: only the syntax was checked")
    subprocess.run(["shellcheck", SBATCH], check=True)


FAKES = {  # program -> what it does on this machine, written to a log
    "scontrol": "printf 'n1\\nn2\\n'",
    "srun": 'case "$*" in *hostname*) echo 10.0.0.1;; *) exec sleep 30;; esac',
    "ray": "exit 0",
    "couplet": 'until grep -q "ray start --address" "$LOG"; do sleep 0.1; done; exit "$COUPLET_EXIT"',
}


@pytest.mark.parametrize("code", [0, 7])
def test_the_slurm_script_starts_a_head_and_workers_and_ends_as_the_run(tmp_path, code):
    """With stand-ins for SLURM, Ray and the run, which write their command lines to a log."""
    programs, log = tmp_path / "venv" / "bin", tmp_path / "log"
    programs.mkdir(parents=True)
    (programs / "activate").write_text(f"export PATH={programs}:$PATH\n")
    for name, body in FAKES.items():
        (programs / name).write_text(f'#!/bin/bash\necho "{name} $*" >>"$LOG"\n{body}\n')
        (programs / name).chmod(0o755)
    environment = {"PATH": "/usr/bin:/bin", "COUPLET_VENV": str(tmp_path / "venv"), "COUPLET_EXIT": str(code)}
    environment["LOG"] = str(log)
    environment |= {"SLURM_JOB_ID": "1", "SLURM_JOB_NODELIST": "n[1-2]", "SLURM_CPUS_ON_NODE": "64"}
    environment["SLURM_GPUS_ON_NODE"] = "8"
    command = ["bash", SBATCH, "tiny.yaml", "seed=1"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == code, done.stderr
    ran = log.read_text().splitlines()
    (head,) = (line for line in ran if "ray start --head" in line)
    assert "--cpus-per-task=64" in head and "-w n1" in head and "--node-ip-address=10.0.0.1" in head
    (worker,) = (line for line in ran if "ray start --address=10.0.0.1:6379" in line)
    assert "-w n2" in worker and worker.endswith("--num-cpus=64 --num-gpus=8 --block")
    (train,) = (line for line in ran if line.startswith("couplet "))
    args = parse(shlex.split(train)[1:])
    assert load(RunConfig, args.config, args.overrides).ray.address == "10.0.0.1:6379"
    assert not list(tmp_path.glob(".couplet-token-*"))  # removed at the end
