"""The cache of packed weights: made once, found again, and made anew when it is not what it should be."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from appliance.engine.operators import load_operators
from appliance.engine.packed_weights import PackedWeights, Packing, PackingError, load_packing, open_packed

OPERATORS = load_operators()
EXPERTS, HIDDEN, INNER, ROWS = 4, 64, 96, 100


@pytest.fixture
def model_dir(tmp_path: Path) -> Path:
    """Random stored weights and their packing."""
    rng = np.random.default_rng(1)
    weights = EXPERTS * HIDDEN * INNER
    sizes = [weights, weights // 16, weights // 2, weights // 32, ROWS * HIDDEN * 2]
    (tmp_path / "weights.bin").write_bytes(rng.integers(0, 126, 4096 + sum(sizes), dtype=np.uint8).tobytes())
    offsets = [4096 + sum(sizes[:i]) for i in range(len(sizes))]
    sources = [{"file": "weights.bin", "offset": o, "bytes": s} for o, s in zip(offsets, sizes, strict=True)]
    experts = {"key": 0, "kind": "mxfp4", "experts": EXPERTS, "hidden": HIDDEN, "inner": INNER, "sources": sources[:4]}
    dense = {"key": 1, "kind": "int8", "rows": ROWS, "inner": HIDDEN, "sources": sources[4:]}
    (tmp_path / "packing.json").write_text(json.dumps({"format": 1, "entries": [experts, dense]}))
    return tmp_path


def opened(model_dir: Path, packing: Packing | None = None) -> PackedWeights:
    packing = packing or load_packing(model_dir)
    return open_packed(packing, model_dir, model_dir / "cache", OPERATORS, threads=2)


def contents(packed: PackedWeights) -> dict[int, bytes]:
    return {key: view.tobytes() for key, view in packed.weights.items()}


def test_cache_is_made_once_and_found_again(model_dir: Path) -> None:
    first, second = opened(model_dir), opened(model_dir)
    assert (first.made, second.made) == (True, False)
    assert contents(first) == contents(second)
    assert sorted(path.name for path in (model_dir / "cache").iterdir()) == ["packed.bin", "packed.json"]


def test_packed_weights_are_mapped_and_huge_pages_asked_for(model_dir: Path) -> None:
    packed = opened(model_dir)
    mappings = re.split(r"^(?=[0-9a-f]+-[0-9a-f]+ )", Path("/proc/self/smaps").read_text(), flags=re.MULTILINE)
    ours = [mapping for mapping in mappings if str(model_dir / "cache" / "packed.bin") in mapping]
    flags = [line.split()[1:] for mapping in ours for line in mapping.splitlines() if line.startswith("VmFlags")]
    assert len(packed.weights) == 2
    assert flags
    assert all("hg" in those and "wr" not in those for those in flags)


@pytest.mark.parametrize("where", [0, 5000, -1])
def test_damaged_cache_is_made_anew(model_dir: Path, where: int) -> None:
    whole = contents(opened(model_dir))
    file = model_dir / "cache" / "packed.bin"
    data = bytearray(file.read_bytes())
    places = np.cumsum([0] + [len(part) + -len(part) % 4096 for part in whole.values()])
    at = where if where >= 0 else int(places[1]) + len(whole[1]) - 1
    data[at] ^= 1
    file.write_bytes(data)
    again = opened(model_dir)
    assert again.made
    assert contents(again) == whole


def test_cache_of_another_packing_is_made_anew(model_dir: Path) -> None:
    opened(model_dir)
    packing = model_dir / "packing.json"
    body = json.loads(packing.read_text())
    body["entries"][1]["kind"] = "bf16"
    packing.write_text(json.dumps(body))
    assert opened(model_dir).made


def test_unfinished_cache_of_a_killed_run_is_replaced(model_dir: Path) -> None:
    (model_dir / "cache").mkdir()
    (model_dir / "cache" / "packed.bin.partial").write_bytes(b"half")
    assert opened(model_dir).made
    assert not (model_dir / "cache" / "packed.bin.partial").exists()


def test_missing_weights_are_named(model_dir: Path) -> None:
    (model_dir / "weights.bin").unlink()
    with pytest.raises(PackingError, match=r"weights\.bin"):
        opened(model_dir)


def test_cache_that_cannot_be_written_is_an_error_with_its_size(model_dir: Path) -> None:
    (model_dir / "cache").write_text("a file where the directory should be")
    with pytest.raises(PackingError, match=r"cannot be written"):
        opened(model_dir)


@pytest.mark.parametrize(
    "text", ["", "[]", '{"format": 2, "entries": []}', '{"format": 1, "entries": [{"key": 0, "kind": "int4"}]}']
)
def test_anything_but_a_packing_is_refused(model_dir: Path, text: str) -> None:
    (model_dir / "packing.json").write_text(text)
    with pytest.raises(PackingError, match="does not say which weights to pack"):
        load_packing(model_dir)
