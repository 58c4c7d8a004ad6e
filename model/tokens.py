"""Special token ids of a policy: from `config.json`, else by name from the tokenizer files of its folder.

Ids are never hard-coded. Tokenizer files are read as JSON only; none of them has to exist.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from couplet.configs.json_file import read_object
from couplet.model.errors import ModelFolderError

MASK_NAME = "<|mask|>"
FILLER_NAME = "<|dlm_pad|>"
DEFAULT_END_TOKENS = ("<|im_end|>",)

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
)


@dataclass(frozen=True)
class TokenIds:
    """Ids with a meaning for diffusion.

    Attributes:
        mask: the token denoised from; never drawn, refused in prompts.
        pad: fills prompts on the left; attended by nobody.
        bos: begin of text.
        eos: end of a document.
        filler: what the policy writes after its answer.
        end: tokens that end an answer (the chat end). Loss, text cut and early stop share them.
    """

    mask: int
    pad: int
    bos: int
    eos: int
    filler: int
    end: tuple[int, ...]


def read_token_names(folder: Path) -> dict[str, int]:
    """Token name → id from the tokenizer files that `folder` has; empty without any.

    Raises:
        ModelFolderError: a file that is not valid JSON, or not of a tokenizer.
    """
    try:
        return _token_names(folder)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        if isinstance(error, ModelFolderError):
            raise
        raise ModelFolderError(f"{folder}: broken tokenizer files ({error!r}); fetch them again") from error


def _token_names(folder: Path) -> dict[str, int]:
    names: dict[str, int] = {}
    names.update(_load(folder / "vocab.json"))
    tokenizer = _load(folder / "tokenizer.json")
    vocabulary = tokenizer.get("model", {}).get("vocab", {})
    if isinstance(vocabulary, dict):
        names.update(vocabulary)
    else:
        names.update({entry[0]: index for index, entry in enumerate(vocabulary)})
    names.update(_load(folder / "added_tokens.json"))
    for index, entry in _load(folder / "tokenizer_config.json").get("added_tokens_decoder", {}).items():
        names[entry["content"]] = int(index)
    names.update({entry["content"]: int(entry["id"]) for entry in tokenizer.get("added_tokens", [])})
    return names


def resolve_token_ids(
    config: Mapping[str, Any], names: Mapping[str, int], end_tokens: Sequence[str], where: str
) -> TokenIds:
    """The ids of a model folder, from its configuration and the token names of its tokenizer.

    A missing filler falls back to the pad, a missing pad or bos to the eos. End tokens are found by name; without a
    tokenizer (or if only the default name is missing) the configuration's `end_token_ids` count, then its eos.

    Raises:
        ValueError: no mask token, no eos, an unknown end token, or an id outside the vocabulary; says what to do.
    """
    eos = _first(config.get("eos_token_id"))
    pad = _first(config.get("pad_token_id"), eos)
    mask = _first(config.get("mask_token_id"), names.get(MASK_NAME))
    if mask is None:
        raise ModelFolderError(
            f"{where} has no mask token: config.json needs mask_token_id, or its tokenizer a token {MASK_NAME}. "
            "`python launch.py adapt RECIPE` makes a diffusion policy of an autoregressive folder (start: in the recipe)"
        )
    if eos is None:
        raise ModelFolderError(f"{where}: config.json needs eos_token_id")
    assert pad is not None
    filler = _first(config.get("filler_token_id"), names.get(FILLER_NAME), pad)
    bos = _first(config.get("bos_token_id"), eos)
    assert filler is not None and bos is not None
    ids = TokenIds(mask, pad, bos, eos, filler, _end_ids(config, names, end_tokens, eos, where))
    for name, values in (("mask", (mask,)), ("pad", (pad,)), ("bos", (bos,)), ("filler", (filler,)), ("end", ids.end)):
        for value in values:
            if not 0 <= value < config["vocab_size"]:
                raise ModelFolderError(
                    f"{where}: {name} token id {value} is outside vocab_size = {config['vocab_size']}"
                )
    if mask in ids.end or mask == pad:
        raise ModelFolderError(f"{where}: the mask token id {mask} cannot be the pad or an end token too")
    return ids


def new_tokens(config: Mapping[str, Any], names: Mapping[str, int]) -> dict[str, int]:
    """Ids for the mask and filler tokens a folder lacks: the first ones after every named token.

    With a tokenizer these are often unused padding rows of the vocabulary; without one they follow its end.
    """
    known = {MASK_NAME: "mask_token_id", FILLER_NAME: "filler_token_id"}
    absent = [name for name, key in known.items() if name not in names and config.get(key) is None]
    start = max(names.values()) + 1 if names else config["vocab_size"]
    return {name: start + offset for offset, name in enumerate(absent)}


def add_to_tokenizer(folder: Path, tokens: Mapping[str, int]) -> None:
    """Write special tokens into the `tokenizer.json` and `tokenizer_config.json` of `folder`, if they exist."""
    path = folder / "tokenizer.json"
    if path.exists():
        tree = _load(path)
        known = {entry["content"] for entry in tree.setdefault("added_tokens", [])}
        tree["added_tokens"] += [
            {"id": index, "content": name, "single_word": False, "lstrip": False, "rstrip": False}
            | {"normalized": False, "special": True}
            for name, index in tokens.items()
            if name not in known
        ]
        path.write_text(json.dumps(tree, ensure_ascii=False))
    path = folder / "tokenizer_config.json"
    if path.exists():
        tree = _load(path)
        decoder = tree.setdefault("added_tokens_decoder", {})
        for name, index in tokens.items():
            decoder.setdefault(
                str(index),
                {"content": name, "lstrip": False, "normalized": False}
                | {"rstrip": False, "single_word": False, "special": True},
            )
        path.write_text(json.dumps(tree, ensure_ascii=False, indent=2))


def _end_ids(
    config: Mapping[str, Any], names: Mapping[str, int], end_tokens: Sequence[str], eos: int, where: str
) -> tuple[int, ...]:
    missing = [name for name in end_tokens if name not in names]
    if not missing:
        return tuple(names[name] for name in end_tokens)
    if names and tuple(end_tokens) != DEFAULT_END_TOKENS:
        raise ModelFolderError(
            f"{where}: end token {missing[0]!r} is not in the tokenizer; name others in model.end_tokens"
        )
    return tuple(config.get("end_token_ids") or (eos,))


def _first(*values: Any) -> int | None:
    for value in values:
        if isinstance(value, (list, tuple)):
            value = value[0] if value else None
        if value is not None:
            if type(value) is not int:
                raise ModelFolderError(f"token id {value!r}: must be a whole number; check config.json")
            return value
    return None


def _load(path: Path) -> dict[str, Any]:
    return read_object(path, error=ModelFolderError) if path.exists() else {}
