"""Plans a graph: its nodes, what they compute with, and the order in which `bundler.export` stores it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import onnx
from onnx import helper

from bundler.graph.builder import Packing, Weight
from bundler.graph.cpu import CpuGraph, DenseKind
from bundler.graph.cuda import CudaGraph
from bundler.model_config import ModelConfig
from installer.formats.graph import GraphFacts, encode_graph_facts

Accelerator = Literal["cpu", "cuda"]

OPSET = 21
IR_VERSION = 12  # the first with FLOAT8E8M0
MAX_SHARD_BYTES = 1 << 30


@dataclass(frozen=True)
class GraphPlan:
    """A graph without initialisers, and the initialisers it lacks."""

    graph: onnx.GraphProto
    weights: tuple[Weight, ...]  # in the order of the computation
    packings: tuple[Packing, ...]  # none on CUDA
    metadata: dict[str, str]


def plan_graph(
    config: ModelConfig,
    accelerator: Accelerator,
    *,
    dense: DenseKind = "int8",
    max_weight_bytes: int = MAX_SHARD_BYTES,
) -> GraphPlan:
    """The graph of a model of this configuration.

    Args:
        dense: how the CPU's operators hold attention and head; CUDA takes float16.
        max_weight_bytes: larger tensors are stored in parts along their first axis and joined by a Concat.
    Raises:
        ExportError: the accelerator's kernels cannot compute a model of these sizes.
    """
    model = CpuGraph(config, max_weight_bytes, dense) if accelerator == "cpu" else CudaGraph(config, max_weight_bytes)
    model.require_sizes()
    model.add_model()
    graph = helper.make_graph(model.nodes, "gpt-oss", model.inputs(), model.outputs(), initializer=model.tables)
    facts = GraphFacts(
        accelerator,
        layers=config.layers,
        heads=config.heads,
        kv_heads=config.kv_heads,
        head_dim=config.head_dim,
        vocab=config.vocab,
        context=config.context,
        dense=dense,
        window=config.sliding_window,
    )
    return GraphPlan(graph, tuple(model.weights), tuple(model.packings), encode_graph_facts(facts))
