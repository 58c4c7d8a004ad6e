"""The ablation driver with fake training runs, and the shipped recipes."""

from __future__ import annotations

import json

import pytest

from couplet.configs.load import load
from couplet.configs.schema import ConfigError, RunConfig
from couplet.studies.ablations import ABLATIONS, Job, Study, run_ablations, train_in_process
from couplet.studies.ablations_report import changes, judge_claim
from tests.studies import fake_train

SCORE = {"coupled": 0.6, "full_mask": 0.4, "lambda2": 0.61, "group_mean": 0.6, "decoupled": 0.5}


class FakeTrain(fake_train.FakeTrain):
    """The score depends on recipe and seed."""

    def left(self, job: Job):  # type: ignore[no-untyped-def]
        steps = [{"step": s, "reward_mean": 0.1 * s + 0.01 * job.seed, "step_seconds": 1.0} for s in range(1, 7)]
        after = SCORE[job.recipe.stem] + 0.01 * job.seed
        return steps, {"pass_at_1_before": 0.2, "pass_at_1_after": after, "seconds": 60.0, "seed": job.seed}


def study(tmp_path, train, names, **options):  # type: ignore[no-untyped-def]
    return run_ablations(Study("start", names=names, **options), tmp_path / "docs", tmp_path / "runs", train)


def test_every_recipe_loads_and_differs_from_the_baseline_only_where_its_name_says() -> None:
    base = load(RunConfig, ABLATIONS / "coupled.yaml")
    expected = {
        "lambda2": {"estimator.pairs"},
        "full_mask": {"estimator.name"},
        "decoupled": {"estimator.name"},
        "leave_one_out": set(),
        "group_mean": {"objective.advantage"},
        "weighting_none": {"estimator.weighting"},
        "half_inverse_t": {"estimator.weighting"},
        "t_range": {"estimator.t_min", "estimator.t_max"},
        "temperature_1_0": set(),
        "temperature_1_2": {"sampler.temperature"},
        "mu1": {"objective.inner_updates"},
        "mu2": set(),
        "mu4": {"objective.inner_updates"},
        "coupled": set(),
    }
    from couplet.configs.load import to_dict

    assert {p.stem for p in ABLATIONS.glob("*.yaml")} == set(expected)
    for name, changed in expected.items():
        config = load(RunConfig, ABLATIONS / f"{name}.yaml")
        assert set(changes(to_dict(config), to_dict(base))) == changed, name


def test_a_table_with_spread_a_figure_and_the_data(tmp_path) -> None:
    train = FakeTrain()
    result = study(tmp_path, train, ["coupled", "full_mask", "lambda2"])
    assert len(train.done) == 9
    rows = {row["recipe"]: row for row in result["table"]}
    assert rows["full_mask"]["pass_at_1_after"]["mean"] == pytest.approx(0.41)
    assert rows["full_mask"]["pass_at_1_after"]["std"] == pytest.approx(0.01)
    assert rows["full_mask"]["gap"]["mean"] == pytest.approx(-0.2)
    assert rows["coupled"]["reward_end"]["mean"] == pytest.approx(0.41)
    text = (tmp_path / "docs" / "ablations.md").read_text()
    assert "| full_mask | estimator.name = full_mask | 41.0 ± 1.0 |" in text
    assert "-20.0 ± 0.0" in text
    assert "| coupled masks end above the full mask | pass@1 after training, coupled minus full_mask |" in text
    assert "| +0.200, +0.200, +0.200 | +0.200 [+0.200, +0.200] | reproduced |" in text
    for name in ("ablations.png", "ablations.svg", "ablations.json"):
        assert (tmp_path / "docs" / name).exists()
    json.loads((tmp_path / "docs" / "ablations.json").read_text(), parse_constant=lambda name: pytest.fail(name))


def test_equal_configurations_share_their_runs(tmp_path) -> None:
    train = FakeTrain()
    result = study(tmp_path, train, ["coupled", "leave_one_out", "mu2"], seeds=(0,))
    assert train.done == ["coupled-seed0"]
    assert [row["runs_of"] for row in result["table"]] == ["coupled"] * 3
    assert "| mu2 | as coupled |" in (tmp_path / "docs" / "ablations.md").read_text()


def test_a_killed_study_resumes_and_keeps_what_is_finished(tmp_path) -> None:
    names = ["coupled", "decoupled"]
    first = FakeTrain(breaks_at="decoupled-seed0")
    with pytest.raises(RuntimeError, match="killed"):
        study(tmp_path, first, names, seeds=(0, 1))
    again = FakeTrain()
    study(tmp_path, again, names, seeds=(0, 1))
    assert "decoupled-seed0" in again.done
    assert sorted(first.done + again.done) == [f"{name}-seed{seed}" for name in names for seed in (0, 1)]


def test_another_override_is_another_run(tmp_path) -> None:
    study(tmp_path, FakeTrain(), ["coupled"], seeds=(0,))
    again = FakeTrain()
    study(tmp_path, again, ["coupled"], seeds=(0,), overrides=["steps=6"])
    assert again.done == ["coupled-seed0"]


def test_every_run_starts_from_the_given_policy(tmp_path) -> None:
    job = Job(ABLATIONS / "mu4.yaml", 3, tmp_path, "x", ("model.path=here", "model.recipe=null"))
    config = job.config
    assert (config.model.path, config.model.recipe, config.seed, config.name) == ("here", None, 3, "x")


def test_an_unknown_recipe_is_named(tmp_path) -> None:
    with pytest.raises(ConfigError, match="choose among coupled"):
        study(tmp_path, FakeTrain(), ["mu7"])


def claim_rows(ours: list[float], theirs: list[float]) -> list[dict]:
    return [
        {"recipe": name, "seed": seed, "pass_at_1_before": 0.5, "pass_at_1_after": value}
        for name, values in (("a", ours), ("b", theirs))
        for seed, value in enumerate(values)
    ]


def test_a_claim_about_recipes_that_were_not_run_is_left_out() -> None:
    assert judge_claim(claim_rows([0.5], [0.5]), "a beats c", "a", "c", "pass_at_1") is None
    own = judge_claim(claim_rows([0.7, 0.8], [0.5, 0.5]), "a gains", "a", None, "pass_at_1")
    assert own is not None and own["gaps"] == pytest.approx([0.2, 0.3])


def test_a_failing_run_shows_the_end_of_its_output(tmp_path) -> None:
    job = Job(ABLATIONS / "coupled.yaml", 0, tmp_path, "broken", ("no.such=1",))
    with pytest.raises(RuntimeError, match="unknown key"):
        train_in_process(job)
