"""The native attention on every path of this processor: against float64, in place, and the same however it is cut; with
caches of float32 and of bfloat16."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

os.environ["ORT_DISABLE_TELEMETRY"] = "1"
import onnxruntime  # type: ignore[import-untyped]

from appliance.config import CacheItem
from appliance.engine.cache_memory import ITEM_BYTES
from appliance.engine.operators import load_operators
from tests.appliance.kernels.sessions import session_of_graph

Float32 = NDArray[np.float32]
OPERATORS = load_operators()
POSITIONS = 640
ERROR = 2e-6  # relative, 2-norm: float32 sums
BFLOAT16_ERROR = 2.0**-8  # of a rounded number, relative; the errors of a sum partly cancel


@pytest.fixture(params=OPERATORS.paths())
def path(request: pytest.FixtureRequest) -> Iterator[str]:
    OPERATORS.use_path(request.param)
    yield request.param
    OPERATORS.use_path(OPERATORS.paths()[0])


@pytest.fixture(params=get_args(CacheItem))
def item(request: pytest.FixtureRequest) -> CacheItem:
    found: CacheItem = request.param
    return found


@dataclass(frozen=True)
class Shape:
    heads: int
    kv_heads: int
    head_dim: int
    window: int  # 0: none

    @property
    def width(self) -> int:
        return (self.heads + 2 * self.kv_heads) * self.head_dim


SHAPES = [
    Shape(8, 1, 64, 0),
    Shape(16, 2, 64, 128),
    Shape(6, 3, 16, 5),
    Shape(4, 4, 32, 0),
    Shape(12, 1, 32, 17),
    Shape(3, 1, 48, 0),
]


class Attention:
    """One node over caches that are bound in place. Positions that were never written hold NaN: all bits are 1."""

    def __init__(
        self, shape: Shape, item: CacheItem = "float32", *, slots: int = 1, capacity: int = POSITIONS,
        row_bytes: int | None = None,
    ) -> None:  # fmt: skip
        self.shape, self.item = shape, item
        node = helper.make_node(
            "Attention", ["qkv", "past_key", "past_value", "slots", "positions", "cos", "sin", "sinks"],
            ["out", "present_key", "present_value"], domain="gpt_oss",
            heads=shape.heads, kv_heads=shape.kv_heads, window=shape.window,
        )  # fmt: skip
        declare = helper.make_tensor_value_info
        cache: list[str | int | None] = ["B", shape.kv_heads, "C", "D"]
        graph = helper.make_graph(
            [node], "one",
            [
                declare("qkv", TensorProto.FLOAT, ["T", "W"]),
                declare("past_key", TensorProto.UINT8, cache), declare("past_value", TensorProto.UINT8, cache),
                declare("slots", TensorProto.INT32, ["N"]), declare("positions", TensorProto.INT32, ["M"]),
                declare("cos", TensorProto.FLOAT, ["P", "D"]), declare("sin", TensorProto.FLOAT, ["P", "D"]),
                declare("sinks", TensorProto.FLOAT, ["H"]),
            ],
            [
                declare("out", TensorProto.FLOAT, None),
                *(declare(name, TensorProto.UINT8, None) for name in ("present_key", "present_value")),
            ],
        )  # fmt: skip
        self.session = session_of_graph(graph)
        rng = np.random.default_rng(5)
        self.sinks = rng.standard_normal(shape.heads, dtype=np.float32)
        positions = np.arange(max(POSITIONS, capacity))
        angles = positions[:, None] * 150_000.0 ** (-np.arange(shape.head_dim // 2) / shape.head_dim * 2)
        self.cos, self.sin = np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)
        row_bytes = shape.head_dim * ITEM_BYTES[item] if row_bytes is None else row_bytes
        empty = np.full((slots, shape.kv_heads, capacity, row_bytes), 0xFF, np.uint8)
        self.caches = [onnxruntime.OrtValue.ortvalue_from_numpy(empty.copy()) for _ in range(2)]

    def step(self, qkv: Float32, totals: list[int]) -> Float32:
        """qkv (slots, S, width): the last S of each slot's ``totals`` tokens."""
        slots, count = qkv.shape[:2]
        positions = np.array(totals)[:, None] - count + np.arange(count)
        out = self.tokens(qkv.reshape(slots * count, -1), np.repeat(np.arange(slots), count), positions.ravel())
        return out.reshape(slots, count, -1)

    def tokens(self, qkv: Float32, slots: NDArray[np.int64], positions: NDArray[np.int64]) -> Float32:
        """qkv (T, width) of tokens at those positions."""
        binding = self.session.io_binding()
        binding.bind_cpu_input("qkv", np.ascontiguousarray(qkv))
        binding.bind_cpu_input("slots", slots.astype(np.int32))
        binding.bind_cpu_input("positions", positions.astype(np.int32))
        for name in ("cos", "sin", "sinks"):
            binding.bind_cpu_input(name, getattr(self, name))
        for name, cache in zip(("key", "value"), self.caches, strict=True):
            binding.bind_ortvalue_input(f"past_{name}", cache)
            binding.bind_ortvalue_output(f"present_{name}", cache)
        binding.bind_output("out")
        self.session.run_with_iobinding(binding)
        out: Float32 = binding.get_outputs()[2].numpy()
        return out

    def expected(self, qkv: Float32, first: int = 0) -> NDArray[np.float64]:
        """(S - first, heads * head_dim) of the tokens from ``first`` on of a conversation, in float64, with keys and
        values that are rounded as the caches round them."""
        shape, size = self.shape, self.shape.head_dim
        x = qkv.reshape(len(qkv), -1, size)
        q = self._rotated(x[first:, : shape.heads].astype(np.float64), first)
        k, v = x[:, shape.heads : shape.heads + shape.kv_heads], x[:, shape.heads + shape.kv_heads :]
        if self.item == "bfloat16":  # keys are rotated in float32, as the operator does: it rounds the same numbers
            held = [rounded_to_bfloat16(self._rotated(k)), rounded_to_bfloat16(v)]
        else:
            held = [self._rotated(k.astype(np.float64)), v]
        group = shape.heads // shape.kv_heads
        keys, values = (np.repeat(part.astype(np.float64), group, axis=1).swapaxes(0, 1) for part in held)
        scores = q.swapaxes(0, 1) @ keys.swapaxes(1, 2) / np.sqrt(size)  # (heads, queries, keys)
        distance = np.arange(first, len(qkv))[:, None] - np.arange(len(qkv))[None]
        seen = (distance >= 0) & (distance < (shape.window or len(qkv)))
        weights = np.exp(np.where(seen, scores, -np.inf))
        shares = weights / (weights.sum(-1, keepdims=True) + np.exp(self.sinks.astype(np.float64))[:, None, None])
        result: NDArray[np.float64] = (shares @ values).swapaxes(0, 1).reshape(len(qkv) - first, -1)
        return result

    def _rotated(self, x: NDArray[Any], first: int = 0) -> NDArray[Any]:
        """x: (S, heads, size) from position ``first`` on."""
        half = x.shape[-1] // 2
        cos, sin = (t[first : first + len(x), None].astype(x.dtype) for t in (self.cos, self.sin))
        a, b = x[..., :half], x[..., half:]
        return np.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)


