"""The layout in which gpt-oss is published: which tensors a checkpoint has, of which type and shape.

For layer N (E experts, H hidden, I intermediate, q and kv the widths of all heads; BF16 unless another type is named):

    model.embed_tokens.weight, lm_head.weight           [vocabulary, H]        model.norm.weight [H]
    model.layers.N.input_layernorm.weight               [H]    and post_attention_layernorm
    model.layers.N.self_attn.q_proj.weight, .bias       [q, H], [q]    k_proj, v_proj: [kv, H];  o_proj: [H, q]
    model.layers.N.self_attn.sinks                      [heads]
    model.layers.N.mlp.router.weight, .bias             [E, H], [E]
    model.layers.N.mlp.experts.gate_up_proj_blocks      U8 [E, 2I, H/32, 16]   _scales U8 [E, 2I, H/32]   _bias [E, 2I]
    model.layers.N.mlp.experts.down_proj_blocks         U8 [E, H, I/32, 16]    _scales U8 [E, H, I/32]    _bias [E, H]
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from bundler.model_config import MXFP4_BLOCK, ModelConfig


@dataclass(frozen=True)
class TensorSpec:
    """What the layout demands of one tensor."""

    dtype: Literal["BF16", "U8"]
    shape: tuple[int, ...]

    @property
    def size_bytes(self) -> int:
        return math.prod(self.shape) * {"BF16": 2, "U8": 1}[self.dtype]

    def __str__(self) -> str:
        return f"{self.dtype} {list(self.shape)}"


def expected_tensors(config: ModelConfig) -> dict[str, TensorSpec]:
    """Every tensor of the layout, in the order of the computation."""
    hidden = config.hidden
    specs = {"model.embed_tokens.weight": TensorSpec("BF16", (config.vocab, hidden))}
    for layer in range(config.layers):
        specs |= {f"model.layers.{layer}.{name}": spec for name, spec in _layer_tensors(config).items()}
    specs["model.norm.weight"] = TensorSpec("BF16", (hidden,))
    specs["lm_head.weight"] = TensorSpec("BF16", (config.vocab, hidden))
    return specs


def _layer_tensors(config: ModelConfig) -> dict[str, TensorSpec]:
    hidden, experts = config.hidden, config.experts
    queries, keys = config.heads * config.head_dim, config.kv_heads * config.head_dim
    dense = {
        "input_layernorm.weight": (hidden,),
        "self_attn.q_proj.weight": (queries, hidden),
        "self_attn.q_proj.bias": (queries,),
        "self_attn.k_proj.weight": (keys, hidden),
        "self_attn.k_proj.bias": (keys,),
        "self_attn.v_proj.weight": (keys, hidden),
        "self_attn.v_proj.bias": (keys,),
        "self_attn.sinks": (config.heads,),
        "self_attn.o_proj.weight": (hidden, queries),
        "self_attn.o_proj.bias": (hidden,),
        "post_attention_layernorm.weight": (hidden,),
        "mlp.router.weight": (experts, hidden),
        "mlp.router.bias": (experts,),
    }
    specs = {name: TensorSpec("BF16", shape) for name, shape in dense.items()}
    for name, rows, depth in (
        ("gate_up_proj", 2 * config.intermediate, hidden),
        ("down_proj", hidden, config.intermediate),
    ):
        blocks = depth // MXFP4_BLOCK
        specs[f"mlp.experts.{name}_blocks"] = TensorSpec("U8", (experts, rows, blocks, MXFP4_BLOCK // 2))
        specs[f"mlp.experts.{name}_scales"] = TensorSpec("U8", (experts, rows, blocks))
        specs[f"mlp.experts.{name}_bias"] = TensorSpec("BF16", (experts, rows))
    return specs
