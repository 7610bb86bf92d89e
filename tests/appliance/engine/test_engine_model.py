"""A real graph: chunks, batches and reused slots compute what a fresh conversation does; what cannot run is refused."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from appliance.config import CacheItem
from appliance.engine.model import ModelError, load
from appliance.engine.model.base import OnnxModel
from appliance.engine.model.load import load_model
from appliance.engine.model.runtime import import_onnxruntime
from appliance.engine.model.shape import shape_of
from appliance.engine.operators import load_operators
from appliance.engine.sampling import TopLogits
from appliance.engine.slots import MOST_DRAFTS
from appliance.engine.snapshots import Windows
from appliance.engine.steps import Append, Chunk
from bundler.graph.plan import Accelerator
from installer.formats.graph import GraphFacts, encode_graph_facts

NewModel = Callable[..., OnnxModel]
_CPU = "CPUExecutionProvider"
TOLERANCE = 2e-5  # float32, sums in another order
ITEMS: tuple[CacheItem, ...] = get_args(CacheItem)


def prompt_of(length: int, seed: int = 0) -> list[int]:
    return [int(i) for i in np.random.default_rng(seed).integers(0, 1000, length)]


def logits_of(top: TopLogits | None) -> NDArray[np.float32]:
    assert top is not None
    return top.all_logits()


def generate(model: OnnxModel, slot: int, prompt: list[int], count: int) -> list[int]:
    """Greedy continuation of one conversation, alone."""
    top = model.prefill(slot, prompt, 0, want_logits=True)
    assert top is not None
    tokens = [int(top.ids[0])]
    while len(tokens) < count:
        (step,) = model.decode([Append(slot, tokens[-1], len(prompt) + len(tokens) - 1)])
        tokens.append(int(step.ids[0]))
    return tokens


@pytest.mark.parametrize("chunks", [(40, 60), (1, 99), (33, 33, 34), tuple([10] * 10)])
def test_a_prompt_in_chunks_gives_what_it_gives_whole(new_model: NewModel, chunks: tuple[int, ...]) -> None:
    model, prompt = new_model(), prompt_of(100)
    whole = logits_of(model.prefill(0, prompt, 0, want_logits=True))
    past = 0
    for size in chunks:
        last = past + size == len(prompt)
        top = model.prefill(1, prompt[past : past + size], past, want_logits=last)
        assert (top is not None) is last
        past += size
    np.testing.assert_allclose(logits_of(top), whole, atol=TOLERANCE)


@pytest.mark.parametrize("path", load_operators().paths())
@pytest.mark.parametrize("cache", ITEMS)
@pytest.mark.parametrize("most", [1, 3, 16, 17, 64])
def test_on_a_cpu_a_prompt_gives_the_same_bits_however_it_is_cut(
    new_model: NewModel, path: str, cache: CacheItem, most: int
) -> None:
    """Chunks may then depend on who else is being served, and an answer can still be replayed token for token."""
    load_operators().use_path(path)
    model, prompt = new_model(cache=cache), prompt_of(100)
    whole = logits_of(model.prefill(0, prompt, 0, want_logits=True))
    assert len(model.plan_chunk(0, len(prompt), most)) <= most
    np.testing.assert_array_equal(logits_of(model.prefill_prompt(1, prompt, most=most)), whole)


@pytest.mark.parametrize("path", load_operators().paths())
def test_on_a_cpu_a_token_gets_the_same_bits_whoever_is_decoded_with_it(new_model: NewModel, path: str) -> None:
    load_operators().use_path(path)
    model = new_model(slots=20)
    for slot in range(20):
        model.prefill(slot, prompt_of(10 + slot, slot), 0, want_logits=False)
    appends = [Append(slot, 7, 10 + slot) for slot in range(20)]
    together = model.decode(appends)
    for slot in (0, 7, 19):
        (alone,) = model.decode([appends[slot]])
        np.testing.assert_array_equal(logits_of(alone), logits_of(together[slot]))


@pytest.mark.parametrize("path", load_operators().paths())
@pytest.mark.parametrize("cache", ITEMS)
def test_on_a_cpu_drafts_get_the_bits_of_tokens_that_were_drawn(
    new_model: NewModel, path: str, cache: CacheItem
) -> None:
    """Beside other streams, across the end of a ring, and after drafts that were wrong."""
    load_operators().use_path(path)
    model, rng = new_model(cache=cache), np.random.default_rng(5)
    tokens = {slot: prompt_of(300 + 40 * slot, slot) for slot in (0, 1)}
    alone: dict[int, list[NDArray[np.float32]]] = {0: [], 1: []}
    for slot, own in tokens.items():
        model.prefill(slot, own[:250], 0, want_logits=False)
        model.prefill(slot + 2, own[:250], 0, want_logits=False)
        for place in range(250, 300):
            (top,) = model.decode([Append(slot, own[place], place)])
            alone[slot].append(logits_of(top))
    place = 250
    while place < 300:
        right, wrong = int(rng.integers(0, 9)), int(rng.integers(0, 9))
        right = min(right, 299 - place)
        appends = [Append(3, tokens[1][place], place)]
        appends += [Append(2, tokens[0][place + i], place + i) for i in range(right + 1)]
        appends += [Append(2, 1 + i, place + right + 1 + i) for i in range(wrong)]
        tops = model.decode(appends)
        np.testing.assert_array_equal(logits_of(tops[0]), alone[1][place - 250])
        for i in range(right + 1):
            np.testing.assert_array_equal(logits_of(tops[1 + i]), alone[0][place - 250 + i])
        for missed in range(1, right + 1):  # the other stream had no drafts
            model.decode([Append(3, tokens[1][place + missed], place + missed)])
        place += right + 1


@pytest.mark.parametrize("path", load_operators().paths())
def test_on_a_cpu_the_most_drafts_of_the_most_streams_get_the_bits_they_get_alone(
    new_model: NewModel, path: str
) -> None:
    """72 rows in one step, more than any operator takes together, and at the last places of the capacity."""
    load_operators().use_path(path)
    model = new_model(slots=8, context_tokens=320)
    rows = range(1 + MOST_DRAFTS)
    begins = {slot: 320 - len(rows) - 9 * slot for slot in range(8)}
    for slot, begin in begins.items():
        model.prefill_prompt(slot, prompt_of(begin, slot))
    appends = [Append(slot, 7 * at + slot, begin + at) for slot, begin in begins.items() for at in rows]
    together = [logits_of(top) for top in model.decode(appends)]
    for append, expected in zip(appends, together, strict=True):
        (top,) = model.decode([append])
        np.testing.assert_array_equal(logits_of(top), expected)


@pytest.mark.parametrize("path", load_operators().paths())
@pytest.mark.parametrize("size", [1, 16, 64])
def test_on_a_cpu_a_prompt_beside_decoded_tokens_leaves_everyone_the_bits_they_get_alone(
    new_model: NewModel, path: str, size: int
) -> None:
    load_operators().use_path(path)
    model, prompt = new_model(slots=6), prompt_of(100)
    slots, lengths = (4, 0, 3), (20, 7, 130)  # in no order
    for slot, length in zip(slots, lengths, strict=True):
        model.prefill(slot, prompt_of(length, slot), 0, want_logits=False)
    alone: list[list[NDArray[np.float32]]] = []
    for step in range(100 // size + 1):
        appends = [Append(slot, 9, length + step) for slot, length in zip(slots, lengths, strict=True)]
        alone.append([logits_of(top) for top in model.decode(appends)])
    whole = logits_of(model.prefill(5, prompt, 0, want_logits=True))
    for step, past in enumerate(range(0, 100, size)):  # the same tokens at the same places again, beside the prompt
        appends = [Append(slot, 9, length + step) for slot, length in zip(slots, lengths, strict=True)]
        chunk = Chunk(2, prompt[past : past + size], past, want_logits=past + size >= 100)
        tops, top = model.step(appends, chunk)
        for ours, expected in zip(tops, alone[step], strict=True):
            np.testing.assert_array_equal(logits_of(ours), expected)
    np.testing.assert_array_equal(logits_of(top), whole)


def test_conversations_decoded_together_give_the_tokens_each_gives_alone(new_model: NewModel) -> None:
    model = new_model(slots=4)
    prompts = {slot: prompt_of(length, slot) for slot, length in enumerate((5, 60, 17, 33))}
    alone = {slot: generate(model, 0, prompt, 30) for slot, prompt in prompts.items()}
    last, lengths, together = {}, {}, {slot: [] for slot in prompts}  # type: ignore[var-annotated]
    for slot, prompt in prompts.items():
        top = model.prefill(slot, prompt, 0, want_logits=True)
        assert top is not None
        last[slot], lengths[slot] = int(top.ids[0]), len(prompt)
        together[slot].append(last[slot])
    for step in range(29):
        rows = [0, 1, 2, 3] if step % 2 else [0, 3]  # every other step, slots 1 and 2 idle in between
        tops = model.decode([Append(slot, last[slot], lengths[slot]) for slot in rows])
        for slot, top in zip(rows, tops, strict=True):
            last[slot] = int(top.ids[0])
            lengths[slot] += 1
            together[slot].append(last[slot])
    for slot in prompts:
        assert together[slot] == alone[slot][: len(together[slot])]
        assert len(together[slot]) >= 14


def test_a_slot_taken_over_at_a_common_prefix_gives_what_a_fresh_one_gives(new_model: NewModel) -> None:
    model, first, second = new_model(), prompt_of(80, 1), prompt_of(80, 1)[:50] + prompt_of(40, 2)
    generate(model, 0, first, 20)
    reused = logits_of(model.prefill(0, second[50:], 50, want_logits=True))
    fresh = logits_of(model.prefill(1, second, 0, want_logits=True))
    np.testing.assert_allclose(reused, fresh, atol=TOLERANCE)


def continued(model: OnnxModel, slot: int, tokens: list[int], past: int) -> NDArray[np.float32]:
    """The last token's logits when a slot that holds ``past`` tokens is given the rest of them."""
    return logits_of(model.prefill_prompt(slot, tokens, past, most=100))