def rounded_to_bfloat16(x: Float32) -> Float32:
    """The nearest numbers of 8 significant bits; of two, the even one. Subnormal numbers are not expected."""
    fraction, exponent = np.frexp(x.astype(np.float64))
    with np.errstate(over="ignore"):
        rounded: Float32 = np.ldexp(np.rint(fraction * 256), exponent - 8).astype(np.float32)
    return rounded


def conversation(shape: Shape, length: int, seed: int = 0) -> Float32:
    return np.random.default_rng(seed).standard_normal((length, shape.width), dtype=np.float32)


LENGTH = 300  # of the conversation that results are compared for


@functools.cache
def expected(shape: Shape, item: CacheItem) -> NDArray[np.float64]:
    """What each token of one conversation gets. It depends on what comes before the token and on no path."""
    return Attention(shape, item).expected(conversation(shape, LENGTH))


def relative_error(actual: Float32, expected: NDArray[np.float64]) -> float:
    return float(np.linalg.norm(actual - expected) / np.linalg.norm(expected))


@pytest.mark.parametrize("shape", [shape for shape in SHAPES if shape.window], ids=str)
@pytest.mark.parametrize("chunk", [1, 7, 33])
def test_a_ring_gives_the_bits_of_a_whole_cache(path: str, item: CacheItem, shape: Shape, chunk: int) -> None:
    room = shape.window - 1 + chunk
    whole, ring = Attention(shape, item), Attention(shape, item, capacity=room + -room % 16)
    qkv = conversation(shape, LENGTH)
    for start in range(0, LENGTH, chunk):
        part, end = qkv[None, start : start + chunk], min(LENGTH, start + chunk)
        np.testing.assert_array_equal(ring.step(part, [end]), whole.step(part, [end]))


