"""What the self-test gives each operator of a graph for CPUs, so that nothing it reads stays without effect.

The inputs depend on the names and sizes alone. They have about the size of a model's activations, and more where an
operator does something only then: tokens too small for a norm's epsilon to be negligible, tokens that reach the limits
of the experts' activation, more tokens than a window sees, every token of the vocabulary, every expert twice.

An expert is chosen by router logits that are given, too. No rounding error can choose another one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import product
from typing import get_args

import numpy as np

from appliance.config import CacheItem
from appliance.engine.cache_memory import ITEM_BYTES
from appliance.engine.model import ModelError
from appliance.engine.model.onnx_file import GraphFile
from appliance.engine.model.parts import Array, Part, constant_shape, zeros
from appliance.engine.selftest.sketch import Float32Array, activations, raw_bits

_PROMPT_TOKENS = 18  # more than a tile of 16 rows
_SMALL = 2.0**-10  # its square is below the epsilon of a norm (1e-5)
_LARGE = 8.0  # experts then reach the limit of their activation, which is 7
_CLAMPED_TOKENS = 4
_CHOSEN, _FIRST_OF_MORE, _NOT_CHOSEN = 30.0, 10.0, -30.0  # router logits: the other experts weigh 2e-9 together
_MIXED_TOKENS = 2  # tokens whose experts all have weight
_FOLDED = 4096  # rows of a large table that count together
_POSITIONS_BEYOND = 32  # how many more positions than its window a ring has


@dataclass(frozen=True)
class Trial:
    """One run of a part.

    Attributes:
        inputs: by name. Caches that are not among them are those that the run before gave.
        decoded: how many rows of each output belong to decoded tokens; the others belong to a prompt.
        folds: so many rows of an output count together, because they are many; 0: each counts alone.
        compares: how many outputs are compared, from the first; the order of keys in a cache is the operator's own.
        rows: what the first rows are, where that says more than their number.
    """

    inputs: Mapping[str, Array]
    decoded: int
    folds: int = 0
    compares: int | None = None
    rows: tuple[str, ...] = field(default=())


def trials_of(graph: GraphFile, part: Part) -> Iterator[Trial]:
    """The runs of a part, in order.

    Raises:
        ModelError: the graph has an operator that the self-test does not know.
    """
    if part.node.operator not in _TRIALS:
        raise ModelError(f"{graph.path}: the self-test knows no operator {part.node.operator!r:.40}")
    return _TRIALS[part.node.operator](graph, part)


def carried(part: Part) -> dict[str, str]:
    """Which inputs of a run are outputs of the run before: the caches of attention."""
    if part.node.operator != "Attention":
        return {}
    return dict(zip(part.node.inputs[1:3], part.node.outputs[1:3], strict=True))


def _embedding(graph: GraphFile, part: Part) -> Iterator[Trial]:
    """Every token of the vocabulary, many at a time."""
    vocab = sum(constant_shape(graph, name)[0] for name in part.node.inputs[1:])
    for first in range(0, vocab, _FOLDED):
        ids = np.arange(first, min(first + _FOLDED, vocab), dtype=np.int64)
        yield Trial({part.node.inputs[0]: ids}, 1, folds=_FOLDED, rows=(f"tokens {ids[0]} to {ids[-1]}",))


def _table(graph: GraphFile, part: Part) -> Iterator[Trial]:
    """All rows of a table, which no input chooses."""
    rows = graph.weights[part.node.inputs[0]].shape[0]
    named = tuple(f"positions {at} to {min(at + _FOLDED, rows) - 1}" for at in range(0, rows, _FOLDED))
    yield Trial({}, len(named), folds=_FOLDED, rows=named)


def _norm(graph: GraphFile, part: Part) -> Iterator[Trial]:
    """A token of usual size, and one so small that epsilon counts. The last input is the weight."""
    (width,) = constant_shape(graph, part.node.inputs[-1])
    sizes = np.array([[1.0], [_SMALL]], np.float32)
    yield Trial({name: _activations(part, name, 2, width) * sizes for name in part.given}, 2)


def _gemm(graph: GraphFile, part: Part) -> Iterator[Trial]:
    """The router, and a projection whose width no native operator takes."""
    width = constant_shape(graph, part.node.inputs[1])[-1]
    yield Trial({part.node.inputs[0]: _activations(part, "x", 2, width)}, 2)


def _dense(graph: GraphFile, part: Part) -> Iterator[Trial]:
    """Two decoded tokens, and those of a prompt unless the operator takes none."""
    x, decoded = part.node.inputs[:2]
    width = constant_shape(graph, part.node.inputs[3])[1]
    if decoded not in part.given:  # the head: each row counts as decoded
        yield Trial({x: _activations(part, "x", 2, width)}, 2)
        return
    yield Trial({x: _activations(part, "x", 2 + _PROMPT_TOKENS, width), decoded: np.array(2, np.int64)}, 2)


def _experts(graph: GraphFile, part: Part) -> Iterator[Trial]:
    """Each expert as good as alone for two decoded tokens; tokens of both kinds whose experts all have weight.

    The second token of an expert is the first one's opposite: a gate that is shut for one is open for the other. A
    prompt's tokens all choose the same experts: their products read the same packed weights.
    """
    x, decoded, router = part.node.inputs[:3]
    experts, hidden = constant_shape(graph, part.node.inputs[6])[:2]
    top_k = part.node.numbers["top_k"]
    each, clamped = np.arange(experts), np.arange(min(_CLAMPED_TOKENS, experts))
    first = _activations(part, "decoded", experts, hidden)
    rows = [
        *(first, first * np.float32(-0.5)),
        _activations(part, "clamped", len(clamped), hidden) * np.float32(_LARGE),
        _activations(part, "mixed", _MIXED_TOKENS + _PROMPT_TOKENS, hidden),
    ]
    weights = [
        *(_alone(chosen, experts, top_k) for chosen in (each, each, clamped)),
        _together(part, _MIXED_TOKENS, experts, top_k),
        np.repeat(_together(part, 1, experts, top_k), _PROMPT_TOKENS, axis=0),
    ]
    count = 2 * experts + len(clamped) + _MIXED_TOKENS
    inputs = {x: np.concatenate(rows), decoded: np.array(count, np.int64), router: np.concatenate(weights)}
    yield Trial(inputs, count, rows=tuple(f"expert {one}" for one in (*each, *each, *clamped)))


def _attention(graph: GraphFile, part: Part) -> Iterator[Trial]:
    """One conversation, in steps, to positions that a window no longer sees and for which a ring begins anew; once with
    each type of number that caches may hold."""
    qkv, keys, values, slots, positions = part.node.inputs[:5]
    rotary, half = constant_shape(graph, part.node.inputs[5])
    width = (part.node.numbers["heads"] + 2 * graph.inputs[keys].shape[1]) * 2 * half
    window = part.node.numbers["window"]
    ring = -(-(window - 1 + _POSITIONS_BEYOND) // 16) * 16
    step, capacity = (ring - window + 1, ring) if window else (_POSITIONS_BEYOND, 4 * _POSITIONS_BEYOND)
    total = min(ring + step if window else capacity, rotary)
    items: tuple[CacheItem, ...] = get_args(CacheItem)
    for item, first in product(items, range(0, total, step)):
        count = min(step, total - first)
        inputs: dict[str, Array] = {
            qkv: _activations(part, f"from {first}", count, width),
            slots: np.zeros(count, np.int32),
            positions: np.arange(first, first + count, dtype=np.int32),
        }
        if first == 0:
            size = 2 * half * ITEM_BYTES[item]
            inputs |= {n: zeros(graph, n, slots=1, capacity=capacity, row_bytes=size) for n in (keys, values)}
        names = tuple(f"position {p} with a cache of {item}" for p in range(first, first + count))
        yield Trial(inputs, count, compares=1, rows=names)


def _gather(graph: GraphFile, part: Part) -> Iterator[Trial]:
    x, wanted = part.node.inputs
    yield Trial({x: _activations(part, "x", 3, 64), wanted: np.array([2, 0], np.int64)}, 2)


def _top_logits(graph: GraphFile, part: Part) -> Iterator[Trial]:
    """Logits between -10 and 10, all different, in an order made from a seed."""
    vocab = graph.outputs["logits"].shape[1]
    order = np.argsort(raw_bits(part.name, vocab), kind="stable")
    logits = (order * (20.0 / vocab) - 10.0).astype(np.float32)
    yield Trial({part.node.inputs[0]: np.stack([logits, logits[::-1]])}, 2)


_TRIALS: Mapping[str, Callable[[GraphFile, Part], Iterator[Trial]]] = {
    "Embedding": _embedding,
    "SimplifiedLayerNormalization": _norm,
    "SkipSimplifiedLayerNormalization": _norm,
    "Gemm": _gemm,
    "Dense": _dense,
    "ExpertLayer": _experts,
    "Attention": _attention,
    "Gather": _gather,
    "Identity": _table,
    "TopLogits": _top_logits,
}


def _activations(part: Part, what: str, tokens: int, width: int) -> Float32Array:
    return activations(f"{part.name} {what}", tokens, width)


def _alone(chosen: Array, experts: int, top_k: int) -> Float32Array:
    """Router logits by which each of ``chosen`` takes nearly all weight; its neighbours take the other places."""
    logits = np.full((len(chosen), experts), _NOT_CHOSEN, np.float32)
    for beside in range(1, top_k):
        logits[np.arange(len(chosen)), (chosen + beside) % experts] = _FIRST_OF_MORE - beside
    logits[np.arange(len(chosen)), chosen] = _CHOSEN
    return logits


def _together(part: Part, tokens: int, experts: int, top_k: int) -> Float32Array:
    """Router logits by which ``top_k`` experts take 1, exp(-1/2), exp(-1), .. of the weight."""
    logits = np.full((tokens, experts), _NOT_CHOSEN, np.float32)
    for token in range(tokens):
        order = np.argsort(raw_bits(f"{part.name} together {token}", experts), kind="stable")[:top_k]
        logits[token, order] = 2.0 - 0.5 * np.arange(top_k)
    return logits
