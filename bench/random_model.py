"""Random models of named shapes, for benchmarks whose answers need not make sense."""

from __future__ import annotations

import shutil
from functools import cache
from pathlib import Path

import numpy as np

from bundler.checkpoint import open_checkpoint
from bundler.export import MODEL, export_graph
from bundler.graph.cpu import DenseKind
from bundler.graph.plan import Accelerator
from bundler.random_checkpoint import random_config, write_random_checkpoint
from installer.formats.graph import FORMAT

_20B = {
    "hidden": 2880, "intermediate": 2880, "experts": 32, "experts_per_token": 4,
    "heads": 64, "kv_heads": 8, "head_dim": 64, "vocab": 201_088,
}  # fmt: skip
# "tiny" tries a benchmark out: its figures mean nothing.
SHAPES: dict[str, dict[str, int]] = {
    "20b": {"layers": 24, **_20B},
    "20b-4": {"layers": 4, **_20B},  # fewer of the same layers, for a quick look
    "120b": {"layers": 36, **_20B, "experts": 128},
    "120b-1": {"layers": 1, **_20B, "experts": 128},
    # the attention and the caches of the 20b shape; everything else is so small that it hardly counts
    "20b-attention": {
        "layers": 24,
        "hidden": 64,
        "intermediate": 64,
        "experts": 4,
        "experts_per_token": 4,
        "heads": 64,
        "kv_heads": 8,
        "head_dim": 64,
        "vocab": 512,
    },
    "tiny": {**_20B, "layers": 2, "hidden": 128, "intermediate": 128, "experts": 8, "heads": 4, "kv_heads": 2},
}
_DRAWS = 400  # of a layer's biases and tokens
VERSION = "0.0.1"  # the version of the release that is made of it


def prepare(work: Path, shape: str, accelerator: Accelerator, dense: DenseKind) -> Path:
    """The graph of the shape's random checkpoint, made if it is missing. The checkpoint is removed after the export."""
    kind = accelerator if accelerator == "cuda" else f"{accelerator}-{dense}"
    out = work / f"{shape}-{kind}-format{FORMAT}"
    if not (out / MODEL).exists():
        checkpoint = work / f"{shape}-checkpoint"
        if not (checkpoint / "config.json").exists():
            shutil.rmtree(checkpoint, ignore_errors=True)
            write_random_checkpoint(checkpoint, random_config(**SHAPES[shape]), seed=1)
        export_graph(open_checkpoint(checkpoint), out, accelerator=accelerator, dense=dense)
        shutil.copy(checkpoint / "config.json", work / f"{shape}-config.json")
        shutil.rmtree(checkpoint)
    return out / MODEL


@cache
def experts_drawn(experts: int, experts_per_token: int, sequences: int) -> float:
    """How many experts of a layer the tokens of so many sequences choose together in a random model, on average.

    Its router's biases vary as much as what it adds to them (bundler/random_checkpoint.py), so all tokens prefer some
    experts, and they choose fewer than if each expert were as likely as any other: 10.0 of 32 for 4 tokens, not 13.2.
    """
    rng = np.random.default_rng(5)
    drawn = 0
    for _ in range(_DRAWS):
        logits = rng.standard_normal((sequences, experts)) + rng.standard_normal(experts)
        drawn += len(np.unique(np.argpartition(logits, -experts_per_token)[:, -experts_per_token:]))
    return drawn / _DRAWS


def site_of(work: Path, graph: Path) -> Path:
    """The site whose release has this graph."""
    return work / f"{graph.parent.name}-site"


def packed_in(site: Path) -> Path:
    """Where a site keeps the packed weights of its release."""
    return site / "state" / "packed" / VERSION
