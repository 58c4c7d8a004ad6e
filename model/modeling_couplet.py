"""A masked-diffusion language model for plain transformers: this file travels with an exported policy.

    model = AutoModel.from_pretrained(FOLDER, trust_remote_code=True)
    logits = model(input_ids, attention_mask).logits       # row i is the distribution of token i
    tokens = model.diffusion_generate(prompt_ids, max_new_tokens=256, steps=256)

It needs torch and transformers only, and reads the folders of Dream, Qwen2, Llama and LLaDA.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import MaskedLMOutput
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

TRANSFORMERS_NAMES = {
    "embed": "model.embed_tokens", "norm": "model.norm", "head": "lm_head", "layer": "model.layers",
    "norm1": "input_layernorm", "norm2": "post_attention_layernorm",
    "q": "self_attn.q_proj", "k": "self_attn.k_proj", "v": "self_attn.v_proj", "o": "self_attn.o_proj",
    "gate": "mlp.gate_proj", "up": "mlp.up_proj", "down": "mlp.down_proj",
}  # fmt: skip
LLADA_NAMES = {
    "embed": "model.transformer.wte", "norm": "model.transformer.ln_f", "head": "model.transformer.ff_out",
    "layer": "model.transformer.blocks", "norm1": "attn_norm", "norm2": "ff_norm",
    "q": "q_proj", "k": "k_proj", "v": "v_proj", "o": "attn_out", "gate": "ff_proj", "up": "up_proj", "down": "ff_out",
}  # fmt: skip


class CoupletConfig(PretrainedConfig):
    """The fields of config.json as they are; `sizes` gives them one set of names."""

    model_type = "couplet"

    def sizes(self) -> dict[str, Any]:
        """Sizes, switches and names that the model is built from."""
        if hasattr(self, "d_model"):  # LLaDA
            return {
                "vocab": self.embedding_size or self.vocab_size, "hidden": self.d_model, "ffn": self.mlp_hidden_size,
                "layers": self.n_layers, "heads": self.n_heads, "kv_heads": self.n_kv_heads or self.n_heads,
                "head": self.d_model // self.n_heads, "eps": self.rms_norm_eps, "tied": self.weight_tying,
                "bias": bool(self.include_qkv_bias), "shift": False, "names": LLADA_NAMES,
            }  # fmt: skip
        heads = self.num_attention_heads
        return {
            "vocab": self.vocab_size, "hidden": self.hidden_size, "ffn": self.intermediate_size,
            "layers": self.num_hidden_layers, "heads": heads, "kv_heads": self.num_key_value_heads,
            "head": getattr(self, "head_dim", None) or self.hidden_size // heads, "eps": self.rms_norm_eps,
            "tied": self.tie_word_embeddings, "bias": not hasattr(self, "attention_bias"), "shift": True,
            "names": TRANSFORMERS_NAMES,
        }  # fmt: skip

    def rotary(self, device: torch.device) -> tuple[Tensor, float]:
        """Inverse frequencies (float32) and the factor of the rotary embedding."""
        rope = getattr(self, "rope_parameters", None) or getattr(self, "rope_scaling", None) or {}
        kind = rope.get("rope_type", rope.get("type", "default"))
        if kind != "default":
            frequencies, factor = ROPE_INIT_FUNCTIONS[kind](self, device)
            return frequencies.float().to(device), float(factor)
        theta = rope.get("rope_theta") or getattr(self, "rope_theta", None) or 10000.0
        size = self.sizes()["head"]
        steps = torch.arange(0, size, 2, dtype=torch.int64, device=device).float() / size
        return 1.0 / theta**steps, 1.0


class Norm(nn.Module):
    """Root-mean-square norm, computed in float32."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(size)), eps

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps)
        return self.weight * wide.to(x.dtype)


def _place(root: nn.Module, name: str, module: nn.Module) -> None:
    """Make `module` the submodule of `root` with a dotted name."""
    *path, last = name.split(".")
    for part in path:
        if part not in dict(root.named_children()):
            root.add_module(part, nn.Module())
        root = root.get_submodule(part)
    root.add_module(last, module)


class Layer(nn.Module):
    """Attention over every position, and a gated feed-forward part; submodules have the folder's names."""

    def __init__(self, s: dict[str, Any]) -> None:
        super().__init__()
        self.names, self.head = s["names"], s["head"]
        width, kv = s["heads"] * s["head"], s["kv_heads"] * s["head"]
        linears = {
            "q": (s["hidden"], width, s["bias"]), "k": (s["hidden"], kv, s["bias"]), "v": (s["hidden"], kv, s["bias"]),
            "o": (width, s["hidden"], False), "gate": (s["hidden"], s["ffn"], False),
            "up": (s["hidden"], s["ffn"], False), "down": (s["ffn"], s["hidden"], False),
        }  # fmt: skip
        for role, (size_in, size_out, bias) in linears.items():
            _place(self, self.names[role], nn.Linear(size_in, size_out, bias=bias))
        for role in ("norm1", "norm2"):
            _place(self, self.names[role], Norm(s["hidden"], s["eps"]))

    def part(self, role: str, x: Tensor) -> Tensor:
        return self.get_submodule(self.names[role])(x)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, seen: Tensor | None) -> Tensor:
        normed = self.part("norm1", x)
        q, k, v = (self.part(role, normed).unflatten(-1, (-1, self.head)).transpose(1, 2) for role in "qkv")
        q, k = (h * cos + torch.cat((-h.chunk(2, -1)[1], h.chunk(2, -1)[0]), -1) * sin for h in (q, k))
        repeat = q.shape[1] // k.shape[1]
        k, v = k.repeat_interleave(repeat, 1), v.repeat_interleave(repeat, 1)
        mixed = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=seen)
        x = x + self.part("o", mixed.transpose(1, 2).flatten(2))
        normed = self.part("norm2", x)
        return x + self.part("down", nn.functional.silu(self.part("gate", normed)) * self.part("up", normed))