def test_a_ring_without_room_for_the_window_is_refused() -> None:
    ring = Attention(Shape(16, 2, 64, 128), capacity=144)
    qkv = conversation(ring.shape, 200)
    ring.step(qkv[None, :144], [144])
    ring.step(qkv[None, 144:161], [161])
    with pytest.raises(Exception, match="position 178 lies outside the caches"):
        ring.step(qkv[None, 161:179], [179])


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("length", [1, 15, 16, 17, 130, LENGTH])
def test_agrees_with_float64(path: str, item: CacheItem, shape: Shape, length: int) -> None:
    found = Attention(shape, item).step(conversation(shape, LENGTH)[None, :length], [length])[0]
    assert relative_error(found, expected(shape, item)[:length]) < ERROR


SECTION = 8192  # positions that are summed together (kernels/attention.cc)


@pytest.mark.parametrize("window", [0, 128])
def test_agrees_with_float64_across_sections(path: str, item: CacheItem, window: int) -> None:
    """The last tokens before and the first ones behind the first section, one by one and together."""
    shape, before = Shape(4, 1, 32, window), SECTION - 20
    attention, qkv = Attention(shape, item, capacity=SECTION + 32), conversation(shape, SECTION + 30)
    attention.step(qkv[None, :before], [before])
    singles = [attention.step(qkv[None, at : at + 1], [at + 1])[0] for at in range(before, SECTION + 10)]
    found = np.concatenate([*singles, attention.step(qkv[None, SECTION + 10 :], [SECTION + 30])[0]])
    assert relative_error(found, attention.expected(qkv, before)) < ERROR


LONGEST, NEW = 131_072, 40  # the context of gpt-oss, and the tokens at its end that are computed
AT_THE_END = Shape(4, 1, 32, 0)


@functools.cache
def expected_at_the_end(item: CacheItem) -> NDArray[np.float64]:
    """What the last tokens get if all keys and values before them are zero."""
    qkv = np.zeros((LONGEST, AT_THE_END.width), np.float32)
    qkv[-NEW:] = conversation(AT_THE_END, NEW)
    return Attention(AT_THE_END, item, capacity=LONGEST).expected(qkv, LONGEST - NEW)


def test_agrees_with_float64_at_the_end_of_the_longest_context(path: str, item: CacheItem) -> None:
    attention, qkv = Attention(AT_THE_END, item, capacity=LONGEST), conversation(AT_THE_END, NEW)
    for cache in attention.caches:
        cache.update_inplace(np.zeros(cache.shape(), np.uint8))
    chunk = attention.step(qkv[None, :-2], [LONGEST - 2])[0]
    singles = [attention.step(qkv[None, [at]], [LONGEST + at + 1])[0] for at in (-2, -1)]
    assert relative_error(np.concatenate([chunk, *singles]), expected_at_the_end(item)) < ERROR


@pytest.mark.parametrize("shape", [Shape(16, 2, 64, 0), Shape(6, 1, 48, 9000), Shape(2, 1, 16, 128)], ids=str)
def test_a_token_gets_the_same_bits_whether_its_sections_are_divided_or_not(
    path: str, item: CacheItem, shape: Shape
) -> None:
    """Eight tokens are a thread's whole part. The sections of fewer tokens are divided among threads."""
    length = 2 * SECTION + 5  # the first of eight tokens does not see the last section
    attention, qkv = Attention(shape, item, capacity=length + -length % 16), conversation(shape, 8)
    fill(attention)
    together = attention.step(qkv[None], [length])[0]
    alone = [attention.step(qkv[None, t : t + 1], [length - 7 + t])[0] for t in range(8)]
    np.testing.assert_array_equal(np.concatenate(alone), together)
    few = [attention.step(qkv[None, t : t + 4], [length - 4 + t])[0] for t in (0, 4)]
    np.testing.assert_array_equal(np.concatenate(few), together)


