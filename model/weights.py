"""Weights in transit: raw bytes in flat buckets, with a manifest that describes them.

The learner packs, the object store carries, each rollout worker verifies and copies. The buckets are one byte stream
cut at `bucket_bytes`, so a large tensor may span several. Only bytes are moved, so bfloat16 needs no special case.
"""

from __future__ import annotations

import math
import warnings
import zlib
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from couplet.model.adapters import trained_parameters

_CHECKSUM_THREADS = 4


class WeightsError(ValueError):
    """Weights that do not fit the module or are damaged. Nothing was written."""


class DamagedWeights(WeightsError):
    """The bytes are not those that were packed. The same weights, packed again, may arrive intact."""


@dataclass(frozen=True)
class Manifest:
    """The contents of a list of buckets.

    Attributes:
        version: learner steps that produced these weights.
        names: parameters in the order of the byte stream; a tied head shares its embedding and is not repeated.
        shapes: one per name.
        dtypes: one per name, e.g. ``bfloat16``.
        bucket_bytes: where the stream is cut; the last bucket may be shorter.
        sizes: bytes of each bucket.
        checksums: CRC-32 of each bucket.
    """

    version: int
    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[str, ...]
    bucket_bytes: int
    sizes: tuple[int, ...]
    checksums: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of all weights."""
        return sum(self.sizes)


def pack(
    named_tensors: Iterable[tuple[str, Tensor]], version: int, bucket_bytes: int = 256 * 2**20
) -> tuple[Manifest, list[np.ndarray]]:
    """Copy tensors into flat buckets.

    Args:
        named_tensors: as `module.named_parameters()` yields them; any device. Each is copied to the host on its own.
        version: learner steps that produced these weights.
        bucket_bytes: size of a bucket.

    Returns:
        The manifest, and uint8 arrays of at most `bucket_bytes` each.

    Raises:
        ValueError: no tensors, or a bucket size below 1.
    """
    if bucket_bytes < 1:
        raise ValueError(f"bucket_bytes = {bucket_bytes}: must be at least 1")
    tensors = [(name, tensor.detach()) for name, tensor in named_tensors]
    if not tensors:
        raise ValueError("there are no tensors to pack")
    total = sum(tensor.nbytes for _, tensor in tensors)
    buckets = [
        np.empty(min(bucket_bytes, total - start), dtype=np.uint8) for start in range(0, max(total, 1), bucket_bytes)
    ]
    offset = 0
    for _, tensor in tensors:
        source = _bytes(tensor.cpu().contiguous()).numpy()
        for bucket, inside, part in _pieces(offset, source.size, bucket_bytes):
            buckets[bucket][inside : inside + part.stop - part.start] = source[part]
        offset += source.size
    manifest = Manifest(
        version=version,
        names=tuple(name for name, _ in tensors),
        shapes=tuple(tuple(tensor.shape) for _, tensor in tensors),
        dtypes=tuple(str(tensor.dtype).removeprefix("torch.") for _, tensor in tensors),
        bucket_bytes=bucket_bytes,
        sizes=tuple(bucket.size for bucket in buckets),
        checksums=_checksums(buckets),
    )
    return manifest, buckets


@torch.no_grad()
def unpack_into(module: nn.Module, manifest: Manifest, buckets: Sequence[np.ndarray], verify: bool = True) -> None:
    """Copy packed weights into the parameters of `module`, in place.

    Everything is verified before the first byte is written: names, shapes and types against the module, sizes and (with
    `verify`) checksums of the buckets. The buckets may be read-only views of shared memory.

    Raises:
        WeightsError: what does not fit, by name, or is damaged. The module is untouched.
    """
    parameters = trained_parameters(module)
    _check_fit(parameters, manifest)
    _check_buckets(manifest, buckets, verify)
    offset = 0
    for name in manifest.names:
        target = parameters[name].detach()
        whole = target if target.is_contiguous() else torch.empty_like(target, memory_format=torch.contiguous_format)
        flat = _bytes(whole)
        for bucket, inside, part in _pieces(offset, flat.numel(), manifest.bucket_bytes):
            flat[part].copy_(_readonly(buckets[bucket][inside : inside + part.stop - part.start]))
        if whole is not target:
            target.copy_(whole)
        offset += flat.numel()


def _check_fit(parameters: Mapping[str, Tensor], manifest: Manifest) -> None:
    version = f"weights version {manifest.version}"
    if len(set(manifest.names)) != len(manifest.names):
        raise WeightsError(f"{version}: a name is duplicated in the manifest")
    missing = sorted(set(parameters) - set(manifest.names))
    surplus = sorted(set(manifest.names) - set(parameters))
    if missing or surplus:
        raise WeightsError(f"{version} lack {missing[:3]} and bring {surplus[:3]}, which the model does not expect")
    for name, shape, dtype in zip(manifest.names, manifest.shapes, manifest.dtypes, strict=True):
        parameter = parameters[name]
        if tuple(parameter.shape) != tuple(shape):
            raise WeightsError(f"{version}: {name} has shape {tuple(shape)}, the model's is {tuple(parameter.shape)}")
        if str(parameter.dtype) != f"torch.{dtype}":
            raise WeightsError(f"{version}: {name} is {dtype}, the model's is {parameter.dtype}")


def _check_buckets(manifest: Manifest, buckets: Sequence[np.ndarray], verify: bool) -> None:
    version = f"weights version {manifest.version}"
    for bucket in buckets:
        if bucket.dtype != np.uint8 or bucket.ndim != 1:
            raise WeightsError(f"{version}: buckets must be flat uint8 arrays, got {bucket.dtype} {bucket.shape}")
    sizes = tuple(bucket.size for bucket in buckets)
    if sizes != tuple(manifest.sizes):
        raise WeightsError(f"{version}: bucket sizes {sizes} differ from the manifest's {manifest.sizes}")
    needed = sum(
        math.prod(shape) * getattr(torch, dtype).itemsize for shape, dtype in zip(manifest.shapes, manifest.dtypes)
    )
    if needed != sum(sizes) or any(size != manifest.bucket_bytes for size in sizes[:-1]):
        raise WeightsError(f"{version}: {sum(sizes)} bytes in buckets, the shapes need {needed}")
    if verify:
        for index, (found, wanted) in enumerate(zip(_checksums(buckets), manifest.checksums, strict=True)):
            if found != wanted:
                raise DamagedWeights(
                    f"{version}: bucket {index} arrived damaged (checksum {found:08x}, not {wanted:08x})"
                )


def _pieces(offset: int, size: int, bucket_bytes: int) -> list[tuple[int, int, slice]]:
    """(bucket, offset inside it, slice of the tensor's bytes) for each bucket a tensor touches."""
    pieces = []
    done = 0
    while done < size:
        bucket, inside = divmod(offset + done, bucket_bytes)
        length = min(size - done, bucket_bytes - inside)
        pieces.append((bucket, inside, slice(done, done + length)))
        done += length
    return pieces


def _bytes(tensor: Tensor) -> Tensor:
    return tensor.reshape(-1).view(torch.uint8)


def _readonly(array: np.ndarray) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the array is read-only, and only read
        return torch.from_numpy(array)


def _checksums(buckets: Sequence[np.ndarray]) -> tuple[int, ...]:
    if len(buckets) == 1:
        return (_checksum(buckets[0]),)
    with ThreadPoolExecutor(_CHECKSUM_THREADS) as pool:
        return tuple(pool.map(_checksum, buckets))


def _checksum(bucket: np.ndarray) -> int:
    return zlib.crc32(bucket.data)
