"""The Grafana dashboard is made from the metric table: every exported metric has a panel, and nothing else has."""

import json
import re
from pathlib import Path

import yaml

from couplet.commands.cli import main
from couplet.data.metric_table import GROUPS, METRICS, find
from couplet.report import grafana


def panels():
    return [panel for panel in grafana.dashboard()["panels"] if panel["type"] != "row"]


def test_every_exported_metric_has_one_panel_with_its_meaning():
    assert [panel["title"] for panel in panels()] == [metric.name for metric in METRICS]
    for panel, metric in zip(panels(), METRICS, strict=True):
        assert panel["description"].startswith(metric.meaning)


def test_every_name_that_a_panel_asks_for_is_in_the_table():
    for panel in panels():
        (target,) = panel["targets"]
        names = re.findall(r"ray_couplet_([a-z0-9_]+)\{", target["expr"])
        if names:
            assert find(names[0]) is not None and find(names[0]).name == panel["title"]
        else:
            assert find(panel["title"]).pattern in target["expr"]
        assert 'run=~"$run"' in target["expr"]


def test_a_family_leaves_out_the_names_that_have_their_own_panel():
    family = next(metric for metric in METRICS if metric.name == "reward_{function}")
    asked = re.search(r'__name__=~"([^"]+)", __name__!~"([^"]+)"', grafana.query(family))
    shown, hidden = asked.groups()
    assert re.fullmatch(shown, "ray_couplet_reward_code_format") and not re.fullmatch(hidden, "ray_couplet_reward_code")
    assert re.fullmatch(hidden, "ray_couplet_reward_mean") and re.fullmatch(hidden, "ray_couplet_reward_wait_p50")


def test_panels_are_grouped_in_rows_and_do_not_overlap():
    rows = [panel["title"] for panel in grafana.dashboard()["panels"] if panel["type"] == "row"]
    assert rows == list(GROUPS.values())
    taken = set()
    for panel in grafana.dashboard()["panels"]:
        place = panel["gridPos"]
        cells = {(place["x"] + i, place["y"] + j) for i in range(place["w"]) for j in range(place["h"])}
        assert not taken & cells and place["x"] + place["w"] <= 24
        taken |= cells
    numbers = [panel["id"] for panel in grafana.dashboard()["panels"]]
    assert len(numbers) == len(set(numbers))


def test_the_command_writes_valid_files_that_name_each_other(tmp_path, capsys):
    out, session = tmp_path / "my charts", tmp_path / "session"
    assert main(["dashboard", "--out", str(out), "--session", str(session)]) == 0
    said = capsys.readouterr().out
    assert f"prometheus --config.file='{out}'/prometheus.yml" in said and "RAY_GRAFANA_HOST=" in said
    scrape = yaml.safe_load((out / "prometheus.yml").read_text())["scrape_configs"][0]
    assert scrape["file_sd_configs"][0]["files"] == [str(session / "prom_metrics_service_discovery.json")]
    providers = yaml.safe_load((out / "grafana/provisioning/dashboards/couplet.yml").read_text())["providers"]
    (ours, rays) = (Path(provider["options"]["path"]) for provider in providers)
    assert json.loads((ours / "couplet.json").read_text()) == grafana.dashboard()
    assert rays == session / "metrics" / "grafana" / "dashboards"
    sources = yaml.safe_load((out / "grafana/provisioning/datasources/prometheus.yml").read_text())["datasources"]
    assert {panel["datasource"]["uid"] for panel in panels()} == {sources[0]["uid"]}
    assert f"provisioning = {out}/grafana/provisioning" in (out / "grafana/grafana.ini").read_text()


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert main(["dashboard", "--out", str(tmp_path / "file")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: cannot write") and len(error.splitlines()) == 1


def test_shares_are_percentages():
    shares = [panel for panel in panels() if find(panel["title"]).unit == "share"]
    assert shares and all(panel["fieldConfig"]["defaults"]["unit"] == "percentunit" for panel in shares)
