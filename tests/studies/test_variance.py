"""The variance study, against a policy whose l_k(t) is known in closed form and against the estimators themselves."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from couplet.configs.schema import EstimatorConfig, SamplerConfig, ShapeConfig
from couplet.model.policy import DiffusionPolicy
from couplet.model.tokens import TokenIds
from couplet.studies.variance_measure import (
    Budget,
    Case,
    Setting,
    cases_by_sampling,
    draw_estimates,
    likelihood_curve,
    measure,
    settings,
)
from couplet.studies.variance_report import antithetic_ratios, run_variance_study, summarise
from tests.one_group import group_logprobs

IDS = TokenIds(mask=1, pad=0, bos=0, eos=0, filler=0, end=(2,))
CANVAS = 8
SLOPE = 2.0
SMALL = Budget(draws=400, nodes=4, target_draws=48)


class CountingPolicy(torch.nn.Module):
    """Log-probability of every token: -SLOPE times the share of the canvas that is masked.

    So l_k(t) = -SLOPE (1 + (C - 1) t) / C exactly, whatever the token.
    """

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.token_ids = IDS

    def forward(self, tokens_BL, attention_BL, *, select_BL, targets_BL, **options):  # type: ignore[no-untyped-def]
        share_B1 = (tokens_BL == IDS.mask).sum(dim=1, keepdim=True) / CANVAS
        logp_N = (-SLOPE * share_B1).expand(tokens_BL.shape)[select_BL]
        return logp_N if targets_BL.dim() == 2 else logp_N[:, None].expand(-1, targets_BL.shape[2])


def known(time: float) -> float:
    return -SLOPE * (1 + (CANVAS - 1) * time) / CANVAS


def case(length: int = CANVAS) -> Case:
    loss = np.zeros(CANVAS, dtype=bool)
    loss[:length] = True
    return Case(np.array([3, 4, 5]), np.arange(3, 3 + CANVAS), loss, reveal_step_C=np.arange(CANVAS))


@pytest.fixture(scope="module")
def rows() -> list[dict]:
    return measure(CountingPolicy(), [case(), case(5), case(3)], SMALL, seed=7)


def row_of(rows: list[dict], name: str, weighting: str, pairs: int) -> dict:
    return next(
        r for r in summarise(rows, 5) if (r["estimator"], r["weighting"], r["pairs"]) == (name, weighting, pairs)
    )


def test_a_measured_curve_meets_the_known_one() -> None:
    curve = likelihood_curve(CountingPolicy(), case(), (0.2, 0.8), Budget(nodes=4, target_draws=2000), seed=1)
    for time, mean_C in zip(curve.times_T, curve.mean_TC):
        assert mean_C == pytest.approx(known(time), abs=0.05)
    assert curve.integral_C.mean() == pytest.approx(known(0.5), abs=4 * curve.integral_variance**0.5)
    assert 0 < curve.integral_variance**0.5 < 0.01


@pytest.mark.parametrize("pairs", [1, 2])
@pytest.mark.parametrize("name", ["coupled", "decoupled"])
@pytest.mark.parametrize("weighting", ["inverse_t", "half_inverse_t"])
def test_an_estimator_is_unbiased_for_its_own_target(rows: list[dict], name: str, weighting: str, pairs: int) -> None:
    row = row_of(rows, name, weighting, pairs)
    assert abs(row[f"bias_{weighting}"]) < 4 * row[f"se_{weighting}"]


@pytest.mark.parametrize(("variant", "pairs"), [("uniform", 1), ("uniform", 2), ("stratified", 2)])
def test_elbo_is_unbiased_for_the_elbo(rows: list[dict], variant: str, pairs: int) -> None:
    row = row_of(rows, "elbo", variant, pairs)
    assert abs(row["bias_elbo"]) < 4 * row["se_elbo"] and row["forwards_per_draw"] == 2 * pairs


def test_an_upper_bound_is_above_and_the_exact_likelihood_has_no_noise(rows: list[dict]) -> None:
    assert row_of(rows, "left_to_right", "exact", 3.5)["sequence_variance"] == 0.0
    # the mean of l_k over 8 left-to-right steps, which is that over (0, 1], for completions that fill the canvas
    full = [row for row in rows if row["completion"] == 0]
    assert row_of(full, "left_to_right", "exact", 3.5)["bias_elbo"] == pytest.approx(0.0, abs=0.02)
    assert row_of(rows, "trace", "3 slices", 1)["forwards_per_draw"] == 3


def test_half_inverse_t_misses_the_other_target_by_the_known_gap(rows: list[dict]) -> None:
    row = row_of(rows, "coupled", "half_inverse_t", 1)
    gap = (known(1.0) + known(0.5)) / 2 - (known(1.0) + 2 * known(0.5)) / 3
    assert row["bias_inverse_t"] == pytest.approx(gap, abs=4 * row["se_inverse_t"])
    assert abs(gap) > 8 * row["se_inverse_t"]


def test_full_mask_misses_the_elbo_by_the_known_gap(rows: list[dict]) -> None:
    row = row_of(rows, "full_mask", "none", 0)
    assert row["sequence_variance"] == 0.0
    assert row["bias_elbo"] == pytest.approx(known(1.0) - known(0.5), abs=4 * row["se_elbo"])


def test_unweighted_pairs_tilt_to_high_times(rows: list[dict]) -> None:
    # E[ t l(t) + (1 - t) l(1 - t) ] over t ~ U(0.2, 0.8) is 2 E[t l(t)]
    tilted = -SLOPE * 2 * (0.5 + (CANVAS - 1) * (0.25 + 0.6**2 / 12)) / CANVAS
    expected = (known(1.0) + tilted) / 2 - (known(1.0) + known(0.5)) / 2
    row = row_of(rows, "coupled", "none", 1)
    assert row["bias_half_inverse_t"] == pytest.approx(expected, abs=4 * row["se_half_inverse_t"])


def test_complementary_masks_have_less_variance(rows: list[dict]) -> None:
    for ratio in antithetic_ratios(rows):
        assert ratio["token"] > 1.5 and ratio["token_low"] > 1.0
        assert ratio["sequence"] > 1.0


def test_expected_weights() -> None:
    assert Setting("coupled", "inverse_t", 1).expected_weight == 1.5
    assert Setting("coupled", "inverse_t", 2).expected_weight == pytest.approx(5 / 3)
    assert Setting("decoupled", "half_inverse_t", 2).expected_weight == 1.0
    assert len(settings((1, 2))) == 13


def test_equal_forward_passes_scale_the_variance_of_one_draw() -> None:
    row = {"estimator": "coupled", "weighting": "none", "pairs": 1, "forwards": 3, "expected_weight": 1.0, "draws": 4}
    row |= {"token_variance": 0.8, "sequence_variance": 0.4}
    row |= {f"{kind}_{name}": 0.0 for kind in ("bias", "se") for name in ("inverse_t", "half_inverse_t", "elbo")}
    (entry,) = summarise([row], forward_passes=9)  # four pairs, so the mean of four draws
    assert entry["token_variance"] == pytest.approx(0.2) and entry["rmse_elbo"] == pytest.approx(0.1**0.5)


def test_estimates_are_those_of_the_estimators_themselves() -> None:
    shape = ShapeConfig(hidden=16, layers=1, heads=2, kv_heads=2, ffn=32, max_positions=32)
    policy = DiffusionPolicy.from_shape(shape, vocab_size=24, token_ids=IDS, seed=0).eval()
    one, seeds = case(6), [11, 12, 13]
    for name in ("coupled", "decoupled"):
        for setting, found_DC in draw_estimates(policy, one, name, Budget(draws=3), (0.2, 0.8), seeds):
            cfg = EstimatorConfig(name=name, pairs=setting.pairs, weighting=setting.weighting)  # type: ignore[arg-type]
            for draw, seed in enumerate(seeds):
                with torch.no_grad():
                    theirs = group_logprobs(
                        policy, one.prompt, one.tokens_C[None], one.loss_mask_C[None], [seed], cfg, 0
                    )[0]
                assert found_DC[draw] * setting.expected_weight == pytest.approx(theirs.numpy(), abs=1e-5)


def test_sampled_cases_end_their_loss_at_the_first_end_token() -> None:
    shape = ShapeConfig(hidden=16, layers=1, heads=2, kv_heads=2, ffn=32, max_positions=32)
    policy = DiffusionPolicy.from_shape(shape, vocab_size=6, token_ids=IDS, seed=0).eval()
    cases = cases_by_sampling(policy, [[3, 4]] * 6, SamplerConfig(steps=8, completion_length=8), seed=0)
    assert len({case.tokens_C.tobytes() for case in cases}) > 1
    for case in cases:
        tokens = case.tokens_C.tolist()
        length = tokens.index(2) + 1 if 2 in tokens else 8
        assert case.loss_mask_C.tolist() == [i < length for i in range(8)]


def test_a_budget_that_cannot_be_met_is_an_error() -> None:
    with pytest.raises(ValueError, match="forward_passes = 4"):
        Budget(forward_passes=4)
    with pytest.raises(ValueError, match="draws = 1"):
        Budget(draws=1)


def test_the_study_writes_table_figure_and_data(tmp_path) -> None:
    budget = Budget(draws=8, nodes=2, target_draws=24)
    result = run_variance_study(CountingPolicy(), [case(), case(4)], tmp_path, budget=budget, facts={"policy": "toy"})
    assert json.loads((tmp_path / "variance.json").read_text())["policy"] == "toy"
    assert len(result["estimators"]) == 21
    assert pq.read_table(tmp_path / "variance.parquet").num_rows == 42
    assert "| coupled | inverse_t | 1 | 1.500 |" in (tmp_path / "variance.md").read_text()
    assert (tmp_path / "variance.png").exists() and (tmp_path / "variance.svg").exists()
    assert "token ratio per seed" not in (tmp_path / "variance.md").read_text()
    two = [case(), replace(case(4), seed=1)]
    result = run_variance_study(CountingPolicy(), two, tmp_path, budget=budget)
    assert result["seeds"] == [0, 1]
    assert set(result["antithetic"][0]["token_by_seed"]) == {"0", "1"}
    assert "completions of seed 0, 1." in (tmp_path / "variance.md").read_text()
    assert "token ratio per seed" in (tmp_path / "variance.md").read_text()
    with pytest.raises(ValueError, match="no completion"):
        run_variance_study(CountingPolicy(), [], tmp_path)
