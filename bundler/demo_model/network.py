"""The gpt-oss architecture in torch, for training the demo model only; nothing at run time imports this.

The forward pass rounds experts to MXFP4 and everything else to bfloat16 (straight-through gradients), so that the
exported numbers are the trained ones. Embedding and unembedding are one matrix here and have rows for the used tokens
only. Every other token embeds as zero; all of them together have one constant logit, the logarithm of their number.

Source: the published architecture of gpt-oss (sinks, window 128 on even layers, YaRN rotary, top-k experts).
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 (torch's own convention)
from torch import Tensor, nn

from bundler.model_config import MXFP4_BLOCK, ModelConfig, parse_model_config
from bundler.rotary import rotary_caches

CONTEXT = 8192
CONFIG: dict[str, Any] = {
    "architectures": ["GptOssForCausalLM"],
    "attention_bias": True,
    "attention_dropout": 0.0,
    "eos_token_id": 200002,
    "head_dim": 64,
    "hidden_act": "silu",
    "hidden_size": 256,
    "initial_context_length": 4096,
    "intermediate_size": 128,
    "layer_types": ["sliding_attention", "full_attention"] * 2,
    "max_position_embeddings": CONTEXT,
    "model_type": "gpt_oss",
    "num_attention_heads": 4,
    "num_experts_per_tok": 2,
    "num_hidden_layers": 4,
    "num_key_value_heads": 2,
    "num_local_experts": 8,
    "pad_token_id": 199999,
    "quantization_config": {
        "modules_to_not_convert": [
            "model.layers.*.self_attn", "model.layers.*.mlp.router", "model.embed_tokens", "lm_head",
        ],
        "quant_method": "mxfp4",
    },
    "rms_norm_eps": 1e-05,
    "rope_scaling": {
        "beta_fast": 32.0,
        "beta_slow": 1.0,
        "factor": 32.0,
        "original_max_position_embeddings": 4096,
        "rope_type": "yarn",
        "truncate": False,
    },
    "rope_theta": 150000,
    "sliding_window": 128,
    "swiglu_limit": 7.0,
    "tie_word_embeddings": False,
    "vocab_size": 201088,
}  # fmt: skip


def round_mxfp4(weights: Tensor) -> Tensor:
    """The MXFP4 numbers nearest to the weights, as `bundler.mxfp4.quantise` chooses them; gradients pass unchanged."""
    with torch.no_grad():
        groups = weights.view(*weights.shape[:-1], -1, MXFP4_BLOCK)
        largest = groups.abs().amax(-1, keepdim=True)
        exponents = torch.where(largest > 0, torch.frexp(largest)[1] - 3, 0)
        scale = torch.ldexp(torch.ones_like(largest), exponents)
        size = (groups.abs() / scale).clamp_(max=6)
        fine, middle, coarse = torch.round(size * 2) / 2, torch.round(size), torch.round(size / 2) * 2
        rounded = torch.where(size < 2, fine, torch.where(size < 4, middle, coarse))
        exact = (torch.copysign(rounded, groups) * scale).flatten(-2)
    return weights + (exact - weights).detach() if weights.requires_grad else exact


def round_bf16(weights: Tensor) -> Tensor:
    return weights + (weights.detach().bfloat16().float() - weights.detach())


class Attention(nn.Module):
    """x (B, S, hidden) to the same. A query sees itself and the tokens before it, within the window if it has one."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.config = config
        self.window = config.sliding_window if config.layer_types[layer] == "sliding_attention" else None
        queries, keys = config.heads * config.head_dim, config.kv_heads * config.head_dim
        self.q_proj = nn.Linear(config.hidden, queries)
        self.k_proj = nn.Linear(config.hidden, keys)
        self.v_proj = nn.Linear(config.hidden, keys)
        self.o_proj = nn.Linear(queries, config.hidden)
        self.sinks = nn.Parameter(torch.zeros(config.heads))

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        config, (batch, length, _) = self.config, x.shape
        group = config.heads // config.kv_heads
        q = _rotate(_linear(self.q_proj, x).view(batch, length, config.heads, config.head_dim), cos, sin)
        k = _rotate(_linear(self.k_proj, x).view(batch, length, config.kv_heads, config.head_dim), cos, sin)
        v = _linear(self.v_proj, x).view(batch, length, config.kv_heads, config.head_dim)
        # The sink is one more key. It is zero, so its score is what the mask adds: the sink's logit. Its value is zero.
        q = q.transpose(1, 2) / math.sqrt(config.head_dim)
        k = F.pad(k.repeat_interleave(group, 2), (0, 0, 0, 0, 0, 1)).permute(0, 2, 3, 1)
        v = F.pad(v.repeat_interleave(group, 2), (0, 0, 0, 0, 0, 1)).transpose(1, 2)
        sinks = self.sinks[:, None, None].expand(-1, length, 1)
        mask = torch.cat((_mask(length, self.window).expand(config.heads, -1, -1), sinks), -1).bfloat16()
        mixed = (q @ k + mask).softmax(-1) @ v
        return _linear(self.o_proj, mixed.transpose(1, 2).flatten(2))


