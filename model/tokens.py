"""Special token ids of a policy: from `config.json`, else by name from the tokenizer files of its folder.

Ids are never hard-coded. Tokenizer files are read as JSON only; none of them has to exist.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from couplet.configs.json_file import read_object
from couplet.model.errors import ModelFolderError
from couplet.model.families import MODEL_FAMILIES

log = logging.getLogger(__name__)

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


def read_token_roles(folder: Path) -> dict[str, str]:
    """Role (mask_token, pad_token, ...) → token name, from `tokenizer_config.json` or `special_tokens_map.json`."""
    roles: dict[str, str] = {}
    for file in ("special_tokens_map.json", "tokenizer_config.json"):
        for role, token in _load(folder / file).items():
            name = token.get("content") if isinstance(token, dict) else token
            if role.endswith("_token") and isinstance(name, str):
                roles[role] = name
    return roles


def resolve_token_ids(
    config: Mapping[str, Any],
    names: Mapping[str, int],
    end_tokens: Sequence[str],
    where: str,
    roles: Mapping[str, str] | None = None,
) -> TokenIds:
    """The ids of a model folder, from its configuration and the token names of its tokenizer.

    The mask is `mask_token_id` of the configuration, else `mask_token` of `tokenizer_config.json`, else a name that the
    family uses. A missing filler falls back to the pad, a missing pad or bos to the eos. End tokens are found by name;
    without a tokenizer (or if only default names are missing) the configuration's `end_token_ids` count, then its eos.

    Args:
        config: as `model.folder.read_config` gives it; `family` is Dream without one.
        names: token → id of the tokenizer.
        end_tokens: names of the end tokens; `DEFAULT_END_TOKENS` means those of the family.
        where: the folder or setting, for messages.
        roles: as `read_token_roles` gives them.

    Raises:
        ModelFolderError: no mask token, no eos, an unknown end token, or an id outside the vocabulary.
    """
    roles = roles or {}
    eos = _first(config.get("eos_token_id"), names.get(roles.get("eos_token", "")))
    pad = _first(config.get("pad_token_id"), names.get(roles.get("pad_token", "")), eos)
    mask = find_mask(config, names, roles)
    if mask is None:
        raise ModelFolderError(
            f"{where} has no mask token: config.json needs mask_token_id, or its tokenizer a mask_token. If its own loader "
            "adds the token (Open-dCoder), name it in model.mask_token; `python launch.py adapt RECIPE` makes a diffusion "
            "policy of an autoregressive folder (start: in the recipe)"
        )
    if eos is None:
        raise ModelFolderError(f"{where}: config.json needs eos_token_id")
    assert pad is not None
    family = MODEL_FAMILIES[config.get("family", "Dream")]
    filler = _first(config.get("filler_token_id"), *(names.get(name) for name in family.filler_tokens), pad)
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
        raise ModelFolderError(f"{where}: the mask token id {mask} cannot also be the pad or an end token")
    return ids


def named_mask(mask_token: str | None, names: Mapping[str, int], fields: Mapping[str, Any]) -> dict[str, int]:
    """The mask token that the user names, with its id: the first free one if the tokenizer lacks it."""
    if mask_token is None:
        return {}
    free = max(names.values()) + 1 if names else fields["vocab_size"]
    return {mask_token: names.get(mask_token, free)}


def find_mask(config: Mapping[str, Any], names: Mapping[str, int], roles: Mapping[str, str]) -> int | None:
    """The id of the mask token, or None."""
    family = MODEL_FAMILIES[config.get("family", "Dream")]
    by_name = [names.get(name) for name in (roles.get("mask_token", ""), *family.mask_tokens, MASK_NAME)]
    found = _first(config.get("mask_token_id"), *by_name)
    if found is not None and by_name[0] not in (None, found):
        log.warning(
            "mask_token_id = %d of config.json is used; mask_token %r of the tokenizer is %d",
            *(found, roles["mask_token"], by_name[0]),
        )
    return found


def check_names(names: Mapping[str, int], vocab_size: int, where: str) -> None:
    """Compare a tokenizer with the number of embedding rows.

    Ids without a token that follow the last named one are padding. Others are counted in a warning.

    Raises:
        ModelFolderError: a token whose id has no embedding.
    """
    if not names:
        return
    last = max(names, key=names.__getitem__)
    if names[last] >= vocab_size:
        raise ModelFolderError(
            f"{where}: the tokenizer does not fit: token {last!r} has id {names[last]}, the embedding has {vocab_size} rows; "
            "use the tokenizer that belongs to these weights"
        )
    holes = names[last] + 1 - len(set(names.values()))
    if holes:
        log.warning("%s: %d of the ids below %d have no token; they decode to nothing", where, holes, names[last] + 1)
    log.info("%s: %d rows of the embedding follow the last token", where, vocab_size - 1 - names[last])


def new_tokens(config: Mapping[str, Any], names: Mapping[str, int], roles: Mapping[str, str]) -> dict[str, int]:
    """Ids for the mask and filler tokens a folder lacks: the first ones after every named token.

    With a tokenizer these are often unused padding rows of the vocabulary; without one they follow its end.
    """
    absent = [MASK_NAME] if find_mask(config, names, roles) is None else []
    has_filler = config.get("filler_token_id") is not None or FILLER_NAME in names
    if not has_filler and MODEL_FAMILIES[config.get("family", "Dream")].filler_tokens:
        absent.append(FILLER_NAME)
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
    if tuple(end_tokens) == DEFAULT_END_TOKENS:
        found = [names[name] for name in MODEL_FAMILIES[config.get("family", "Dream")].end_tokens if name in names]
        return tuple(found or config.get("end_token_ids") or (eos,))
    missing = [name for name in end_tokens if name not in names]
    if names and missing:
        raise ModelFolderError(
            f"{where}: end token {missing[0]!r} is not in the tokenizer; name others in model.end_tokens"
        )
    return tuple(names[name] for name in end_tokens) if names else tuple(config.get("end_token_ids") or (eos,))


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
