"""LoRA adapters through peft (Hu et al., arXiv 2106.09685): y = W x + (alpha / rank) · B A x, with W frozen.

B starts at zero, so a new adapter changes nothing. A policy with an adapter trains, publishes and checkpoints the
adapter's tensors only; `merged` gives the weights of a plain policy.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from couplet.configs.errors import UserError
from couplet.configs.schema import AdapterConfig
from couplet.model.families import MODEL_FAMILIES

NAME = "default"  # of the adapter inside peft's layers
_FACTOR = re.compile(rf"^(.*)\.lora_([AB])\.{NAME}\.weight$")


def add_adapter(policy: Any, config: AdapterConfig, seed: int) -> None:
    """Freeze `policy` and put an adapter around the layers that `config.targets` names, in place.

    Args:
        policy: a `DiffusionPolicy`.
        config: rank (above 0), alpha, targets and dropout.
        seed: of the factor A, so that every process starts from the same adapter.

    Raises:
        UserError: a target that no layer has, or peft is not installed.
    """
    layers = {name.rpartition(".")[2] for name, part in policy.model.named_modules() if isinstance(part, nn.Linear)}
    for target in config.targets:
        if target not in layers:
            raise UserError(f"learner.adapter.targets = {target!r}: choose from {', '.join(sorted(layers))}")
    try:
        from peft import inject_adapter_in_model
    except ModuleNotFoundError as error:
        raise UserError(f"learner.adapter.rank = {config.rank} needs the package {error.name}: install it") from error
    with torch.random.fork_rng(devices=[]):  # peft draws from the global generator; the draw is replaced below
        inject_adapter_in_model(_peft_config(config, config.targets), policy, NAME)
    device = policy.device
    generator = torch.Generator(device if device.type != "meta" else "cpu").manual_seed(seed)
    for name, parameter in policy.named_parameters():
        if is_adapter(name) and device.type != "meta":
            _initialise(parameter, name, generator)
    policy.adapter = config


def is_adapter(name: str) -> bool:
    """Whether parameter `name` belongs to an adapter."""
    return _FACTOR.match(name) is not None


def plain_name(name: str) -> str:
    """The name that a frozen parameter has in a policy without an adapter."""
    return name.replace(".base_layer.", ".")


def trained_parameters(module: nn.Module) -> dict[str, nn.Parameter]:
    """What is trained and published, by name: the adapter's tensors if there is one, else all parameters."""
    parameters = dict(module.named_parameters())
    return {name: p for name, p in parameters.items() if is_adapter(name)} or parameters


@torch.no_grad()
def merged(weights: Mapping[str, Tensor], config: AdapterConfig) -> dict[str, Tensor]:
    """Weights of the plain policy: W + (alpha / rank) · B A, added in float32 and rounded to W's type.

    Args:
        weights: all parameters of a policy with an adapter, by name.
    """
    factors: dict[str, dict[str, Tensor]] = {}
    for name, tensor in weights.items():
        found = _FACTOR.match(name)
        if found:
            factors.setdefault(found.group(1), {})[found.group(2)] = tensor
    plain = {plain_name(name): tensor for name, tensor in weights.items() if not is_adapter(name)}
    for layer, factor in factors.items():
        base = plain[f"{layer}.weight"]
        change = config.alpha / config.rank * (factor["B"].float() @ factor["A"].float())
        plain[f"{layer}.weight"] = (base.float() + change.to(base.device)).to(base.dtype)
    return plain


def write_adapter(folder: Path, policy: Any, weights: Mapping[str, Tensor]) -> None:
    """Write the adapter as a PEFT folder, for the family's own model class: `PeftModel.from_pretrained(base, folder)`.

    Args:
        weights: the adapter's tensors by name; others are ignored.
    """
    family = MODEL_FAMILIES[policy.config.family]
    tensors: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        found = _FACTOR.match(name)
        if found:
            layer = family.stored_name(f"{found.group(1)}.weight").removesuffix(".weight")
            tensors[f"base_model.model.{layer}.lora_{found.group(2)}.weight"] = tensor.detach().cpu().contiguous()
    targets = sorted({name.split(".lora_")[0].rpartition(".")[2] for name in tensors})
    config = _peft_config(policy.adapter, targets)
    config.base_model_name_or_path = str(policy.source) if policy.source else None
    config.inference_mode = True
    folder.mkdir(parents=True, exist_ok=True)
    config.save_pretrained(str(folder))
    save_file(tensors, folder / "adapter_model.safetensors", {"format": "pt"})


def _peft_config(config: AdapterConfig, targets: Any) -> Any:
    from peft import LoraConfig

    alpha: Any = config.alpha  # fractions work, whatever the annotation says
    return LoraConfig(
        r=config.rank, lora_alpha=alpha, lora_dropout=config.dropout, target_modules=list(targets), bias="none"
    )


@torch.no_grad()
def _initialise(parameter: nn.Parameter, name: str, generator: torch.Generator) -> None:
    """B = 0, A uniform as in a linear layer (Kaiming with a = sqrt(5))."""
    if name.endswith(f"lora_B.{NAME}.weight"):
        parameter.zero_()
    else:
        bound = parameter.shape[1] ** -0.5
        wide = torch.empty(parameter.shape, device=parameter.device).uniform_(-bound, bound, generator=generator)
        parameter.copy_(wide)
