"""Model families: how the folders of one architecture map to the transformer of `model.transformer`, and back.

A family is one entry of `MODEL_FAMILIES`, keyed by the `model_type` of its `config.json`. A new one needs a function
that reads the fields, one that writes them, names for the weights that are called differently, and its test.
No code from a model folder is executed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from couplet.model.errors import ModelFolderError
from couplet.model.transformer import TransformerConfig

Fields = Mapping[str, Any]


@dataclass(frozen=True)
class Family:
    """What the folders of one `model_type` have in common.

    Attributes:
        architecture: class that `config.json` names.
        read: fields of `config.json` → those of `TransformerConfig`; raises `ModelFolderError` for what is unsupported.
        write: the inverse, without special tokens.
        weights: this project's name of a weight → the folder's, `{n}` the layer; weights not listed keep their name.
        shift: the state at position j predicts token j + 1.
        mask_tokens, filler_tokens, end_tokens: names under which a tokenizer of this family may have them.
        adapted: family in which an adapted autoregressive folder is written; None = this one.
        remote_classes: auto class → class in the family's hub repositories, for `auto_map` of an export.
        chat: format of the chat template that its tokenizers bring.
    """

    architecture: str
    read: Callable[[Fields], dict[str, Any]]
    write: Callable[[TransformerConfig], dict[str, Any]]
    weights: Mapping[str, str] = field(default_factory=dict)
    shift: bool = True
    mask_tokens: tuple[str, ...] = ("<|mask|>",)
    filler_tokens: tuple[str, ...] = ("<|dlm_pad|>",)
    end_tokens: tuple[str, ...] = ("<|im_end|>",)
    adapted: str | None = None
    remote_classes: Mapping[str, str] = field(default_factory=dict)
    chat: str = "ChatML"

    def stored_name(self, name: str) -> str:
        """The folder's name of weight `name`."""
        return _renamed(name, self.weights)

    def own_name(self, stored_name: str) -> str:
        """This project's name of the folder's weight `stored_name`."""
        return _renamed(stored_name, {theirs: own for own, theirs in self.weights.items()})


def family_of(fields: Fields, where: object) -> tuple[str, Family]:
    """Key and family of a `config.json`.

    Raises:
        ModelFolderError: an unknown `model_type`.
    """
    key = fields.get("model_type")
    if key not in MODEL_FAMILIES:
        raise ModelFolderError(f"{where}: model_type = {key!r}: choose one of {', '.join(MODEL_FAMILIES)}")
    return str(key), MODEL_FAMILIES[str(key)]


def _renamed(name: str, names: Mapping[str, str]) -> str:
    layer = re.search(r"\.(\d+)\.", name)
    if layer is None:
        return names.get(name, name)
    template = name[: layer.start()] + ".{n}." + name[layer.end() :]
    return names.get(template, template).replace("{n}", layer.group(1))


# --- Qwen2, Dream and Llama: transformers' field names --------------------------------------------------------------

_SIZES = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
_SHARED = (
    *_SIZES,
    *("num_key_value_heads", "hidden_act", "max_position_embeddings", "max_window_layers", "rms_norm_eps"),
    *("attention_dropout", "initializer_range", "tie_word_embeddings"),
)
_THETA = 10000.0  # the default of all these classes


def _rope(fields: Fields) -> dict[str, Any]:
    """Rotary parameters in transformers 5's form, from its own field or from the two older ones."""
    rope = dict(fields.get("rope_parameters") or fields.get("rope_scaling") or {})
    kind = rope.pop("type", None)  # the key of transformers before 4.43
    theta = fields.get("rope_theta")
    return (
        {"rope_theta": _THETA if theta is None else theta}
        | rope
        | {"rope_type": rope.get("rope_type", kind) or "default"}
    )


