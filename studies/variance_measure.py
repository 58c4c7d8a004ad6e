"""How noisy and how biased each likelihood estimator is, measured over many draws of masks.

Every estimate is divided by its expected weight, so all of them are weighted means of log-probabilities. With
l_k(t) = E log p(token k | k masked, every other token masked with probability t), three targets are compared:

    inverse_t:      (l_k(1) + 2·pairs·mean l_k) / (1 + 2·pairs)     mean over [t_min, t_max]
    half_inverse_t: (l_k(1) +   pairs·mean l_k) / (1 +   pairs)
    elbo:           the mean of l_k over (0, 1], the evidence lower bound of a linear schedule, per token

Variances are compared at an equal number of forward passes: 1 + 2m passes are view 0 once and m mask pairs, hence the
mean of m / pairs draws; estimators without view 0 spend all on their own views. Only the masks are random here; policy
and completions are fixed. `trace` is scored along the completion's own reveal order, whose likelihood is none of the
three targets: its bias is its distance to them, as is that of `left_to_right`.

Shapes: D draws, C canvas positions, N rows of masks, T diffusion times.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from couplet.configs.errors import UserError
from couplet.configs.schema import EstimatorConfig, SamplerConfig
from couplet.data.seeds import derive_seed
from couplet.data.trajectory import answer_length
from couplet.model.estimators import ESTIMATORS, Canvases
from couplet.model.likelihood import GroupTokens, batch_bounds
from couplet.rollout.sampler import sample

PAIRED = ("coupled", "decoupled")
WEIGHTINGS = ("inverse_t", "half_inverse_t", "none")
TARGETS = ("inverse_t", "half_inverse_t", "elbo")


@dataclass(frozen=True)
class Case:
    """One completion of one prompt: ids of the prompt, ids of the whole canvas, its loss positions (bool), its seed."""

    prompt: np.ndarray
    tokens_C: np.ndarray
    loss_mask_C: np.ndarray
    seed: int = 0
    reveal_step_C: np.ndarray | None = None  # steps that revealed the tokens; None leaves `trace` out


@dataclass(frozen=True)
class Budget:
    """The amount of computation.

    Attributes:
        draws: mask draws per estimator and completion.
        pairs: numbers of mask pairs (lambda) to compare.
        forward_passes: of one estimate in the comparison, 1 + 2m with every entry of `pairs` dividing m.
        nodes: diffusion times at which l_k(t) is measured, Gauss-Legendre, for each of the two ranges.
        target_draws: expected number of masks that include a given token, per diffusion time.
        rows: canvases per forward pass.
    """

    draws: int = 256
    pairs: tuple[int, ...] = (1, 2)
    forward_passes: int = 5
    nodes: int = 8
    target_draws: int = 64
    rows: int = 256

    def __post_init__(self) -> None:
        if self.forward_passes < 3 or any((self.forward_passes - 1) % (2 * pairs) for pairs in self.pairs):
            raise UserError(
                f"forward_passes = {self.forward_passes}: must be 1 + 2m, m a multiple of each of pairs = {self.pairs}"
            )
        if self.draws < 2:
            raise UserError(f"draws = {self.draws}: a variance needs at least 2")


@dataclass(frozen=True)
class Setting:
    """One estimator: its name, weighting (or variant) and number of mask pairs, half its views besides view 0."""

    name: str
    weighting: str
    pairs: float

    @property
    def expected_weight(self) -> float:
        """Expected sum of the weights of a token's log-probabilities."""
        return (1 + 2 * self.pairs) / (1 + self.pairs) if self.weighting == "inverse_t" else 1.0

    @property
    def shared(self) -> int:
        """1 if view 0 is used."""
        return int(self.name not in ("elbo", "spg"))

    def draws(self, forward_passes: int) -> float:
        """Draws that cost `forward_passes` forward passes; without views besides view 0, one."""
        return (forward_passes - self.shared) / (2 * self.pairs) if self.pairs else 1.0


