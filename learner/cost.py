"""Floating-point operations of a training step, counted from the architecture (multiply and add count as two).

Left out: norms, softmax, rotary angles, the embedding look-up, and recomputation under gradient checkpointing.
"""

from __future__ import annotations

from typing import Any


def trunk_parameters(config: Any) -> int:
    """Weights of all layers, without embeddings and head, from a Qwen2-shaped configuration."""
    key_value = 2 * config.num_key_value_heads * config.head_size
    attention = config.hidden_size * (2 * config.num_attention_heads * config.head_size + key_value)
    return config.num_hidden_layers * (attention + 3 * config.hidden_size * config.intermediate_size)


def training_flops(config: Any, rows: int, length: int, head_rows: int) -> float:
    """Forward and backward of `rows` sequences of `length` tokens, with logits on `head_rows` positions."""
    trunk = 2 * trunk_parameters(config) * rows * length
    width = config.num_attention_heads * config.head_size
    attention = 4 * rows * length**2 * width * config.num_hidden_layers
    head = 2 * config.hidden_size * config.vocab_size * head_rows
    return 3.0 * (trunk + attention + head)
