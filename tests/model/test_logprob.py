import math
import subprocess
import sys

import pytest
import torch

from couplet.model.logprob import chunked_logprob, head_logits


def plain(hidden, weight, targets, temperature=1.0):
    logp = torch.log_softmax(hidden.to(weight.dtype) @ weight.t() / temperature, dim=-1)
    return logp.gather(1, targets if targets.ndim == 2 else targets[:, None]).reshape(targets.shape)


def case(rows, *targets_shape, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(rows, 5, generator=generator, dtype=dtype)
    weight = torch.randn(11, 5, generator=generator, dtype=dtype)
    targets = torch.randint(0, 11, (rows, *targets_shape), generator=generator)
    return hidden.requires_grad_(), weight.requires_grad_(), targets


def test_two_rows_by_hand():
    hidden = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    weight = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    logp = chunked_logprob(hidden, weight, torch.tensor([1, 0]), chunk_rows=1)
    assert logp.tolist() == pytest.approx([1 - math.log(2 + math.e), -math.log(2 + math.e**2)], abs=1e-6)
    cooler = chunked_logprob(hidden, weight, torch.tensor([1, 0]), temperature=0.5)
    assert cooler.tolist() == pytest.approx([2 - math.log(2 + math.e**2), -math.log(2 + math.e**4)], abs=1e-6)


@pytest.mark.parametrize("chunk_rows", [1, 3, 7, 100])
@pytest.mark.parametrize("shape", [(), (4,)])
def test_equals_the_plain_computation_forward_and_backward(chunk_rows, shape):
    hidden, weight, targets = case(7, *shape)
    factor = torch.linspace(-1, 2, targets.numel(), dtype=torch.float64).reshape(targets.shape)
    expected = plain(hidden, weight, targets, 1.2)
    expected_grads = torch.autograd.grad((factor * expected).sum(), (hidden, weight))
    logp = chunked_logprob(hidden, weight, targets, chunk_rows, 1.2)
    grads = torch.autograd.grad((factor * logp).sum(), (hidden, weight))
    torch.testing.assert_close(logp, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(grads, expected_grads, rtol=0, atol=1e-12)


def test_gradients_by_finite_differences():
    hidden, weight, targets = case(4, 2)
    assert torch.autograd.gradcheck(lambda h, w: chunked_logprob(h, w, targets, 3, 0.7), (hidden, weight))


def test_no_rows_give_no_values_and_zero_gradients():
    hidden, weight, targets = case(0)
    logp = chunked_logprob(hidden, weight, targets)
    logp.sum().backward()
    assert logp.shape == (0,) and not weight.grad.any()


def large_logits():
    """bfloat16 inputs whose logits reach about 30, at which bfloat16 resolves eighths only."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(97, 64, generator=generator).bfloat16()
    targets = torch.randint(0, 97, (40,), generator=generator)
    hidden = (torch.randn(40, 64, generator=generator) + 0.3 * weight[targets].float()).bfloat16()
    return hidden.requires_grad_(), weight.requires_grad_(), targets


@pytest.mark.parametrize("widened", [2**22, 64 * 10])
def test_16_bit_inputs_give_float32_values_and_their_gradients(monkeypatch, widened):
    monkeypatch.setattr("couplet.model.logprob._WIDENED_ELEMENTS", widened)
    hidden, weight, targets = large_logits()
    exact = hidden.detach().double().requires_grad_(), weight.detach().double().requires_grad_()
    expected = plain(*exact, targets)
    logp = chunked_logprob(hidden, weight, targets, chunk_rows=16)
    assert logp.dtype == torch.float32
    torch.testing.assert_close(logp.double(), expected, rtol=0, atol=2e-5)
    logp.sum().backward()
    expected.sum().backward()
    for mine, its in zip((hidden, weight), exact, strict=True):
        assert mine.grad.dtype == torch.bfloat16
        assert (mine.grad - its.grad).norm() < 2**-8 * its.grad.norm()


@pytest.mark.parametrize("grad", [False, True])
def test_logits_of_16_bit_rows_are_not_rounded(grad):
    hidden, weight, _ = large_logits()
    with torch.set_grad_enabled(grad):
        logits = head_logits(hidden.unflatten(0, (4, 10)), weight)
    exact = hidden.double() @ weight.double().t()
    assert logits.dtype == torch.float32 and logits.shape == (4, 10, 97) and logits.requires_grad == grad
    torch.testing.assert_close(logits.flatten(0, 1).double(), exact, rtol=0, atol=2e-5)
    assert head_logits(hidden[:0], weight).shape == (0, 97)


def test_wrong_shapes_and_temperatures_are_refused():
    hidden, weight, targets = case(3)
    with pytest.raises(ValueError, match=r"\[N, H\]"):
        chunked_logprob(hidden[:, :4], weight, targets)
    with pytest.raises(ValueError, match="N = 3"):
        chunked_logprob(hidden, weight, targets[:2])
    with pytest.raises(ValueError, match="temperature = 0"):
        chunked_logprob(hidden, weight, targets, temperature=0)


PEAK = """
import resource, torch
from couplet.model.logprob import chunked_logprob, head_logits
torch.set_num_threads(1)
hidden = torch.randn(ROWS, 16, requires_grad=True)
weight = torch.randn(32768, 16, requires_grad=True)
targets = torch.zeros(ROWS, dtype=torch.int64)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
chunked_logprob(hidden, weight, targets, chunk_rows=64).sum().backward()
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def test_memory_holds_chunks_never_all_logits():
    """1024 rows x 32768 tokens are 128 MiB of logits; chunks of 64 rows are 8 MiB each."""
    code = PEAK.replace("ROWS", "1024")
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert int(out.stdout) < 80
