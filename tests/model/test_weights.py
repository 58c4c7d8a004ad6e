"""Packed weights: a round trip is exact, and whatever does not fit is refused before a byte is written."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from couplet.configs.schema import ShapeConfig
from couplet.model.policy import DiffusionPolicy
from couplet.model.tokens import TokenIds
from couplet.model.weights import DamagedWeights, Manifest, WeightsError, pack, unpack_into

IDS = TokenIds(mask=5, pad=0, bos=0, eos=0, filler=7, end=(6,))
SHAPE = ShapeConfig(hidden=16, layers=2, heads=2, kv_heads=1, ffn=24)


def policy(seed: int, dtype: str = "float32", tied: bool = True) -> DiffusionPolicy:
    shape = SHAPE.replace(tie_embeddings=tied)
    return DiffusionPolicy.from_shape(shape, 40, IDS, seed, dtype=dtype)


def readonly(buckets: list[np.ndarray]) -> list[np.ndarray]:
    for bucket in buckets:
        bucket.flags.writeable = False
    return buckets


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("bucket_bytes", [1000, 2**20])
def test_a_round_trip_through_read_only_buckets_is_exact(dtype: str, tied: bool, bucket_bytes: int) -> None:
    source, target = policy(0, dtype, tied), policy(1, dtype, tied)
    manifest, buckets = pack(source.named_parameters(), 7, bucket_bytes)
    unpack_into(target, manifest, readonly(buckets))
    assert manifest.version == 7
    assert all(bucket.size == bucket_bytes for bucket in buckets[:-1])
    assert manifest.nbytes == sum(parameter.nbytes for parameter in source.parameters())
    for (name, mine), theirs in zip(source.named_parameters(), target.parameters()):
        assert torch.equal(mine, theirs), name
    assert (target.lm_head.weight is target.model.embed_tokens.weight) is tied


def test_a_tied_head_travels_once() -> None:
    manifest, _ = pack(policy(0).named_parameters(), 0)
    assert "lm_head.weight" not in manifest.names


def test_the_buckets_hold_the_raw_bytes_in_order() -> None:
    tensors = [("a", torch.tensor([1, 2], dtype=torch.int16)), ("b", torch.tensor([3.0], dtype=torch.bfloat16))]
    manifest, buckets = pack(tensors, 3, bucket_bytes=4)
    assert [bucket.tolist() for bucket in buckets] == [[1, 0, 2, 0], [0x40, 0x40]]
    assert manifest == Manifest(3, ("a", "b"), ((2,), (1,)), ("int16", "bfloat16"), 4, (4, 2), (2882460411, 3346799722))


def test_a_transposed_parameter_is_filled_in_its_own_order() -> None:
    module = nn.Module()
    module.w = nn.Parameter(torch.zeros(3, 2).t())
    manifest, buckets = pack([("w", torch.arange(6.0).reshape(2, 3))], 0)
    unpack_into(module, manifest, buckets)
    assert module.w.tolist() == [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]


def refused(
    target: nn.Module,
    manifest: Manifest,
    buckets: list[np.ndarray],
    match: str,
    error: type[WeightsError] = WeightsError,
) -> None:
    before = [parameter.clone() for parameter in target.parameters()]
    with pytest.raises(error, match=match) as caught:
        unpack_into(target, manifest, buckets)
    assert type(caught.value) is error
    assert all(torch.equal(old, new) for old, new in zip(before, target.parameters()))


def test_a_flipped_bit_in_the_last_bucket_leaves_the_module_untouched() -> None:
    manifest, buckets = pack(policy(0).named_parameters(), 2, bucket_bytes=1000)
    buckets[-1][-1] ^= 1
    refused(policy(1), manifest, buckets, "weights version 2: bucket .* arrived damaged", DamagedWeights)


def test_a_missing_bucket_is_refused() -> None:
    manifest, buckets = pack(policy(0).named_parameters(), 2, bucket_bytes=1000)
    refused(policy(1), manifest, buckets[:-1], "bucket sizes")


def test_another_type_shape_or_name_is_refused() -> None:
    manifest, buckets = pack(policy(0).named_parameters(), 2)
    refused(policy(1, "bfloat16"), manifest, buckets, "embed_tokens.weight is float32, the model's is torch.bfloat16")
    wider = DiffusionPolicy.from_shape(SHAPE, 41, IDS, 1)
    refused(wider, manifest, buckets, r"shape \(40, 16\), the model's is \(41, 16\)")
    refused(policy(1, tied=False), manifest, buckets, "lm_head.weight")


def test_a_manifest_that_needs_more_bytes_than_there_are_is_refused() -> None:
    tensors = [("w", torch.zeros(4))]
    manifest, buckets = pack(tensors, 0)
    module = nn.Module()
    module.w = nn.Parameter(torch.zeros(8))
    refused(module, dataclasses.replace(manifest, shapes=((8,),)), buckets, "16 bytes in buckets, the shapes need 32")


def test_nothing_to_pack_is_an_error() -> None:
    with pytest.raises(ValueError, match="no tensors"):
        pack([], 0)