def unpaired(pairs: Sequence[int], canvas: int) -> list[tuple[Setting, EstimatorConfig, int]]:
    """The settings of the other estimators: what each is called, its configuration, and which bound of it."""
    found = []
    for count in pairs:
        slices = EstimatorConfig(name="trace", slices=2 * count + 1)
        found.append((Setting("trace", f"{2 * count + 1} slices", count), slices, 0))
        found += [
            (Setting("elbo", times, count), EstimatorConfig(name="elbo", pairs=count, times=times), 0)
            for times in (("uniform", "stratified") if count > 1 else ("uniform",))
        ]
        upper = EstimatorConfig(name="spg", pairs=count, upper_mix=1.0)
        found.append((Setting("spg", f"upper, beta {upper.upper_beta:g}", count), upper, 1))
    left = EstimatorConfig(name="left_to_right")
    return [*found, (Setting("left_to_right", "exact", (canvas - 1) / 2), left, 0)]


@torch.no_grad()
def unpaired_estimates(policy: Any, case: Case, cfg: EstimatorConfig, bound: int, seeds_D: Sequence[int]) -> np.ndarray:
    """[D, C] by the estimator itself."""
    tokens, loss = (np.broadcast_to(a, (1, len(seeds_D), len(a))) for a in (case.tokens_C, case.loss_mask_C))
    steps = None if case.reveal_step_C is None else np.broadcast_to(case.reveal_step_C, tokens.shape)
    device = next(policy.parameters()).device
    batch = GroupTokens.of([case.prompt], tokens, loss, policy.token_ids.pad, device, steps)
    found_KJPDC = batch_bounds(policy, batch, [[list(seeds_D)]], [[0]], cfg)
    return found_KJPDC[bound, 0, 0].double().cpu().numpy()


def settings(pairs: Sequence[int]) -> list[Setting]:
    """Every estimator that the study compares."""
    paired = [Setting(name, weighting, count) for name in PAIRED for weighting in WEIGHTINGS for count in pairs]
    return [Setting("full_mask", "none", 0), *paired]


@torch.no_grad()
def masked_logprobs(policy: Any, case: Case, masks_NC: Tensor, rows: int = 256) -> Tensor:
    """Log-probability of each token that is masked and counts for the loss, per canvas: float32 [N, C], else 0."""
    device = next(policy.parameters()).device
    prompt, tokens_C = (
        torch.as_tensor(np.asarray(a, dtype=np.int64), device=device) for a in (case.prompt, case.tokens_C)
    )
    loss_C = torch.as_tensor(case.loss_mask_C, device=device)
    logp_NC = torch.zeros(masks_NC.shape, dtype=torch.float32)
    for start in range(0, len(masks_NC), rows):
        mask_nC = masks_NC[start : start + rows].to(device)
        needed_nC = mask_nC & loss_C
        if not bool(needed_nC.any()):
            continue
        canvas_nC = torch.where(mask_nC, policy.token_ids.mask, tokens_C)
        count = len(mask_nC)
        pad = (len(prompt), 0)
        logp_M = policy(
            torch.cat([prompt.expand(count, -1), canvas_nC], dim=1),
            None,
            select_BL=torch.nn.functional.pad(needed_nC, pad),
            targets_BL=torch.nn.functional.pad(tokens_C.expand(count, -1), pad),
        )
        block_nC = torch.zeros(needed_nC.shape, device=device)
        block_nC[needed_nC] = logp_M.float()
        logp_NC[start : start + count] = block_nC.cpu()
    return logp_NC


