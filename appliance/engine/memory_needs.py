"""How much memory an installed release takes, from its description alone: nothing of the model is loaded.

The sizes of the caches come from the checkpoint's config.json, those of packed weights from packing.json. The loaded
graph says the same of itself (model/shape.py); the two cannot differ in a release that the bundler made.
"""

from __future__ import annotations

import json
from pathlib import Path

from appliance.config import CacheItem, Config
from appliance.engine.cache_memory import CHUNK_TOKENS, CacheShape
from appliance.engine.host import can_overcommit
from appliance.engine.memory_plan import Needs
from appliance.engine.operators import load_operators
from appliance.engine.packed_weights import load_packing
from appliance.installed_release import InstalledRelease, ReleaseError

# What `bench.memory` measures with the 20b shape on a CPU, plus a reserve: the engine (interpreter, runtime, vocabulary
# and the scratch memory of a chunk); the recorder and the supervisor; each web worker with its threads. None of these
# grows with conversations. The caches and their snapshots do; `CacheShape` counts them. The reserve holds what drafts
# take: up to 1.5 MiB a conversation (draft_lookup.py), and the logits of 64 in a step, 0.1 GB with a copy.
ENGINE_BYTES = 448 << 20
_RECORDER_AND_SUPERVISOR_BYTES = 96 << 20
_WEB_WORKER_BYTES = 160 << 20
# On a GPU: the runtime's context and the scratch memory of a chunk of 2,048 tokens (docs/performance.md: 16.8 GiB
# without caches, of which 13.9 are weights). ONNX Runtime's kernels keep scales of their own: 1.1 GiB beside the 12.8
# that are stored.
_CUDA_BYTES = 3 << 30
_CUDA_WEIGHTS_SHARE = 1.09


def read_needs(release: InstalledRelease, accelerator: str, config: Config) -> Needs:
    """The memory that serving this release on this accelerator takes.

    Raises:
        ReleaseError: its config.json is unreadable.
        PackingError: its packing.json is unreadable.
    """
    beside = ENGINE_BYTES + _RECORDER_AND_SUPERVISOR_BYTES + config.web_workers * _WEB_WORKER_BYTES
    return Needs(
        model=release.model.id,
        accelerator=accelerator,
        weights_bytes=weights_bytes(release.graphs[accelerator], accelerator),
        beside_bytes=beside if accelerator == "cpu" else _CUDA_BYTES,
        cache=cache_of(release.config, accelerator, config.cache),
        context_tokens=release.model.context_tokens,
        by_need=accelerator == "cpu" and can_overcommit(),
    )


def weights_bytes(graph: Path, accelerator: str) -> int:
    """The memory of a model's weights.

    On a CPU these are the packed weights. The embedding is not among them: it is read where it is stored, one row per
    token.

    Raises:
        PackingError: the packing.json beside the graph is unreadable.
    """
    if accelerator == "cpu":
        operators = load_operators()
        return sum(entry.packed_bytes(operators) for entry in load_packing(graph.parent).entries)
    stored = sum(file.stat().st_size for file in graph.parent.iterdir() if file.is_file())
    return int(stored * _CUDA_WEIGHTS_SHARE)


def cache_of(path: Path, accelerator: str, item: CacheItem) -> CacheShape:
    """The caches of a model with this config.json.

    Args:
        item: the type of the numbers in a CPU's caches; CUDA's hold float16.
    Raises:
        ReleaseError: it is unreadable.
    """
    try:
        body = json.loads(path.read_bytes())
        layers: list[str] = body["layer_types"]
        return cache_shape(
            accelerator, item, layer_types=layers, kv_heads=int(body["num_key_value_heads"]),
            head_dim=int(body["head_dim"]), window=int(body["sliding_window"]),
        )  # fmt: skip
    except OSError as exc:
        raise ReleaseError(f"{path}: cannot be read: {exc.strerror}") from exc
    except (ValueError, KeyError, TypeError) as exc:
        raise ReleaseError(f"{path}: does not describe the caches of a gpt-oss model: {exc!r}") from exc


def cache_shape(
    accelerator: str, item: CacheItem, *, layer_types: list[str], kv_heads: int, head_dim: int, window: int
) -> CacheShape:
    """The caches of a model of these sizes. On a CPU, layers with a window keep a ring; on CUDA none does."""
    on_cpu = accelerator == "cpu"
    sliding = frozenset(at for at, kind in enumerate(layer_types) if kind == "sliding_attention")
    return CacheShape(
        layers=len(layer_types),
        kv_heads=kv_heads,
        head_dim=head_dim,
        item=item if on_cpu else "float16",
        windowed=sliding if on_cpu else frozenset(),
        window=window if on_cpu else 0,
        chunk_tokens=CHUNK_TOKENS[accelerator],
    )
