"""Writes LoRA adapters as PEFT lays them out, and says in float64 what each adds. It shares no code with the reader."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

Array = NDArray[np.float64]


@dataclass
class Adapter:
    """The tensors of an adapter, its configuration, and what it adds to [rows, depth] matrices."""

    rank: int = 4
    alpha: float = 16
    config: dict[str, Any] = field(default_factory=dict)
    tensors: dict[str, NDArray[np.float32]] = field(default_factory=dict)
    added: dict[str, Array] = field(default_factory=dict)  # by matrix; experts as NAME/EXPERT
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(11))

    def factor(self, *shape: int) -> NDArray[np.float32]:
        return (self.rng.standard_normal(shape) / 8).astype(np.float32)

    def linear(self, module: str, matrix: str, rows: int, depth: int, *, scaling: float | None = None) -> None:
        """Factors of one linear layer."""
        a, b = self.factor(self.rank, depth), self.factor(rows, self.rank)
        self.tensors |= {f"{module}.lora_A.weight": a, f"{module}.lora_B.weight": b}
        scale = self.alpha / self.rank if scaling is None else scaling
        self.added[matrix] = scale * b.astype(np.float64) @ a.astype(np.float64)

    def fused(self, module: str, matrix: str, experts: int, rows: int, depth: int, *, swapped: bool = False) -> None:
        """Factors of a parameter [experts, depth, rows]: PEFT takes its last two dimensions as (in, out) or swapped."""
        inputs, outputs = (rows, depth) if swapped else (depth, rows)
        a, b = self.factor(experts * self.rank, inputs), self.factor(outputs, self.rank * experts)
        self.tensors |= {f"{module}.lora_A.weight": a, f"{module}.lora_B.weight": b}
        by_expert = a.reshape(experts, self.rank, inputs), b.reshape(outputs, self.rank, experts)
        for expert in range(experts):
            product = self.alpha / self.rank * by_expert[1][:, :, expert].astype(np.float64) @ by_expert[0][expert]
            self.added[f"{matrix}/{expert}"] = product.T if swapped else product

    def write(self, directory: Path, **config: Any) -> Path:
        directory.mkdir()
        body = {"peft_type": "LORA", "r": self.rank, "lora_alpha": self.alpha, "bias": "none", "task_type": "CAUSAL_LM",
                "base_model_name_or_path": "openai/gpt-oss-20b", **self.config, **config}  # fmt: skip
        (directory / "adapter_config.json").write_text(json.dumps(body))
        save_file(self.tensors, directory / "adapter_model.safetensors")
        return directory
