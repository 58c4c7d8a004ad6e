"""A mistake of the user is one line; a defect of ours, or of a library under us, keeps its traceback."""

from __future__ import annotations

import errno
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from couplet.commands import training_run as trainer
from couplet.configs.schema import ConfigError
from couplet.data.formats.acecode import NothingRated
from couplet.data.formats.columns import RowError
from couplet.data.formats.parquet import ProblemFileError
from couplet.data.sources import SourceError
from couplet.data.tokenizer import TokenizerError
from couplet.evaluation.pass_at_k import pass_at_k
from couplet.learner.checkpoint import CheckpointError
from couplet.model.errors import ModelFolderError
from couplet.model.folder import read_config
from couplet.model.policy import DiffusionPolicy
from couplet.serving.completions import EndpointError

ROOT = Path(__file__).parents[2]


@pytest.fixture
def trained(monkeypatch, command):
    """`trained(work)` is what `launch.py train` comes to when training is `work()`."""

    def run(work):
        monkeypatch.setattr(trainer, "run_training", lambda config, **options: work())
        return command("train")

    return run


def raising(error):
    def work():
        raise error

    return work


def shapes_that_differ():
    return np.zeros(3) + np.zeros(4)


KINDS = (
    ConfigError,
    SourceError,
    ProblemFileError,
    RowError,
    NothingRated,
    EndpointError,
    CheckpointError,
    ModelFolderError,
    TokenizerError,
)


@pytest.mark.parametrize("kind", KINDS)
def test_errors_made_for_the_user_are_one_line_from_any_process(trained, kind):
    error = kind("fix this")
    error.add_note("Traceback of a worker")
    assert trained(raising(error)) == (2, "", "error: fix this\n")


def test_a_broken_model_folder_is_one_line(trained, tmp_path):
    code, _, error = trained(lambda: read_config(tmp_path / "nowhere"))
    assert code == 2 and error.startswith("error: model folder ") and error.count("\n") == 1
    (tmp_path / "config.json").write_text("{}")
    code, _, error = trained(lambda: DiffusionPolicy.from_pretrained(tmp_path))
    assert code == 2 and error.startswith("error: ") and error.count("\n") == 1


def test_a_file_that_is_named_is_one_line(trained, tmp_path):
    assert trained((tmp_path / "a").read_text) == (2, "", f"error: {tmp_path}/a: No such file or directory\n")
    reported = trained(raising(OSError(errno.ENOSPC, "No space left on device", "/full/disk")))
    assert reported == (2, "", "error: /full/disk: No space left on device\n")
    reported = trained(raising(OSError(errno.ENOSPC, "No space left on device")))  # as a write says it
    assert reported == (2, "", "error: [Errno 28] No space left on device\n")


def test_an_error_of_a_library_keeps_its_traceback(trained):
    with pytest.raises(ValueError, match="could not be broadcast"):
        trained(shapes_that_differ)
    with pytest.raises(ConnectionResetError):
        trained(raising(ConnectionResetError(errno.ECONNRESET, "Connection reset by peer")))


def test_an_assertion_of_ours_keeps_its_traceback(trained):
    """A plain `ValueError` that the project raises is a mistake in its own code."""
    with pytest.raises(ValueError, match="k = 0: must be at least 1"):
        trained(lambda: pass_at_k(1, 1, 0))


@pytest.mark.ray
def test_a_worker_s_defect_comes_with_its_traceback_and_a_worker_s_mistake_in_one_line(ray_cluster, trained):
    from couplet.actors.remote import fetch

    def defect():
        import numpy

        return numpy.zeros(3) + numpy.zeros(4)

    def mistake():
        from couplet.data.sources import SourceError

        raise SourceError("corpus.jsonl: no such file")

    def far_away(work):
        return lambda: fetch(ray_cluster.remote(work).options(num_cpus=0).remote(), "a worker", 200.0)

    with pytest.raises(ValueError, match="could not be broadcast") as caught:
        trained(far_away(defect))
    assert "numpy.zeros(3) + numpy.zeros(4)" in caught.value.__notes__[0]
    assert trained(far_away(mistake)) == (2, "", "error: corpus.jsonl: no such file\n")


@pytest.mark.parametrize("output", [subprocess.PIPE, subprocess.DEVNULL])
def test_a_pipe_that_breaks_elsewhere_is_a_defect(output):
    """To a worker, say: standard output is still read."""
    script = (
        "import errno, sys, launch\n"
        "from couplet.commands import training_run as train\n"
        "def broken(config, **options):\n"
        "    raise BrokenPipeError(errno.EPIPE, 'Broken pipe')\n"
        "train.run_training = broken\n"
        "sys.exit(launch.main(['train']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, stdout=output, stderr=subprocess.PIPE, text=True, timeout=250
    )
    assert done.returncode == 1 and "Traceback" in done.stderr and "in broken" in done.stderr
    assert done.stderr.endswith("BrokenPipeError: [Errno 32] Broken pipe\n")
