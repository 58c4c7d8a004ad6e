"""The transformer inside every policy: transformers' Qwen2 layers with bidirectional attention.

The families of `model.families` differ from it in what their configuration reader sets: biases of the attention, the
size of a head, the rotary embedding. No code from a model folder is executed.

Shapes: B rows, L length, H hidden size, D head size, V vocabulary, N selected rows.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import AutoConfig, Qwen2Config, Qwen2Model
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.qwen2.modeling_qwen2 import Qwen2RotaryEmbedding, eager_attention_forward, rotate_half

from couplet.configs.errors import UserError
from couplet.model.logprob import chunked_logprob, head_logits

ATTENTION_PACKAGES = {
    "sdpa": None,
    "eager": None,
    "flex_attention": None,
    "flash_attention_2": "flash_attn",
    "flash_attention_3": "flash_attn_interface",
}

_ROTARY_TABLES = 256  # lengths whose rotary tables are kept


class TransformerConfig(Qwen2Config):
    """Qwen2's configuration, what families differ in, and the special tokens of a diffusion model.

    Attributes:
        family: key of `model.families.MODEL_FAMILIES`.
        shift: the state at position j predicts token j + 1 (see `shift_source`).
        qkv_bias: query, key and value projections have biases.
        extra_fields: fields of the source's `config.json` that mean nothing here; written back with the policy.
    """

    model_type = "Dream"
    family: str = "Dream"
    shift: bool = True
    qkv_bias: bool = True
    mask_token_id: int | None = None
    filler_token_id: int | None = None
    end_token_ids: list[int] | None = None
    extra_fields: dict[str, Any] | None = None

    @property
    def head_size(self) -> int:
        """D."""
        return int(getattr(self, "head_dim", None) or self.hidden_size // self.num_attention_heads)


AutoConfig.register("Dream", TransformerConfig, exist_ok=True)  # for tokenizers whose class is found by model type


class RotaryTable(Qwen2RotaryEmbedding):
    """Rotary angles that stay float32 when the model around them is cast to a smaller type."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> RotaryTable:
        exact: Tensor = self.inv_freq
        super()._apply(fn, recurse)
        if self.inv_freq.dtype != exact.dtype:
            self._buffers["inv_freq"] = exact.to(self.inv_freq.device)
        return self


class Head(nn.Linear):
    """The output head: logits of hidden rows, or log-probabilities of targets without a [rows, V] tensor.

    Both go through one module call, so that an engine which shards parameters gathers the weight around it.
    """

    def __init__(self, hidden: int, vocab: int) -> None:
        super().__init__(hidden, vocab, bias=False)

    def forward(
        self, hidden_NH: Tensor, targets: Tensor | None = None, chunk_rows: int | None = None, temperature: float = 1.0
    ) -> Tensor:
        """float32 logits [..., V]; with `targets` ([N] or [N, K]) float32 log-probabilities of that shape."""
        if targets is None:
            return head_logits(hidden_NH, self.weight)
        return chunked_logprob(hidden_NH, self.weight, targets, chunk_rows, temperature)