@pytest.mark.parametrize(("cache", "item_bytes", "page", "ring"), [("float32", 4, 64, 320), ("bfloat16", 2, 128, 384)])
def test_windowed_layers_hold_a_ring_and_the_others_everything(
    new_model: NewModel, cache: CacheItem, item_bytes: int, page: int, ring: int
) -> None:
    """Window 16 and chunks of 256: a ring of 271 positions in whole pages, in layers 0 and 2 of 3."""
    model = new_model(slots=2, context_tokens=512, cache=cache)
    assert model.shape.cache.windowed == {0, 2}
    assert model.windows == Windows(16, ring)
    position_bytes = 2 * 2 * 16 * item_bytes  # keys and values of 2 heads of 16 numbers
    snapshots = 3 * 2 * (32 + 16)  # 3 of them, for 2 layers
    assert model.shape.cache.slot_bytes(512) == (512 + 2 * ring + snapshots) * position_bytes
    assert model.shape.cache.slot_bytes(512, 65) == (3 * 128 + snapshots) * position_bytes
    assert model.shape.cache.slot_bytes(512, 1) == (3 * page + snapshots) * position_bytes
    assert model.shape.cache.slot_bytes(512, 0) == 0
    assert model.shape.cache.slot_bytes(256) == 3 * 256 * position_bytes  # shorter than the ring
    held = sum(array.nbytes for array in model._caches._arrays.values())
    assert held == 2 * (512 + 2 * ring) * position_bytes
    assert new_model(slots=2, context_tokens=256).windows is None