def draw_estimates(
    policy: Any, case: Case, name: str, budget: Budget, t_range: tuple[float, float], seeds_D: Sequence[int]
) -> Iterator[tuple[Setting, np.ndarray]]:
    """Normalised estimates [D, C] of every setting of estimator `name`; all share the same masks and forward passes."""
    most = max(budget.pairs)
    canvas = len(case.tokens_C)
    everything_1C = torch.ones(1, canvas, dtype=torch.bool)

    def views(weighting: str) -> tuple[Tensor, Tensor]:
        cfg = EstimatorConfig(name=name, pairs=most, t_min=t_range[0], t_max=t_range[1], weighting=weighting)  # type: ignore[arg-type]
        found = ESTIMATORS[name](Canvases(canvas, seeds_D, seeds_D), cfg)
        return found.masks_BVC, found.weights_BVC

    masks_DVC, _ = views("none")
    logp_DVC = masked_logprobs(policy, case, masks_DVC.flatten(0, 1), budget.rows).unflatten(0, masks_DVC.shape[:2])
    full_C = masked_logprobs(policy, case, everything_1C, 1)[0]
    for weighting in WEIGHTINGS:
        _, weight_DVC = views(weighting)
        for pairs in budget.pairs:
            part = slice(0, 2 * pairs)
            total_DC = full_C + (weight_DVC[:, part] * logp_DVC[:, part]).sum(dim=1)
            setting = Setting(name, weighting, pairs)
            yield setting, (total_DC / ((pairs + 1) * setting.expected_weight)).double().numpy()


@dataclass(frozen=True)
class Curve:
    """l_k(t) of one completion: per-token means [T, C], and the variance of the mean over loss tokens, per time [T]."""

    times_T: np.ndarray
    weights_T: np.ndarray  # quadrature weights, summing to 1
    mean_TC: np.ndarray
    variance_T: np.ndarray

    @property
    def integral_C(self) -> np.ndarray:
        """Mean of l_k over the range."""
        return self.weights_T @ self.mean_TC

    @property
    def integral_variance(self) -> float:
        """Variance of the token mean of `integral_C`, from the masks drawn."""
        return float(self.weights_T**2 @ self.variance_T)


def likelihood_curve(policy: Any, case: Case, t_range: tuple[float, float], budget: Budget, seed: int) -> Curve:
    """Measure l_k(t) at Gauss-Legendre times of `t_range`, with more masks at low times, so each token is masked often.

    Raises:
        ValueError: a token was never masked.
    """
    nodes_T, weights_T = np.polynomial.legendre.leggauss(budget.nodes)
    low, high = t_range
    times_T = low + (high - low) * (nodes_T + 1.0) / 2.0
    loss_C = np.asarray(case.loss_mask_C, dtype=bool)
    means, variances = [], []
    for index, time in enumerate(times_T):
        generator = np.random.Generator(np.random.PCG64(derive_seed(seed, "likelihood_curve", index)))
        masks_NC = generator.random((int(np.ceil(budget.target_draws / time)), len(loss_C))) < time
        logp_NC = masked_logprobs(policy, case, torch.from_numpy(masks_NC), budget.rows).double().numpy()
        count_C = masks_NC.sum(axis=0)
        if (count_C[loss_C] == 0).any():
            raise UserError(
                f"target_draws = {budget.target_draws}: a token was never masked at t = {time:.3f}; raise it"
            )
        mean_C = np.where(loss_C, logp_NC.sum(axis=0) / np.maximum(count_C, 1), 0.0)
        residual_NC = np.where(masks_NC & loss_C, (logp_NC - mean_C) / np.maximum(count_C, 1), 0.0)
        means.append(mean_C)
        variances.append(float(((residual_NC.sum(axis=1) / loss_C.sum()) ** 2).sum()))
    return Curve(times_T, weights_T / 2.0, np.array(means), np.array(variances))


def targets(full_C: np.ndarray, middle: Curve, whole: Curve, pairs: int) -> dict[str, tuple[np.ndarray, float]]:
    """Each target per token, with the variance of its token mean due to the measurement of l_k(t)."""
    found = {"elbo": (whole.integral_C, whole.integral_variance)}
    for name, weight in (("inverse_t", 2 * pairs), ("half_inverse_t", pairs)):
        share = weight / (1 + weight)
        found[name] = ((1 - share) * full_C + share * middle.integral_C, share**2 * middle.integral_variance)
    return found