def fill(attention: Attention) -> None:
    """Write numbers to the caches, as if a conversation had."""
    for seed, cache in enumerate(attention.caches):
        numbers = np.random.default_rng(seed).standard_normal(cache.numpy().size // ITEM_BYTES[attention.item])
        floats = numbers.astype(np.float32)
        held = floats if attention.item == "float32" else floats.view(np.uint16)[1::2]  # the upper halves
        cache.update_inplace(np.ascontiguousarray(held).view(np.uint8).reshape(cache.shape()))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_bfloat16_caches_round_keys_and_values_and_nothing_else(path: str, shape: Shape) -> None:
    found = Attention(shape, "bfloat16").step(conversation(shape, LENGTH)[None], [LENGTH])[0]
    assert ERROR < relative_error(found, expected(shape, "float32")) < BFLOAT16_ERROR


STORED = {  # float32: what a cache of bfloat16 gives back
    "to the nearest below": (1 + 2**-8 - 2**-20, 1.0), "to the nearest above": (1 + 2**-8 + 2**-20, 1 + 2**-7),
    "from between two to the even one below": (1 + 2**-8, 1.0),
    "from between two to the even one above": (1 + 3 * 2**-8, 1 + 2**-6),
    "what it has bits for": (-1.5, -1.5), "zero": (-0.0, -0.0), "the smallest": (2.0**-133, 2.0**-133),
    "to infinity": (3.4e38, np.inf), "infinity": (-np.inf, -np.inf), "no number": (np.nan, np.nan),
}  # fmt: skip


@pytest.mark.parametrize("case", STORED)
def test_a_number_is_rounded_to_the_nearest_of_bfloat16(path: str, case: str) -> None:
    """The result for a first token is its value as stored, if its key is zero and the sinks take nothing."""
    shape = Shape(1, 1, 32, 0)
    attention = Attention(shape, "bfloat16")
    attention.sinks = np.full(1, -80, np.float32)
    given, expected = STORED[case]
    qkv = np.concatenate([np.zeros(64), np.full(32, given)]).astype(np.float32)
    np.testing.assert_array_equal(attention.step(qkv[None, None], [1])[0, 0], np.full(32, expected, np.float32))


def test_what_is_no_number_stays_none_whatever_its_bits(path: str) -> None:
    """Rounding by addition alone would carry these bits over into the sign, or drop all that tell NaN from infinity."""
    shape = Shape(1, 1, 32, 0)
    qkv = np.zeros(96, np.uint32)
    qkv[64:80], qkv[80:] = 0x7FFFFFFF, 0x7F800001
    assert np.isnan(Attention(shape, "bfloat16").step(qkv.view(np.float32)[None, None], [1])).all()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_token_gets_the_same_bits_however_the_prompt_is_cut(path: str, item: CacheItem, shape: Shape) -> None:
    qkv = conversation(shape, 200)
    whole = Attention(shape, item).step(qkv[None], [200])[0]
    for cuts in ([1] * 200, [16, 16, 100, 68], [7, 130, 63]):
        attention, past, parts = Attention(shape, item), 0, []
        for count in cuts:
            parts.append(attention.step(qkv[None, past : past + count], [past + count])[0])
            past += count
        np.testing.assert_array_equal(np.concatenate(parts), whole)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_slots_of_different_lengths_do_not_see_each_other(path: str, item: CacheItem, shape: Shape) -> None:
    lengths = [3, 140, 33]
    qkv = [conversation(shape, length + 5, seed) for seed, length in enumerate(lengths)]
    alone = [Attention(shape, item).step(one[None], [len(one)])[0] for one in qkv]
    together = Attention(shape, item, slots=3)
    for slot, length in enumerate(lengths):  # fill each slot alone, then take five tokens of all three at once
        single = Attention(shape, item)
        single.step(qkv[slot][None, :length], [length])
        for cache, filled in zip(together.caches, single.caches, strict=True):
            merged = cache.numpy().copy()
            merged[slot] = filled.numpy()[0]
            cache.update_inplace(merged)
    last = np.stack([one[-5:] for one in qkv])
    out = together.step(last, [length + 5 for length in lengths])
    for slot, one in enumerate(alone):
        np.testing.assert_array_equal(out[slot], one[-5:])


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_tokens_of_some_slots_and_a_prompt_share_a_call(path: str, item: CacheItem, shape: Shape) -> None:
    """One token each of slots 3 and 0, then a chunk of the prompt of slot 1. Slot 2 stays as it is."""
    lengths = {3: 140, 0: 33, 1: 70}
    qkv = {slot: conversation(shape, length, slot) for slot, length in lengths.items()}
    alone = {slot: Attention(shape, item).step(one[None], [len(one)])[0] for slot, one in qkv.items()}
    together = Attention(shape, item, slots=4)
    held = {3: 139, 0: 32, 1: 20}
    for slot, count in held.items():
        together.tokens(qkv[slot][:count], np.full(count, slot), np.arange(count))
    kept = [cache.numpy()[2].copy() for cache in together.caches]
    places = [(slot, at) for slot, count in held.items() for at in range(count, lengths[slot])]
    slots, positions = (np.array(column) for column in zip(*places, strict=True))
    out = together.tokens(np.stack([qkv[slot][at] for slot, at in places]), slots, positions)
    np.testing.assert_array_equal(out, np.concatenate([alone[slot][held[slot] :] for slot in held]))
    for before, cache in zip(kept, together.caches, strict=True):
        np.testing.assert_array_equal(before, cache.numpy()[2])


@pytest.mark.parametrize(
    ("slots", "positions"),
    [([0, 2], [0, 0]), ([0, -1], [0, 0]), ([0, 1, 0], [0, 0, 1]), ([1, 1], [3, 3]), ([1, 1], [4, 3])],
)
def test_a_slot_that_is_not_there_or_written_to_in_two_places_is_refused(
    slots: list[int], positions: list[int]
) -> None:
    attention = Attention(SHAPES[0], slots=2)
    with pytest.raises(Exception, match=r"slot -?\d is none of the caches' 2 or its tokens do not follow each other"):
        attention.tokens(conversation(SHAPES[0], len(slots)), np.array(slots), np.array(positions))


def test_large_scores_neither_overflow_nor_vanish(path: str, item: CacheItem) -> None:
    shape = SHAPES[0]
    attention, qkv = Attention(shape, item), conversation(shape, 60) * np.float32(30)
    with np.errstate(over="ignore"):
        out = attention.step(qkv[None], [60])[0]
    assert np.isfinite(out).all()
    assert np.abs(out).max() > 1


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"capacity": 24}, "multiples of 16"),
        ({"width": -1}, "qkv must be"),
        ({"totals": 0}, "position -1 lies outside"),
        ({"totals": 33}, "position 32 lies outside"),
        ({"row_bytes": 48}, "4 or 2 bytes for each of 16 dimensions, not 48 bytes"),
        ({"row_bytes": 16}, "4 or 2 bytes for each of 16 dimensions, not 16 bytes"),
        ({"row_bytes": 0}, "4 or 2 bytes for each of 16 dimensions, not 0 bytes"),
    ],
)
def test_refuses_what_does_not_fit(change: dict[str, int], says: str) -> None:
    shape = Shape(4, 2, 16, 0)
    attention = Attention(shape, capacity=change.get("capacity", 32), row_bytes=change.get("row_bytes"))
    qkv = conversation(shape, 3)[:, : shape.width + change.get("width", 0)]
    with pytest.raises(Exception, match=says):
        attention.step(qkv[None], [change.get("totals", 3)])


@pytest.mark.parametrize(
    ("slots", "positions", "says"), [(2, 3, "token_slots must be"), (3, 4, "token_positions must be")]
)
def test_places_of_more_or_fewer_tokens_than_there_are_are_refused(slots: int, positions: int, says: str) -> None:
    attention = Attention(SHAPES[0])
    with pytest.raises(Exception, match=says):
        attention.tokens(conversation(SHAPES[0], 3), np.zeros(slots, np.int64), np.arange(positions))
