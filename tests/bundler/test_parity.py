"""The exported graph computes the published model. The proof can fail: wrong models are found."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from bundler.checkpoint import open_checkpoint
from bundler.export import export_graph
from bundler.random_checkpoint import random_config, write_random_checkpoint
from tests.bundler.onnx_model import GraphRunner, open_session
from tests.bundler.parity import MODES, SHAPES, TOLERANCE, Row, Shape, measure, relative_error
from tests.reference.gpt_oss import Float64Array, ReferenceModel

DOCUMENT = Path(__file__).parents[2] / "docs" / "parity.md"

pytestmark = pytest.mark.usefixtures("exact_operators")


@pytest.fixture(scope="session", params=SHAPES, ids=str)
def measured(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, parity_extra: None
) -> dict[str, Row]:
    """The rows of one shape, by mode."""
    shape: Shape = request.param
    return {row.mode: row for row in measure(shape, tmp_path_factory.mktemp("parity"))}


@pytest.mark.parametrize("mode", MODES)
def test_logits_agree_with_every_reference(measured: dict[str, Row], mode: str) -> None:
    row = measured[mode]
    assert all(error < TOLERANCE for error in row.errors), row
    assert row.same_argmax, row


def test_document_lists_every_run_and_no_other() -> None:
    lines = [line for line in DOCUMENT.read_text().splitlines() if line.startswith("| ") and " layer" in line]
    listed = [tuple(cell.strip() for cell in line.split("|")[1:3]) for line in lines]
    assert listed == [(shape.name, mode) for shape in SHAPES for mode in MODES]
    figures = [float(cell) for line in lines for cell in line.split("|")[4:7]]
    assert max(figures) < TOLERANCE
    assert all(line.rstrip(" |").endswith("yes") for line in lines)


def test_constants_come_from_the_configuration(tmp_path: Path) -> None:
    """Only the reference is asked, because Transformers and optimum-onnx have some of them in their code."""
    config = random_config(
        layers=2, hidden=64, intermediate=64, experts=4, experts_per_token=2,
        heads=4, kv_heads=2, head_dim=32, vocab=100, sliding_window=5, context=256,
    )  # fmt: skip
    config |= {"swiglu_limit": 1.5, "rms_norm_eps": 0.1, "rope_theta": 500, "layer_types": ["full_attention"] * 2}
    yarn = {"factor": 4.0, "original_max_position_embeddings": 64, "beta_fast": 8.0, "beta_slow": 2.0}
    config["rope_scaling"] |= yarn
    write_random_checkpoint(tmp_path / "checkpoint", config, seed=6)
    graph = export_graph(open_checkpoint(tmp_path / "checkpoint"), tmp_path / "graph", accelerator="cpu", dense="bf16")
    ids = np.random.default_rng(7).integers(0, 100, 30)
    expected = ReferenceModel(tmp_path / "checkpoint").logits(ids)
    assert relative_error(GraphRunner(open_session(graph.model)).prefill(ids), expected) < TOLERANCE


def test_a_nan_anywhere_fails_the_tolerance() -> None:
    theirs = np.ones((3, 4))
    for position in np.ndindex(theirs.shape):
        ours = theirs.copy()
        ours[position] = np.nan
        assert not relative_error(ours, theirs) < TOLERANCE


class _SharesOfAllExperts(ReferenceModel):
    """Softmax over every expert, not over the chosen ones."""

    def _route(self, router: Float64Array) -> tuple[NDArray[np.int64], Float64Array]:
        chosen, _ = super()._route(router)
        shares = np.exp(router - router.max(axis=-1, keepdims=True))
        return chosen, np.take_along_axis(shares / shares.sum(axis=-1, keepdims=True), chosen, axis=-1)


class _RunnerUpOnce(ReferenceModel):
    """The last token goes to the next expert instead of its last one, as if a tie had been broken the other way."""

    def _route(self, router: Float64Array) -> tuple[NDArray[np.int64], Float64Array]:
        chosen, shares = super()._route(router)
        ranking = np.argsort(-router[-1], kind="stable")
        chosen[-1, -1] = ranking[chosen.shape[1]]
        return chosen, shares


class _NoSinks(ReferenceModel):
    def _softmax_with_sink(self, scores: Float64Array, name: str) -> Float64Array:
        self.tensors[name] = np.full_like(self.tensors[name], -1e9)
        return super()._softmax_with_sink(scores, name)


_YARN = {"factor": 32.0, "original_max_position_embeddings": 4096, "beta_fast": 32.0, "beta_slow": 1.0}


@pytest.fixture(scope="module")
def ours(small_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[NDArray[np.int64], NDArray[Any]]:
    """A sequence and the graph's logits for it, which the unchanged reference confirms."""
    out = tmp_path_factory.mktemp("g") / "cpu"
    graph = export_graph(open_checkpoint(small_checkpoint), out, accelerator="cpu", dense="bf16")
    ids = np.random.default_rng(4).integers(0, 300, 40)
    logits = GraphRunner(open_session(graph.model)).prefill(ids)
    assert relative_error(logits, ReferenceModel(small_checkpoint).logits(ids)) < TOLERANCE
    return ids, logits


@pytest.mark.parametrize(
    ("model", "changes"),
    [
        (ReferenceModel, {"swiglu_limit": 6.0}),
        (ReferenceModel, {"sliding_window": 9}),
        (ReferenceModel, {"sliding_window": 7}),
        (ReferenceModel, {"num_experts_per_tok": 1}),
        (ReferenceModel, {"rms_norm_eps": 1e-3}),
        (ReferenceModel, {"rope_theta": 10000}),
        (ReferenceModel, {"rope_scaling": {**_YARN, "factor": 16.0}}),
        (ReferenceModel, {"rope_scaling": {**_YARN, "beta_fast": 16.0}}),
        (ReferenceModel, {"layer_types": ["sliding_attention"] * 3}),
        (_SharesOfAllExperts, {}),
        (_RunnerUpOnce, {}),
        (_NoSinks, {}),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "-".join(value),
)
def test_a_wrong_model_fails_the_tolerance(
    small_checkpoint: Path,
    ours: tuple[NDArray[np.int64], NDArray[Any]],
    model: type[ReferenceModel],
    changes: dict[str, Any],
) -> None:
    ids, logits = ours
    assert relative_error(logits, model(small_checkpoint, **changes).logits(ids)) > 10 * TOLERANCE
