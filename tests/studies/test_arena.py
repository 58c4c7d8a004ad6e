"""The arena with fake training runs: equal cost, resuming, the table; and gradient noise on a toy policy."""

from __future__ import annotations

import pytest

import couplet.studies.arena as module
from couplet.configs.load import RECIPES, load
from couplet.configs.schema import EstimatorConfig, ObjectiveConfig, RunConfig
from couplet.studies.ablations import Job
from couplet.studies.arena import ENTRIES, REFERENCE, parser, run_arena, settings, step_flops
from couplet.studies.arena_noise import gradient_noise
from couplet.studies.arena_report import CLAIMS, power
from tests.learner.toys import toy_groups, toy_policy
from tests.studies import fake_train

SCORE = {"published": 0.3, "coupled": 0.4, "trace": 0.5}


class FakeTrain(fake_train.FakeTrain):
    """The score depends on entry and seed."""

    def left(self, job: Job):  # type: ignore[no-untyped-def]
        last, after = job.config.steps, SCORE[job.name.partition("-")[0]] + 0.01 * job.seed
        rows = [{"step": 0, "time": 5.0, "eval/pass_at_1_t1": 0.2}]
        rows += [{"step": s, "time": 5.0 + s, "reward_mean": 1.0, "zero_signal_share": 0.5} for s in range(1, last + 1)]
        rows += [{"step": last, "time": 6.0 + last, "eval/pass_at_1_t1": after}]
        names = ("pass_at_1", "pass_at_1_t1", "pass_at_8")
        summary = {f"{name}_{when}": value for name in names for when, value in (("before", 0.2), ("after", after))}
        return rows, summary | {"seconds": 9.0, "seed": job.seed}


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    folder = tmp_path_factory.mktemp("start")
    toy_policy().save_pretrained(folder)
    return str(folder)


def arena(tmp_path, start, train, *options):
    args = parser().parse_intermixed_args(["--start", start, "--steps", "10", "--noise-draws", "0", *options])
    return run_arena(tmp_path / "docs", tmp_path / "runs", start=start, args=args, train=train)


def test_every_entry_spends_the_same_operations(tmp_path, start) -> None:
    study = arena(tmp_path, start, FakeTrain(), "--seeds", "0,1")
    reference = study["entries"][REFERENCE]
    budget = reference["steps"] * (reference["rollout"] + reference["learn"])
    assert reference["steps"] == 10 and len(study["runs"]) == 6
    for name, entry in study["entries"].items():
        step = entry["rollout"] + entry["learn"]
        assert abs(entry["steps"] * step - budget) <= step / 2 + 1e-6, name
    assert study["entries"]["trace"]["steps"] > 10  # one update and no reference
    spent = {row["entry"]: row["gflops"] for row in study["runs"]}
    trace = study["entries"]["trace"]
    expected = trace["steps"] * (trace["rollout"] + trace["learn"] / 2) / 1e9  # half of the groups were left out
    assert spent["trace"] == pytest.approx(expected)
    assert spent[REFERENCE] == pytest.approx(budget / 1e9)  # it keeps them


def test_the_page_has_the_table_the_comparisons_and_their_power(tmp_path, start) -> None:
    study = arena(tmp_path, start, FakeTrain(), "--seeds", "0,1")
    text = (tmp_path / "docs" / "arena.md").read_text()
    assert "| trace minus published |" in text and "+0.200 [+0.200, +0.200] | reproduced |" in text
    assert "| 50.5 ± 0.7 |" in text and "+20.0 ± 0.0" in text and "usually be left undecided" in text
    assert {claim["measured"] for claim in study["claims"]} == {
        "trace minus published", "coupled minus published", "trace minus coupled",
    }  # fmt: skip
    for name in ("arena.json", "arena.png", "arena.svg"):
        assert (tmp_path / "docs" / name).exists()
    assert "fewer than two seeds" in power([{"half": float("nan")}])


def test_a_killed_arena_resumes_cell_by_cell(tmp_path, start) -> None:
    first = FakeTrain(breaks_at="trace-seed0")
    with pytest.raises(RuntimeError, match="killed"):
        arena(tmp_path, start, first, "--seeds", "0")
    again = FakeTrain()
    arena(tmp_path, start, again, "--seeds", "0,1")
    assert sorted(first.done + again.done) == sorted(f"{name}-seed{seed}" for name in SCORE for seed in (0, 1))


def test_measured_noise_is_read_again(tmp_path, start, monkeypatch) -> None:
    done = []
    noise = dict.fromkeys(("pair", "large", "exact", "large_exact", "norm_ratio"), 0.5)
    monkeypatch.setattr(module, "measure_noise", lambda config, *rest: done.append(config.estimator.name) or noise)
    for _ in range(2):
        arena(tmp_path, start, FakeTrain(), "--seeds", "0", "--noise-draws", "4", "--noise-groups", "2")
    assert len(done) == len(module.NOISY)
    assert "| trace_exact | 0.500 ± 0.000 |" in (tmp_path / "docs" / "arena.md").read_text()


def test_every_entry_loads_and_every_comparison_is_between_entries() -> None:
    for entry in ENTRIES:
        load(RunConfig, RECIPES / "tiny.yaml", settings(entry, "start", ()))
    assert {name for _, *pair in CLAIMS for name in pair} <= set(ENTRIES)
    with pytest.raises(ValueError, match="no entry 'tracy'"):
        settings("tracy", "start", ())


def test_an_exact_trace_is_counted_with_as_many_slices_as_there_are_steps() -> None:
    from couplet.commands.dry_run import _size

    exact = load(RunConfig, RECIPES / "tiny.yaml", ("estimator.name=trace", "estimator.slices=512"))
    as_many = exact.replace(estimator=exact.estimator.replace(slices=exact.sampler.steps))
    assert step_flops(exact, _size(exact)) == step_flops(as_many, _size(exact))


def test_noise_of_an_estimator_without_draws_is_none_and_coupled_masks_agree_less() -> None:
    policy, groups = toy_policy(), toy_groups()
    full = gradient_noise(policy, groups, ObjectiveConfig(), EstimatorConfig(name="full_mask"), 4)
    assert full["pair"] == pytest.approx(1.0, abs=1e-4) and full["norm_ratio"] == pytest.approx(1.0, abs=1e-4)
    exact = gradient_noise(policy, groups, ObjectiveConfig(), EstimatorConfig(name="trace", slices=6), 2)
    assert exact["exact"] == pytest.approx(1.0, abs=1e-4)
    coupled = gradient_noise(policy, groups, ObjectiveConfig(), EstimatorConfig(), 16)
    assert coupled["pair"] < coupled["large"] < 1.0
