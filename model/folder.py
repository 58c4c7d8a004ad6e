"""Hugging Face model folders: `config.json`, safetensors in one file or in shards, tokenizer files beside them."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from couplet.configs.json_file import read_object
from couplet.model.dream import MODEL_TYPE, DreamConfig
from couplet.model.errors import ModelFolderError
from couplet.model.tokens import TOKENIZER_FILES, TokenIds, add_to_tokenizer

SINGLE_FILE = "model.safetensors"
HEAD = "lm_head.weight"
INDEX_FILE = "model.safetensors.index.json"
MODEL_TYPES = (MODEL_TYPE, "qwen2")
REQUIRED_FIELDS = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
LEFT_OUT = (
    "auto_map",
    "architectures",
    "model_type",
    "torch_dtype",
    "dtype",
    "transformers_version",
    "layer_types",  # full attention has no sliding windows
    "sliding_window",
    "use_sliding_window",
)


def read_config(folder: Path) -> dict[str, Any]:
    """The fields of `config.json`.

    Raises:
        ValueError: no such folder, no configuration, or an architecture other than Dream and Qwen2.
    """
    if not folder.is_dir():
        raise ModelFolderError(
            f"model folder {folder} does not exist: give a local folder with config.json and safetensors"
        )
    path = folder / "config.json"
    if not path.exists():
        raise ModelFolderError(f"{folder} has no config.json: it is no Hugging Face model folder")
    fields = read_object(path, error=ModelFolderError)
    if fields.get("model_type") not in MODEL_TYPES:
        raise ModelFolderError(
            f"{path}: model_type = {fields.get('model_type')!r}: choose one of {', '.join(MODEL_TYPES)}"
        )
    missing = [name for name in REQUIRED_FIELDS if fields.get(name) is None]
    if missing:
        raise ModelFolderError(f"{path} lacks {missing[0]}: it does not describe a Qwen2-shaped model")
    for name in REQUIRED_FIELDS:
        if type(fields[name]) is not int or fields[name] < 1:
            raise ModelFolderError(f"{path}: {name} = {fields[name]!r}: must be a whole number of at least 1")
    return fields


def model_config(fields: Mapping[str, Any]) -> DreamConfig:
    """The architecture's configuration. References to code in the folder are dropped, never followed."""
    kept = {key: value for key, value in fields.items() if key not in LEFT_OUT}
    if kept.get("rope_parameters") is None:
        kept["rope_theta"] = kept.get("rope_theta", 1e6)
    else:
        kept.pop("rope_theta", None)
    try:
        return DreamConfig(**kept)
    except Exception as error:  # transformers raises many types for a field it rejects
        raise ModelFolderError(f"config.json is rejected: {error}") from error


def weight_files(folder: Path) -> dict[str, Path]:
    """Tensor name → file, from the index of a sharded folder or from the single file.

    Raises:
        ValueError: no safetensors, a missing shard, or a broken file.
    """
    index = folder / INDEX_FILE
    if index.is_file():
        try:
            weight_map = dict(read_object(index, error=ModelFolderError)["weight_map"])
            missing = sorted({name for name in weight_map.values() if not (folder / name).is_file()})
        except (KeyError, TypeError, ValueError) as error:
            if isinstance(error, ModelFolderError):
                raise
            raise ModelFolderError(f"{index} is no valid index of shards ({error!r}); fetch it again") from error
        if missing:
            raise ModelFolderError(
                f"{folder} lacks the shard {missing[0]} that {INDEX_FILE} names: fetch the folder again"
            )
        return {name: folder / file for name, file in weight_map.items()}
    single = folder / SINGLE_FILE
    if not single.is_file():
        raise ModelFolderError(f"{folder} has neither {SINGLE_FILE} nor {INDEX_FILE}: only safetensors are loaded")
    with _open(single, "cpu") as file:
        return dict.fromkeys(file.keys(), single)


def read_weights(
    folder: Path, expected: Mapping[str, torch.Size], device: str, tied: bool
) -> Iterator[tuple[str, Tensor]]:
    """Yield every expected tensor once, file by file, on `device` and in the type it is stored in.

    A stored copy of a `tied` head is left out, and so are rotary tables of old folders.

    Raises:
        ValueError: missing, unexpected or misshapen tensors, each by name.
    """
    files = weight_files(folder)
    for name in [name for name in files if name.endswith("rotary_emb.inv_freq") or (tied and name == HEAD)]:
        del files[name]
    missing = sorted(set(expected) - set(files))
    surplus = sorted(set(files) - set(expected))
    if missing:
        raise ModelFolderError(
            f"{folder} lacks {len(missing)} tensors of this shape, first {missing[0]}; check config.json"
        )
    if surplus:
        raise ModelFolderError(
            f"{folder} holds {len(surplus)} tensors that the configuration does not expect, first {surplus[0]}"
        )
    for path in sorted(set(files.values())):
        with _open(path, device) as file:
            present = set(file.keys())
            for name in sorted(name for name, where in files.items() if where == path):
                if name not in present:
                    raise ModelFolderError(
                        f"{path} lacks {name}, which {INDEX_FILE} places there: fetch the folder again"
                    )
                tensor = file.get_tensor(name)
                if tensor.shape != expected[name]:
                    stored, wanted = tuple(tensor.shape), tuple(expected[name])
                    raise ModelFolderError(f"{path}: {name} has shape {stored}, config.json asks for {wanted}")
                yield name, tensor