def test_caches_of_bfloat16_move_the_logits_a_little(new_model: NewModel) -> None:
    prompt = prompt_of(200)
    models = [new_model(cache=cache) for cache in ITEMS]
    exact, rounded = (continued(model, 0, prompt, 0) for model in models)
    assert 0 < np.linalg.norm(rounded - exact) < 0.02 * np.linalg.norm(exact)


@pytest.mark.parametrize("cache", ITEMS)
def test_a_model_says_which_arithmetic_it_does(new_model: NewModel, cache: CacheItem) -> None:
    for path in load_operators().paths():
        with load_operators().using(path):
            assert new_model(cache=cache).arithmetic == f"cpu, {path}, cache of {cache}"
    assert new_model().arithmetic.endswith(", cache of bfloat16")


@pytest.mark.parametrize("context_tokens", [512, 256])
@pytest.mark.parametrize("cache", ITEMS)
@pytest.mark.parametrize("length", [5, 16, 17, 150])
def test_a_prefix_taken_over_from_another_slot_gives_the_same_bits(
    new_model: NewModel, context_tokens: int, cache: CacheItem, length: int
) -> None:
    model = new_model(context_tokens=context_tokens, cache=cache)
    first, second = prompt_of(160), prompt_of(length) + prompt_of(50, seed=9)
    fresh = continued(model, 0, second, 0)
    continued(model, 1, first, 0)
    continued(model, 2, prompt_of(200, seed=5), 0)
    model.copy_prefix(1, 2, length, None)
    np.testing.assert_array_equal(continued(model, 2, second, length), fresh)


