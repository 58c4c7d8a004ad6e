"""Parameters and floating-point operations of a transformer, counted from its sizes (multiply and add count as two).

Left out of the operations: norms, softmax, rotary angles, biases, and the embedding look-up.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

_CHUNK_ELEMENTS = {"cpu": 2**25, "cuda": 2**28}  # 220 and 1,765 rows of 152,064: a GPU needs larger products


def default_chunk_rows(vocabulary: int, device: str) -> int:
    """Rows whose logits are held at a time: 128 MiB of float32 on a CPU, 1 GiB elsewhere."""
    return max(1, _CHUNK_ELEMENTS.get(device, _CHUNK_ELEMENTS["cuda"]) // vocabulary)


@dataclass(frozen=True)
class ModelSize:
    """The sizes that memory and time depend on."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_size: int
    ffn: int
    vocabulary: int
    tied: bool
    qkv_bias: bool = True

    @classmethod
    def of(cls, config: Any) -> ModelSize:
        """Of a `model.transformer.TransformerConfig`."""
        return cls(
            config.hidden_size,
            config.num_hidden_layers,
            config.num_attention_heads,
            config.num_key_value_heads,
            config.head_size,
            config.intermediate_size,
            config.vocab_size,
            config.tie_word_embeddings,
            config.qkv_bias,
        )

    @property
    def width(self) -> int:
        """Of all query heads together."""
        return self.heads * self.head_size

    @property
    def matrices(self) -> int:
        """Weights of the layers that take part in matrix products."""
        attention = self.hidden * (2 * self.width + 2 * self.kv_heads * self.head_size)
        return self.layers * (attention + 3 * self.hidden * self.ffn)

    @property
    def head(self) -> int:
        """Parameters of the output head."""
        return self.hidden * self.vocabulary

    @property
    def total(self) -> int:
        """All parameters."""
        biases = self.width + 2 * self.kv_heads * self.head_size if self.qkv_bias else 0
        norms = self.layers * (biases + 2 * self.hidden) + self.hidden
        return self.matrices + norms + self.head * (1 if self.tied else 2)

    def adapter(self, rank: int, targets: Collection[str]) -> int:
        """Weights of a LoRA adapter around the layers that `targets` names."""
        keys = self.kv_heads * self.head_size
        ends = {
            "q_proj": self.hidden + self.width,
            "k_proj": self.hidden + keys,
            "v_proj": self.hidden + keys,
            "o_proj": self.width + self.hidden,
            "gate_proj": self.hidden + self.ffn,
            "up_proj": self.hidden + self.ffn,
            "down_proj": self.ffn + self.hidden,
        }
        return self.layers * rank * sum(ends[target] for target in targets if target in ends)

    def forward_flops(self, rows: float, length: int, head_rows: float) -> float:
        """One forward pass over `rows` sequences of `length` tokens, with logits at `head_rows` positions in all."""
        attention = 4 * length**2 * self.width * self.layers
        return rows * (2 * self.matrices * length + attention) + 2 * self.head * head_rows

    def training_flops(self, rows: float, length: int, head_rows: float) -> float:
        """Forward and backward, without recomputation."""
        return 3.0 * self.forward_flops(rows, length, head_rows)
