"""Hugging Face model folders: `config.json`, safetensors in one file or in shards, tokenizer files beside them.

Outside this file fields and weights have this project's names; `model.families` says what a folder calls them.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from couplet.configs.json_file import read_object
from couplet.model.errors import ModelFolderError
from couplet.model.families import MODEL_FAMILIES, family_of
from couplet.model.tokens import (
    DEFAULT_END_TOKENS,
    TOKENIZER_FILES,
    TokenIds,
    add_to_tokenizer,
    named_mask,
    read_token_names,
    read_token_roles,
    resolve_token_ids,
)
from couplet.model.transformer import TransformerConfig

SINGLE_FILE = "model.safetensors"
HEAD = "lm_head.weight"
INDEX_FILE = "model.safetensors.index.json"
NOT_KEPT = (  # fields that name code, or describe how the folder was written
    *("auto_map", "architectures", "model_type", "torch_dtype", "dtype", "transformers_version"),
    *("layer_types", "sliding_window", "use_sliding_window"),  # full attention has no sliding windows
)
TOKEN_FIELDS = ("mask_token_id", "pad_token_id", "bos_token_id", "eos_token_id", "filler_token_id", "end_token_ids")


def read_config(folder: Path) -> dict[str, Any]:
    """Fields of `TransformerConfig` and the special token ids, from the `config.json` of any family.

    Raises:
        ModelFolderError: no such folder, no configuration, an unknown architecture, or a variant that is not supported.
    """
    if not folder.is_dir():
        raise ModelFolderError(
            f"model folder {folder} does not exist: give a local folder with config.json and safetensors"
        )
    path = folder / "config.json"
    if not path.is_file():
        raise ModelFolderError(f"{folder} has no config.json: it is not a Hugging Face model folder")
    fields = read_object(path, error=ModelFolderError)
    key, family = family_of(fields, path)
    try:
        read = family.read(fields)
    except ModelFolderError as error:
        raise ModelFolderError(f"{folder}: {error}") from None
    tokens = {name: fields[name] for name in TOKEN_FIELDS if fields.get(name) is not None}
    config = read | {"family": key, "shift": family.shift} | tokens
    written = family.write(model_config(config, str(folder)))
    extra = {name: value for name, value in fields.items() if name not in (*written, *NOT_KEPT, *TOKEN_FIELDS)}
    return config | {"extra_fields": {k: v for k, v in extra.items() if k != "rope_parameters"}}


def model_config(fields: Mapping[str, Any], where: str = "config.json") -> TransformerConfig:
    """The transformer's configuration from what `read_config` gives."""
    try:
        return TransformerConfig(**fields)
    except Exception as error:  # transformers raises many types for a field it rejects
        raise ModelFolderError(f"{where}: the configuration is rejected: {error}") from error


def folder_token_ids(
    folder: Path,
    end_tokens: Sequence[str] = DEFAULT_END_TOKENS,
    where: str | None = None,
    mask_token: str | None = None,
) -> TokenIds:
    """The special token ids of the policy in `folder`, without its weights; arguments as of `from_pretrained`.

    Raises:
        ModelFolderError: see `read_config` and `model.tokens.resolve_token_ids`; `where` names the setting.
    """
    fields, names = read_config(folder), read_token_names(folder)
    named = named_mask(mask_token, names, fields)
    if mask_token is not None:
        fields["mask_token_id"] = named[mask_token]
    return resolve_token_ids(fields, names | named, end_tokens, where or str(folder), read_token_roles(folder))


