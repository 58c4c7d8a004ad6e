"""Tiny checkpoints in a published layout, and the golden logits of the published classes.

The weights follow from their names, so a golden file holds the configuration, names and shapes, tokens and logits only.
Regenerate with the public modeling files (never part of this repository) in FOLDER, one per family:

    python -m tests.model.originals llada FOLDER     # configuration_llada.py, modeling_llada.py
    python -m tests.model.originals Dream FOLDER     # configuration_dream.py, generation_utils.py, modeling_dream.py
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import zlib
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

VOCABULARY = 64
TOKENS = [[3, 17, 9, 60, 60, 21, 60], [60, 60, 5, 33, 41, 60, 2]]

CONFIGS = {
    "llada": {
        "model_type": "llada",
        "architectures": ["LLaDAModelLM"],
        "d_model": 32,
        "n_layers": 2,
        "n_heads": 4,
        "n_kv_heads": 4,
        "mlp_hidden_size": 48,
        "mlp_ratio": 4,
        "vocab_size": 64,
        "embedding_size": 64,
        "max_sequence_length": 64,
        "rope_theta": 500000.0,
        "rms_norm_eps": 1e-5,
        "weight_tying": False,
        "block_type": "llama",
        "block_group_size": 1,
        "activation_type": "silu",
        "layer_norm_type": "rms",
        "layer_norm_with_affine": True,
        "attention_layer_norm": False,
        "attention_layer_norm_with_affine": True,
        "bias_for_layer_norm": False,
        "include_bias": False,
        "include_qkv_bias": False,
        "rope": True,
        "rope_full_precision": True,
        "alibi": False,
        "alibi_bias_max": 8.0,
        "flash_attention": False,
        "multi_query_attention": None,
        "input_emb_norm": False,
        "scale_logits": False,
        "attention_dropout": 0.0,
        "residual_dropout": 0.0,
        "embedding_dropout": 0.0,
        "init_device": "cpu",
        "init_fn": "mitchell",
        "init_std": 0.02,
        "init_cutoff_factor": None,
        "precision": "amp_bf16",
        "use_cache": False,
        "mask_token_id": 60,
        "eos_token_id": 61,
        "pad_token_id": 61,
    },
    "Dream": {
        "model_type": "Dream",
        "architectures": ["DreamModel"],
        "vocab_size": 64,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "hidden_act": "silu",
        "max_position_embeddings": 128,
        "max_window_layers": 2,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1e6,
        "rope_scaling": None,
        "attention_dropout": 0.0,
        "initializer_range": 0.02,
        "tie_word_embeddings": False,
        "use_cache": False,
        "use_sliding_window": False,
        "sliding_window": None,
        "mask_token_id": 60,
        "pad_token_id": 61,
        "bos_token_id": 61,
        "eos_token_id": 61,
    },
}


def weight(name: str, shape: list[int]) -> torch.Tensor:
    """The same numbers on every machine: NumPy's legacy generator is frozen."""
    draw = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape).astype(np.float32)
    return torch.from_numpy(1.0 + 0.1 * draw if len(shape) == 1 and "bias" not in name else 0.3 * draw)


def golden(family: str) -> dict:
    """What the published class computed."""
    return json.loads(Path(__file__).with_name(f"golden_{family.lower()}.json").read_text())


def write_original(
    folder: Path, family: str, vocabulary: int = VOCABULARY, **fields: object
) -> dict[str, torch.Tensor]:
    """The tiny checkpoint of `family` as its authors would publish it; returns its tensors.

    `vocabulary` and `fields` of the configuration may be others than those of the golden logits.
    """
    folder.mkdir()
    sizes = {key: vocabulary for key in ("vocab_size", "embedding_size") if key in CONFIGS[family]}
    (folder / "config.json").write_text(json.dumps(CONFIGS[family] | sizes | fields, indent=2))
    tensors = {
        name: weight(name, [vocabulary if size == VOCABULARY else size for size in shape])
        for name, shape in golden(family)["shapes"].items()
    }
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return tensors


def _published_logits(family: str, folder: str) -> dict:
    sys.path.insert(0, str(Path(folder).parent))
    package = Path(folder).name
    name = family.lower()
    config_class = {"llada": "LLaDAConfig", "Dream": "DreamConfig"}[family]
    model_class = {"llada": "LLaDAModelLM", "Dream": "DreamModel"}[family]
    configuration = importlib.import_module(f"{package}.configuration_{name}")
    modeling = importlib.import_module(f"{package}.modeling_{name}")
    fields = {key: value for key, value in CONFIGS[family].items() if key not in ("model_type", "architectures")}
    config = getattr(configuration, config_class)(**fields)
    if family == "Dream":
        config._attn_implementation = "sdpa"
    model = getattr(modeling, model_class)(config).float().eval()
    state = model.state_dict()
    model.load_state_dict({key: weight(key, list(value.shape)) for key, value in state.items()})
    with torch.no_grad():
        logits = model(torch.tensor(TOKENS)).logits
    shapes = {key: list(value.shape) for key, value in state.items()}
    return {"shapes": shapes, "logits": [[[round(v, 6) for v in row] for row in seq] for seq in logits.tolist()]}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.model.originals", description=__doc__)
    parser.add_argument("family", choices=CONFIGS)
    parser.add_argument("folder")
    options = parser.parse_args()
    path = Path(__file__).with_name(f"golden_{options.family.lower()}.json")
    path.write_text(json.dumps(_published_logits(options.family, options.folder)) + "\n")
    print(f"wrote {path}")