def measure(
    policy: Any,
    cases: Sequence[Case],
    budget: Budget | None = None,
    t_range: tuple[float, float] = (0.2, 0.8),
    seed: int = 0,
) -> list[dict[str, Any]]:
    """One row per completion and setting: token and sequence variance of one draw, bias against every target.

    Variances are in nats² (token: mean over loss tokens; sequence: of the mean over loss tokens). `se_*` is the
    standard error of a bias, due to the finite number of masks.
    """
    budget = budget or Budget()
    rows: list[dict[str, Any]] = []
    for number, case in enumerate(cases):
        loss_C = np.asarray(case.loss_mask_C, dtype=bool)
        middle = likelihood_curve(policy, case, t_range, budget, derive_seed(seed, "middle", number))
        whole = likelihood_curve(policy, case, (0.0, 1.0), budget, derive_seed(seed, "whole", number))
        everything = torch.ones(1, len(loss_C), dtype=torch.bool)
        full_C = masked_logprobs(policy, case, everything, 1)[0].double().numpy()
        found = [(Setting("full_mask", "none", 0), np.repeat(full_C[None], 2, axis=0))]
        seeds_D = [derive_seed(seed, "variance", number, d) for d in range(budget.draws)]
        for name in PAIRED:
            # Both estimators share diffusion times and first masks, which makes the comparison less noisy.
            found += draw_estimates(policy, case, name, budget, t_range, seeds_D)
        for setting, cfg, bound in unpaired(budget.pairs, len(loss_C)):
            if setting.name != "trace" or case.reveal_step_C is not None:
                some = seeds_D[:2] if setting.name == "left_to_right" else seeds_D  # it draws nothing
                found.append((setting, unpaired_estimates(policy, case, cfg, bound, some)))
        for setting, estimate_DC in found:
            goals = targets(full_C, middle, whole, max(int(setting.pairs), 1))
            rows.append(_row(number, case.seed, setting, estimate_DC[:, loss_C], goals, loss_C, budget.forward_passes))
    return rows


def _row(
    number: int,
    seed: int,
    setting: Setting,
    estimate_DK: np.ndarray,
    goals: dict[str, tuple[np.ndarray, float]],
    loss_C: np.ndarray,
    forward_passes: int,
) -> dict[str, Any]:
    """Statistics of one completion under one setting; K loss tokens."""
    sequence_D = estimate_DK.mean(axis=1)
    variance = float(sequence_D.var(ddof=1))
    row: dict[str, Any] = {
        "completion": number,
        "seed": seed,
        "estimator": setting.name,
        "weighting": setting.weighting,
        "pairs": setting.pairs,
        "forwards": int(setting.shared + 2 * setting.pairs),
        "draws": setting.draws(forward_passes),
        "expected_weight": setting.expected_weight,
        "tokens": int(loss_C.sum()),
        "mean": float(sequence_D.mean()),
        "token_variance": float(estimate_DK.var(axis=0, ddof=1).mean()),
        "sequence_variance": variance,
    }
    for name, (goal_C, goal_variance) in goals.items():
        row[f"bias_{name}"] = float(sequence_D.mean() - goal_C[loss_C].mean())
        row[f"se_{name}"] = float(np.sqrt(variance / len(estimate_DK) + goal_variance))
    return row


def cases_by_sampling(
    policy: Any, prompts: Sequence[Sequence[int]], sampler: SamplerConfig, seed: int, rows: int = 64
) -> list[Case]:
    """One completion per prompt, decoded as in the rollouts, where the estimators are used."""
    seeds = [derive_seed(seed, "variance_sample", index) for index in range(len(prompts))]
    completions = sample(policy, [list(map(int, prompt)) for prompt in prompts], sampler, seeds, microbatch_rows=rows)
    cases = []
    for prompt, completion in zip(prompts, completions, strict=True):
        length = answer_length(completion.tokens, policy.token_ids.end)
        cases.append(
            Case(
                np.asarray(prompt),
                completion.tokens,
                np.arange(len(completion.tokens)) < length,
                seed,
                completion.reveal_step,
            )
        )
    return cases
