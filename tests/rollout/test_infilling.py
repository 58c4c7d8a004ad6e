"""Infilling: a suffix and given tokens anywhere on the canvas."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from couplet.configs.schema import SamplerConfig, ShapeConfig
from couplet.model.policy import DiffusionPolicy
from couplet.model.tokens import TokenIds
from couplet.rollout.ar_ness import global_ar_ness, local_ar_ness, reveal_order
from couplet.rollout.infilling import fill, path_logprob
from couplet.rollout.sampler import Completion, sample

MASK = 5
IDS = TokenIds(mask=MASK, pad=0, bos=0, eos=0, filler=7, end=(6,))
VOCAB = 40
PROMPTS = [[8, 9, 10], [11, 12, 13, 14, 15], [8, 9, 10], [20]]
SUFFIXES = [[30, 31], [], [32], [33, 34, 35]]
CANVASES = [
    [None] * 8,
    [21, 22, None, None, None, 23, None, None],
    [None, 6, None, None, 6, None, None, 24],
    [25, None, 26, None, None, 27, None, None],
]
SEEDS = [3, 1, 4, 1]
OPTIONS = [
    {"order": "origin"},
    {"order": "entropy"},
    {"order": "maskgit_plus", "schedule": "even"},
    {"order": "topk_margin", "alg_temp": 0.5, "top_p": 0.9},
    {"order": "entropy", "block_length": 4, "steps": 6},
    {"order": "entropy", "block_length": 4, "steps": 8, "cache": "dual", "cache_refresh": 2},
    {"order": "entropy", "block_length": 4, "steps": 8, "cache": "prefix", "cache_refresh": 1},
    {"order": "origin", "block_length": 2, "steps": 8},
    {"order": "maskgit_plus", "confidence_threshold": 0.3},
]


@pytest.fixture(scope="module", params=[True, False], ids=["shift", "no_shift"])
def policy(request: pytest.FixtureRequest) -> DiffusionPolicy:
    shape = ShapeConfig(hidden=32, layers=2, heads=2, kv_heads=1, ffn=48, embedding_std=0.6)
    built = DiffusionPolicy.from_shape(shape, VOCAB, IDS, seed=0)
    built.config.shift = request.param
    return built


def config(**options: object) -> SamplerConfig:
    return SamplerConfig(**{"steps": 6, "completion_length": 8, "temperature": 1.0} | options)


def assert_same(first: list[Completion], second: list[Completion]) -> None:
    for a, b in zip(first, second, strict=True):
        assert a.tokens.tolist() == b.tokens.tolist()
        assert a.reveal_step.tolist() == b.reveal_step.tolist()


@pytest.mark.parametrize("options", OPTIONS)
def test_empty_suffixes_and_open_canvases_change_nothing(policy: DiffusionPolicy, options: dict) -> None:
    c = config(**options)
    empty = sample(policy, PROMPTS, c, SEEDS, suffixes=[[]] * 4, canvases=[[None] * 8] * 4)
    assert_same(empty, sample(policy, PROMPTS, c, SEEDS))


@pytest.mark.parametrize("options", OPTIONS)
def test_given_tokens_stay_and_open_positions_are_decoded(policy: DiffusionPolicy, options: dict) -> None:
    found = sample(policy, PROMPTS, config(**options), SEEDS, suffixes=SUFFIXES, canvases=CANVASES)
    for completion, canvas in zip(found, CANVASES, strict=True):
        given = np.array([token is not None for token in canvas])
        assert all(token == int(new) for token, new in zip(canvas, completion.tokens) if token is not None)
        assert MASK not in completion.tokens
        assert (completion.reveal_step[given] == -1).all() and (completion.reveal_step[~given] >= 0).all()
        assert np.isnan(completion.entropy[given]).all() and np.isfinite(completion.entropy[~given]).all()


@pytest.mark.parametrize("options", OPTIONS)
def test_batched_equals_alone(policy: DiffusionPolicy, options: dict) -> None:
    c = config(**options)
    rows = [0, 1, 1, 2, 3, 2]
    pick = [[part[i] for i in rows] for part in (PROMPTS, SUFFIXES, CANVASES)]
    seeds = [10 + i for i in range(len(rows))]
    together = sample(policy, pick[0], c, seeds, suffixes=pick[1], canvases=pick[2])
    alone = [
        sample(policy, [pick[0][i]], c, [seeds[i]], suffixes=[pick[1][i]], canvases=[pick[2][i]])[0]
        for i in range(len(rows))
    ]
    assert_same(together, alone)


def test_a_batch_may_differ_in_where_it_is_open(policy: DiffusionPolicy) -> None:
    """Rows of one batch share lengths and the number of open positions, not the positions."""
    canvases = [[21, None, 22, None, None, None, 23, None], [None, None, None, 24, None, 25, None, 26]]
    c = config(order="entropy")
    together = sample(policy, [[8, 9]] * 2, c, [1, 2], canvases=canvases)
    alone = [sample(policy, [[8, 9]], c, [s], canvases=[k])[0] for s, k in zip([1, 2], canvases)]
    assert_same(together, alone)


def test_a_given_start_of_the_canvas_is_a_longer_prompt(policy: DiffusionPolicy) -> None:
    """Greedy, one token per step: the model sees the same sequence."""
    given = sample(policy, [[8, 9]], config(temperature=0.0, steps=8), [1], canvases=[[21, 22] + [None] * 6])[0]
    longer = sample(policy, [[8, 9, 21, 22]], config(temperature=0.0, steps=8, completion_length=6), [1])[0]
    assert given.tokens[2:].tolist() == longer.tokens.tolist()


def test_the_schedule_counts_open_positions(policy: DiffusionPolicy) -> None:
    c = config(order="entropy", schedule="even", steps=5)
    found = sample(policy, [[8]], c, [1], canvases=[[21, None, None, None, 22, None, None, None]])[0]
    steps = found.reveal_step[found.reveal_step >= 0]
    assert np.bincount(steps, minlength=5).tolist() == [2, 1, 1, 1, 1]


def test_the_suffix_is_read(policy: DiffusionPolicy) -> None:
    c = config(temperature=0.0)
    first, second = sample(policy, [[8, 9]] * 2, c, [1, 1], suffixes=[[30, 31, 32], [33, 34, 35]])
    assert first.tokens.tolist() != second.tokens.tolist()


def test_a_full_canvas_is_returned_as_it_is(policy: DiffusionPolicy) -> None:
    found = sample(policy, [[8]], config(), [1], canvases=[list(range(20, 28))])[0]
    assert found.tokens.tolist() == list(range(20, 28)) and (found.reveal_step == -1).all()


@pytest.mark.parametrize(
    "options,match",
    [
        ({"suffixes": [[MASK], []]}, "suffix 0 contains the mask token"),
        ({"suffixes": [[1]]}, "1 suffixes for 2 prompts"),
        ({"canvases": [[None] * 8, [None] * 7]}, "canvas 1 has 7 positions, completion_length is 8"),
        ({"canvases": [[None] * 8, [None] * 7 + [VOCAB]]}, "canvas 1 contains a token id outside the vocabulary of 40"),
        ({"canvases": [[None] * 7 + [MASK], [None] * 8]}, "canvas 0 contains the mask token"),
    ],
)
def test_what_cannot_be_filled_is_refused(policy: DiffusionPolicy, options: dict, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        sample(policy, [[8], [9]], config(), [1, 2], **options)


def test_ar_ness_is_that_of_the_open_positions() -> None:
    """Holes filled from left to right give 1, whatever is between them."""
    steps = [-1, 0, 1, -1, -1, 2, 3, -1]
    given = [step < 0 for step in steps]
    order = reveal_order(range(10, 18), steps, (), given_C=given)
    assert order == [0, 1, 2, 3]
    assert local_ar_ness(order, 1) == global_ar_ness(order, 1) == 1.0
    backwards = reveal_order(range(10, 18), [-1, 3, 2, -1, -1, 1, 0, -1], (), given_C=given)
    assert backwards == [3, 2, 1, 0]
    with pytest.raises(ValueError, match="never revealed"):
        reveal_order(range(10, 18), steps, (), given_C=[False] * 8)


def test_given_ends_cut_the_scope() -> None:
    order = reveal_order([20, 21, 6, 22], [1, 0, -1, 2], {6}, given_C=[False, False, True, False])
    assert order == [1, 0]


@torch.no_grad()
def test_the_score_of_a_fill_is_that_of_its_draws_one_state_after_the_other(policy: DiffusionPolicy) -> None:
    """Recomputed with one forward pass per step, from full logits."""
    prompt, suffix = PROMPTS[1], SUFFIXES[3]
    found = sample(policy, [prompt], config(order="entropy"), [3], suffixes=[suffix], canvases=[CANVASES[1]])[0]
    counted = found.reveal_step >= 0
    total = 0.0
    for step in range(6):
        state = [MASK if own >= step else int(token) for token, own in zip(found.tokens, found.reveal_step)]
        logp_LV = policy.logits(torch.tensor([[*prompt, *state, *suffix]]))[0].log_softmax(-1)
        for place in np.flatnonzero(found.reveal_step == step):
            total += float(logp_LV[len(prompt) + place, int(found.tokens[place])])
    assert path_logprob(policy, prompt, suffix, found, counted) == pytest.approx(total / counted.sum(), abs=1e-5)


def test_every_gap_gets_its_text_and_what_is_between_stays(policy: DiffusionPolicy) -> None:
    def decode(ids: Sequence[int]) -> str:
        return " ".join(map(str, ids))

    pieces = [[8, 9], [21, 22, 6], [], [30]]
    filled = [fill(policy, decode, pieces, 3, config(temperature=0.0), seed) for seed in range(2)]
    assert filled[0] == filled[1] and len(filled[0].texts) == 3 and filled[0].logprob < 0
    canvas = [None] * 3 + [21, 22, 6] + [None] * 6
    chosen = config(temperature=0.0, steps=6, completion_length=12)
    (expected,) = sample(policy, [[8, 9]], chosen, [0], suffixes=[[30]], canvases=[canvas])
    spans = [expected.tokens[start : start + 3].tolist() for start in (0, 6, 9)]
    assert list(filled[0].texts) == [decode(span[: span.index(6)] if 6 in span else span) for span in spans]
    with pytest.raises(ValueError, match="no gap"):
        fill(policy, decode, [[8]], 3, config(), 0)