def _read_transformers(fields: Fields) -> dict[str, Any]:
    _require(fields, _SIZES)
    kept = {key: fields[key] for key in _SHARED if fields.get(key) is not None}
    kept.setdefault("num_key_value_heads", kept["num_attention_heads"])
    if fields.get("head_dim") is not None:
        kept["head_dim"] = fields["head_dim"]
    return kept | {"rope_parameters": _rope(fields)}


def _write_transformers(config: TransformerConfig) -> dict[str, Any]:
    rope = dict(config.rope_parameters or {})
    theta = rope.pop("rope_theta", _THETA)
    plain = rope.get("rope_type", "default") == "default"
    fields = {
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
    }
    if getattr(config, "head_dim", None) is not None:
        fields["head_dim"] = config.head_size
    return fields


_LLAMA_DEFAULTS = {"hidden_act": "silu", "max_position_embeddings": 2048, "rms_norm_eps": 1e-6}
_QWEN2_ONLY = ("max_window_layers", "use_sliding_window", "sliding_window")


def _read_llama(fields: Fields) -> dict[str, Any]:
    for key in ("attention_bias", "mlp_bias"):
        _supported(key, fields.get(key), (None, False))
    _supported("pretraining_tp", fields.get("pretraining_tp"), (None, 1))
    return _LLAMA_DEFAULTS | _read_transformers(fields) | {"qkv_bias": False}


def _write_llama(config: TransformerConfig) -> dict[str, Any]:
    fields = {key: value for key, value in _write_transformers(config).items() if key not in _QWEN2_ONLY}
    return fields | {"attention_bias": False, "mlp_bias": False}


# --- LLaDA: the names of OLMo, of which it uses one variant ---------------------------------------------------------

_LLADA_FIELDS = {
    "hidden_size": "d_model",
    "num_hidden_layers": "n_layers",
    "num_attention_heads": "n_heads",
    "intermediate_size": "mlp_hidden_size",
    "max_position_embeddings": "max_sequence_length",
    "rms_norm_eps": "rms_norm_eps",
    "attention_dropout": "attention_dropout",
    "initializer_range": "init_std",
    "hidden_act": "activation_type",
    "tie_word_embeddings": "weight_tying",
}
_LLADA_DEFAULTS = {"max_sequence_length": 1024, "rms_norm_eps": 1e-5, "attention_dropout": 0.1, "init_std": 0.02}
_LLADA_VARIANT: dict[str, tuple[Any, ...]] = {  # field → values that this transformer computes; the first is written
    "block_type": ("llama",),
    "activation_type": ("silu",),
    "layer_norm_type": ("rms",),
    "layer_norm_with_affine": (True, None),
    "rope": (True,),
    "alibi": (False, None),
    "attention_layer_norm": (False, None),
    "input_emb_norm": (False, None),
    "scale_logits": (False, None),
    "include_bias": (False, None),
    "multi_query_attention": (None, False),
    "block_group_size": (1, None),
    "clip_qkv": (None,),
}


def _read_llada(fields: Fields) -> dict[str, Any]:
    _require(fields, ("d_model", "n_layers", "n_heads", "vocab_size"))
    for key, values in _LLADA_VARIANT.items():
        _supported(key, fields.get(key), values)
    fields = _LLADA_DEFAULTS | {"weight_tying": True, "mlp_hidden_size": None} | dict(fields)
    kept = {own: fields[theirs] for own, theirs in _LLADA_FIELDS.items()}
    if kept["intermediate_size"] is None:
        kept["intermediate_size"] = fields.get("mlp_ratio", 4) * fields["d_model"]
    theta = fields.get("rope_theta")
    return kept | {
        "vocab_size": fields.get("embedding_size") or fields["vocab_size"],
        "num_key_value_heads": fields.get("n_kv_heads") or fields["n_heads"],
        "qkv_bias": bool(fields.get("include_qkv_bias")),
        "rope_parameters": {"rope_type": "default", "rope_theta": _THETA if theta is None else theta},
    }