@pytest.mark.parametrize("cache", ITEMS)
def test_a_snapshot_brings_back_what_the_ring_has_lost(new_model: NewModel, cache: CacheItem) -> None:
    model = new_model(cache=cache)
    prompt = prompt_of(120)
    follow_up = prompt + prompt_of(30, seed=3)
    fresh = continued(model, 0, follow_up, 0)
    continued(model, 1, prompt, 0)
    snapshot = model.take_snapshot(1, 120 - 15 - 16, 120)
    continued(model, 1, prompt + prompt_of(380, seed=4), 120)  # the ring of 320 has nothing of the prompt any more
    wrong = continued(model, 1, follow_up, 120)
    assert not np.array_equal(wrong, fresh)
    for target in (1, 2):
        model.copy_prefix(1, target, 120, snapshot)
        np.testing.assert_array_equal(continued(model, target, follow_up, 120), fresh)
    model.copy_prefix(1, 3, 119, snapshot)  # one short of it, for the logits of its last token
    np.testing.assert_array_equal(continued(model, 3, prompt, 119), continued(model, 0, prompt, 0))


def test_top_logits_and_normaliser_agree_with_all_logits(new_model: NewModel) -> None:
    top = new_model().prefill(0, prompt_of(9), 0, want_logits=True)
    every = logits_of(top)
    assert top is not None
    assert every.shape == (1000,)
    assert top.vocab == 1000
    order = np.argsort(-every, kind="stable")[: len(top.ids)]
    assert top.ids.tolist() == order.tolist()
    assert top.logits.tolist() == every[order].tolist()
    assert top.logsumexp == pytest.approx(float(np.log(np.exp(every.astype(np.float64)).sum())), abs=1e-5)


def test_the_last_token_of_the_capacity_can_be_computed_and_no_further_one(new_model: NewModel) -> None:
    model, prompt = new_model(slots=2, context_tokens=64), prompt_of(63)
    generate(model, 1, prompt, 2)
    with pytest.raises(RuntimeError, match="capacity"):
        generate(model, 1, prompt, 3)


def test_refuses_a_graph_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such graph"):
        load_model(tmp_path / "model.onnx", accelerator="cpu", slots=1, context_tokens=64)


@pytest.fixture
def copied(small_graph: Path, tmp_path: Path) -> Path:
    shutil.copytree(small_graph.parent, tmp_path / "cpu")
    return tmp_path / "cpu" / "model.onnx"


@pytest.mark.parametrize("damage", ["truncated", "empty", "nonsense"])
def test_refuses_a_damaged_graph(copied: Path, damage: str) -> None:
    data = copied.read_bytes()
    copied.write_bytes({"truncated": data[: len(data) // 2], "empty": b"", "nonsense": b"\x07" * 500}[damage])
    with pytest.raises(ModelError, match=r"model\.onnx"):
        load_model(copied, accelerator="cpu", slots=1, context_tokens=64)


@pytest.mark.parametrize("shard", ["missing", "truncated"])
def test_refuses_weights_that_are_not_whole(copied: Path, shard: str) -> None:
    (weights,) = copied.parent.glob("weights-*.bin")
    if shard == "missing":
        weights.unlink()
    else:
        weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])
    with pytest.raises(ModelError, match=r"model\.onnx: cannot be loaded"):
        load_model(copied, accelerator="cpu", slots=1, context_tokens=64)


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("gpt_oss.format", "4", "format 5"),
        ("gpt_oss.accelerator", "cuda", "for cpu"),
        ("gpt_oss.layers", "", "incomplete"),
        ("gpt_oss.vocab", None, "incomplete"),
    ],
)
def test_refuses_metadata_it_does_not_understand(copied: Path, key: str, value: str | None, says: str) -> None:
    graph = onnx.load(str(copied), load_external_data=False)
    for prop in [prop for prop in graph.metadata_props if prop.key == key]:
        if value is None:
            graph.metadata_props.remove(prop)
        else:
            prop.value = value
    copied.write_bytes(graph.SerializeToString())
    with pytest.raises(ModelError, match=says):
        load_model(copied, accelerator="cpu", slots=1, context_tokens=64)


