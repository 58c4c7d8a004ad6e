"""Tokenizers: one wrapper for the tiny tokenizer trained on the katas and for those of Hugging Face folders.

The tiny tokenizer is a byte-pair encoding over printable ASCII with about 530 entries: fences are one token, digits
stay single, every word and operator of its corpus is one token, and none crosses from one to the next, so that a slip
such as `>` for `>=` leaves the length of a program unchanged. Special tokens are Dream's. A character outside its
alphabet becomes `<|unk|>`: it is made for the generated problems only.

The only file outside `model` that imports transformers (inside functions).
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from couplet.configs.errors import UserError
from couplet.configs.json_file import read_object

log = logging.getLogger(__name__)

PAD, CHAT_START, CHAT_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
MASK, FILLER, UNKNOWN = "<|mask|>", "<|dlm_pad|>", "<|unk|>"
BEGIN = "<|beginoftext|>"
TINY_SPECIAL = (PAD, CHAT_START, CHAT_END, BEGIN, MASK, FILLER, UNKNOWN)
TINY_FENCES = ("```python\n", "```py\n", "```")
TINY_SIZE = 560

# Line breaks with their indentation, words, single digits, operators, brackets and quotes; a leading space joins each.
_PIECES = r"\n *| ?[A-Za-z_]+| ?[0-9]| ?[-+*/%=<>!]+|\):|\(\)| ?[^\sA-Za-z0-9]|\s"

PROBE = "def f(xs, k=12):\n    if xs != [k]:\n        return 'a b'\n\n    # end\n    return {0: -1}\n"
"""Text on which a loaded tokenizer is checked."""

_PRIVATE = 0xF0000  # first character of Unicode's supplementary private use area

CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


class TokenizerError(UserError):
    """A tokenizer folder that is missing or broken, or a tokenizer that lacks what diffusion or chat needs."""


class Tokenizer:
    """Text to token ids and back, and the chat prompt of a question; wraps a Hugging Face tokenizer."""

    def __init__(self, backend: Any) -> None:
        self.backend = backend
        self.refresh()

    def refresh(self) -> None:
        """Update after tokens were added to the backend."""
        self._special = {str(t): int(i) for i, t in self.backend.added_tokens_decoder.items() if t.special}
        self._special_ids = set(self._special.values())
        self._longest_first = sorted(self._special, key=len, reverse=True)
        self._special_pattern = re.compile(f"({'|'.join(map(re.escape, self._longest_first)) or '(?!)'})")

    def __len__(self) -> int:
        """Number of entries, added tokens included; a model's vocabulary may be padded beyond it."""
        return len(self.backend)

    @property
    def special(self) -> dict[str, int]:
        """Special token -> id."""
        return dict(self._special)

    def id(self, token: str | int) -> int:
        """Id of a token of the vocabulary, an id itself; ValueError if there is none."""
        if isinstance(token, int):
            return token
        found = self.backend.get_vocab().get(token)
        if found is None:
            raise TokenizerError(f"the tokenizer has no token {token!r}; its special tokens are {sorted(self.special)}")
        return int(found)

    def encode(self, text: str, special: bool = False) -> list[int]:
        """Token ids of `text`; nothing is added.

        Special tokens written in the text are spelled out like any other word, so that no document can contain a mask
        or an end; with `special` they become themselves.
        """
        ids: list[int] = self.backend.encode(text, add_special_tokens=False, split_special_tokens=not special)
        return ids

    def decode(self, ids: Sequence[int], skip_special: bool = True) -> str:
        """The text of token ids, without the special ones if `skip_special`; spaces are unchanged."""
        kept = [int(i) for i in ids if not (skip_special and int(i) in self._special_ids)]
        return str(self.backend.decode(kept, skip_special_tokens=False, clean_up_tokenization_spaces=False))

    def chat_text(self, question: str, system: str | None = None) -> str:
        """The chat prompt as text, up to the assistant's answer. ValueError without a chat template."""
        if not self.backend.chat_template:
            raise TokenizerError("the tokenizer has no chat template: add one to tokenizer_config.json (chat_template)")
        messages = [{"role": "system", "content": system}] if system else []
        messages.append({"role": "user", "content": question})
        return str(self.backend.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))

    def chat_prompt(self, question: str, system: str | None = None) -> list[int]:
        """Token ids of the chat prompt of a question (see `chat_text`). Only the template adds special tokens."""
        if not self._special_pattern.search(f"{question}{system or ''}"):
            return self.encode(self.chat_text(question, system), special=True)
        text = self.chat_text(self._disguised(question), system and self._disguised(system))
        # Split at the template's special tokens: words end there anyway, so the ids are those of the whole text.
        pieces = [piece for piece in self._special_pattern.split(text) if piece]
        return [
            token
            for piece in pieces
            for token in ([self._special[piece]] if piece in self._special else self.encode(self._undisguised(piece)))
        ]

    def _disguised(self, text: str) -> str:
        """The text with private characters in place of special tokens, which a template leaves alone."""
        for number, token in enumerate(self._longest_first):
            text = text.replace(token, chr(_PRIVATE + number))
        return text

    def _undisguised(self, text: str) -> str:
        for number, token in enumerate(self._longest_first):
            text = text.replace(chr(_PRIVATE + number), token)
        return text

    def save(self, folder: str | Path) -> None:
        """Write tokenizer.json, tokenizer_config.json, ... into `folder`; see `settle_settings`."""
        self.backend.save_pretrained(str(folder))
        settle_settings(folder)