class CoupletModel(PreTrainedModel):
    """The transformer with its output head."""

    config_class = CoupletConfig
    base_model_prefix = ""
    _supports_sdpa = True
    _no_split_modules = ["Layer"]  # noqa: RUF012  # as transformers declares it

    def __init__(self, config: CoupletConfig) -> None:
        super().__init__(config)
        s = self.s = config.sizes()
        _place(self, s["names"]["embed"], nn.Embedding(s["vocab"], s["hidden"]))
        _place(self, s["names"]["layer"], nn.ModuleList(Layer(s) for _ in range(s["layers"])))
        _place(self, s["names"]["norm"], Norm(s["hidden"], s["eps"]))
        if not s["tied"]:
            _place(self, s["names"]["head"], nn.Linear(s["hidden"], s["vocab"], bias=False))
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Every weight comes from the folder."""

    def get_input_embeddings(self) -> nn.Module:
        return self.get_submodule(self.s["names"]["embed"])

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None, **_: Any) -> MaskedLMOutput:
        """`logits` [B, L, V] in float32: row i is the distribution of token i, whatever the family's alignment.

        Args:
            input_ids: int64 [B, L].
            attention_mask: [B, L], 0 at pads; None without pads.
        """
        real = torch.ones_like(input_ids, dtype=torch.bool) if attention_mask is None else attention_mask.bool()
        count = real.long().cumsum(1)
        x, seen = self.get_input_embeddings()(input_ids), None
        if attention_mask is not None:
            itself = torch.eye(input_ids.shape[1], dtype=torch.bool, device=real.device)
            seen = (real[:, None, :] | (itself & ~real.any(1)[:, None, None]))[:, None]
        frequencies, factor = self.config.rotary(x.device)
        angles = (count - 1).where(real, 1)[..., None].float() * frequencies
        angles = torch.cat((angles, angles), -1)[:, None]
        cos, sin = (factor * f(angles).to(x.dtype) for f in (torch.cos, torch.sin))
        layers: Any = self.get_submodule(self.s["names"]["layer"])
        for layer in layers:
            x = layer(x, cos, sin, seen)
        x = self.get_submodule(self.s["names"]["norm"])(x)
        if self.s["shift"]:  # the state at position j predicts token j + 1; the first real token is read from itself
            source = torch.arange(x.shape[1], device=x.device) - (~(real & (count == 1))).long()
            x = x.gather(1, source.clamp(min=0)[..., None].expand_as(x))
        head: Any = self.get_input_embeddings() if self.s["tied"] else self.get_submodule(self.s["names"]["head"])
        return MaskedLMOutput(logits=nn.functional.linear(x.float(), head.weight.float()))

    @torch.no_grad()
    def diffusion_generate(
        self,
        input_ids: Tensor,
        max_new_tokens: int = 256,
        steps: int = 256,
        temperature: float = 0.0,
        eps: float = 1e-3,
    ) -> Tensor:
        """Prompts of one length, int64 [B, L], with a canvas of `max_new_tokens` that is revealed in `steps` steps.

        At each step the positions with the lowest entropy are revealed, as many as Dream's linear times say. This is a
        plain loop; the sampler of Couplet has other orders, top-p, top-k and caches.
        """
        mask = self.config.mask_token_id
        canvas = input_ids.new_full((len(input_ids), max_new_tokens), mask)
        tokens, length = torch.cat((input_ids, canvas), 1), input_ids.shape[1]
        times = torch.linspace(1, eps, steps + 1).tolist()
        for step in range(steps):
            masked = tokens == mask
            masked[:, :length] = False
            left = int(masked[0].sum())
            count = left if step == steps - 1 else int(left * (1 - times[step + 1] / times[step]))
            if not count:
                continue
            logits = self(tokens).logits
            logits[..., mask] = -math.inf
            logp = (logits / temperature if temperature > 0 else logits).log_softmax(-1)
            p = logp.exp()
            drawn = torch.distributions.Categorical(p).sample() if temperature > 0 else p.argmax(-1)
            certainty = (p * logp.nan_to_num(neginf=0.0)).sum(-1).masked_fill(~masked, -math.inf)
            chosen = certainty.topk(count, -1).indices
            tokens = tokens.scatter(1, chosen, drawn.gather(1, chosen))
        return tokens
