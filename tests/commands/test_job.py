"""Which job `status` and `scale` mean: the folder of a run names its cluster, and nothing is guessed."""

import json

import pytest

from couplet.actors.ray_init import NoCluster
from couplet.commands import job
from couplet.commands.job import Job
from couplet.configs.schema import ConfigError


@pytest.fixture
def folder(tmp_path):
    """The folder `tiny-2` of a run named `tiny`."""
    root = tmp_path / "tiny-2"
    root.mkdir()
    (root / "run.json").write_text(json.dumps({"name": "tiny", "address": "10.0.0.1:6379"}))
    return root


def test_a_folder_names_the_run_and_its_cluster(folder):
    assert Job.named(str(folder), None) == Job("tiny", "10.0.0.1:6379", folder)
    assert Job.named(str(folder), "head:1").address == "head:1"


def test_a_link_to_the_folder_is_the_folder(folder):
    (folder.parent / "latest").symlink_to(folder)
    assert Job.named(str(folder.parent / "latest"), None).folder == folder


def test_a_name_leaves_the_cluster_open(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert Job.named("tiny", None) == Job("tiny", None) and Job.named(None, "head:1") == Job(None, "head:1")


def test_a_folder_without_a_run_is_refused(tmp_path):
    for path in (tmp_path, tmp_path / "missing"):
        with pytest.raises(ConfigError, match="not the folder of a run"):
            Job.named(str(path), None)


def test_a_run_without_a_cluster_is_named(folder):
    (folder / "run.json").write_text(json.dumps({"name": "tiny", "address": None}))
    with pytest.raises(ConfigError, match="has not joined a Ray cluster"):
        Job.named(str(folder), None)


def test_the_folder_of_a_run_that_has_ended_is_said_to_be_that(folder, monkeypatch):
    def attach(config, local):
        raise NoCluster(f"{config.address}: no Ray cluster there")

    monkeypatch.setattr(job, "attach", attach)
    with pytest.raises(ConfigError, match=r"the run in .*tiny-2 is not running: no Ray cluster at 10.0.0.1:6379"):
        job.show_status(str(folder), None)


def test_several_runs_of_one_cluster_are_never_guessed_between():
    assert job._choose(None, ["a"]) == "a" and job._choose("b", ["a", "b"]) == "b"
    with pytest.raises(ConfigError, match=r"several jobs are running \(a, b\): name one with --run"):
        job._choose(None, ["a", "b"])
    with pytest.raises(ConfigError, match="no running job named 'c' on this cluster; running: a, b"):
        job._choose("c", ["a", "b"])