def _write_llada(config: TransformerConfig) -> dict[str, Any]:
    fields = {key: values[0] for key, values in _LLADA_VARIANT.items() if key != "clip_qkv"}
    fields |= {theirs: getattr(config, own) for own, theirs in _LLADA_FIELDS.items()}
    return fields | {
        "vocab_size": config.vocab_size,
        "embedding_size": config.vocab_size,
        "n_kv_heads": config.num_key_value_heads,
        "include_qkv_bias": config.qkv_bias,
        "rope_theta": (config.rope_parameters or {}).get("rope_theta", _THETA),
        "use_cache": False,
    }


def _require(fields: Fields, keys: tuple[str, ...]) -> None:
    """Raise unless every one of `keys` is a size."""
    for key in keys:
        value = fields.get(key)
        if value is None:
            kind = fields.get("model_type")
            raise ModelFolderError(f"config.json lacks {key}: it does not describe a model of model_type {kind!r}")
        if type(value) is not int or value < 1:
            raise ModelFolderError(f"config.json: {key} = {value!r}: must be a whole number of at least 1")


def _supported(key: str, value: Any, values: tuple[Any, ...]) -> None:
    if value not in values:
        raise ModelFolderError(f"config.json: {key} = {value!r} is not supported; only {values[0]!r} is")


MODEL_FAMILIES: dict[str, Family] = {
    # Dream, Dream-Coder and DiffuCoder
    "Dream": Family(
        architecture="DreamModel",
        read=_read_transformers,
        write=_write_transformers,
        remote_classes={
            "AutoConfig": "configuration_dream.DreamConfig",
            "AutoModel": "modeling_dream.DreamModel",
            "AutoTokenizer": "tokenization_dream.DreamTokenizer",
        },
    ),
    # Qwen2.5 as a start for adaptation, and diffusion models under Qwen2's name (Open-dCoder, whose loader adds the mask)
    "qwen2": Family(
        architecture="Qwen2ForCausalLM",
        read=_read_transformers,
        write=_write_transformers,
        mask_tokens=("<|mask|>", "<M>", "[MASK]"),
        adapted="Dream",
    ),
    # SmolLM2, Llama 3 and what was adapted from them
    "llama": Family(
        architecture="LlamaForCausalLM",
        read=_read_llama,
        write=_write_llama,
        end_tokens=("<|im_end|>", "<|eot_id|>"),
        chat="ChatML (SmolLM2), header ids (Llama 3)",
    ),
    # LLaDA-8B Base, Instruct and 1.5
    "llada": Family(
        architecture="LLaDAModelLM",
        read=_read_llada,
        write=_write_llada,
        weights={
            "model.embed_tokens.weight": "model.transformer.wte.weight",
            "model.norm.weight": "model.transformer.ln_f.weight",
            "lm_head.weight": "model.transformer.ff_out.weight",
            **{
                f"model.layers.{{n}}.{own}.{part}": f"model.transformer.blocks.{{n}}.{theirs}.{part}"
                for own, theirs in {
                    "input_layernorm": "attn_norm",
                    "post_attention_layernorm": "ff_norm",
                    "self_attn.q_proj": "q_proj",
                    "self_attn.k_proj": "k_proj",
                    "self_attn.v_proj": "v_proj",
                    "self_attn.o_proj": "attn_out",
                    "mlp.gate_proj": "ff_proj",
                    "mlp.up_proj": "up_proj",
                    "mlp.down_proj": "ff_out",
                }.items()
                for part in ("weight", "bias")
            },
        },
        shift=False,
        mask_tokens=("<|mdm_mask|>",),
        filler_tokens=(),
        end_tokens=("<|eot_id|>", "<|endoftext|>"),
        remote_classes={
            "AutoConfig": "configuration_llada.LLaDAConfig",
            "AutoModelForCausalLM": "modeling_llada.LLaDAModelLM",
            "AutoModel": "modeling_llada.LLaDAModelLM",
        },
        chat="header ids, as Llama 3",
    ),
}
