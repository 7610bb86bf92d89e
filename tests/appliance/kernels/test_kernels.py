"""Every path of the native operators that this processor has, against float64."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

os.environ["ORT_DISABLE_TELEMETRY"] = "1"
import onnxruntime  # type: ignore[import-untyped]

from appliance.engine.operators import DenseShape, ExpertShape, OperatorError, load_operators
from tests.appliance.kernels.sessions import session_of_graph

Float64 = NDArray[np.float64]
E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6])
OPERATORS = load_operators()

# Relative error (2-norm) of one layer: activations of 16 bits, or bfloat16 in the matrix unit, or 8 bits.
DECODE_ERROR, MATRIX_ERROR, BYTE_ERROR = 2e-4, 4e-3, 1.6e-2
EXACT_ERROR = 2e-6  # of the portable path, which rounds nothing
# experts, hidden, inner, top_k; of the last each expert gets all tokens, and a width is no multiple of any slice
SHAPES = [(8, 256, 128, 2), (32, 96, 64, 4), (4, 32, 32, 1), (16, 128, 416, 3), (2, 416, 288, 2)]
TOKENS = [1, 2, 3, 7, 8, 9, 16, 17, 33, 70]


@pytest.fixture(params=OPERATORS.paths())
def path(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each path this processor has, in force for the test."""
    OPERATORS.use_path(request.param)
    yield request.param
    OPERATORS.withdraw_offers()
    OPERATORS.use_path(OPERATORS.paths()[0])


def error_limit(path: str, tokens: int, prompt_bits: int = 16) -> float:
    if path == "portable":
        return EXACT_ERROR
    if tokens <= 16:
        return DECODE_ERROR
    if path == "amx":
        return MATRIX_ERROR
    return BYTE_ERROR if prompt_bits == 8 else DECODE_ERROR


def relative_error(actual: NDArray[np.float32], expected: Float64) -> float:
    return float(np.linalg.norm(actual - expected) / np.linalg.norm(expected))


