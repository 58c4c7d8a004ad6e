import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from couplet.configs.schema import StageConfig
from couplet.learner.supervised import OBJECTIVES, annealed, causal, corrupted, diffusion_times, document_starts

MASK = 0


def packed():
    """Two rows: three documents (with padding at the end), and one document."""
    tokens = np.arange(4, 20).reshape(2, 8)
    documents = np.array([[0, 0, 0, 1, 1, 2, -1, -1], [0] * 8])
    return SimpleNamespace(tokens_BL=tokens, document_BL=documents)


def answers():
    attention = np.array([[False, True, True, True, True, True], [True] * 6])
    answer = np.array([[False] * 3 + [True] * 3] * 2)
    return SimpleNamespace(tokens_BL=np.arange(4, 16).reshape(2, 6), attention_BL=attention, answer_BL=answer)


def stage(objective, **fields):
    return StageConfig(name="x", objective=objective, canvas=3, **fields)


def test_diffusion_times_lie_in_their_range_and_are_uniform():
    t = diffusion_times(3, 0, 20_000, 1e-3)
    assert t.min() > 1e-3 and t.max() <= 1.0
    assert t.mean().item() == pytest.approx(0.5005, abs=0.01)
    assert not torch.equal(t[:8], diffusion_times(3, 1, 8, 1e-3))


def test_stratified_times_cover_every_part_of_the_range():
    t = diffusion_times(3, 5, 16, 1e-3, stratified=True)
    boxes = ((t - 1e-3) / (1 - 1e-3) * 16).ceil().long()
    assert sorted(boxes.tolist()) == list(range(1, 17))
    first = torch.stack([diffusion_times(3, step, 16, 1e-3, stratified=True)[0] for step in range(2000)])
    assert first.mean().item() == pytest.approx(0.5, abs=0.02)


def test_masked_share_is_t():
    maskable = torch.ones(500, 64, dtype=torch.bool)
    masked = corrupted(maskable, torch.full((500,), 0.3), 1, 2)
    assert masked.float().mean().item() == pytest.approx(0.3, abs=0.01)
    assert not corrupted(~maskable, torch.ones(500), 1, 2).any()


def test_weights_are_1_over_t_over_the_number_of_maskable_tokens():
    config = stage("instruct")
    out = OBJECTIVES["instruct"](answers(), config, 7, 0, MASK)
    masked = out.weight_BL > 0
    t = diffusion_times(7, 0, 2, config.t_min)
    expected = masked / (t[:, None] * 6)
    torch.testing.assert_close(out.weight_BL, expected)
    assert torch.equal(out.tokens_BL[masked], torch.full((int(masked.sum()),), MASK))


def test_expected_weights_sum_to_one():
    sums = [
        float(OBJECTIVES["instruct"](answers(), stage("instruct"), 7, step, MASK).weight_BL.sum())
        for step in range(4000)
    ]
    assert np.mean(sums) == pytest.approx(1.0, abs=0.05)


def test_only_the_answer_is_corrupted():
    for step in range(50):
        out = OBJECTIVES["instruct"](answers(), stage("instruct"), 7, step, MASK)
        assert torch.equal(out.tokens_BL[:, :3], torch.from_numpy(answers().tokens_BL[:, :3]))
        assert not out.weight_BL[:, :3].any()
    assert out.attention_BL is not None and out.visible_BLL is None


def test_documents_do_not_see_each_other():
    out = OBJECTIVES["pretrain"](packed(), stage("pretrain"), 7, 0, MASK)
    assert out.visible_BLL[0].long().tolist()[0] == [1, 1, 1, 0, 0, 0, 0, 0]
    assert out.visible_BLL[0].long().tolist()[4] == [0, 0, 0, 1, 1, 0, 0, 0]
    assert out.visible_BLL[1].all()


def test_first_tokens_of_later_documents_and_padding_are_never_masked():
    hit = torch.zeros(2, 8)
    for step in range(200):
        hit += OBJECTIVES["pretrain"](packed(), stage("pretrain"), 7, step, MASK).weight_BL > 0
    assert (hit > 0).long().tolist() == [[1, 1, 1, 0, 1, 0, 0, 0], [1] * 8]


def test_one_document_per_row_needs_no_visibility():
    batch = SimpleNamespace(tokens_BL=packed().tokens_BL, document_BL=np.zeros((2, 8), dtype=int))
    assert OBJECTIVES["pretrain"](batch, stage("pretrain"), 7, 0, MASK).visible_BLL is None


def test_autoregressive_predicts_each_next_token_of_a_document_once():
    out = OBJECTIVES["autoregressive"](packed(), stage("autoregressive"), 7, 0, MASK)
    assert (out.weight_BL > 0).long().tolist() == [[0, 1, 1, 0, 1, 0, 0, 0], [0] + [1] * 7]
    assert out.weight_BL.sum().item() == pytest.approx(1.0)
    assert torch.equal(out.tokens_BL, out.targets_BL)
    assert out.visible_BLL[0].long().tolist()[4] == [0, 0, 0, 1, 1, 0, 0, 0]
    assert torch.equal(out.visible_BLL[1], causal(8))


def test_annealing_goes_from_causal_to_full():
    assert torch.equal(annealed(64, 1, 0, 100), causal(64))
    assert annealed(64, 1, 100, 100) is None and annealed(64, 1, 0, 0) is None
    later = ~causal(64)
    half = annealed(64, 1, 50, 100)
    assert half[~later].all() and half[later].float().mean().item() == pytest.approx(0.5, abs=0.03)
    assert not torch.equal(half, annealed(64, 1, 51, 102))


def test_document_starts():
    assert document_starts(torch.tensor([[0, 0, 1, 1, -1]])).long().tolist() == [[1, 0, 1, 0, 1]]


def test_corruption_does_not_depend_on_the_number_of_ranks():
    """Masks are drawn for the whole batch: a rank's rows are the rows of the one-rank batch."""
    whole = OBJECTIVES["pretrain"](packed(), stage("pretrain"), 7, 3, MASK)
    part = whole.rows(torch.tensor([1]))
    assert torch.equal(part.tokens_BL[0], whole.tokens_BL[1]) and torch.equal(part.visible_BLL[0], whole.visible_BLL[1])
    assert math.isclose(float(whole.rows(torch.tensor([0]), scale=0.0).weight_BL.sum()), 0.0)
