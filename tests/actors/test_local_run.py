"""A local run with authentication on: `status`, `scale` and the dashboard's queries, from other processes."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import urllib.parse
import urllib.request
from contextlib import ExitStack
from pathlib import Path

import pytest

from couplet.configs.load import dump
from couplet.learner.rendezvous import free_port
from couplet.report import grafana
from tests.actors.runs import run_config, wait_for

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
NOT_ON_THE_CPU = {"peak_memory_mb", "learner_peak_memory_mb"}
LAUNCH = [sys.executable, "launch.py"]


@pytest.fixture(scope="module")
def charted(start, tmp_path_factory):
    """(run folder, session folder, environment) of a run in its own process, whose token is in its own home."""
    folder = tmp_path_factory.mktemp("charted")
    config = run_config(
        start, "charted", runs_dir=str(folder), steps=100_000, checkpoint={"every": 0}, ray={"dashboard": True}
    )
    (folder / "recipe.yaml").write_text(dump(config))
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    with ExitStack() as ends:
        sessions = tempfile.mkdtemp(prefix="couplet-", dir="/tmp")
        ends.callback(shutil.rmtree, sessions, ignore_errors=True)
        environment |= {"HOME": str(folder), "RAY_TMPDIR": sessions}
        with (folder / "log").open("w") as log:
            run = subprocess.Popen(
                [*LAUNCH, "train", str(folder / "recipe.yaml")],
                cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        ends.callback(stop, run)
        metrics = folder / "charted" / "metrics.jsonl"

        def learning():
            assert run.poll() is None, (folder / "log").read_text()[-4000:]
            return metrics.is_file() and len(metrics.read_text().splitlines()) > 3

        wait_for(learning)
        assert "asks for a token: `ray get-auth-token`" in (folder / "log").read_text()
        yield folder / "charted", Path(sessions) / "ray" / "session_latest", environment


def stop(process):
    """Ctrl-C, as a user would; then the group, if it does not end."""
    process.send_signal(signal.SIGINT)
    try:
        process.wait(60)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)


def launch(environment, *arguments):
    return subprocess.run([*LAUNCH, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)


def test_status_and_scale_find_the_run_through_its_folder(charted):
    folder, _, environment = charted
    known = json.loads((folder / "run.json").read_text())
    assert known["name"] == "charted" and known["address"].startswith("127.0.0.1:")
    shown = launch(environment, "status", "--json", "--run", str(folder))
    assert shown.returncode == 0, shown.stderr
    assert json.loads(shown.stdout)["folder"] == str(folder.resolve())
    scaled = launch(environment, "scale", "reward=2", "--run", str(folder))
    assert scaled.returncode == 0 and "reward: 2 in service" in scaled.stdout, scaled.stderr


def test_an_older_folder_of_the_same_name_is_not_confused_with_the_run(charted, tmp_path):
    folder, _, environment = charted
    (tmp_path / "run.json").write_text((folder / "run.json").read_text())
    refused = launch(environment, "scale", "reward=1", "--run", str(tmp_path))
    assert refused.returncode == 2 and f"is in {folder.resolve()}" in refused.stderr.splitlines()[-1]


def test_a_home_without_the_token_is_refused_in_one_line(charted, tmp_path):
    folder, _, environment = charted
    refused = launch(environment | {"HOME": str(tmp_path)}, "status", "--run", str(folder))
    assert refused.returncode == 2
    (line,) = refused.stderr.splitlines()
    assert (
        line.startswith("error: ray.address = ") and "the cluster asks for a token, and this process has none" in line
    )


def test_prometheus_answers_every_query_of_the_dashboard(charted, tmp_path):
    program = shutil.which("prometheus")
    if program is None:
        pytest.skip("needs Debian's package prometheus")
    _, session, environment = charted
    written = launch(environment, "dashboard", "--out", str(tmp_path), "--session", str(session))
    assert written.returncode == 0, written.stderr
    port = free_port()
    server = subprocess.Popen(
        [program, f"--config.file={tmp_path}/prometheus.yml", f"--storage.tsdb.path={tmp_path}/data",
         f"--web.listen-address=127.0.0.1:{port}"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        queries = {
            panel["title"]: panel["targets"][0]["expr"] for panel in grafana.dashboard()["panels"] if "targets" in panel
        }

        def empty():
            return {name for name, expr in queries.items() if not answer(port, expr)} - NOT_ON_THE_CPU

        try:
            wait_for(lambda: not empty(), 240)
        finally:
            assert empty() == set()
    finally:
        server.terminate()
        server.wait(60)


def answer(port, expression):
    """Prometheus' series for a panel's query, of any run."""
    asked = urllib.parse.urlencode({"query": expression.replace("$run", ".*")})
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/v1/query?{asked}", timeout=30) as reply:
            return json.load(reply)["data"]["result"]
    except OSError:  # it is starting
        return []