@pytest.mark.parametrize(
    ("accelerator", "found", "needed"),
    [("cpu", "tensor(float)", "tensor(uint8)"), ("cuda", "tensor(float)", "tensor(float16)")],
)
def test_refuses_caches_of_another_type(tmp_path: Path, accelerator: Accelerator, found: str, needed: str) -> None:
    facts = GraphFacts(accelerator, layers=1, heads=1, kv_heads=1, head_dim=16, vocab=16, context=16, dense="int8")
    session = SimpleNamespace(
        get_modelmeta=lambda: SimpleNamespace(custom_metadata_map=encode_graph_facts(facts)),
        get_inputs=lambda: [SimpleNamespace(name="past_key_values.0.key", type=found, shape=["B", 1, "C", 16])],
    )
    with pytest.raises(ModelError, match=re.escape(f"its caches are not all {needed}")):
        shape_of(session, tmp_path / "model.onnx", accelerator, "float16")


def test_refuses_a_context_beyond_the_model(small_graph: Path) -> None:
    with pytest.raises(ModelError, match="reaches only 1024"):
        load_model(small_graph, accelerator="cpu", slots=1, context_tokens=1025)


def test_refuses_cuda_where_the_runtime_has_none(small_graph: Path) -> None:
    providers = import_onnxruntime().get_available_providers()
    assert "CUDAExecutionProvider" not in providers, "this test needs the CPU package"
    with pytest.raises(ModelError, match="cannot run on cuda: install the release built with --accelerator cuda"):
        load_model(small_graph, accelerator="cuda", slots=1, context_tokens=64)


def test_refuses_the_silent_fall_back_to_the_cpu(small_graph: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The GPU package on a machine without a GPU offers CUDA, and gives a session that runs on the CPU.
    ort = import_onnxruntime()
    real = ort.InferenceSession
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CUDAExecutionProvider", _CPU])
    monkeypatch.setattr(load, "require_cuda", lambda _ort: None)
    monkeypatch.setitem(load._MEMORY, "cuda", lambda: 1 << 40)

    def fall_back(path: str, options: Any, providers: object) -> Any:
        options.register_custom_ops_library(load_operators().path)  # the graph at hand is one for the CPU
        return real(path, options, providers=[_CPU])

    monkeypatch.setattr(ort, "InferenceSession", fall_back)
    with pytest.raises(ModelError, match="does not work on this machine"):
        load_model(small_graph, accelerator="cuda", slots=1, context_tokens=64)


@pytest.mark.parametrize(("free_bytes", "what"), [(0, "weights"), (300 << 20, "512 conversations of 1024 tokens")])
def test_refuses_what_memory_cannot_hold(
    small_graph: Path, monkeypatch: pytest.MonkeyPatch, free_bytes: int, what: str
) -> None:
    monkeypatch.setitem(load._MEMORY, "cpu", lambda: free_bytes)
    with pytest.raises(ModelError, match=f"not enough memory for .*{what}"):
        load_model(small_graph, accelerator="cpu", slots=512, context_tokens=1024)


def test_a_prompt_is_cut_from_what_is_held_and_nothing_else(new_model: NewModel) -> None:
    model = new_model()
    sizes = {len(model.plan_chunk(past, 1 << 20)) for past in (0, 100, 4000, 131_000)}
    assert len(sizes) == 1
    assert all(model.plan_chunk(past, 1 << 20).start == past for past in (0, 100, 4000))
    assert model.plan_chunk(100, 130) == range(100, 130)


def test_onnxruntime_is_never_loaded_with_telemetry_on() -> None:
    script = (
        "import os, sys\n"
        "os.environ.pop('ORT_DISABLE_TELEMETRY', None)\n"
        "import appliance.engine.model.runtime as runtime, appliance.engine.server, appliance.engine.selftest\n"
        "assert 'onnxruntime' not in sys.modules, 'importing the engine loads onnxruntime'\n"
        "class Watch:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'onnxruntime':\n"
        "            print(os.environ.get('ORT_DISABLE_TELEMETRY'))\n"
        "sys.meta_path.insert(0, Watch())\n"
        "runtime.import_onnxruntime()\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1"]


def test_an_import_behind_its_back_is_refused() -> None:
    script = (
        "import os, sys, types\n"
        "os.environ.pop('ORT_DISABLE_TELEMETRY', None)\n"
        "import appliance.engine.model.runtime as runtime\n"
        "sys.modules['onnxruntime'] = types.ModuleType('onnxruntime')  # the real one would send telemetry\n"
        "try:\n"
        "    runtime.import_onnxruntime()\n"
        "except RuntimeError as exc:\n"
        "    print(exc)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "telemetry" in done.stdout
