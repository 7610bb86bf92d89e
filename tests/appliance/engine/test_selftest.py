"""The self-test never refuses a right release, whatever the processor, and never passes a wrong one."""

from __future__ import annotations

import base64
import json
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import onnx
import pytest

from appliance.config import CacheItem
from appliance.engine.cache_memory import ITEM_BYTES
from appliance.engine.model import ModelError
from appliance.engine.model.parts import PartSession
from appliance.engine.operators import load_operators
from appliance.engine.packed_weights import PackingError
from appliance.engine.selftest.answers import (
    ON_PATHS,
    REFERENCE,
    KnownAnswerError,
    Subject,
    answer_of,
    check_known_answers,
    compare,
    record_known_answers,
)
from appliance.engine.selftest.rows import largest, rows_of
from appliance.installed_release import InstalledRelease, ReleaseError
from bundler.checkpoint import open_checkpoint
from bundler.export import export_graph
from bundler.graph.cpu import DenseKind
from bundler.random_checkpoint import random_config, write_random_checkpoint
from installer.formats.known_answers import parse_known_answers
from installer.formats.packing import encode_packing, parse_packing
from installer.formats.release import ModelCard
from tests.conftest import require

PATHS = load_operators().paths()
SIZES = {
    "layers": 4, "hidden": 128, "intermediate": 96, "experts": 8, "experts_per_token": 4, "heads": 4, "kv_heads": 2,
    "head_dim": 32, "vocab": 320, "sliding_window": 16, "context": 6000,
}  # fmt: skip


@pytest.fixture(autouse=True)
def best_path() -> Iterator[None]:
    """What a host uses by itself; the other tests of the engine take the exact path."""
    with load_operators().using(PATHS[0]):
        yield


def release_of(graph: Path, known_answers: Path | None = None) -> InstalledRelease:
    return InstalledRelease(
        path=graph.parent, name="random", version="1", graphs={"cpu": graph}, config=graph, vocabulary=graph,
        known_answers=known_answers, dense="int8", model=ModelCard("r", "R", "Random.", 16, (), None), installed_s=0,
    )  # fmt: skip


def exported(
    directory: Path, *, seed: int, dense: DenseKind = "int8", max_shard_bytes: int = 1 << 30, **sizes: int
) -> Path:
    write_random_checkpoint(directory / "checkpoint", random_config(**{**SIZES, **sizes}), seed=seed)
    return export_graph(
        open_checkpoint(directory / "checkpoint"), directory / "cpu", accelerator="cpu", dense=dense,
        max_shard_bytes=max_shard_bytes,
    ).model  # fmt: skip


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> InstalledRelease:
    """A release with known answers, as a builder's processor records them. Not to be written to."""
    directory = tmp_path_factory.mktemp("selftest")
    graph = exported(directory, seed=1)
    record_known_answers(release_of(graph), directory / "known_answers.json")
    return release_of(graph, directory / "known_answers.json")


@pytest.fixture
def copied(recorded: InstalledRelease, tmp_path: Path) -> InstalledRelease:
    """The same release, which a test may alter."""
    graph = Path(shutil.copytree(recorded.graphs["cpu"].parent, tmp_path / "cpu")) / "model.onnx"
    assert recorded.known_answers is not None
    return release_of(graph, Path(shutil.copy(recorded.known_answers, tmp_path)))


# --- a right release ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", PATHS)
def test_a_release_passes_with_every_instruction_set(recorded: InstalledRelease, path: str) -> None:
    seen: list[tuple[int, int]] = []
    with load_operators().using(path):
        result = check_known_answers(recorded, progress=lambda done, total: seen.append((done, total)))
    assert result.path == path
    assert result.parts == 35  # two tables, the embedding, seven for each layer, the first norm, three of the head
    assert seen == [(number, 35) for number in range(1, 36)]
    assert result.decoded <= 0.5  # of what is allowed
    assert result.prompt <= 0.5


