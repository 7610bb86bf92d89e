"""What the metadata of a graph say (`metadata_props` of the ONNX model), and which format the graph has.

docs/architecture.md, "The ONNX graph", describes the nodes. A graph of another format is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from installer.formats.fields import FormatError

FORMAT = 5
_PREFIX = "gpt_oss."
_NUMBERS = ("layers", "heads", "kv_heads", "head_dim", "vocab", "context")


@dataclass(frozen=True)
class GraphFacts:
    """Sizes of the model, in tokens and elements."""

    accelerator: Literal["cpu", "cuda"]
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    context: int
    dense: str | None = None  # how a CPU graph holds attention and head
    window: int = 0  # positions that a windowed layer of a CPU graph sees; CUDA graphs have it in their nodes


def encode_graph_facts(facts: GraphFacts) -> dict[str, str]:
    """The metadata of the model."""
    values: dict[str, object] = {"format": FORMAT, "accelerator": facts.accelerator}
    values |= {name: getattr(facts, name) for name in _NUMBERS}
    if facts.accelerator == "cpu":
        values |= {"dense": facts.dense, "window": facts.window}
    return {f"{_PREFIX}{name}": str(value) for name, value in values.items()}


def parse_graph_facts(metadata: Mapping[str, str], accelerator: str) -> GraphFacts:
    """Read the metadata of a graph that should be for this accelerator.

    Raises:
        FormatError: the graph is of another format or for another accelerator, or lacks a size.
    """
    found = metadata.get(f"{_PREFIX}format"), metadata.get(f"{_PREFIX}accelerator")
    if accelerator not in ("cpu", "cuda") or found != (str(FORMAT), accelerator):
        raise FormatError(f"is not a gpt-oss graph of format {FORMAT} for {accelerator}")
    layers, heads, kv_heads, head_dim, vocab, context = (_number(metadata, name) for name in _NUMBERS)
    facts = GraphFacts("cuda", layers, heads, kv_heads, head_dim, vocab, context)
    if accelerator == "cuda":
        return facts
    dense, window = metadata.get(f"{_PREFIX}dense"), _number(metadata, "window")
    return replace(facts, accelerator="cpu", dense=dense, window=window)


def _number(metadata: Mapping[str, str], name: str) -> int:
    found = metadata.get(f"{_PREFIX}{name}", "")
    if not (found.isascii() and found.isdecimal()):
        raise FormatError(f"its metadata are incomplete: {_PREFIX}{name} is {found!r:.40}")
    return int(found)