class Transformer(Qwen2Model):
    """Qwen2's trunk with full attention and a minimal forward: no cache objects, no mask unless one is needed."""

    config_class = TransformerConfig

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__(config)
        self.embed_tokens.padding_idx = None  # a pad is attended by nobody; an id shared with the filler must learn
        for layer in self.layers:
            setattr(layer.self_attn, "is_causal", False)  # noqa: B010
            if not config.qkv_bias:
                _drop_biases(layer.self_attn)
        self.rotary_emb = RotaryTable(config)
        self.checkpoint_gradients = False
        self._tables: dict[tuple[int, torch.device, torch.dtype], tuple[Tensor, Tensor]] = {}

    def forward(  # type: ignore[override]
        self,
        tokens_BL: Tensor,
        attention_BL: Tensor | None = None,
        visible_BLL: Tensor | None = None,
        *,
        rows: Tensor | None = None,
        cache: Any = None,
        positions_BL: Tensor | None = None,
    ) -> Tensor:
        """Final hidden states [B, L, H], row j being the model's state at position j (no shift).

        Args:
            tokens_BL: int64.
            attention_BL: bool or 0/1, False at pads; None if there is no pad.
            visible_BLL: bool, query × key: further restriction of the attention.
            rows: flat indices b · L + j of the states that are needed; the last layer then skips the others.
                [N] gives [N, H]; [B, n], where row b holds positions of sequence b, gives [B, n, H] and is faster.
            cache: an object with `update(keys, values, layer)` that returns the keys and values to attend to.
            positions_BL: positions of `tokens_BL` if it is a part of a sequence whose other keys are in `cache`.
        """
        hidden_BLH = self.embed_tokens(tokens_BL)
        rotary = self._rotary(hidden_BLH, attention_BL, positions_BL)
        mask = attention_mask(self.config._attn_implementation, hidden_BLH.dtype, attention_BL, visible_BLL)
        recompute = self.checkpoint_gradients and self.training and torch.is_grad_enabled()
        full = len(self.layers) if rows is None else len(self.layers) - 1
        for layer in islice(self.layers, full):  # a slice would build another module list
            if recompute:
                hidden_BLH = checkpoint(
                    layer, hidden_BLH, attention_mask=mask, position_embeddings=rotary, use_reentrant=False
                )
            else:
                hidden_BLH = layer(hidden_BLH, attention_mask=mask, position_embeddings=rotary, past_key_values=cache)
        if rows is None:
            return self.norm(hidden_BLH)
        return self.norm(_layer_at(self.layers[-1], hidden_BLH, mask, rotary, rows))

    def _rotary(
        self, hidden_BLH: Tensor, attention_BL: Tensor | None, positions_BL: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        if positions_BL is not None:
            return self.rotary_emb.forward(hidden_BLH, positions_BL)
        if attention_BL is not None:
            return self.rotary_emb.forward(hidden_BLH, token_positions(attention_BL))
        # `forward` and no module call: ZeRO 3 insists that ranks call the same modules, and their tables may differ.
        key = (hidden_BLH.shape[1], hidden_BLH.device, hidden_BLH.dtype)
        if key not in self._tables:
            if len(self._tables) >= _ROTARY_TABLES:
                self._tables.clear()
            with torch.inference_mode(False), torch.no_grad():
                like = torch.empty(0, dtype=key[2], device=key[1])
                self._tables[key] = self.rotary_emb.forward(like, torch.arange(key[0], device=key[1])[None])
        return self._tables[key]


def _drop_biases(attention: Any) -> None:
    for name in ("q_proj", "k_proj", "v_proj"):
        old: Any = attention.get_submodule(name)
        setattr(attention, name, nn.Linear(old.in_features, old.out_features, bias=False))


def _layer_at(
    layer: Any, hidden_BLH: Tensor, mask: Tensor | None, rotary: tuple[Tensor, Tensor], rows: Tensor
) -> Tensor:
    """A Qwen2 layer whose output is needed at `rows` only: keys and values everywhere, the rest there."""
    attention = layer.self_attn
    normed_BLH = layer.input_layernorm(hidden_BLH)
    queries, query_rotary = normed_BLH, rotary
    narrow = rows.dim() == 2 and mask is None
    if narrow:
        queries = normed_BLH.flatten(0, 1)[rows]
        columns_Bn = rows % hidden_BLH.shape[1]
        query_rotary = (rotary[0][0][columns_Bn], rotary[1][0][columns_Bn])
    query = _rotated(_heads(attention.q_proj(queries), attention.head_dim), query_rotary)
    key = _rotated(_heads(attention.k_proj(normed_BLH), attention.head_dim), rotary)
    value = _heads(attention.v_proj(normed_BLH), attention.head_dim)
    attend = ALL_ATTENTION_FUNCTIONS.get_interface(attention.config._attn_implementation, eager_attention_forward)
    dropout = attention.attention_dropout if layer.training else 0.0
    mixed, _ = attend(attention, query, key, value, mask, dropout=dropout, scaling=attention.scaling)
    mixed = mixed.flatten(2)
    if not narrow:
        mixed = mixed.flatten(0, 1)[rows]
    hidden = hidden_BLH.flatten(0, 1)[rows] + attention.o_proj(mixed)
    return hidden + layer.mlp(layer.post_attention_layernorm(hidden))


def _heads(projected_BLH: Tensor, head_dim: int) -> Tensor:
    return projected_BLH.unflatten(2, (-1, head_dim)).transpose(1, 2)


def _rotated(heads: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
    cos, sin = rotary[0].unsqueeze(1), rotary[1].unsqueeze(1)
    return heads * cos + rotate_half(heads) * sin


def token_positions(attention_BL: Tensor) -> Tensor:
    """int64 [B, L]: 0, 1, 2, ... over the real tokens of each row; 1 at pads."""
    attention_BL = attention_BL.bool()
    return torch.where(attention_BL, attention_BL.long().cumsum(1) - 1, 1)


def shift_source(rows_N: Tensor, attention_BL: Tensor | None, length: int) -> Tensor:
    """Which hidden row predicts each token of a model with a shift: the only place that knows of it.

    A model that was adapted from an autoregressive one keeps its alignment: the state at position j predicts token
    j + 1. So token i is read from row i - 1, and from row i itself at the first real position of its row.

    Args:
        rows_N: int64, flat indices b · L + i into a [B, L] batch.
        attention_BL: as in `Transformer.forward`.
        length: L.

    Returns:
        int64 [N], flat indices into the unshifted hidden states.
    """
    first_N = rows_N % length == 0
    if attention_BL is not None:
        real_BL = attention_BL.bool()
        first_N = first_N | (real_BL & (real_BL.long().cumsum(1) == 1)).flatten()[rows_N]
    return rows_N - (~first_N).long()


def attention_mask(backend: str, dtype: torch.dtype, attention_BL: Tensor | None, visible_BLL: Tensor | None) -> Any:
    """The mask in the form `backend` takes; None if everything is visible.

    A pad is attended by nobody, except that a query with nothing to attend to sees itself: no row is empty, so no
    softmax gives NaN, and the state of such a row is never read.

    Raises:
        ValueError: `visible_BLL` with a flash backend, which knows pads only.
    """
    if attention_BL is None and visible_BLL is None:
        return None
    if backend.startswith("flash"):
        if visible_BLL is not None:
            raise ValueError(
                f"attention = {backend!r} cannot restrict visibility: choose sdpa, eager or flex_attention"
            )
        return attention_BL
    if visible_BLL is None:
        assert attention_BL is not None
        length = attention_BL.shape[1]
        seen = attention_BL.bool()[:, None, :].expand(-1, length, -1)
    else:
        seen = visible_BLL if attention_BL is None else visible_BLL & attention_BL.bool()[:, None, :]
    itself = torch.eye(seen.shape[1], dtype=torch.bool, device=seen.device)
    seen = (seen | (itself & ~seen.any(-1, keepdim=True)))[:, None]
    if backend == "sdpa":
        return seen
    if backend == "flex_attention":
        return _block_mask(seen)
    return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill_(~seen, torch.finfo(dtype).min)


def _block_mask(seen: Tensor) -> Any:
    """flex attention's own form of a bool [B, 1, L, L] mask."""
    from torch.nn.attention.flex_attention import create_block_mask

    def visible(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return seen[row, 0, query, key]

    rows, _, queries, keys = seen.shape
    return create_block_mask(visible, rows, None, queries, keys, device=seen.device)


def check_attention(backend: str) -> str:
    """Return `backend`, or raise ValueError if it is unknown or its package is missing."""
    if backend not in ATTENTION_PACKAGES:
        raise UserError(f"attention = {backend!r}: choose one of {', '.join(ATTENTION_PACKAGES)}")
    package = ATTENTION_PACKAGES[backend]
    if package is not None and importlib.util.find_spec(package) is None:
        raise UserError(
            f"attention = {backend!r} needs the package {package}, built for this machine: install it, or choose sdpa"
        )
    return backend