def write_folder(
    path: Path,
    config: DreamConfig,
    token_ids: TokenIds,
    tensors: Mapping[str, Tensor],
    tokenizer_folder: Path | None,
    max_shard_bytes: int,
    added_tokens: Mapping[str, int],
) -> None:
    """Write a model folder to a temporary path and rename it, so that `path` never holds half of one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.writing-{os.getpid()}")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir()
    try:
        fields = config_fields(config, token_ids, next(iter(tensors.values())).dtype)
        (aside / "config.json").write_text(json.dumps(fields, indent=2) + "\n")
        _write_tensors(aside, tensors, max_shard_bytes)
        if tokenizer_folder is not None:
            for name in TOKENIZER_FILES:
                if (tokenizer_folder / name).is_file():
                    shutil.copyfile(tokenizer_folder / name, aside / name)
            add_to_tokenizer(aside, added_tokens)
        _swap(aside, path)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def config_fields(config: DreamConfig, token_ids: TokenIds, dtype: torch.dtype) -> dict[str, Any]:
    """`config.json` in the layout of the published Dream folders."""
    rope = dict(config.rope_parameters or {})
    theta = rope.pop("rope_theta", 1e6)
    plain = rope.get("rope_type", "default") == "default"
    return {
        "architectures": ["DreamModel"],
        "model_type": MODEL_TYPE,
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_hidden_layers,
        "num_attention_heads": config.num_attention_heads,
        "num_key_value_heads": config.num_key_value_heads,
        "hidden_act": config.hidden_act,
        "max_position_embeddings": config.max_position_embeddings,
        "max_window_layers": config.max_window_layers,
        "rms_norm_eps": config.rms_norm_eps,
        "rope_theta": theta,
        "rope_scaling": None if plain else rope,
        "attention_dropout": config.attention_dropout,
        "initializer_range": config.initializer_range,
        "use_sliding_window": False,
        "sliding_window": None,
        "use_cache": False,
        "tie_word_embeddings": config.tie_word_embeddings,
        "mask_token_id": token_ids.mask,
        "pad_token_id": token_ids.pad,
        "bos_token_id": token_ids.bos,
        "eos_token_id": token_ids.eos,
        "filler_token_id": token_ids.filler,
        "end_token_ids": list(token_ids.end),
        "torch_dtype": str(dtype).removeprefix("torch."),
    }


def _write_tensors(folder: Path, tensors: Mapping[str, Tensor], max_shard_bytes: int) -> None:
    shards: list[dict[str, Tensor]] = [{}]
    size = 0
    for name, tensor in tensors.items():
        if shards[-1] and size + tensor.nbytes > max_shard_bytes:
            shards.append({})
            size = 0
        shards[-1][name] = tensor
        size += tensor.nbytes
    weight_map = {}
    for number, shard in enumerate(shards, start=1):
        file = SINGLE_FILE if len(shards) == 1 else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        save_file({name: t.detach().cpu().contiguous() for name, t in shard.items()}, folder / file, {"format": "pt"})
        (folder / file).chmod((folder / "config.json").stat().st_mode)  # safetensors leaves them to their owner alone
        weight_map.update(dict.fromkeys(shard, file))
    if len(shards) > 1:
        total = sum(tensor.nbytes for tensor in tensors.values())
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        (folder / INDEX_FILE).write_text(json.dumps(index, indent=2) + "\n")


def _swap(aside: Path, path: Path) -> None:
    if not path.exists():
        aside.rename(path)
        return
    old = path.with_name(f".{path.name}.old-{os.getpid()}")
    path.rename(old)
    aside.rename(path)
    shutil.rmtree(old)


@contextmanager
def _open(path: Path, device: str) -> Iterator[Any]:
    try:
        file = safe_open(path, framework="pt", device=device)
    except (SafetensorError, OSError) as error:
        raise ModelFolderError(f"{path} is no readable safetensors file ({error}): fetch it again") from error
    with file:
        yield file