def session_of(
    node: onnx.NodeProto, inputs: dict[str, int], constants: dict[str, onnx.TensorProto]
) -> onnxruntime.InferenceSession:
    """A model of one node; inputs name their last dimension."""
    for name, tensor in constants.items():
        tensor.name = name
    declare = helper.make_tensor_value_info
    graph = helper.make_graph(
        [node], "one",
        [
            *(declare(name, TensorProto.FLOAT, ["tokens", width]) for name, width in inputs.items()),
            declare("decoded", TensorProto.INT64, []),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        list(constants.values()),
    )  # fmt: skip
    return session_of_graph(graph)


def run(session: onnxruntime.InferenceSession, *, decoded: int | None = None, **inputs: NDArray[np.float32]) -> Any:
    """y; ``decoded`` of the tokens, the first, are decoded ones. None: all, or none of more than 16."""
    count = len(inputs["x"])
    if decoded is None:
        decoded = count if count <= 16 else 0
    return session.run(["y"], {**inputs, "decoded": np.array(decoded, np.int64)})[0]


@dataclass(frozen=True)
class Experts:
    """Random expert weights in the checkpoint's layout."""

    shape: ExpertShape
    top_k: int
    gate_up_blocks: NDArray[np.uint8]
    gate_up_scales: NDArray[np.uint8]
    gate_up_bias: NDArray[np.float32]
    down_blocks: NDArray[np.uint8]
    down_scales: NDArray[np.uint8]
    down_bias: NDArray[np.float32]

    @classmethod
    def random(cls, experts: int, hidden: int, inner: int, top_k: int, seed: int) -> Experts:
        rng = np.random.default_rng(seed)

        def blocks(rows: int, width: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
            codes = rng.integers(0, 256, (experts, rows, width // 32, 16), dtype=np.uint8)
            return codes, rng.integers(116, 126, (experts, rows, width // 32), dtype=np.uint8)

        gate_up, gate_up_scales = blocks(2 * inner, hidden)
        down, down_scales = blocks(hidden, inner)
        return cls(
            ExpertShape(experts, hidden, inner), top_k, gate_up, gate_up_scales,
            rng.standard_normal((experts, 2 * inner), dtype=np.float32), down, down_scales,
            rng.standard_normal((experts, hidden), dtype=np.float32),
        )  # fmt: skip

    @cached_property
    def matrices(self) -> list[tuple[Float64, Float64]]:
        """Of each expert gate_up (2 * inner, hidden) and down (hidden, inner)."""
        return [
            (
                dequantised(self.gate_up_blocks[e], self.gate_up_scales[e]),
                dequantised(self.down_blocks[e], self.down_scales[e]),
            )
            for e in range(self.shape.experts)
        ]

    def reference(self, x: NDArray[np.float32], logits: NDArray[np.float32], *, limit: float = 7.0) -> Float64:
        out = np.zeros(x.shape)
        for token, row in enumerate(logits.astype(np.float64)):
            chosen = np.argsort(-row, kind="stable")[: self.top_k]
            weights = np.exp(row[chosen] - row[chosen].max())
            for expert, weight in zip(chosen, weights / weights.sum(), strict=True):
                gate_up, down = self.matrices[expert]
                inner = gate_up @ x[token] + self.gate_up_bias[expert]
                gate, up = np.minimum(inner[0::2], limit), np.clip(inner[1::2], -limit, limit)
                activation = gate / (1 + np.exp(-1.702 * gate)) * (up + 1)
                out[token] += weight * (down @ activation + self.down_bias[expert])
        return out

    def session(self, *, key: int = 0, prompt_bits: int = 16) -> onnxruntime.InferenceSession:
        names = ["gate_up_blocks", "gate_up_scales", "gate_up_bias", "down_blocks", "down_scales", "down_bias"]
        node = helper.make_node(
            "ExpertLayer", ["x", "decoded", "logits", *names], ["y"], domain="gpt_oss",
            key=key, top_k=self.top_k, alpha=1.702, limit=7.0, prompt_bits=prompt_bits,
        )  # fmt: skip
        constants = {name: numpy_helper.from_array(getattr(self, name)) for name in names}
        return session_of(node, {"x": self.shape.hidden, "logits": self.shape.experts}, constants)


def dequantised(blocks: NDArray[np.uint8], scales: NDArray[np.uint8]) -> Float64:
    values = np.stack([E2M1[blocks & 15], E2M1[blocks >> 4]], axis=-1).reshape(*scales.shape, 32)
    scaled: Float64 = values * np.exp2(scales.astype(np.float64) - 127)[..., None]
    return scaled.reshape(scales.shape[0], -1)


@dataclass(frozen=True)
class Given:
    """What an expert layer is given, what it must give, and what it would give with another limit."""

    x: NDArray[np.float32]
    logits: NDArray[np.float32]
    right: Float64
    wrong: Float64


@cache
def experts_and_cases(shape: tuple[int, int, int, int]) -> tuple[Experts, dict[int, Given]]:
    """Random experts, and a case for each number of tokens. Float64 takes the most time, and all paths share it."""
    experts, rng = Experts.random(*shape, seed=1), np.random.default_rng(2)
    cases = {}
    for tokens in TOKENS:
        x = rng.standard_normal((tokens, experts.shape.hidden), dtype=np.float32)
        logits = rng.standard_normal((tokens, experts.shape.experts), dtype=np.float32)
        cases[tokens] = Given(x, logits, experts.reference(x, logits), experts.reference(x, logits, limit=1.0))
    return experts, cases


@pytest.mark.parametrize("prompt_bits", [16, 8])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_expert_layer_is_exact_but_for_the_rounding_of_activations(
    path: str, shape: tuple[int, int, int, int], prompt_bits: int
) -> None:
    experts, cases = experts_and_cases(shape)
    session = experts.session(prompt_bits=prompt_bits)
    for tokens, given in cases.items():
        actual = run(session, x=given.x, logits=given.logits)
        assert relative_error(actual, given.right) < error_limit(path, tokens, prompt_bits), tokens
        assert relative_error(actual, given.wrong) > BYTE_ERROR, "the check cannot fail"


def test_a_prompt_gets_eight_bits_only_where_the_graph_says_so(path: str) -> None:
    experts = Experts.random(8, 256, 128, 2, seed=1)
    rng = np.random.default_rng(2)
    x, logits = rng.standard_normal((40, 256), dtype=np.float32), rng.standard_normal((40, 8), dtype=np.float32)
    fine, coarse = (
        relative_error(run(experts.session(prompt_bits=bits), x=x, logits=logits), experts.reference(x, logits))
        for bits in (16, 8)
    )
    assert (coarse > 10 * fine) == (path not in ("portable", "amx"))


@pytest.mark.parametrize("bits", [0, 7, 12])
def test_other_numbers_of_bits_are_refused(bits: int) -> None:
    with pytest.raises(Exception, match="prompt_bits must be 8 or 16"):
        Experts.random(2, 32, 32, 1, seed=1).session(prompt_bits=bits)


@pytest.mark.parametrize(("decoded", "prompt_bits"), [(0, 16), (0, 8), (20, 16)])
def test_the_smallest_scales_leave_a_block_next_to_nothing(path: str, decoded: int, prompt_bits: int) -> None:
    """E8M0 of 0 and 1: quantisers write them for blocks without content, whatever their codes are."""
    experts = Experts.random(4, 96, 64, 2, seed=8)
    for at, scale in ((0, 0), (1, 1)):
        experts.gate_up_scales[:, :, at] = scale
        experts.down_scales[:, :, at] = scale
    rng = np.random.default_rng(9)
    x, logits = rng.standard_normal((20, 96), dtype=np.float32), rng.standard_normal((20, 4), dtype=np.float32)
    actual = run(experts.session(prompt_bits=prompt_bits), decoded=decoded, x=x, logits=logits)
    assert relative_error(actual, experts.reference(x, logits)) < (BYTE_ERROR if prompt_bits == 8 else MATRIX_ERROR)


def test_decoded_token_does_not_depend_on_its_company(path: str) -> None:
    experts = Experts.random(8, 128, 96, 2, seed=3)
    session = experts.session()
    rng = np.random.default_rng(4)
    x = rng.standard_normal((16, 128), dtype=np.float32)
    logits = rng.standard_normal((16, 8), dtype=np.float32)
    together = run(session, x=x, logits=logits)
    alone = [run(session, x=x[i : i + 1], logits=logits[i : i + 1]) for i in range(16)]
    assert np.array_equal(together, np.concatenate(alone))


def test_weights_packed_and_offered_by_the_host_are_the_ones_used(path: str) -> None:
    experts, others = Experts.random(8, 64, 96, 2, seed=5), Experts.random(8, 64, 96, 2, seed=6)
    packed = np.zeros(OPERATORS.expert_bytes(others.shape), np.uint8)
    sources = (others.gate_up_blocks, others.gate_up_scales, others.down_blocks, others.down_scales)
    OPERATORS.pack_experts(others.shape, sources, packed, threads=2)
    OPERATORS.offer(5, packed)
    rng = np.random.default_rng(7)
    x, logits = rng.standard_normal((3, 64), dtype=np.float32), rng.standard_normal((3, 8), dtype=np.float32)
    mixed = Experts(**{**vars(others), "gate_up_bias": experts.gate_up_bias, "down_bias": experts.down_bias})
    offered = run(experts.session(key=5), x=x, logits=logits)
    assert relative_error(offered, mixed.reference(x, logits)) < DECODE_ERROR
    own = run(experts.session(key=6), x=x, logits=logits)
    assert relative_error(own, experts.reference(x, logits)) < DECODE_ERROR


def test_packing_is_a_permutation_of_the_published_bytes() -> None:
    experts = Experts.random(2, 64, 64, 1, seed=8)
    packed = np.zeros(OPERATORS.expert_bytes(experts.shape), np.uint8)
    sources = (experts.gate_up_blocks, experts.gate_up_scales, experts.down_blocks, experts.down_scales)
    OPERATORS.pack_experts(experts.shape, sources, packed)
    nibbles = np.zeros(16, np.int64)
    groups = packed.reshape(-1, 64 + 2 * 256)  # of 16 rows: the scales of two blocks, padded to a line, and their codes
    scales_of, padding, codes = np.split(groups, [32, 64], axis=1)
    assert not padding.any()
    for half in (codes & 15, codes >> 4):
        nibbles += np.bincount(half.ravel(), minlength=16)
    published = np.zeros(16, np.int64)
    for blocks in (experts.gate_up_blocks, experts.down_blocks):
        published += np.bincount((blocks & 15).ravel(), minlength=16) + np.bincount((blocks >> 4).ravel(), minlength=16)
    assert np.array_equal(nibbles, published)
    scales = np.concatenate([experts.gate_up_scales.ravel(), experts.down_scales.ravel()])
    assert np.array_equal(np.sort(scales_of.ravel()), np.sort(scales))


@pytest.mark.parametrize(("rows", "inner"), [(96, 64), (100, 256), (33, 32), (1000, 160)])
@pytest.mark.parametrize(("kind", "decode_error", "matrix_error"), [("int8", 8e-3, 9e-3), ("bf16", 2e-6, 4e-3)])
def test_dense_layer_against_float64(
    path: str, rows: int, inner: int, kind: str, decode_error: float, matrix_error: float
) -> None:
    rng = np.random.default_rng(9)
    weight = (rng.standard_normal((rows, inner)) * 0.02).astype(ml_dtypes.bfloat16)
    bias = rng.standard_normal(rows, dtype=np.float32)
    for with_bias in (True, False):
        node = dense_node(["x", "decoded", "bias" if with_bias else "", "weight"], kind)
        constants = {"weight": bf16_tensor(weight)}
        if with_bias:
            constants["bias"] = numpy_helper.from_array(bias)
        session = session_of(node, {"x": inner}, constants)
        for tokens in (1, 5, 16, 17, 70):
            x = rng.standard_normal((tokens, inner), dtype=np.float32)
            product = x.astype(np.float64) @ weight.astype(np.float64).T
            actual = run(session, x=x) - (bias if with_bias else 0)
            assert relative_error(actual, product) < (decode_error if tokens <= 16 else matrix_error), tokens


@pytest.mark.parametrize("kind", ["int8", "bf16"])
@pytest.mark.parametrize("inner", [32, 288, 2880])  # of one block, of slices and a rest
def test_every_number_of_tokens_gives_each_the_bits_it_gets_alone(path: str, kind: str, inner: int) -> None:
    rng = np.random.default_rng(15)
    weight = (rng.standard_normal((64, inner)) * 0.02).astype(ml_dtypes.bfloat16)
    node = dense_node(["x", "decoded", "", "weight"], kind)
    session = session_of(node, {"x": inner}, {"weight": bf16_tensor(weight)})
    x = rng.standard_normal((40, inner), dtype=np.float32)
    for products in (0, 40):  # a prompt's, and decoded tokens'
        alone = np.concatenate([run(session, decoded=products, x=x[at : at + 1]) for at in range(40)])
        for count in range(2, 41):
            np.testing.assert_array_equal(run(session, decoded=products, x=x[:count]), alone[:count])
    x = rng.standard_normal((230, inner), dtype=np.float32)
    in_parts = np.concatenate([run(session, decoded=0, x=x[at : at + 40]) for at in range(0, 230, 40)])
    for count in (81, 96, 97, 150, 230):  # more than pass together, on every path
        np.testing.assert_array_equal(run(session, decoded=0, x=x[:count]), in_parts[:count])


@pytest.mark.parametrize("prompt_bits", [16, 8])
def test_an_expert_with_many_tokens_gives_each_the_bits_it_gets_among_few(path: str, prompt_bits: int) -> None:
    experts, rng = Experts.random(2, 416, 288, 2, seed=1), np.random.default_rng(21)
    session = experts.session(prompt_bits=prompt_bits)
    x, logits = rng.standard_normal((230, 416), dtype=np.float32), rng.standard_normal((230, 2), dtype=np.float32)
    parts = [slice(at, at + 20) for at in range(0, 230, 20)]
    in_parts = np.concatenate([run(session, decoded=0, x=x[part], logits=logits[part]) for part in parts])
    for count in (33, 81, 97, 230):
        together = run(session, decoded=0, x=x[:count], logits=logits[:count])
        np.testing.assert_array_equal(together, in_parts[:count])


def test_an_outlier_costs_precision_only_in_its_neighbourhood(path: str) -> None:
    """Trained models have activations some hundreds of times larger than the rest."""
    rng, inner = np.random.default_rng(16), 1024
    weight = (rng.integers(-127, 128, (64, inner)) / 64).astype(ml_dtypes.bfloat16)  # exact in 8 bits
    weight[:, ::32] = 127 / 64
    weight[:, 700] = 0  # all that is left of the outlier is what it does to its neighbours
    node = dense_node(["x", "decoded", "", "weight"], "int8")
    session = session_of(node, {"x": inner}, {"weight": bf16_tensor(weight)})
    x = rng.standard_normal((20, inner), dtype=np.float32)

    def error(outlier: int, decoded: int) -> float:
        x[:, 700] = outlier
        actual = run(session, decoded=decoded, x=x)
        return relative_error(actual, x.astype(np.float64) @ weight.astype(np.float64).T)

    assert error(0, 20) < DECODE_ERROR
    assert error(300, 20) < 2e-3  # a quarter of the row at steps of 300 / 32767
    assert error(0, 0) < BYTE_ERROR
    # Of a prompt, the 32 around it are lost (at steps of 300 / 127): a 32nd of the square of the row's product.
    assert error(300, 0) < 1.2 * 32**-0.5


def test_activations_of_any_magnitude_give_numbers(path: str) -> None:
    rng, inner = np.random.default_rng(18), 1024
    weight = (rng.standard_normal((32, inner)) * 0.02).astype(ml_dtypes.bfloat16)
    node = dense_node(["x", "decoded", "", "weight"], "int8")
    session = session_of(node, {"x": inner}, {"weight": bf16_tensor(weight)})
    for magnitude in (0.0, 1e-38, 1e-20, 1e-6, 1e6, 1e12):
        x = rng.standard_normal((16, inner), dtype=np.float32)
        x[:, 256:512] *= np.float32(magnitude)  # one slice among ordinary ones
        x[8:, 512:] = 0
        product = x.astype(np.float64) @ weight.astype(np.float64).T
        for count, decoded in ((1, 1), (16, 16), (1, 0), (16, 0)):
            error = relative_error(run(session, decoded=decoded, x=x[:count]), product[:count])
            assert error < (1e-2 if decoded else 1.5e-2), magnitude


def dense_node(inputs: list[str], kind: str) -> onnx.NodeProto:
    return helper.make_node(
        "Dense", inputs, ["y"], domain="gpt_oss", key=0, parts=len(inputs) - 3, kind=0 if kind == "int8" else 1
    )


@pytest.mark.parametrize("kind", ["int8", "bf16"])
def test_dense_parts_stand_side_by_side_as_if_each_were_alone(path: str, kind: str) -> None:
    rng = np.random.default_rng(13)
    sizes, inner = (200, 32, 45), 64
    weights = [(rng.standard_normal((rows, inner)) * 0.1).astype(ml_dtypes.bfloat16) for rows in sizes]
    bias = rng.standard_normal(sum(sizes), dtype=np.float32)
    names = ["first", "second", "third"]
    parts = {name: bf16_tensor(weight) for name, weight in zip(names, weights, strict=True)}
    together = session_of(
        dense_node(["x", "decoded", "bias", *names], kind),
        {"x": inner},
        {"bias": numpy_helper.from_array(bias), **parts},
    )
    pieces = np.split(bias, np.cumsum(sizes)[:-1])
    alone = [
        session_of(
            dense_node(["x", "decoded", "bias", "weight"], kind), {"x": inner},
            {"bias": numpy_helper.from_array(piece), "weight": bf16_tensor(weight)},
        )
        for weight, piece in zip(weights, pieces, strict=True)
    ]  # fmt: skip
    for tokens in (1, 7, 40):
        x = rng.standard_normal((tokens, inner), dtype=np.float32)
        expected = np.concatenate([run(session, x=x) for session in alone], axis=-1)
        np.testing.assert_array_equal(run(together, x=x), expected)


def test_dense_parts_of_different_inner_sizes_are_refused() -> None:
    weights = {name: bf16_tensor(np.zeros((32, inner), ml_dtypes.bfloat16)) for name, inner in (("a", 64), ("b", 32))}
    with pytest.raises(Exception, match="the same inner dimension"):
        session_of(dense_node(["x", "decoded", "", "a", "b"], "int8"), {"x": 64}, weights)


def test_embedding_widens_the_rows_of_its_parts_and_refuses_others() -> None:
    rng = np.random.default_rng(14)
    weights = [rng.standard_normal((rows, 48)).astype(ml_dtypes.bfloat16) for rows in (5, 1, 30)]
    names = ["first", "second", "third"]
    constants = [bf16_tensor(weight) for weight in weights]
    for name, tensor in zip(names, constants, strict=True):
        tensor.name = name
    graph = helper.make_graph(
        [helper.make_node("Embedding", ["ids", *names], ["y"], domain="gpt_oss")], "one",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, ["B", "S"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)], constants,
    )  # fmt: skip
    session = session_of_graph(graph)
    ids = np.array([[0, 4, 5], [6, 35, 5]])
    (rows,) = session.run(None, {"ids": ids})
    np.testing.assert_array_equal(rows, np.concatenate(weights).astype(np.float32)[ids.ravel()])
    assert session.run(None, {"ids": np.zeros((0, 3), np.int64)})[0].shape == (0, 48)
    for wrong in (-1, 36):
        with pytest.raises(Exception, match=f"token id {wrong} is not below the vocabulary of 36"):
            session.run(None, {"ids": np.array([[0, wrong]])})


def top_logits_of(logits: NDArray[np.float32], k: int) -> list[NDArray[Any]]:
    graph = helper.make_graph(
        [helper.make_node("TopLogits", ["x"], ["values", "ids", "sums"], domain="gpt_oss", k=k)], "one",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", "vocab"])],
        [
            helper.make_tensor_value_info(name, kind, None)
            for name, kind in (("values", TensorProto.FLOAT), ("ids", TensorProto.INT64), ("sums", TensorProto.FLOAT))
        ],
    )  # fmt: skip
    results: list[NDArray[Any]] = session_of_graph(graph).run(None, {"x": logits})
    return results


@pytest.mark.parametrize(("vocab", "k"), [(1, 1), (63, 5), (300, 256), (4096, 4096), (20_000, 256), (201_088, 256)])
def test_top_logits_against_float64(path: str, vocab: int, k: int) -> None:
    rng = np.random.default_rng(vocab)
    for spread in (1.0, 30.0, 0.0):  # flat, peaked, all alike
        logits = (spread * rng.standard_normal((3, vocab))).astype(np.float32)
        logits[1] = np.round(logits[1])  # many equal ones
        values, ids, sums = top_logits_of(logits, k)
        order = np.argsort(-logits, axis=-1, kind="stable")[:, :k]
        np.testing.assert_array_equal(ids, order)
        np.testing.assert_array_equal(values, np.take_along_axis(logits, order, axis=-1))
        exact = logits.astype(np.float64)
        largest = exact.max(axis=-1)
        expected = largest + np.log(np.exp(exact - largest[:, np.newaxis]).sum(axis=-1))
        np.testing.assert_allclose(sums, expected, rtol=3e-7, atol=2e-6)


def test_top_logits_without_rows_are_empty_and_what_is_no_number_comes_last() -> None:
    assert [part.shape for part in top_logits_of(np.zeros((0, 300), np.float32), 7)] == [(0, 7), (0, 7), (0,)]
    logits = np.full((1, 300), np.nan, np.float32)
    logits[0, [5, 250]] = 1, 2
    values, ids, _ = top_logits_of(logits, 4)
    assert values[0].tolist() == [2, 1, -np.inf, -np.inf]
    assert ids[0].tolist() == [250, 5, 0, 1]


def test_more_logits_than_there_are_are_refused() -> None:
    with pytest.raises(Exception, match=r"k between 1 and the vocabulary, not 9 of \[1, 8\]"):
        top_logits_of(np.zeros((1, 8), np.float32), 9)


def bf16_tensor(array: NDArray[np.generic]) -> onnx.TensorProto:
    return helper.make_tensor("weight", TensorProto.BFLOAT16, array.shape, array.tobytes(), raw=True)


def test_eight_bit_weights_are_the_nearest_ones_and_halves_go_away_from_zero() -> None:
    """Bit by bit against NumPy: packed weights are compared with what was packed before."""
    rng = np.random.default_rng(12)
    values = (rng.integers(-255, 256, (32, 64)) / 2).astype(ml_dtypes.bfloat16)  # many of them halves
    values[:, 0] = 127  # so that the scale of a row's first block is 1
    values[:, 32:] = rng.standard_normal((32, 32)).astype(ml_dtypes.bfloat16)
    values[3, 32:] = 0
    values[4, 32:] *= ml_dtypes.bfloat16(-0.0)
    shape = DenseShape(32, 64)
    packed = np.zeros(OPERATORS.dense_bytes("int8", shape), np.uint8)
    OPERATORS.pack_dense("int8", shape, values.view(np.uint8).reshape(-1), packed)
    blocks = values.astype(np.float32).reshape(32, 2, 32)
    largest = np.abs(blocks).max(axis=2, keepdims=True) / np.float32(127)
    scales = ((largest.view(np.uint32) + 0xFFFF) & 0xFFFF0000).view(np.float32)  # bfloat16, rounded up
    with np.errstate(invalid="ignore"):
        shares = np.where(scales > 0, blocks / scales, 0).astype(np.float64)
    codes = np.clip(np.copysign(np.floor(np.abs(shares) + 0.5), shares), -127, 127).astype(np.int64) + 128
    assert (np.abs(shares) % 1 == 0.5).sum() > 400
    for group, rows in zip(packed.reshape(2, -1), (slice(0, 16), slice(16, 32)), strict=True):
        assert np.array_equal(group[:64].view("<u2").reshape(2, 16), (scales[rows, :, 0].view(np.uint32) >> 16).T)
        by_row = group[64:].reshape(2, 8, 16, 4).transpose(2, 0, 1, 3).reshape(16, 2, 32)
        assert np.array_equal(by_row, codes[rows])


def test_dense_weights_are_packed_by_several_threads_as_by_one() -> None:
    weight = np.random.default_rng(10).integers(0, 256, 4000 * 64 * 2, dtype=np.uint8)
    weight[1::2] = 0x3C  # ordinary magnitudes
    shape = DenseShape(4000, 64)
    one, four = (np.zeros(OPERATORS.dense_bytes("int8", shape), np.uint8) for _ in range(2))
    OPERATORS.pack_dense("int8", shape, weight, one)
    OPERATORS.pack_dense("int8", shape, weight, four, threads=4)
    assert one.any()
    assert np.array_equal(one, four)


def test_wrong_shapes_are_refused_with_the_expected_ones() -> None:
    experts = Experts.random(8, 64, 96, 2, seed=11)
    broken = Experts(**{**vars(experts), "down_bias": np.zeros((8, 63), np.float32)})
    x, logits = np.zeros((1, 64), np.float32), np.zeros((1, 8), np.float32)
    with pytest.raises(Exception, match=r"down_bias must be \[8, 64\], not \[8, 63\]"):
        run(broken.session(), x=x, logits=logits)
    broken = Experts(**{**vars(experts), "down_scales": np.zeros((8, 64, 2), np.uint8)})
    with pytest.raises(Exception, match=r"down_scales must be \[8, 64, 3\], not \[8, 64, 2\]"):
        broken.session()


def test_offer_of_another_size_is_refused() -> None:
    experts = Experts.random(8, 64, 96, 2, seed=12)
    OPERATORS.offer(77, np.zeros(16, np.uint8))
    try:
        with pytest.raises(Exception, match="another size"):
            experts.session(key=77)
    finally:
        OPERATORS.withdraw_offers()


def test_unknown_path_is_refused_by_name() -> None:
    with pytest.raises(OperatorError, match="avx1024"):
        OPERATORS.use_path("avx1024")


def test_library_is_the_one_the_package_was_built_with() -> None:
    assert Path(OPERATORS.path).name == "libgpt_oss_kernels.so"


@pytest.mark.parametrize(("products", "prompt_bits"), [("few", 16), ("many", 16), ("many", 8)])
def test_either_kind_of_product_gives_a_token_the_same_bits_whoever_is_in_the_call(
    path: str, products: str, prompt_bits: int
) -> None:
    experts = Experts.random(8, 256, 128, 2, seed=3)
    session, rng = experts.session(prompt_bits=prompt_bits), np.random.default_rng(4)
    x = rng.standard_normal((70, 256), dtype=np.float32)
    logits = rng.standard_normal((70, 8), dtype=np.float32)

    def result(part: slice) -> NDArray[np.float32]:
        decoded = 0 if products == "many" else part.stop - part.start
        y: NDArray[np.float32] = run(session, decoded=decoded, x=x[part], logits=logits[part])
        return y

    together = result(slice(0, 70))
    limit = error_limit(path, 70 if products == "many" else 1, prompt_bits)
    assert relative_error(together, experts.reference(x, logits)) < limit
    for first, count in ((0, 1), (5, 3), (20, 16), (33, 17), (69, 1)):
        np.testing.assert_array_equal(result(slice(first, first + count)), together[first : first + count])


@pytest.mark.parametrize("decoded", [1, 9, 20])
@pytest.mark.parametrize("prompt", [1, 11, 40])
def test_decoded_tokens_and_a_prompt_in_one_call_each_get_the_bits_they_get_alone(
    path: str, decoded: int, prompt: int
) -> None:
    experts, inner = Experts.random(8, 256, 128, 2, seed=3), 256
    rng = np.random.default_rng(decoded + prompt)
    x = rng.standard_normal((decoded + prompt, inner), dtype=np.float32)
    logits = rng.standard_normal((decoded + prompt, 8), dtype=np.float32)
    weight = bf16_tensor((rng.standard_normal((300, inner)) * 0.1).astype(ml_dtypes.bfloat16))
    sessions: list[tuple[onnxruntime.InferenceSession, dict[str, NDArray[np.float32]]]] = [
        (experts.session(prompt_bits=16), {"x": x, "logits": logits}),
        (experts.session(prompt_bits=8), {"x": x, "logits": logits}),
        *(
            (session_of(dense_node(["x", "decoded", "", "weight"], kind), {"x": inner}, {"weight": weight}), {"x": x})
            for kind in ("int8", "bf16")
        ),
    ]
    for session, inputs in sessions:
        together = run(session, decoded=decoded, **inputs)
        first = run(session, decoded=decoded, **{name: array[:decoded] for name, array in inputs.items()})
        rest = run(session, decoded=0, **{name: array[decoded:] for name, array in inputs.items()})
        np.testing.assert_array_equal(together, np.concatenate([first, rest]))
        if path == "amx" or (path != "portable" and session is sessions[1][0]):
            every = run(session, decoded=decoded + prompt, **inputs)
            assert not np.array_equal(every[decoded:], rest), "the check cannot fail"


def test_the_library_asks_for_no_newer_c_library_than_documented() -> None:
    """RHEL 9, Debian 12 and Ubuntu 22.04 have it (docs/settings.md, "The host")."""
    listing = subprocess.run(["readelf", "--version-info", "--wide", OPERATORS.path], capture_output=True, text=True)
    versions = {tuple(map(int, found.split("."))) for found in re.findall(r"GLIBC_([0-9.]+)", listing.stdout)}
    assert versions
    assert max(versions) <= (2, 32)
    assert "GLIBCXX" not in listing.stdout
