"""Joining the learner's process group: gloo on CPU, NCCL on CUDA, with a time limit on every collective."""

from __future__ import annotations

import os
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor


def join(rank: int, ranks: int, device: torch.device, timeout: float) -> None:
    """Join the process group once per process; a single rank needs neither address nor port.

    Args:
        rank, ranks: this process and how many there are.
        device: decides the backend.
        timeout: seconds a collective may take.

    Raises:
        ValueError: MASTER_ADDR or MASTER_PORT is missing with several ranks, or another group is joined already.
    """
    if dist.is_initialized():
        if (dist.get_rank(), dist.get_world_size()) != (rank, ranks):
            raise ValueError(
                f"this process is already rank {dist.get_rank()} of {dist.get_world_size()} and cannot be "
                f"{rank} of {ranks}: use a new process"
            )
        return
    backend = "nccl" if device.type == "cuda" else "gloo"
    limit = timedelta(seconds=timeout)
    if ranks == 1:
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1, timeout=limit)
        return
    missing = [name for name in ("MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if missing:
        raise ValueError(f"{' and '.join(missing)} not set: {ranks} learner ranks need the address of rank 0")
    address = f"tcp://{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
    dist.init_process_group(backend, init_method=address, rank=rank, world_size=ranks, timeout=limit)


def leave() -> None:
    """Leave the process group, if this process is in one."""
    if dist.is_initialized():
        dist.destroy_process_group()


def gather_rows(values_NM: Tensor, device: torch.device, ranks: int) -> Tensor:
    """Rows of all ranks, concatenated, on the CPU of every rank; ranks may have different numbers of rows."""
    if ranks == 1:
        return values_NM.cpu()
    count = torch.tensor([values_NM.shape[0]], device=device)
    counts = [torch.empty_like(count) for _ in range(ranks)]
    dist.all_gather(counts, count)
    most = int(torch.cat(counts).max())
    padded = values_NM.new_zeros(most, *values_NM.shape[1:], device=device)
    padded[: values_NM.shape[0]] = values_NM
    parts = [torch.empty_like(padded) for _ in range(ranks)]
    dist.all_gather(parts, padded)
    return torch.cat([part[: int(rows)] for part, rows in zip(parts, counts)]).cpu()


def sum_over_ranks(tensors: list[Tensor]) -> None:
    """Sum gradients over the ranks, in place, as one message."""
    flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
    dist.all_reduce(flat)
    for tensor, total in zip(tensors, flat.split([tensor.numel() for tensor in tensors])):
        tensor.copy_(total.view_as(tensor))
