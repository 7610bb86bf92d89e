"""What a loaded graph says of its own sizes and caches."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from appliance.engine.cache_memory import CHUNK_TOKENS, AnyItem, CacheShape
from appliance.engine.model import ModelError
from installer.formats.fields import FormatError
from installer.formats.graph import parse_graph_facts

_CACHE_TYPES = {"cpu": "tensor(uint8)", "cuda": "tensor(float16)"}
_RING = "W"  # the graph's name for the capacity of a windowed layer


@dataclass(frozen=True)
class ModelShape:
    """What the graph's metadata and inputs say."""

    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    context: int
    cache: CacheShape


def shape_of(session: Any, graph: Path, accelerator: str, item: AnyItem) -> ModelShape:
    """The shape of a session's graph.

    Args:
        item: the type of the numbers that its caches are to hold.
    Raises:
        ModelError: the graph is one for another accelerator or of another format, or says too little.
    """
    try:
        facts = parse_graph_facts(session.get_modelmeta().custom_metadata_map, accelerator)
    except FormatError as exc:
        raise ModelError(f"{graph}: {exc}") from exc
    try:
        inputs = {node.name: node for node in session.get_inputs()}
        keys = [inputs[f"past_key_values.{layer}.key"] for layer in range(facts.layers)]
    except KeyError as exc:
        raise ModelError(f"{graph}: its inputs are incomplete: {exc}") from exc
    if {node.type for node in keys} != {_CACHE_TYPES[accelerator]}:
        raise ModelError(f"{graph}: its caches are not all {_CACHE_TYPES[accelerator]}")
    windowed = frozenset(layer for layer, node in enumerate(keys) if node.shape[2] == _RING)
    chunk = CHUNK_TOKENS[accelerator]
    cache = CacheShape(facts.layers, facts.kv_heads, facts.head_dim, item, windowed, facts.window, chunk)
    return ModelShape(facts.layers, facts.heads, facts.kv_heads, facts.head_dim, facts.vocab, facts.context, cache)
