"""The policy: a masked-diffusion language model that predicts every token of a canvas at once.

Hidden states leave this file already shifted: row i belongs to token i (`model.transformer.shift_source`).

Shapes: B rows, L length, H hidden size, V vocabulary, N selected rows.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from couplet.configs.schema import AdapterConfig, ShapeConfig
from couplet.model.adapters import add_adapter, merged, trained_parameters, write_adapter
from couplet.model.families import MODEL_FAMILIES
from couplet.model.folder import model_config, read_config, read_weights, write_folder
from couplet.model.tokens import (
    DEFAULT_END_TOKENS,
    MASK_NAME,
    TokenIds,
    check_names,
    named_mask,
    new_tokens,
    read_token_names,
    read_token_roles,
    resolve_token_ids,
)
from couplet.model.transformer import (
    Head,
    RotaryTable,
    Transformer,
    TransformerConfig,
    check_attention,
    shift_source,
)

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class DiffusionPolicy(nn.Module):
    """A transformer with its head and its special token ids.

    Attributes:
        config: the architecture.
        token_ids: mask, pad, bos, eos, filler and end ids.
        tokenizer_folder: where `save_pretrained` copies tokenizer files from; None without tokenizer files.
        added_tokens: tokens this policy has beyond the tokenizer files of `tokenizer_folder`.
        adapter: the LoRA adapter around its layers (see `model.adapters`); None without one.
        source: the folder its weights were read from, if any.
    """

    def __init__(self, config: TransformerConfig, token_ids: TokenIds, attention: str = "sdpa") -> None:
        super().__init__()
        config._attn_implementation = check_attention(attention)
        config.mask_token_id, config.filler_token_id = token_ids.mask, token_ids.filler
        config.pad_token_id, config.bos_token_id, config.eos_token_id = token_ids.pad, token_ids.bos, token_ids.eos
        config.end_token_ids = list(token_ids.end)
        self.config = config
        self.token_ids = token_ids
        self.tokenizer_folder: Path | None = None
        self.added_tokens: dict[str, int] = {}
        self.adapter: AdapterConfig | None = None
        self.source: Path | None = None
        self.model = Transformer(config)
        self.lm_head = Head(config.hidden_size, config.vocab_size)
        self._tie()

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        dtype: str | torch.dtype = "auto",
        device: str | torch.device = "cpu",
        attention: str = "sdpa",
        end_tokens: Sequence[str] = DEFAULT_END_TOKENS,
        *,
        add_tokens: bool = False,
        mask_token: str | None = None,
        tokenizer_folder: str | Path | None = None,
    ) -> DiffusionPolicy:
        """Load a Hugging Face folder of one of `model.families.MODEL_FAMILIES`.

        Args:
            path: folder with config.json and safetensors; tokenizer files are optional.
            dtype: "auto" keeps the stored type; "float32", "bfloat16", "float16" or a torch type.
            device: where the weights go.
            attention: a key of `model.transformer.ATTENTION_PACKAGES`.
            end_tokens: names of the tokens that end an answer.
            add_tokens: give an autoregressive folder the mask (and filler) token it lacks; the embeddings grow if
                needed. The mask starts as the mean embedding, the filler as the eos.
            mask_token: name of the mask token of a diffusion model whose own loader adds it; without that token in the
                tokenizer it is the first id after the named ones, and its trained embedding is kept.
            tokenizer_folder: with `add_tokens`: the tokens of this longer tokenizer become the policy's.

        Raises:
            ModelFolderError: anything that is missing, broken, misshapen, inconsistent or unknown, by name.
        """
        folder = Path(path)
        fields = read_config(folder)
        words = folder if tokenizer_folder is None else Path(tokenizer_folder)
        names, roles, own = read_token_names(words), read_token_roles(words), read_token_names(folder)
        named = named_mask(mask_token, names, fields)
        names |= named
        if mask_token is not None:
            fields["mask_token_id"] = named[mask_token]
        fresh = {} if words == folder else {name: index for name, index in names.items() if name not in own}
        fresh |= new_tokens(fields, names, roles) if add_tokens else {}
        vocab_size = max([fields["vocab_size"], *(index + 1 for index in fresh.values())])
        token_ids = resolve_token_ids(
            fields | {"vocab_size": vocab_size}, names | fresh, end_tokens, str(folder), roles
        )
        check_names(names | fresh, vocab_size, str(words))
        with torch.device("meta"):
            policy = cls(model_config(fields, str(folder)), token_ids, attention)
        policy._load(folder, _dtype(dtype), torch.device(device))
        policy.tokenizer_folder = words if names else None
        policy.added_tokens = named | fresh
        policy.source = folder
        if fresh:
            policy._grow(vocab_size, fresh)
        if MASK_NAME in fresh:
            policy.config.family = MODEL_FAMILIES[policy.config.family].adapted or policy.config.family
        return policy

    @classmethod
    def from_shape(
        cls,
        shape: ShapeConfig,
        vocab_size: int,
        token_ids: TokenIds,
        seed: int,
        *,
        dtype: str | torch.dtype = "float32",
        device: str | torch.device = "cpu",
        attention: str = "sdpa",
        tokenizer_folder: str | Path | None = None,
    ) -> DiffusionPolicy:
        """A policy with random weights: normal with deviation 1/sqrt(fan in), embeddings with `shape.embedding_std`.

        Device "meta" builds the shape without weights. Weights depend on `seed` and on the kind of device.
        """
        config = TransformerConfig(
            vocab_size=vocab_size,
            hidden_size=shape.hidden,
            intermediate_size=shape.ffn,
            num_hidden_layers=shape.layers,
            num_attention_heads=shape.heads,
            num_key_value_heads=shape.kv_heads,
            max_position_embeddings=shape.max_positions,
            rope_parameters={"rope_type": "default", "rope_theta": shape.rope_theta},
            tie_word_embeddings=shape.tie_embeddings,
        )
        device = torch.device(device)
        with torch.device("meta"):
            policy = cls(config, token_ids, attention).to(_dtype(dtype) or torch.float32)
        policy.tokenizer_folder = None if tokenizer_folder is None else Path(tokenizer_folder)
        if device.type != "meta":
            policy.to_empty(device=device)
            policy._tie()
            policy.model.rotary_emb = RotaryTable(config).to(device)
            policy._initialise(seed, shape.embedding_std)
        return policy

    @torch.no_grad()
    def save_pretrained(
        self, path: str | Path, *, state: Mapping[str, Tensor] | None = None, max_shard_bytes: int = 5 * 10**9
    ) -> None:
        """Write a Hugging Face folder (the family's layout, safetensors, tokenizer files); atomic.

        Args:
            path: the folder; an existing one is replaced.
            state: weights by name instead of this module's own (an engine that shards parameters gathers them). An
                adapter is merged.
            max_shard_bytes: larger models are written in shards with an index.
        """
        weights = dict(self.named_parameters()) if state is None else {name: state[name] for name in self.weight_names}
        tensors = weights if self.adapter is None else merged(weights, self.adapter)
        write_folder(Path(path), self.config, tensors, self.tokenizer_folder, max_shard_bytes, self.added_tokens)

    def add_adapter(self, config: AdapterConfig, seed: int) -> None:
        """Freeze the weights and train a LoRA adapter instead; see `model.adapters.add_adapter`."""
        add_adapter(self, config, seed)

    def twin(self) -> DiffusionPolicy:
        """A copy that shares the frozen weights and has an adapter of its own."""
        shared: dict[int, Any] = {id(p): p for p in self.parameters() if not p.requires_grad}
        return copy.deepcopy(self, shared)

    def save_adapter(self, path: str | Path, state: Mapping[str, Tensor] | None = None) -> None:
        """Write the adapter as a PEFT folder; `state` as in `save_pretrained`."""
        write_adapter(Path(path), self, trained_parameters(self) if state is None else state)

    @property
    def weight_names(self) -> tuple[str, ...]:
        """Names of the parameters, a tied head counted once."""
        return tuple(name for name, _ in self.named_parameters())

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.lm_head.weight.device

    def checkpoint_gradients(self, enabled: bool = True) -> None:
        """Trade computation for memory in training mode: keep only each layer's input for the backward pass."""
        self.model.checkpoint_gradients = enabled

    def hidden_at(
        self,
        rows: Tensor,
        tokens_BL: Tensor,
        attention_BL: Tensor | None = None,
        visible_BLL: Tensor | None = None,
    ) -> Tensor:
        """Hidden states that predict the tokens at some positions; the last layer computes only these.

        Args:
            rows: int64 flat positions b · L + i. [N] gives [N, H]; [B, n], where row b holds positions of sequence b,
                gives [B, n, H] and is faster.
            tokens_BL, attention_BL, visible_BLL: as in `hidden`.
        """
        source = self.source_rows(rows, attention_BL, tokens_BL.shape[1])
        return self.model(tokens_BL, attention_BL, visible_BLL, rows=source)

    def source_rows(self, rows: Tensor, attention_BL: Tensor | None, length: int) -> Tensor:
        """The rows of the transformer's output that predict the tokens at flat positions `rows` (the family's shift)."""
        return shift_source(rows, attention_BL, length) if self.config.shift else rows

    def hidden(
        self, tokens_BL: Tensor, attention_BL: Tensor | None = None, visible_BLL: Tensor | None = None
    ) -> Tensor:
        """Hidden states [B, L, H]; row i predicts token i.

        Args:
            tokens_BL: int64.
            attention_BL: bool or 0/1, False at pads; None if there is no pad (faster).
            visible_BLL: bool, query × key: further restriction (documents of a packed sequence, causal attention).
        """
        _check(tokens_BL, attention_BL, visible_BLL)
        rows_BL = torch.arange(tokens_BL.numel(), device=tokens_BL.device).view(tokens_BL.shape)
        source_BL = self.source_rows(rows_BL, attention_BL, tokens_BL.shape[1])
        return self.model(tokens_BL, attention_BL, visible_BLL).flatten(0, 1)[source_BL]

    def head(self, hidden_NH: Tensor) -> Tensor:
        """float32 logits [..., V] of hidden rows (float64 of a float64 model)."""
        return self.lm_head(hidden_NH)

    def logits(self, tokens_BL: Tensor, attention_BL: Tensor | None = None) -> Tensor:
        """Logits [B, L, V]; row i is the distribution of token i."""
        return self.head(self.hidden(tokens_BL, attention_BL))

    def forward(
        self,
        tokens_BL: Tensor,
        attention_BL: Tensor | None = None,
        visible_BLL: Tensor | None = None,
        *,
        select_BL: Tensor,
        targets_BL: Tensor,
        temperature: float = 1.0,
        chunk_rows: int | None = None,
    ) -> Tensor:
        """Log-probabilities of target tokens at selected rows, in one module call (an engine's hooks need that).

        Args:
            tokens_BL: what the model reads.
            attention_BL, visible_BLL: as in `hidden`.
            select_BL: bool, the rows that are needed.
            targets_BL: int64 [B, L], or [B, L, K] for K targets that share a row.
            temperature: divides the logits.
            chunk_rows: rows of logits held at a time; None = as many as suit the device.

        Returns:
            float32 [N] or [N, K], in row-major order of `select_BL`.
        """
        _check(tokens_BL, attention_BL, visible_BLL)
        rows_N = select_BL.flatten().nonzero().squeeze(1)
        hidden_NH = self.hidden_at(rows_N, tokens_BL, attention_BL, visible_BLL)
        targets = targets_BL.flatten(0, 1).index_select(0, rows_N)
        return self.lm_head(hidden_NH, targets, chunk_rows, temperature)

    def _tie(self) -> None:
        if self.config.tie_word_embeddings:
            self.lm_head.weight = self.model.embed_tokens.weight

    @torch.no_grad()
    def _load(self, folder: Path, dtype: torch.dtype | None, device: torch.device) -> None:
        expected = {name: parameter.shape for name, parameter in self.named_parameters()}
        for name, tensor in read_weights(
            folder, expected, str(device), self.config.tie_word_embeddings, self.config.family
        ):
            owner = self.get_submodule(name.rpartition(".")[0])
            setattr(owner, name.rpartition(".")[2], nn.Parameter(tensor.to(dtype or tensor.dtype)))
        self._tie()
        self.model.rotary_emb = RotaryTable(self.config).to(device)

    @torch.no_grad()
    def _initialise(self, seed: int, embedding_std: float) -> None:
        generator = torch.Generator(self.device).manual_seed(seed)
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                embedding = name.endswith("embed_tokens.weight")
                parameter.normal_(0.0, embedding_std if embedding else parameter.shape[1] ** -0.5, generator=generator)
            elif name.endswith("bias"):
                parameter.zero_()
            else:
                parameter.fill_(1.0)

    def pad_vocabulary(self, multiple: int) -> None:
        """Grow embeddings and head to a multiple of `multiple` rows; the new ones are the mean of the others."""
        padded = -(-self.config.vocab_size // multiple) * multiple
        if padded > self.config.vocab_size:
            self._grow(padded, {})

    @torch.no_grad()
    def _grow(self, vocab_size: int, fresh: Mapping[str, int]) -> None:
        """Grow embeddings and head to `vocab_size` rows and give the `fresh` tokens their first rows."""
        tables: list[nn.Module] = [self.model.embed_tokens]
        if not self.config.tie_word_embeddings:
            tables.append(self.lm_head)
        for table in tables:
            old = table.get_parameter("weight").detach()
            new = old.new_empty(vocab_size, old.shape[1])
            mean = old.float().mean(0).to(old.dtype)
            new[: len(old)] = old
            new[len(old) :] = mean
            for name, index in fresh.items():
                new[index] = mean if name == MASK_NAME else old[self.token_ids.eos]
            table.weight = nn.Parameter(new)
        self._tie()
        self.config.vocab_size = vocab_size
        self.model.vocab_size = vocab_size


def _dtype(dtype: str | torch.dtype) -> torch.dtype | None:
    if isinstance(dtype, torch.dtype):
        return dtype
    if dtype != "auto" and dtype not in DTYPES:
        raise ValueError(f"dtype = {dtype!r}: choose one of auto, {', '.join(DTYPES)}")
    return DTYPES.get(dtype)


def _check(tokens_BL: Tensor, attention_BL: Tensor | None, visible_BLL: Tensor | None) -> None:
    shape = tuple(tokens_BL.shape)
    if len(shape) != 2 or 0 in shape:
        raise ValueError(f"tokens {shape}: need [B, L] with at least one token")
    if attention_BL is not None and attention_BL.shape != shape:
        raise ValueError(f"attention {tuple(attention_BL.shape)}: must have the shape {shape} of the tokens")
    if visible_BLL is not None and visible_BLL.shape != (*shape, shape[1]):
        raise ValueError(f"visible {tuple(visible_BLL.shape)}: must be [B, L, L] for tokens {shape}")
