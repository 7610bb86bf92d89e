"""What is served from how much memory, at the sizes of the published models and without their weights."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from appliance import doctor
from appliance.config import CacheItem, Config
from appliance.engine.host import available_memory_bytes
from appliance.engine.memory_needs import read_needs
from appliance.engine.memory_plan import MemoryPlanError, Needs, plan_memory
from appliance.engine.model import load
from appliance.engine.packed_weights import PackingError
from appliance.installed_release import ReleaseError, load_release
from bundler.graph.cpu import DenseKind
from bundler.graph.plan import plan_graph
from bundler.model_config import parse_model_config
from bundler.random_checkpoint import random_config
from installer.formats.packing import PACKING_NAME, Entry, Source, encode_packing
from tests.appliance.engine.conftest import release_json
from tests.appliance.engine.hosts import UNLIMITED_V1, Host

GB = 1_000_000_000
SIZES: dict[str, Any] = {
    "hidden": 2880, "intermediate": 2880, "experts_per_token": 4, "heads": 64, "kv_heads": 8, "head_dim": 64,
    "vocab": 201_088,
}  # fmt: skip
SHAPES = {"gpt-oss-20b": {"layers": 24, "experts": 32}, "gpt-oss-120b": {"layers": 36, "experts": 128}}
# Memory that may be used, in GB, and the result: (conversations, tokens), or None where nothing fits. 12 GiB are
# 12.9 GB; a machine sold with 16 GB (GiB) has 16 to 17.
CHOSEN: dict[str, dict[float, tuple[int, int] | None]] = {
    "gpt-oss-20b": {
        8: None, 12: None, 12.9: (1, 16_384), 14.2: (4, 16_384), 16: (4, 32_768), 24: (4, 65_536), 32: (5, 131_072),
        64: (8, 131_072), 256: (8, 131_072),
    },
    "gpt-oss-120b": {
        8: None, 12: None, 16: None, 24: None, 32: None, 64: (1, 8_192), 72: (4, 32_768), 96: (6, 131_072),
        256: (8, 131_072),
    },
}  # fmt: skip
TABLE = [(shape, gb) for shape, rows in CHOSEN.items() for gb in rows]


def write_release(directory: Path, shape: str, *, dense: DenseKind = "int8") -> Path:
    """An installed release of that shape, without its weights."""
    config = random_config(**SIZES, **SHAPES[shape])
    plan = plan_graph(parse_model_config(config), "cpu", dense=dense)
    (directory / "model" / "cpu").mkdir(parents=True)
    (directory / "tokenizer").mkdir()
    (directory / "tokenizer" / "o200k_base.tiktoken").touch()
    (directory / "model" / "cpu" / "model.onnx").touch()
    source = Source("weights-00001.bin", 0, 1)
    entries = [Entry(p.key, p.kind, p.sizes, (source,) * len(p.weights)) for p in plan.packings]
    (directory / "model" / "cpu" / PACKING_NAME).write_bytes(encode_packing(entries))
    (directory / "model" / "config.json").write_text(json.dumps(config))
    body = release_json()
    body["model"] = {**body["model"], "id": shape, "context_tokens": 131_072}
    (directory / "release.json").write_text(json.dumps(body))
    return directory


@pytest.fixture(scope="session")
def releases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {shape: write_release(tmp_path_factory.mktemp(shape), shape) for shape in SHAPES}


def needs_of(release: Path, **settings: Any) -> Needs:
    config = Config(home=release, release_dir=release, database_url="sqlite://", **settings)
    return read_needs(load_release(release), "cpu", config)


def limited(host: Host, kind: str, gb: float) -> int:
    """Memory that may be used when the machine, or a control group of the kind, has that many GB."""
    limit = int(gb * GB)
    match kind:
        case "machine":
            return available_memory_bytes(host.meminfo(limit + 1023), host.proc)
        case "v1":
            group = host.mount("memory", "/user")
            host.write(group / "user", memory_limit_in_bytes=limit, memory_usage_in_bytes=0)
        case "v2":
            host.write(host.mount("", "/user") / "user", memory_max=limit, memory_current=0)
        case "nested":
            point = host.mount("", "/slice/service")
            host.write(point / "slice", memory_max=limit + GB, memory_current=GB)
            host.write(point / "slice" / "service", memory_max=2 * limit, memory_current=0)
    return available_memory_bytes(host.meminfo(300 * GB), host.proc)


@pytest.mark.parametrize("kind", ["machine", "v1", "v2", "nested"])
@pytest.mark.parametrize(("shape", "gb"), TABLE)
def test_what_is_served_fits_whatever_sets_the_limit(
    releases: dict[str, Path], tmp_path: Path, shape: str, gb: float, kind: str
) -> None:
    needs, expected = needs_of(releases[shape]), CHOSEN[shape][gb]
    available = limited(Host(tmp_path), kind, gb)
    if expected is None:
        with pytest.raises(MemoryPlanError, match=rf"{shape} needs .* GB .* of that for its weights.* can be used"):
            plan_memory(needs, available)
        return
    plan = plan_memory(needs, available)
    assert (plan.slots, plan.context_tokens) == expected
    assert plan.needed_bytes <= available


@pytest.mark.parametrize("unlimited", ["max", UNLIMITED_V1])
def test_a_control_group_without_a_limit_gives_what_the_machine_has(
    releases: dict[str, Path], tmp_path: Path, unlimited: int | str
) -> None:
    host = Host(tmp_path)
    if unlimited == "max":
        host.write(host.mount("", "/a") / "a", memory_max="max", memory_current=GB)
    else:
        host.write(host.mount("memory", "/a") / "a", memory_limit_in_bytes=unlimited, memory_usage_in_bytes=GB)
    available = available_memory_bytes(host.meminfo(24 * GB), host.proc)
    plan = plan_memory(needs_of(releases["gpt-oss-20b"]), available)
    assert (plan.slots, plan.context_tokens) == (4, 65_536)


def test_more_memory_never_serves_less_and_everything_chosen_fits(releases: dict[str, Path]) -> None:
    for shape in SHAPES:
        needs, before = needs_of(releases[shape]), 0
        for available in range(8 * GB, 160 * GB, GB // 8):
            try:
                plan = plan_memory(needs, available)
            except MemoryPlanError:
                assert before == 0
                continue
            assert before <= plan.needed_bytes <= available
            assert plan.more is None or needs.bytes_for(*plan.more) > available
            before = plan.needed_bytes


def test_bfloat16_weights_and_more_web_workers_leave_less(tmp_path: Path, releases: dict[str, Path]) -> None:
    slim, wide = needs_of(releases["gpt-oss-20b"]), needs_of(write_release(tmp_path, "gpt-oss-20b", dense="bf16"))
    assert wide.weights_bytes - slim.weights_bytes == pytest.approx(1.14 * GB, rel=0.01)
    crowded = needs_of(releases["gpt-oss-20b"], web_workers=5)
    assert crowded.beside_bytes > slim.beside_bytes


def test_a_cache_of_bfloat16_takes_half(releases: dict[str, Path]) -> None:
    exact, rounded = (needs_of(releases["gpt-oss-20b"], cache=cache) for cache in ("float32", "bfloat16"))
    for tokens in (256, 16_384, 131_072):
        assert 2 * rounded.cache.slot_bytes(tokens) == exact.cache.slot_bytes(tokens)
    plans = [plan_memory(needs, 16 * GB) for needs in (exact, rounded)]
    assert [(plan.slots, plan.context_tokens) for plan in plans] == [(3, 16_384), (4, 32_768)]


def test_the_weights_are_those_that_are_packed(releases: dict[str, Path]) -> None:
    """The packed.bin that `bench.engine --shape 20b` makes has 11,457,966,080 bytes, gaps included."""
    assert needs_of(releases["gpt-oss-20b"]).weights_bytes == pytest.approx(11_457_866_880, rel=1e-4)


def test_the_sentence_has_the_numbers(releases: dict[str, Path]) -> None:
    plan = plan_memory(needs_of(releases["gpt-oss-20b"]), 16 * GB)
    assert plan.sentence().startswith(
        f"4 conversations of 32,768 tokens or up to {plan.sharing} shorter ones; gpt-oss-20b needs 15."
    )
    assert "16.0 GB can be used" in plan.sentence()
    assert plan.sentence().endswith("GB would give 4 of 65,536")


@pytest.mark.parametrize("shape", SHAPES)
def test_shorter_conversations_share_the_memory_of_the_long_ones(releases: dict[str, Path], shape: str) -> None:
    """As many as have 512 tokens each, and no more than 256."""
    needs = dataclasses.replace(needs_of(releases[shape]), by_need=True)
    for gb in (96, 256):
        plan = plan_memory(needs, gb * GB)
        assert plan.cache_bytes + needs.weights_bytes + needs.beside_bytes == plan.needed_bytes <= gb * GB
        short = needs.cache.slot_bytes(plan.context_tokens, 512)
        assert plan.sharing == min(256, plan.cache_bytes // short) > 10 * plan.slots
        assert f" or up to {plan.sharing} shorter ones; " in plan.sentence()


def test_where_memory_cannot_be_given_back_every_conversation_has_its_own(releases: dict[str, Path]) -> None:
    needs = dataclasses.replace(needs_of(releases["gpt-oss-20b"]), by_need=False)
    plan = plan_memory(needs, 16 * GB)
    assert plan.sharing == plan.slots == 4
    assert "shorter" not in plan.sentence()


@pytest.mark.parametrize("served", [False, True])
@pytest.mark.parametrize(("cache", "item_bytes"), [("float32", 4), ("bfloat16", 2)])
def test_doctor_says_what_the_longest_conversation_takes(
    releases: dict[str, Path], monkeypatch: pytest.MonkeyPatch, served: bool, cache: CacheItem, item_bytes: int
) -> None:
    """12 layers with all positions and 12 with a ring of 384; 8 heads of 64 numbers; 18 snapshots of 160 positions."""
    release = releases["gpt-oss-20b"]
    monkeypatch.setitem(load._MEMORY, "cpu", lambda: 16 * GB)
    monkeypatch.setattr(doctor, "is_served", lambda _: served)
    said = doctor._look_at_memory(Config(home=release, release_dir=release, database_url="sqlite://", cache=cache))
    taken = 2 * 8 * 64 * item_bytes * 12 * (131_072 + 384 + 18 * 160) / GB
    assert said.endswith(f"; one conversation of 131,072 tokens, the longest that it offers, takes {taken:.1f} GB")
    chosen = {"float32": "3 conversations of 16,384 tokens", "bfloat16": "4 conversations of 32,768 tokens"}[cache]
    assert said.startswith("the engine that runs" if served else chosen)


@pytest.mark.parametrize(
    ("slots", "context", "expected"),
    [(1, None, (1, 131_072)), (2, None, (2, 65_536)), (8, None, (8, 8_192)), (None, 8_192, (8, 8_192)),
     (None, 1_000, (8, 1_000)), (2, 16_384, (2, 16_384)), (3, 500, (3, 500))],
)  # fmt: skip
def test_what_is_set_stays_and_the_rest_is_chosen(
    releases: dict[str, Path], slots: int | None, context: int | None, expected: tuple[int, int]
) -> None:
    plan = plan_memory(needs_of(releases["gpt-oss-20b"]), 16 * GB, slots=slots, context_tokens=context)
    assert (plan.slots, plan.context_tokens) == expected


@pytest.mark.parametrize(("slots", "context"), [(4, 131_072), (None, 131_072), (40, None), (256, 131_072)])
def test_what_is_set_and_does_not_fit_is_refused_with_settings_that_do(
    releases: dict[str, Path], slots: int | None, context: int | None
) -> None:
    needs = needs_of(releases["gpt-oss-20b"])
    with pytest.raises(MemoryPlanError) as caught:
        plan_memory(needs, 14 * GB, slots=slots, context_tokens=context)
    message = str(caught.value)
    assert "14.0 GB can be used" in message
    assert "engine.slots = 3 with engine.context_tokens = 16384 would fit" in message
    assert plan_memory(needs, 14 * GB, slots=3, context_tokens=16_384)


def test_where_nothing_fits_no_settings_are_recommended(releases: dict[str, Path]) -> None:
    with pytest.raises(MemoryPlanError, match="give the machine or its control group more memory"):
        plan_memory(needs_of(releases["gpt-oss-20b"]), 8 * GB, slots=4, context_tokens=131_072)


@pytest.mark.parametrize("context", [512, 2_048, 3_000, 4_096, 100_000])
def test_no_conversation_is_longer_than_the_release_offers(releases: dict[str, Path], context: int) -> None:
    needs = dataclasses.replace(needs_of(releases["gpt-oss-20b"]), context_tokens=context)
    plan = plan_memory(needs, 256 * GB)
    assert (plan.slots, plan.context_tokens, plan.more) == (8, context, None)


@pytest.mark.parametrize("content", ["", "{}", '{"layer_types": 3}', '{"layer_types": ["full_attention"]}'])
def test_a_config_that_says_nothing_of_caches_is_an_error(tmp_path: Path, content: str) -> None:
    release = write_release(tmp_path, "gpt-oss-20b")
    (release / "model" / "config.json").write_text(content)
    with pytest.raises(ReleaseError, match="does not describe the caches"):
        needs_of(release)


def test_a_release_without_a_packing_plan_is_an_error(tmp_path: Path) -> None:
    release = write_release(tmp_path, "gpt-oss-20b")
    (release / "model" / "cpu" / "packing.json").unlink()
    with pytest.raises(PackingError, match="cannot be read"):
        needs_of(release)
