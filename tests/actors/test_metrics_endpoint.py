"""What a run reports, read from the node's metrics endpoint as Prometheus would read it."""

import math
import re
import urllib.request

import pytest

from couplet.actors.ray_init import alive_nodes
from tests.actors.runs import wait_for

pytestmark = pytest.mark.ray

NAMES = set(
    re.findall(
        r"\w+",
        """
    reward_mean reward_std reward_code reward_code_format pass_rate format_rate zero_signal_share
    ratio_mean ratio_max clip_share kl_mean grad_norm loss draw_entropy local_ar_ness global_ar_ness order_entropy
    staleness_mean staleness_max ledger_issued ledger_generated ledger_scoring ledger_ready ledger_leased
    ledger_trained ledger_filtered ledger_quarantined ledger_issued_total ledger_in_flight
    ledger_reissued ledger_stale_dropped tokens_per_second rollouts_per_second generate_busy_share
    generate_idle_share reward_busy_share reward_idle_share train_busy_share train_idle_share
    weight_broadcast_seconds reward_wait_p50 reward_wait_p95 sandbox_faults_spawn sandbox_faults_zygote
    sandbox_infra_errors sandbox_cache_hit_rate rollout_restarts reward_restarts replay_restarts
    learner_restarts speedup_bound speedup_reached bounding_stage rollout_workers reward_workers
    learner_workers
""",
    )
)


def scrape():
    """{(name without prefix, role): values} of the shared run on every node; a process that died is shown for a while."""
    found = {}
    for node in alive_nodes():
        url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
        try:
            with urllib.request.urlopen(url, timeout=60) as answer:
                text = answer.read().decode()
        except OSError:  # not yet
            continue
        for name, labels, value in re.findall(r"^ray_couplet_(\w+)\{(.*)\} (\S+)$", text, re.MULTILINE):
            tags = dict(re.findall(r'(\w+)="([^"]*)"', labels))
            if tags["run"] == "shared":
                found.setdefault((name, tags["role"]), []).append(float(value))
    return found


def test_every_metric_is_at_the_nodes_endpoint_during_a_run(shared_run):
    shared_run.history.steps(shared_run.cluster, 2)
    found = {}

    def complete():
        found.update(scrape())
        return not NAMES - {name for name, _ in found}

    try:
        wait_for(complete)
    finally:
        assert not NAMES - {name for name, _ in found}


def test_the_endpoint_tells_what_the_run_logs(shared_run):
    row = shared_run.history.steps(shared_run.cluster, 1)[-1]
    expected = {(name, "driver"): row[name] for name in ("loss", "reward_mean", "staleness_mean", "learner_restarts")}
    expected["ledger_trained", "replay"] = float(shared_run.cluster.totals()["trained"])
    found = {}

    def untold():
        return {
            name: found.get(name) for name, value in expected.items() if pytest.approx(value) not in found.get(name, ())
        }

    def reported():
        found.clear()
        found.update(scrape())
        return not untold()

    try:
        wait_for(reported)  # processes report on their own clocks
    finally:
        assert untold() == {}, expected


def test_names_are_plain_and_shares_lie_between_0_and_1(shared_run):
    for row in shared_run.history.steps(shared_run.cluster, 2):
        assert all(re.fullmatch("[a-z0-9_]+", name) for name in row)
        for name in row:
            if name.endswith("_share") and math.isfinite(row[name]):
                assert 0.0 <= row[name] <= 1.0, name
        assert row["speedup_bound"] >= 1.0
        assert row["ledger_issued_total"] >= row["ledger_trained"]