def weight_files(folder: Path) -> dict[str, Path]:
    """Tensor name → file, from the index of a sharded folder or from the single file.

    Raises:
        ModelFolderError: no safetensors, a missing shard, or a broken file.
    """
    index = folder / INDEX_FILE
    if index.is_file():
        try:
            weight_map = dict(read_object(index, error=ModelFolderError)["weight_map"])
            missing = sorted({name for name in weight_map.values() if not (folder / name).is_file()})
        except (KeyError, TypeError, ValueError) as error:
            if isinstance(error, ModelFolderError):
                raise
            raise ModelFolderError(f"{index} is not a valid index of shards ({error!r}); fetch it again") from error
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
    folder: Path, expected: Mapping[str, torch.Size], device: str, tied: bool, family_key: str = "Dream"
) -> Iterator[tuple[str, Tensor]]:
    """Yield every expected tensor once, file by file, on `device` and in the type it is stored in.

    A stored copy of a `tied` head is left out, and so are rotary tables of old folders.

    Raises:
        ModelFolderError: missing, unexpected or misshapen tensors, each by its name in the folder.
    """
    family = MODEL_FAMILIES[family_key]
    files = weight_files(folder)
    theirs = {family.own_name(name): name for name in files}
    files = {name: files[theirs[name]] for name in theirs}
    for name in [name for name in files if name.endswith("rotary_emb.inv_freq") or (tied and name == HEAD)]:
        del files[name]
    missing = sorted(set(expected) - set(files))
    surplus = sorted(set(files) - set(expected))
    if missing:
        raise ModelFolderError(
            f"{folder} lacks {len(missing)} tensors of this shape, first {family.stored_name(missing[0])}; check config.json"
        )
    if surplus:
        raise ModelFolderError(
            f"{folder} holds {len(surplus)} tensors that the configuration does not expect, first {surplus[0]}"
        )
    for path in sorted(set(files.values())):
        with _open(path, device) as file:
            present = set(file.keys())
            for name in sorted(name for name, where in files.items() if where == path):
                stored_name = theirs[name]
                if stored_name not in present:
                    raise ModelFolderError(
                        f"{path} lacks {stored_name}, which {INDEX_FILE} places there: fetch the folder again"
                    )
                tensor = file.get_tensor(stored_name)
                if tensor.shape != expected[name]:
                    stored, wanted = tuple(tensor.shape), tuple(expected[name])
                    raise ModelFolderError(f"{path}: {stored_name} has shape {stored}, config.json asks for {wanted}")
                yield name, tensor


def write_folder(
    path: Path,
    config: TransformerConfig,
    tensors: Mapping[str, Tensor],
    tokenizer_folder: Path | None,
    max_shard_bytes: int,
    added_tokens: Mapping[str, int],
) -> None:
    """Write a model folder to a temporary path and rename it, so that `path` never holds half of one."""
    family = MODEL_FAMILIES[config.family]
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.writing-{os.getpid()}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        fields = config_fields(config, next(iter(tensors.values())).dtype)
        (temporary / "config.json").write_text(json.dumps(fields, indent=2) + "\n")
        named = {family.stored_name(name): tensor for name, tensor in tensors.items()}
        _write_tensors(temporary, named, max_shard_bytes)
        if tokenizer_folder is not None:
            for name in TOKENIZER_FILES:
                if (tokenizer_folder / name).is_file():
                    shutil.copyfile(tokenizer_folder / name, temporary / name)
            add_to_tokenizer(temporary, added_tokens)
        _swap(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def config_fields(config: TransformerConfig, dtype: torch.dtype) -> dict[str, Any]:
    """`config.json` in the layout of the family's published folders, and the special tokens of the policy."""
    family = MODEL_FAMILIES[config.family]
    return {
        "architectures": [family.architecture],
        "model_type": config.family,
        **(config.extra_fields or {}),
        **family.write(config),
        "mask_token_id": config.mask_token_id,
        "pad_token_id": config.pad_token_id,
        "bos_token_id": config.bos_token_id,
        "eos_token_id": config.eos_token_id,
        "filler_token_id": config.filler_token_id,
        "end_token_ids": config.end_token_ids,
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


def _swap(temporary: Path, path: Path) -> None:
    if not path.exists():
        temporary.rename(path)
        return
    old = path.with_name(f".{path.name}.old-{os.getpid()}")
    path.rename(old)
    temporary.rename(path)
    shutil.rmtree(old)


@contextmanager
def _open(path: Path, device: str) -> Iterator[Any]:
    try:
        file = safe_open(path, framework="pt", device=device)
    except (SafetensorError, OSError) as error:
        raise ModelFolderError(f"{path} is not a readable safetensors file ({error}): fetch it again") from error
    with file:
        yield file
