"""Reads the file of an ONNX graph without the package onnx, which a release does not carry.

It reads what `parts.py` needs to cut a graph into parts: nodes, initialisers, inputs and outputs, each with its own
bytes, so that a part holds them as they stand in the file. Weights stay in the files beside it.

Source: onnx/onnx.proto (field numbers), protobuf.dev/programming-guides/encoding.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from appliance.engine.model import ModelError

_VARINT, _LENGTH = 0, 2
_FIXED = {1: 8, 5: 4}  # bytes by wire type
_MODEL_IR_VERSION, MODEL_GRAPH, _MODEL_OPSETS = 1, 7, 8
GRAPH_NODE, GRAPH_NAME, GRAPH_INITIALIZER, GRAPH_INPUT, GRAPH_OUTPUT = 1, 2, 5, 11, 12
_NODE_INPUT, _NODE_OUTPUT, _NODE_OPERATOR, _NODE_ATTRIBUTE = 1, 2, 4, 5
_ATTRIBUTE_NAME, _ATTRIBUTE_INT = 1, 3
_TENSOR_DIMENSION, _TENSOR_NAME = 1, 8
VALUE_NAME, VALUE_TYPE = 1, 2
TYPE_TENSOR, TENSOR_TYPE_ELEMENT, _TENSOR_TYPE_SHAPE = 1, 1, 2
_SHAPE_DIMENSION, _DIMENSION_VALUE = 1, 1


@dataclass(frozen=True)
class Node:
    """One operator: the names of its values and its attributes that are whole numbers."""

    raw: bytes
    operator: str
    inputs: tuple[str, ...]  # "" for an input that is left out
    outputs: tuple[str, ...]  # without those that are left out
    numbers: Mapping[str, int]


@dataclass(frozen=True)
class Value:
    """An initialiser, input or output. A dimension that the file does not fix is 0."""

    raw: bytes
    shape: tuple[int, ...]


@dataclass(frozen=True)
class GraphFile:
    """A graph as it is stored."""

    path: Path
    frame: bytes  # the fields of the model that say in which versions its operators are
    nodes: tuple[Node, ...]
    weights: Mapping[str, Value]
    inputs: Mapping[str, Value]
    outputs: Mapping[str, Value]


def read_graph(path: Path) -> GraphFile:
    """Read a stored graph.

    Raises:
        ModelError: the file cannot be read or is no ONNX model.
    """
    try:
        return _graph_of(path, path.read_bytes())
    except OSError as exc:
        raise ModelError(f"{path}: cannot be read: {exc.strerror}") from exc
    except (ValueError, IndexError, TypeError) as exc:
        raise ModelError(f"{path}: is no ONNX model: {exc}") from exc


def framed(field: int, body: bytes) -> bytes:
    """A field that holds bytes, a text or a message."""
    return _encoded(field << 3 | _LENGTH) + _encoded(len(body)) + body


def whole(field: int, value: int) -> bytes:
    """A field that holds a whole number."""
    return _encoded(field << 3 | _VARINT) + _encoded(value)


def encoded_node(operator: str, inputs: Sequence[str], outputs: Sequence[str]) -> bytes:
    """A node without attributes."""
    names = [(_NODE_INPUT, name) for name in inputs] + [(_NODE_OUTPUT, name) for name in outputs]
    return b"".join(framed(field, text.encode()) for field, text in (*names, (_NODE_OPERATOR, operator)))


def _graph_of(path: Path, data: bytes) -> GraphFile:
    frame, graph = b"", b""
    for field, value in _fields(data):
        if field == MODEL_GRAPH:
            graph = _bytes(value)
        elif field in (_MODEL_IR_VERSION, _MODEL_OPSETS):
            frame += whole(field, value) if isinstance(value, int) else framed(field, value)
    nodes: list[Node] = []
    values: dict[int, dict[str, Value]] = {GRAPH_INITIALIZER: {}, GRAPH_INPUT: {}, GRAPH_OUTPUT: {}}
    for field, value in _fields(graph):
        if field == GRAPH_NODE:
            nodes.append(_node_of(_bytes(value)))
        elif field in values:
            name, found = (_tensor_of if field == GRAPH_INITIALIZER else _value_of)(_bytes(value))
            values[field][name] = found
    if not nodes:
        raise ValueError("it has no operators")
    return GraphFile(path, frame, tuple(nodes), *(values[f] for f in (GRAPH_INITIALIZER, GRAPH_INPUT, GRAPH_OUTPUT)))


def _node_of(raw: bytes) -> Node:
    operator, numbers = "", {}
    names: dict[int, list[str]] = {_NODE_INPUT: [], _NODE_OUTPUT: []}
    for field, value in _fields(raw):
        if field in names:
            names[field].append(_bytes(value).decode())
        elif field == _NODE_OPERATOR:
            operator = _bytes(value).decode()
        elif field == _NODE_ATTRIBUTE:
            attribute = dict(_fields(_bytes(value)))
            if isinstance(number := attribute.get(_ATTRIBUTE_INT), int):
                numbers[_bytes(attribute[_ATTRIBUTE_NAME]).decode()] = number
    outputs = tuple(name for name in names[_NODE_OUTPUT] if name)
    if not outputs:
        raise ValueError(f"an operator {operator!r:.40} has no output")
    return Node(raw, operator, tuple(names[_NODE_INPUT]), outputs, numbers)


def _tensor_of(raw: bytes) -> tuple[str, Value]:
    name, shape = "", []
    for field, value in _fields(raw):
        if field == _TENSOR_NAME:
            name = _bytes(value).decode()
        elif field == _TENSOR_DIMENSION:
            shape += [value] if isinstance(value, int) else _packed(value)
    return name, Value(raw, tuple(shape))


def _value_of(raw: bytes) -> tuple[str, Value]:
    fields = dict(_fields(raw))
    tensor = dict(_fields(_bytes(dict(_fields(_bytes(fields[VALUE_TYPE]))).get(TYPE_TENSOR, b""))))
    shape = _bytes(tensor.get(_TENSOR_TYPE_SHAPE, b""))
    sizes = [dict(_fields(_bytes(value))).get(_DIMENSION_VALUE, 0) for _, value in _fields(shape)]
    return _bytes(fields[VALUE_NAME]).decode(), Value(raw, tuple(s if isinstance(s, int) else 0 for s in sizes))


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """The fields of a message: their numbers, and whole numbers or bytes."""
    at = 0
    while at < len(data):
        key, at = _decoded(data, at)
        kind = key & 7
        if kind == _VARINT:
            number, at = _decoded(data, at)
            yield key >> 3, number
            continue
        size = _FIXED.get(kind, 0)
        if kind == _LENGTH:
            size, at = _decoded(data, at)
        elif not size:
            raise ValueError(f"a field of wire type {kind}")
        if at + size > len(data):
            raise ValueError("a field reaches beyond its end")
        yield key >> 3, data[at : at + size]
        at += size


def _decoded(data: bytes, at: int) -> tuple[int, int]:
    """A whole number (base 128, lowest group first) and where the next field begins."""
    number = shift = 0
    while True:
        byte = data[at]
        at += 1
        number |= (byte & 0x7F) << shift
        shift += 7
        if not byte & 0x80:
            return number, at
        if shift > 63:
            raise ValueError("a number is longer than 64 bits")


def _encoded(number: int) -> bytes:
    groups = bytearray()
    while number > 0x7F:
        groups.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes((*groups, number))


def _packed(data: bytes) -> list[int]:
    numbers, at = [], 0
    while at < len(data):
        number, at = _decoded(data, at)
        numbers.append(number)
    return numbers


def _bytes(value: int | bytes) -> bytes:
    if isinstance(value, int):
        raise TypeError("a number stands where bytes should")
    return value