def completion_text(tokenizer: Tokenizer, tokens_C: Sequence[int], end_ids: Iterable[int]) -> str:
    """The text of a canvas: tokens before the first end token, decoded without special tokens."""
    ends = set(end_ids)
    tokens = [int(token) for token in tokens_C]
    length = next((i for i, token in enumerate(tokens) if token in ends), len(tokens))
    return tokenizer.decode(tokens[:length])


def load_tokenizer(folder: str | Path) -> Tokenizer:
    """The tokenizer of a Hugging Face folder. No remote code is run.

    A `tokenizer.json` is read as it is, whatever model type or tokenizer class the folder names.

    Raises:
        TokenizerError: the folder holds no tokenizer files, or broken ones.
    """
    folder = Path(folder)
    if not (folder / "tokenizer.json").is_file() and not (folder / "vocab.json").is_file():
        raise TokenizerError(f"{folder}: no tokenizer here (expected tokenizer.json, or vocab.json with merges.txt)")
    try:
        return Tokenizer(_load_backend(folder))
    except UserError:
        raise
    except Exception as error:  # transformers and tokenizers raise many types for a file they cannot read
        reason = " ".join(str(error).split()) or type(error).__name__
        raise TokenizerError(f"{folder}: broken tokenizer files ({reason}); fetch them again") from error


def _load_backend(folder: Path) -> Any:
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    if (folder / "tokenizer.json").is_file():
        # The automatic class would replace the file's pre-tokenizer by that of the model type (Qwen2's, say).
        backend = PreTrainedTokenizerFast.from_pretrained(str(folder))
        _check_faithful(backend, folder / "tokenizer.json")
        return backend
    if _declares_foreign_class(folder):
        return _load_without_remote_code(folder)
    return AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False)


