"""The device that a setting names, checked before any weights are moved there."""

from __future__ import annotations

import torch

from couplet.configs.schema import ConfigError


def device_for(gpus: float, where: str) -> str:
    """Device "cuda" if the setting `where` reserves a share of a GPU, else "cpu". `ConfigError` without a GPU."""
    if gpus <= 0:
        return "cpu"
    return check_device(
        "cuda", where, gpus, f"set {where}=0 to compute on the CPU, or use a machine whose GPU torch sees"
    )


def check_device(name: str, where: str, value: object, remedy: str) -> str:
    """`name` itself, if torch can compute on that device.

    Args:
        name: as torch writes it: cpu, cuda, cuda:1.
        where, value, remedy: the setting, its value and what to do, for the message.

    Raises:
        ConfigError: no such device, or one that does not work here.
    """
    try:
        torch.zeros(1, device=name).item()
    except (RuntimeError, AssertionError) as error:  # torch asserts that it was compiled with CUDA
        reason = f"torch knows no device {name!r}" if _is_unknown(name) else _first_line(error)
        raise ConfigError(f"{where} = {value!r}: {reason}; {remedy}") from error
    return name


def _is_unknown(name: str) -> bool:
    try:
        torch.device(name)
    except RuntimeError:
        return True
    return False


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
