"""A stored graph cut into parts, and a part as a session of its own.

A part is one operator with the constants that it reads: casts of weights, joined biases. It holds the operator's bytes
as they stand in the graph, and its weights are the release's. Its other inputs are given by the caller. So each part
computes what it computes in the whole graph, from inputs that no other part has touched.

Only the weights of one part are in memory at a time: with gpt-oss-20b at most 0.7 GB.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from appliance.engine.model import ModelError, onnx_file
from appliance.engine.model.onnx_file import GraphFile, Node, framed, whole
from appliance.engine.model.runtime import first_line, new_options, runtime_errors
from appliance.engine.operators import Operators
from appliance.engine.packed_weights import Packing, pack_into_memory

Array = NDArray[Any]

_FLOAT = 1  # TensorProto.DataType
_PROVIDER = "CPUExecutionProvider"
_WEIGHTS_FOLDER = "session.model_external_initializers_file_folder_path"  # onnxruntime_session_options_config_keys.h


@dataclass(frozen=True)
class Part:
    """An operator, the nodes that compute constants for it, and the names of the inputs that it must be given."""

    node: Node
    constants: tuple[Node, ...]  # in the order of the graph
    weights: tuple[str, ...]
    given: tuple[str, ...]

    @property
    def name(self) -> str:
        """The name of its first output."""
        return self.node.outputs[0]

    @property
    def digest(self) -> str:
        """SHA-256 of its operators: which they are, their attributes, and the names of all that they read and give."""
        return hashlib.sha256(b"".join(framed(onnx_file.GRAPH_NODE, one.raw) for one in self.nodes)).hexdigest()

    @property
    def nodes(self) -> tuple[Node, ...]:
        """Its operators, in the order of the computation."""
        return (*self.constants, self.node)

    @property
    def keys(self) -> range:
        """The keys of the packed weights that it reads."""
        if "key" not in self.node.numbers:
            return range(0)
        first = self.node.numbers["key"]
        return range(first, first + self.node.numbers.get("parts", 1))


def parts_of(graph: GraphFile) -> tuple[Part, ...]:
    """The parts of a graph: the tables that attention reads a few rows of, then every operator that is not constant, in
    the order of the computation."""
    makers: dict[str, Node] = {}  # of constants
    rotary = dict.fromkeys(name for node in graph.nodes if node.operator == "Attention" for name in node.inputs[5:7])
    parts = [_table_part(name) for name in rotary if name in graph.weights]
    for node in graph.nodes:
        given = [name for name in node.inputs if name and name not in graph.weights and name not in makers]
        if given:
            constants = _makers(node, makers)
            reads = dict.fromkeys(name for one in (*constants, node) for name in one.inputs if name in graph.weights)
            parts.append(Part(node, tuple(constants), tuple(reads), tuple(dict.fromkeys(given))))
        else:
            makers |= dict.fromkeys(node.outputs, node)
    return tuple(parts)


def _table_part(name: str) -> Part:
    """A part that gives a table as the session reads it."""
    raw = onnx_file.encoded_node("Identity", [name], [f"{name}.read"])
    return Part(Node(raw, "Identity", (name,), (f"{name}.read",), {}), (), (name,), ())


def constant_shape(graph: GraphFile, name: str) -> tuple[int, ...]:
    """The shape of a weight, or of what Cast and Concat (along the first axis) make of weights.

    Raises:
        ModelError: another operator makes it.
    """
    if name in graph.weights:
        return graph.weights[name].shape
    maker = next((node for node in graph.nodes if name in node.outputs), None)
    if maker is not None and maker.operator in ("Cast", "Concat"):
        shapes = [constant_shape(graph, one) for one in maker.inputs]
        return (sum(shape[0] for shape in shapes), *shapes[0][1:])
    raise ModelError(f"{graph.path}: {name} is not a constant that the self-test knows")


class PartSession:
    """A loaded part."""

    def __init__(self, ort: ModuleType, session: Any, part: Part) -> None:
        self._errors = runtime_errors(ort)
        self._session = session
        self.part = part

    def run(self, inputs: Mapping[str, Array]) -> Sequence[Array]:
        """The operator's outputs.

        Raises:
            ModelError: it refuses the inputs or fails.
        """
        try:
            outputs: Sequence[Array] = self._session.run(list(self.part.node.outputs), dict(inputs))
        except self._errors as exc:
            raise ModelError(f"{self.part.name}: cannot be run: {first_line(exc)}") from exc
        return outputs


@contextmanager
def open_part(
    ort: ModuleType, graph: GraphFile, part: Part, packing: Packing, operators: Operators, *, threads: int
) -> Iterator[PartSession]:
    """A session of one part, whose weights are packed into this process's memory as packing.json says.

    Raises:
        PackingError: a stored weight is missing.
        ModelError: the part cannot be loaded.
    """
    entries = [entry for entry in packing.entries if entry.key in part.keys]
    packed = {e.key: pack_into_memory(e, graph.path.parent, operators, threads=threads) for e in entries}
    options = new_options(ort)
    options.add_session_config_entry(_WEIGHTS_FOLDER, str(graph.path.parent))
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # most of the time no part runs
    options.register_custom_ops_library(operators.path)
    for key, weights in packed.items():  # alive until the session has gone
        operators.offer(key, weights)
    try:
        session = ort.InferenceSession(_model_of(graph, part), options, providers=[_PROVIDER])
    except runtime_errors(ort) as exc:
        raise ModelError(f"{graph.path}: {part.name} cannot be loaded: {first_line(exc)}") from exc
    finally:
        operators.withdraw_offers()
    loaded = PartSession(ort, session, part)
    del session
    try:
        yield loaded
    finally:
        del loaded


def zeros(graph: GraphFile, name: str, *, slots: int, capacity: int, row_bytes: int) -> Array:
    """An empty cache for an input of the graph, whose file fixes the number of heads."""
    heads = graph.inputs[name].shape[1]
    return np.zeros((slots, heads, capacity, row_bytes), np.uint8)


def _makers(node: Node, makers: Mapping[str, Node]) -> list[Node]:
    """The nodes that compute the constants of this one, each after those that it reads."""
    found: dict[int, Node] = {}
    for name in node.inputs:
        if name in makers:
            for maker in (*_makers(makers[name], makers), makers[name]):
                found.setdefault(id(maker), maker)
    return list(found.values())


def _model_of(graph: GraphFile, part: Part) -> bytes:
    """The part as an ONNX model."""
    body = b"".join(framed(onnx_file.GRAPH_NODE, node.raw) for node in part.nodes)
    body += framed(onnx_file.GRAPH_NAME, b"part")
    body += b"".join(framed(onnx_file.GRAPH_INITIALIZER, graph.weights[name].raw) for name in part.weights)
    for name in part.given:
        known = graph.inputs.get(name)
        body += framed(onnx_file.GRAPH_INPUT, known.raw if known else _float_value(name))
    for name in part.node.outputs:
        body += framed(onnx_file.GRAPH_OUTPUT, framed(onnx_file.VALUE_NAME, name.encode()))
    return graph.frame + framed(onnx_file.MODEL_GRAPH, body)


def _float_value(name: str) -> bytes:
    """A value of float32, of any shape."""
    tensor = whole(onnx_file.TENSOR_TYPE_ELEMENT, _FLOAT)
    kind = framed(onnx_file.VALUE_TYPE, framed(onnx_file.TYPE_TENSOR, tensor))
    return framed(onnx_file.VALUE_NAME, name.encode()) + kind