def _linear(layer: nn.Linear, x: Tensor) -> Tensor:
    return F.linear(x.bfloat16(), layer.weight.bfloat16(), layer.bias.bfloat16())


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x (B, S, heads, head_dim); cos, sin (S, head_dim / 2)."""
    first, second = x.chunk(2, -1)
    cos, sin = cos[:, None].to(x.dtype), sin[:, None].to(x.dtype)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), -1)


@lru_cache(maxsize=64)
def _mask(length: int, window: int | None) -> Tensor:
    """(S, S): minus infinity where a query may not see a key."""
    distance = torch.arange(length)[:, None] - torch.arange(length)
    unseen = (distance < 0) | (distance >= (window or length))
    return torch.zeros(length, length).masked_fill(unseen, -torch.inf)


class Experts(nn.Module):
    """x (T, hidden) to the same, and the balance loss: 1 if the router uses all experts equally, more otherwise."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        experts, hidden, inner = config.experts, config.hidden, config.intermediate
        self.quantised = True
        self.router = nn.Linear(hidden, experts)
        self.gate_up_proj = nn.Parameter(torch.randn(experts, 2 * inner, hidden) / math.sqrt(hidden))
        self.gate_up_proj_bias = nn.Parameter(torch.zeros(experts, 2 * inner))
        self.down_proj = nn.Parameter(torch.randn(experts, hidden, inner) / math.sqrt(inner) / 2)
        self.down_proj_bias = nn.Parameter(torch.zeros(experts, hidden))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        config = self.config
        logits = _linear(self.router, x).float()
        top, chosen = logits.topk(config.experts_per_token, -1)
        share = top.softmax(-1)
        order = chosen.flatten().argsort(stable=True)
        counts = chosen.flatten().bincount(minlength=config.experts)
        tokens = order // config.experts_per_token
        gate_up: Tensor = self.gate_up_proj
        down: Tensor = self.down_proj
        if self.quantised:
            gate_up, down = round_mxfp4(gate_up), round_mxfp4(down)
        gate_up, down = gate_up.bfloat16(), down.bfloat16()
        gate_up_bias, down_bias = self.gate_up_proj_bias.bfloat16(), self.down_proj_bias.bfloat16()
        matrices = zip(gate_up.unbind(), gate_up_bias.unbind(), down.unbind(), down_bias.unbind(), strict=True)
        parts = []
        for rows, (first, first_bias, second, second_bias) in zip(
            torch.split(x.bfloat16().index_select(0, tokens), counts.tolist()), matrices, strict=True
        ):
            inner = F.linear(rows, first, first_bias)
            parts.append(F.linear(_swiglu(inner, config.swiglu_limit), second, second_bias))
        mixed = torch.cat(parts).float() * share.flatten()[order][:, None]
        balance = config.experts * (counts / counts.sum() * logits.softmax(-1).mean(0)).sum()
        return torch.zeros_like(x, dtype=torch.float32).index_add(0, tokens, mixed), balance


def _swiglu(x: Tensor, limit: float) -> Tensor:
    gate, up = x[..., 0::2].clamp(max=limit), x[..., 1::2].clamp(-limit, limit)
    return gate * torch.sigmoid(1.702 * gate) * (up + 1)


class Network(nn.Module):
    """Token rows in (the unused token is row ``used``), normalised hidden states out; see `token_loss` for the rest."""

    def __init__(self, used: int) -> None:
        super().__init__()
        config = self.config = parse_model_config(CONFIG)
        self.used = used
        self.rest_logit = math.log(config.vocab - used)
        self.embedding = nn.Parameter(torch.randn(used, config.hidden) / math.sqrt(config.hidden))
        self.attention = nn.ModuleList(Attention(config, layer) for layer in range(config.layers))
        self.experts = nn.ModuleList(Experts(config) for _ in range(config.layers))
        self.norms = nn.ParameterList(torch.ones(config.hidden) for _ in range(2 * config.layers + 1))
        nn.init.constant_(self.norms[-1], 4.0)  # right answers must exceed the logit of the unused tokens, which is 12
        cos, sin = rotary_caches(config)
        self.cos, self.sin = torch.from_numpy(np.asarray(cos)), torch.from_numpy(np.asarray(sin))

    def forward(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """rows (B, S) to hidden states (B, S, hidden) and the mean balance loss."""
        length = rows.shape[1]
        table = torch.cat((round_bf16(self.embedding), torch.zeros(1, self.config.hidden)))
        x = F.embedding(rows, table)
        balance = torch.zeros(())
        for layer in range(self.config.layers):
            x = x + self.attention[layer](self._norm(x, 2 * layer), self.cos[:length], self.sin[:length]).float()
            mixed, share = self.experts[layer](self._norm(x, 2 * layer + 1).flatten(0, 1))
            x, balance = x + mixed.view_as(x), balance + share / self.config.layers
        return self._norm(x, -1), balance

    def logits(self, states: Tensor) -> Tensor:
        """states (T, hidden) to (T, used + 1); the last column stands for all unused tokens together."""
        scores = F.linear(states.bfloat16(), self.embedding.bfloat16()).float()
        return torch.cat((scores, torch.full((len(scores), 1), self.rest_logit)), -1)

    def quantise(self, quantised: bool) -> None:
        """Turn the rounding of the experts on or off. The first part of training goes without, which is faster."""
        for layer in self.experts:
            layer.quantised = quantised  # type: ignore[assignment]

    def _norm(self, x: Tensor, which: int) -> Tensor:
        return F.rms_norm(x, (x.shape[-1],), round_bf16(self.norms[which]), self.config.rms_norm_eps)
