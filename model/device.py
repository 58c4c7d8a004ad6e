"""The device a setting asks for, tried before any weights go there."""

from __future__ import annotations

import torch

from couplet.configs.schema import ConfigError


def device_for(gpus: float, where: str) -> str:
    """Device "cuda" where setting `where` asks for a share of a GPU, else "cpu". `ConfigError` where there is no GPU."""
    if gpus <= 0:
        return "cpu"
    return check_device("cuda", where, gpus, f"set {where}=0 to compute on the CPU, or start it where torch sees a GPU")


def check_device(name: str, where: str, value: object, mend: str) -> str:
    """`name` itself, where torch can compute on that device.

    Args:
        name: as torch writes it: cpu, cuda, cuda:1.
        where, value, mend: the setting, what it is set to and what to do, for the message.

    Raises:
        ConfigError: no such device, or none that works here.
    """
    try:
        torch.zeros(1, device=name).item()
    except (RuntimeError, AssertionError) as error:  # torch asserts that it was compiled with CUDA
        reason = f"torch knows no device {name!r}" if _is_unknown(name) else _first_line(error)
        raise ConfigError(f"{where} = {value!r}: {reason}; {mend}") from error
    return name


def _is_unknown(name: str) -> bool:
    try:
        torch.device(name)
    except RuntimeError:
        return True
    return False


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