@pytest.mark.parametrize("seed", range(21))
def test_random_weights_never_fail(seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Models of several shapes, recorded on processors of which some have only one instruction set, on every path."""
    rng = np.random.default_rng(seed)
    sizes = {"hidden": int(rng.choice([64, 128, 160])), "intermediate": int(rng.choice([32, 96, 256]))}
    sizes |= {"experts": int(rng.choice([4, 8])), "sliding_window": int(rng.choice([4, 16, 40]))}
    dense: DenseKind = "bf16" if seed % 4 == 3 else "int8"
    subject = Subject.of(release_of(exported(tmp_path, seed=seed, dense=dense, vocab=300 + seed, **sizes)))
    builder = [REFERENCE] if seed % 3 else PATHS
    for part in subject.parts:
        with subject.opened(part) as session:
            with monkeypatch.context() as patched:
                patched.setattr(type(subject.operators), "paths", lambda _: builder)
                answer = answer_of(subject, part, session)
            for path in PATHS:
                with subject.operators.using(path):
                    shares = compare(part, rows_of(subject.graph, part, session), answer)
                assert max(shares.values()) <= 0.7, f"{part.name} on {path}: {shares}"


@pytest.mark.parametrize(
    ("form", "operators"),
    [
        (
            {"max_shard_bytes": 1 << 16, "layers": 2, "context": 600},
            {"Dense", "Gemm"},
        ),  # weights in parts, which Concat joins
        ({"heads": 3, "kv_heads": 1, "head_dim": 16, "layers": 2}, {"Dense", "Gemm"}),  # o_proj is no Dense: 48 columns
        ({"experts": 4, "experts_per_token": 4, "layers": 2, "context": 40}, {"Dense", "Gemm"}),  # no choice, no room
    ],
    ids=["weights in parts", "no native projection", "small"],
)
def test_unusual_forms_pass_and_are_tested(form: dict[str, Any], operators: set[str], tmp_path: Path) -> None:
    graph = exported(tmp_path, seed=3, **form)
    record_known_answers(release_of(graph), tmp_path / "known_answers.json")
    release = release_of(graph, tmp_path / "known_answers.json")
    assert check_known_answers(release).decoded <= 0.5
    assert operators <= {part.node.operator for part in Subject.of(release).parts}
    change_weight(graph, "model.layers.1.self_attn.o_proj.weight", at(5, 40, flip=_SIGN))
    with pytest.raises(KnownAnswerError, match=r"layer 1: .*model\.layers\.1\.self_attn\.output"):
        check_known_answers(release)


def test_a_recording_repeats(recorded: InstalledRelease, tmp_path: Path) -> None:
    record_known_answers(recorded, tmp_path / "again.json")
    assert recorded.known_answers is not None
    assert (tmp_path / "again.json").read_bytes() == recorded.known_answers.read_bytes()


def test_operators_outside_the_paths_give_the_same_bits_on_every_path(recorded: InstalledRelease) -> None:
    """They are recorded on one path alone."""
    subject, seen = Subject.of(recorded), set()
    for part in subject.parts:
        if part.node.operator in ON_PATHS:
            continue
        seen.add(part.node.operator)
        with subject.opened(part) as session:
            for path in PATHS:
                with subject.operators.using(path):
                    found = rows_of(subject.graph, part, session)
                with subject.operators.using(REFERENCE):
                    expected = rows_of(subject.graph, part, session)
                assert set(largest(found, expected).values()) <= {(0.0, row.name) for row in expected}, part.name
    assert {"Embedding", "Gemm", "Identity", "SkipSimplifiedLayerNormalization"} <= seen


def test_a_release_without_later_weights_names_them_and_leaves_no_thread(copied: InstalledRelease) -> None:
    """They are read ahead of the part that needs them."""
    plan = copied.graphs["cpu"].parent / "packing.json"
    entries = list(parse_packing(plan.read_bytes()))
    sources = tuple(replace(source, file="missing.bin") for source in entries[3].sources)
    entries[3] = replace(entries[3], sources=sources)
    plan.write_bytes(encode_packing(entries))
    before = threading.active_count()
    with pytest.raises(PackingError, match=r"missing\.bin: lacks weights"):
        check_known_answers(copied)
    assert threading.active_count() == before


# --- a wrong release ------------------------------------------------------------------------------------------------


def change_weight(graph: Path, name: str, change: Callable[[np.ndarray[Any, Any]], None]) -> None:
    """Alter a stored weight in its file: the graph and packing.json, which say where it lies, still fit."""
    model = onnx.load(str(graph), load_external_data=False)
    (tensor,) = (tensor for tensor in model.graph.initializer if tensor.name == name)
    place = {entry.key: entry.value for entry in tensor.external_data}
    kind = {onnx.TensorProto.UINT8: np.uint8, onnx.TensorProto.FLOAT: np.float32}.get(tensor.data_type, np.uint16)
    stored = np.memmap(
        graph.parent / place["location"], kind, "r+", offset=int(place["offset"]), shape=tuple(tensor.dims)
    )
    before = stored.copy()
    change(stored)
    assert (before != stored).any()
    stored.flush()


def at(*index: Any, flip: int) -> Callable[[np.ndarray[Any, Any]], None]:
    """Flip these bits of one number, or of all in a slice."""

    def change(stored: np.ndarray[Any, Any]) -> None:
        stored[index] ^= stored.dtype.type(flip)

    return change


def doubled(*index: Any) -> Callable[[np.ndarray[Any, Any]], None]:
    def change(stored: np.ndarray[Any, Any]) -> None:
        stored[index] *= stored.dtype.type(2)

    return change


_SIGN, _EXPONENT = 0x8000, 0x0080  # of bfloat16: the sign, and the lowest bit of the exponent (twice or half as much)
WEIGHTS: Mapping[str, tuple[str, Callable[[np.ndarray[Any, Any]], None], str]] = {
    "expert block": ("model.layers.2.mlp.experts.gate_up_proj_blocks", at(5, 7, 1, flip=0x5A), "layer 2: the experts"),
    "expert code": ("model.layers.2.mlp.experts.gate_up_proj_blocks", at(0, 191, 3, 15, flip=0x80), "expert 0"),
    "expert scale": ("model.layers.1.mlp.experts.gate_up_proj_scales", at(7, 0, 0, flip=1), "expert 7"),
    "down block": ("model.layers.3.mlp.experts.down_proj_blocks", at(2, 127, 2, flip=0x08), "layer 3: the experts"),
    "down scale": ("model.layers.0.mlp.experts.down_proj_scales", at(3, 64, 1, flip=1), "layer 0: the experts"),
    "expert bias": ("model.layers.1.mlp.experts.gate_up_proj_bias", at(4, 100, flip=_SIGN), "layer 1: the experts"),
    "down bias": ("model.layers.1.mlp.experts.down_proj_bias", at(6, 3, flip=_SIGN), "layer 1: the experts"),
    "router weight": ("model.layers.2.mlp.router.weight", at(3, 5, flip=_EXPONENT), "layer 2: the router"),
    "router bias": ("model.layers.0.mlp.router.bias", at(1, flip=_EXPONENT), "layer 0: the router"),
    "query weight": ("model.layers.1.self_attn.q_proj.weight", at(9, 9, flip=_SIGN), "layer 1: a projection"),
    "value bias": ("model.layers.3.self_attn.v_proj.bias", at(2, flip=_EXPONENT), "layer 3: a projection"),
    "output weight": ("model.layers.0.self_attn.o_proj.weight", at(0, 0, flip=_SIGN), "self_attn.output"),
    "sink": ("model.layers.1.self_attn.sinks", at(3, flip=_EXPONENT), "layer 1: the attention"),
    "norm": ("model.layers.2.input_layernorm.weight", at(77, flip=0x0008), "layer 2: a norm"),
    "second norm": ("model.layers.2.post_attention_layernorm.weight", at(0, flip=0x0008), "layer 2: a norm"),
    "last norm": ("model.norm.weight", at(127, flip=0x0008), "a norm (model.norm.normed)"),
    "rotary table": ("rotary.cos", doubled(5800, 3), "a table (rotary.cos.read) differs: positions 4096 to 5999"),
    "embedding": ("model.embed_tokens.weight", at(319, 5, flip=_SIGN), "the embedding (embedding) differs: tokens 0"),
    "head": ("lm_head.weight", at(200, 3, flip=_SIGN), "a projection (logits)"),
}


@pytest.mark.parametrize("changed", WEIGHTS)
def test_one_changed_number_of_the_weights_is_found_and_its_place_named(copied: InstalledRelease, changed: str) -> None:
    name, change, said = WEIGHTS[changed]
    change_weight(copied.graphs["cpu"], name, change)
    with pytest.raises(KnownAnswerError) as refused:
        check_known_answers(copied)
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


def node_of(model: onnx.ModelProto, output: str) -> onnx.NodeProto:
    found: list[onnx.NodeProto] = [node for node in model.graph.node if output in node.output]
    assert len(found) == 1
    return found[0]


def set_number(output: str, name: str, value: float) -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        (attribute,) = (one for one in node_of(model, output).attribute if one.name == name)
        setattr(attribute, "f" if attribute.type == onnx.AttributeProto.FLOAT else "i", value)

    return change


def exchange_weights(one: str, other: str) -> Callable[[onnx.ModelProto], None]:
    """Exchange where two weights lie; every name stays."""

    def change(model: onnx.ModelProto) -> None:
        first, second = (next(t for t in model.graph.initializer if t.name == name) for name in (one, other))
        first.name, second.name = second.name, first.name

    return change


def read_instead(output: str, index: int, value: str) -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        node_of(model, output).input[index] = value

    return change


def leave_out(model: onnx.ModelProto) -> None:
    """Layer 2 without its attention: the norm after it reads what stood before."""
    model.graph.node.remove(node_of(model, "model.layers.2.self_attn.output"))
    read_instead("model.layers.2.post_attention_layernorm.normed", 1, "model.layers.1.mlp.output")(model)


def add_operator(model: onnx.ModelProto) -> None:
    model.graph.node.append(onnx.helper.make_node("Gather", ["wanted", "logit_rows"], ["more"]))


def unknown_operator(model: onnx.ModelProto) -> None:
    node_of(model, "wanted").op_type = "GatherND"


GRAPHS: Mapping[str, tuple[Callable[[onnx.ModelProto], None], str]] = {
    "window": (set_number("model.layers.2.self_attn.attended", "window", 32), "layer 2: the attention"),
    "no window": (set_number("model.layers.0.self_attn.attended", "window", 0), "layer 0: the attention"),
    "epsilon": (set_number("model.layers.1.input_layernorm.normed", "epsilon", 1e-6), "layer 1: a norm"),
    "first epsilon": (set_number("layers.0.input_norm", "epsilon", 2e-5), "layer 0: a norm"),
    "activation": (set_number("model.layers.3.mlp.output", "alpha", 1.72), "layer 3: the experts"),
    "limit": (set_number("model.layers.3.mlp.output", "limit", 8.0), "layer 3: the experts"),
    "fewer experts": (set_number("model.layers.1.mlp.output", "top_k", 3), "layer 1: the experts"),
    "dense kind": (set_number("model.layers.1.self_attn.output", "kind", 1), "layer 1"),
    "top tokens": (set_number("top_logits", "k", 255), "the largest logits"),
    "layers exchanged": (
        exchange_weights(
            "model.layers.1.self_attn.sinks", "model.layers.2.self_attn.sinks"
        ), "layer 1: the attention",
    ),
    "experts exchanged": (
        exchange_weights(
            "model.layers.0.mlp.experts.down_proj_bias", "model.layers.3.mlp.experts.down_proj_bias"
        ), "layer 0: the experts",
    ),
    "rewired": (read_instead("model.layers.2.mlp.output", 0, "model.layers.1.input_layernorm.normed"), "layer 2"),
    "operator left out": (leave_out, "layer 2"),
    "operator added": (add_operator, "the graph has 36 parts"),
    "operator unknown": (unknown_operator, "wanted"),
}  # fmt: skip
ATTRIBUTES = (
    "window", "no window", "epsilon", "first epsilon", "activation", "limit", "fewer experts", "top tokens"
)  # fmt: skip


@pytest.mark.parametrize("changed", GRAPHS)
def test_a_changed_graph_is_found_and_its_place_named(copied: InstalledRelease, changed: str) -> None:
    graph = copied.graphs["cpu"]
    model = onnx.load(str(graph), load_external_data=False)
    change, said = GRAPHS[changed]
    change(model)
    graph.write_bytes(model.SerializeToString())
    with pytest.raises((KnownAnswerError, ModelError)) as refused:
        check_known_answers(copied)
    assert said in str(refused.value)


@pytest.mark.parametrize("changed", ATTRIBUTES)
def test_a_changed_attribute_changes_what_the_operator_gives(copied: InstalledRelease, changed: str) -> None:
    """The digest of a node finds any change of it; a library that ignores or misreads an attribute is found by this."""
    graph = copied.graphs["cpu"]
    model = onnx.load(str(graph), load_external_data=False)
    change, said = GRAPHS[changed]
    change(model)
    assert copied.known_answers is not None
    known = parse_known_answers(copied.known_answers.read_bytes())
    graph.write_bytes(model.SerializeToString())
    subject, found = Subject.of(copied), []
    for part, answer in zip(subject.parts, known.parts, strict=True):
        with subject.opened(part) as session:
            rows = rows_of(subject.graph, part, session)
        try:
            compare(part, rows, answer)
        except KnownAnswerError as exc:
            found.append(str(exc))
    assert len(found) == 1
    assert said in found[0]


def test_packed_weights_that_come_from_another_place_are_found(copied: InstalledRelease) -> None:
    """The graph is right; packing.json, by which the engine packs, names another layer's weights."""
    plan = copied.graphs["cpu"].parent / "packing.json"
    entries = list(parse_packing(plan.read_bytes()))
    first, second = [number for number, entry in enumerate(entries) if entry.kind == "mxfp4"][:2]
    entries[first] = replace(entries[first], sources=entries[second].sources)
    plan.write_bytes(encode_packing(entries))
    with pytest.raises(KnownAnswerError, match="layer 0: the experts"):
        check_known_answers(copied)


def wrong_row(operator: str, row: int, factor: float) -> Callable[[PartSession, Mapping[str, Any]], Any]:
    """An operator library that computes one column of one row wrong."""
    run = PartSession.run

    def wrong(session: PartSession, inputs: Mapping[str, Any]) -> Any:
        outputs = run(session, inputs)
        if session.part.node.operator == operator:
            outputs[0][row, 3] *= factor
        return outputs

    return wrong


@pytest.mark.parametrize(
    ("operator", "row", "factor"),
    [
        ("ExpertLayer", 0, 1.1), ("ExpertLayer", 15, 1.1), ("ExpertLayer", -1, 3.0), ("Dense", 0, 1.05),
        ("Dense", -1, 1.5), ("Attention", -1, 1.001), ("Gemm", 1, 1.001), ("SimplifiedLayerNormalization", 1, 1.001),
        ("SkipSimplifiedLayerNormalization", 0, 1.001), ("Embedding", 5, -1.0), ("TopLogits", 1, 1.001),
    ],
)  # fmt: skip
def test_an_operator_that_computes_one_number_wrong_is_found(
    recorded: InstalledRelease, operator: str, row: int, factor: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PartSession, "run", wrong_row(operator, row, factor))
    with pytest.raises(KnownAnswerError, match="is allowed"):
        check_known_answers(recorded)


@pytest.mark.parametrize("item", get_args(CacheItem))
def test_attention_is_tested_with_every_type_of_cache(
    recorded: InstalledRelease, item: CacheItem, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = PartSession.run

    def wrong(session: PartSession, inputs: Mapping[str, Any]) -> Any:
        outputs = run(session, inputs)
        if session.part.node.operator == "Attention" and outputs[1].shape[3] == SIZES["head_dim"] * ITEM_BYTES[item]:
            outputs[0][-1, 3] *= 1.001
        return outputs

    monkeypatch.setattr(PartSession, "run", wrong)
    with pytest.raises(KnownAnswerError, match=f"position [0-9]+ with a cache of {item} is .* is allowed"):
        check_known_answers(recorded)


def test_instruction_sets_that_disagree_record_nothing(
    recorded: InstalledRelease, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    require(PATHS != [REFERENCE], "a processor with an instruction set that the operators know")
    right, operators = PartSession.run, load_operators()

    def wrong(session: PartSession, inputs: Mapping[str, Any]) -> Any:
        outputs = right(session, inputs)
        if session.part.node.operator == "ExpertLayer" and operators.chosen != REFERENCE:
            outputs[0][0] *= 1.1
        return outputs

    monkeypatch.setattr(PartSession, "run", wrong)
    with pytest.raises(KnownAnswerError, match=r"layer 0: the experts .* differs between the instruction sets"):
        record_known_answers(recorded, tmp_path / "out.json")
    assert not (tmp_path / "out.json").exists()


def test_weights_that_are_no_numbers_record_nothing(copied: InstalledRelease, tmp_path: Path) -> None:
    def infinite(stored: np.ndarray[Any, Any]) -> None:
        stored[3] = 0x7F80

    change_weight(copied.graphs["cpu"], "model.layers.1.self_attn.o_proj.bias", infinite)
    with pytest.raises(KnownAnswerError, match=r"layer 1: a projection .* gives what is no number"):
        record_known_answers(copied, tmp_path / "out.json")
    with pytest.raises(KnownAnswerError, match="layer 1: a projection"):
        check_known_answers(copied)


# --- files ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        lambda body: body.update(format=1),
        lambda body: body.update(parts=[]),
        lambda body: body.pop("parts"),
        lambda body: body["parts"][0].update(decoded=0),
        lambda body: body["parts"][0].update(prompt=float("nan")),
        lambda body: body["parts"][0].update(answer="=="),
        lambda body: body["parts"][0].update(answer=""),
        lambda body: body["parts"][0].update(answer=base64.b64encode(b"12345").decode()),
        lambda body: body["parts"][0].update(node_sha256=1),
        lambda body: body["parts"][0].pop("operator"),
    ],
)
def test_refuses_a_malformed_file(copied: InstalledRelease, change: Callable[[dict[str, Any]], None]) -> None:
    assert copied.known_answers is not None
    body = json.loads(copied.known_answers.read_text())
    change(body)
    copied.known_answers.write_text(json.dumps(body))
    with pytest.raises(ReleaseError, match="not a file of known answers"):
        check_known_answers(copied)


def test_numbers_that_are_missing_are_an_answer_that_differs(copied: InstalledRelease) -> None:
    assert copied.known_answers is not None
    body = json.loads(copied.known_answers.read_text())
    body["parts"][3]["answer"] = base64.b64encode(bytes(8)).decode()
    copied.known_answers.write_text(json.dumps(body))
    with pytest.raises(KnownAnswerError, match=r"layer 0: a norm .* it gave 2"):
        check_known_answers(copied)


@pytest.mark.parametrize("data", [b"", b"\x3a\x7f", b"{}", b"\xff" * 40])
def test_a_file_that_is_no_graph_is_refused(copied: InstalledRelease, data: bytes) -> None:
    copied.graphs["cpu"].write_bytes(data)
    with pytest.raises(ModelError, match="is no ONNX model"):
        check_known_answers(copied)


def test_weights_that_are_missing_are_refused(copied: InstalledRelease) -> None:
    (copied.graphs["cpu"].parent / "weights-00001.bin").unlink()
    with pytest.raises((ModelError, PackingError), match=r"rotary\.cos|weights-00001"):
        check_known_answers(copied)


def test_refuses_a_release_that_cannot_be_tested(recorded: InstalledRelease) -> None:
    with pytest.raises(ReleaseError, match="no known answers"):
        check_known_answers(replace(recorded, known_answers=None))
    with pytest.raises(ReleaseError, match="no graph for CPUs"):
        check_known_answers(replace(recorded, graphs={"cuda": recorded.graphs["cpu"]}))