def _check_faithful(backend: Any, file: Path) -> None:
    """Compare ids with those of the file itself, and decode them again.

    Raises:
        TokenizerError: the loaded tokenizer gives other ids than the file. A text that does not survive is a warning.
    """
    from tokenizers import Tokenizer as Core

    expected = Core.from_file(str(file)).encode(PROBE, add_special_tokens=False).ids
    found = backend.encode(PROBE, add_special_tokens=False)
    if found != expected:
        raise TokenizerError(f"{file}: transformers reads it as another tokenizer (the ids of {PROBE!r} differ)")
    decoded = backend.decode(found, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    if decoded != PROBE:
        log.warning("%s: text does not survive encoding and decoding: %r becomes %r", file, PROBE, decoded)


def settle_settings(folder: str | Path) -> None:
    """Make tokenizer_config.json readable by transformers 4, which Dream's own classes are written for.

    Version 5 names a class that 4 does not know, lists special tokens although 4 expects a mapping, and writes the chat
    template to a file that 4 does not read. Both versions read what is written here.
    """
    path, template = Path(folder) / "tokenizer_config.json", Path(folder) / "chat_template.jinja"
    if not path.is_file():
        return
    settings = _read_settings(Path(folder))
    if settings.get("tokenizer_class") == "TokenizersBackend":
        settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    if isinstance(settings.get("extra_special_tokens"), list):
        settings.setdefault("additional_special_tokens", settings.pop("extra_special_tokens"))
    if template.is_file():
        settings["chat_template"] = template.read_text(encoding="utf-8")
    path.write_text(json.dumps(settings, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _read_settings(folder: Path) -> dict[str, Any]:
    path = folder / "tokenizer_config.json"
    return read_object(path, error=TokenizerError) if path.exists() else {}


def _declares_foreign_class(folder: Path) -> bool:
    """Whether the folder names its own tokenizer class, as Dream does (a copy of Qwen2's with more tokens)."""
    settings = _read_settings(folder)
    return "AutoTokenizer" in settings.get("auto_map", {}) or settings.get("tokenizer_class") == "DreamTokenizer"


def _load_without_remote_code(folder: Path) -> Any:
    """From vocab.json and merges.txt, Qwen2's, of a folder whose own tokenizer class is never run."""
    from transformers import AddedToken, Qwen2Tokenizer

    settings = _read_settings(folder)
    roles = ("bos_token", "eos_token", "pad_token", "unk_token", "mask_token")
    named = {role: settings[role] for role in roles if settings.get(role)}
    options: dict[str, Any] = {k: v["content"] if isinstance(v, dict) else v for k, v in named.items()}
    options["added_tokens_decoder"] = {
        int(i): AddedToken(**{k: v for k, v in token.items() if k != "__type"})
        for i, token in settings.get("added_tokens_decoder", {}).items()
    }
    backend: Any = Qwen2Tokenizer(vocab=str(folder / "vocab.json"), merges=str(folder / "merges.txt"), **options)
    template_file = folder / "chat_template.jinja"
    backend.chat_template = settings.get("chat_template") or (
        template_file.read_text(encoding="utf-8") if template_file.is_file() else None
    )
    return backend


def add_diffusion_tokens(tokenizer: Tokenizer) -> int:
    """Give an autoregressive tokenizer the tokens a diffusion policy needs; returns how many were new.

    They are appended in Dream's order (begin, mask, filler), so that Qwen2.5's tokenizer gets Dream's ids. A tokenizer
    that has a mask token keeps it.
    """
    from transformers import AddedToken

    known = tokenizer.backend.get_vocab()
    mask = tokenizer.backend.mask_token or MASK
    new = [token for token in (BEGIN, mask, FILLER) if token not in known]
    tokenizer.backend.add_tokens([AddedToken(token, normalized=False, special=True) for token in new])
    tokenizer.backend.mask_token = mask
    tokenizer.refresh()
    return len(new)


def train_tokenizer(texts: Iterable[str], size: int = TINY_SIZE) -> Tokenizer:
    """A tiny tokenizer with at most `size` entries, trained on `texts`; the same texts give the same tokenizer."""
    from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers, trainers
    from tokenizers import Tokenizer as Backend
    from transformers import PreTrainedTokenizerFast

    core = Backend(models.BPE(unk_token=UNKNOWN))
    core.pre_tokenizer = pre_tokenizers.Split(Regex(_PIECES), behavior="isolated")
    core.decoder = decoders.Fuse()
    alphabet = ["\n", *map(chr, range(32, 127))]
    trainer = trainers.BpeTrainer(
        vocab_size=size - len(TINY_FENCES),
        special_tokens=list(TINY_SPECIAL),
        initial_alphabet=alphabet,
        show_progress=False,
    )
    core.train_from_iterator(texts, trainer)
    core.add_tokens([AddedToken(fence, normalized=False, special=False) for fence in TINY_FENCES])
    return Tokenizer(
        PreTrainedTokenizerFast(
            tokenizer_object=core,
            bos_token=PAD,
            eos_token=PAD,
            pad_token=PAD,
            mask_token=MASK,
            unk_token=UNKNOWN,
            additional_special_tokens=[CHAT_START, CHAT_END, BEGIN, FILLER],
            chat_template=CHAT_TEMPLATE,
            clean_up_tokenization_spaces=False,
        )
    )


@cache
def tiny_tokenizer() -> Tokenizer:
    """The tokenizer of the tiny recipes, trained on the tuning katas (clean and messy), routines and word problems."""
    from couplet.data.arithmetic import corpus_pairs as arithmetic_pairs
    from couplet.data.katas.corpus import corpus_pairs
    from couplet.data.katas.routines import corpus_pairs as routine_pairs

    sources = (corpus_pairs("tune"), corpus_pairs("tune-messy"), routine_pairs("tune"), arithmetic_pairs("tune"))
    texts = [text for source in sources for pair in source for text in pair]
    chat = "system\nuser\nassistant\n"
    return train_tokenizer([*texts, *[chat] * 100])
