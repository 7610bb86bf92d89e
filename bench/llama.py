"""The same shape in llama.cpp, through the package llama-cpp-python: the engine that people would use instead.

The model is a GGUF of random weights: experts in MXFP4, attention, embedding and head in Q8_0, which is 8 bits in
blocks of 32 as ours. Only the library's low level is used, so that no tokenizer is needed; speed does not depend on
what the weights mean.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

_MXFP4_BLOCK_BYTES, _Q8_0_BLOCK_BYTES = 17, 34  # per 32 weights
_CHUNK_TOKENS = 512


def write_gguf(path: Path, shape: dict[str, int]) -> None:
    """Write the model if it is missing."""
    if path.exists():
        return
    import gguf  # needs the extra [bench]

    unfinished = path.with_suffix(".partial")
    writer = gguf.GGUFWriter(unfinished, "gpt-oss")
    writer.add_block_count(shape["layers"])
    writer.add_context_length(131_072)
    writer.add_embedding_length(shape["hidden"])
    writer.add_feed_forward_length(shape["intermediate"])
    writer.add_expert_feed_forward_length(shape["intermediate"])
    writer.add_expert_count(shape["experts"])
    writer.add_expert_used_count(shape["experts_per_token"])
    writer.add_head_count(shape["heads"])
    writer.add_head_count_kv(shape["kv_heads"])
    writer.add_key_length(shape["head_dim"])
    writer.add_value_length(shape["head_dim"])
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_sliding_window(128)
    writer.add_rope_freq_base(150_000.0)
    writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
    writer.add_rope_scaling_factor(32.0)
    writer.add_rope_scaling_orig_ctx_len(4096)
    writer.add_vocab_size(shape["vocab"])
    writer.add_tokenizer_model("no_vocab")
    kinds = gguf.GGMLQuantizationType
    for name, array, kind in _tensors(shape, kinds):
        writer.add_tensor_info(name, array.shape, array.dtype, array.nbytes, kind if array.dtype == np.uint8 else None)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for _, array, _ in _tensors(shape, kinds):
        writer.write_tensor_data(array)
    writer.close()
    unfinished.rename(path)


def _tensors(shape: dict[str, int], kinds: Any) -> Iterator[tuple[str, np.ndarray[Any, np.dtype[Any]], Any]]:
    """The name, data and kind of each tensor, one at a time. Quantised data are bytes (.., row bytes)."""
    rng = np.random.default_rng(3)
    hidden, inner, experts = shape["hidden"], shape["intermediate"], shape["experts"]
    queries, keys = shape["heads"] * shape["head_dim"], shape["kv_heads"] * shape["head_dim"]

    def plain(*size: int, around: float = 0.0) -> np.ndarray[Any, np.dtype[np.float32]]:
        return around + np.float32(0.1) * rng.standard_normal(size, dtype=np.float32)

    def q8_0(rows: int, width: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
        blocks = rng.integers(0, 256, (rows, width // 32, _Q8_0_BLOCK_BYTES), dtype=np.uint8)
        blocks[..., :2] = np.array([width**-0.5 / 74], np.float16).view(np.uint8)  # unit output from unit input
        return blocks.reshape(rows, -1)

    def mxfp4(rows: int, width: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
        blocks = rng.integers(0, 256, (experts, rows, width // 32, _MXFP4_BLOCK_BYTES), dtype=np.uint8)
        blocks[..., 0] = 127 - round(np.log2(width**0.5 * 2.6))
        return blocks.reshape(experts, rows, -1)

    yield "token_embd.weight", q8_0(shape["vocab"], hidden), kinds.Q8_0
    for layer in range(shape["layers"]):
        stem = f"blk.{layer}"
        yield f"{stem}.attn_norm.weight", plain(hidden, around=1.0), None
        for name, rows, width in (
            ("attn_q", queries, hidden), ("attn_k", keys, hidden), ("attn_v", keys, hidden),
            ("attn_output", hidden, queries),
        ):  # fmt: skip
            yield f"{stem}.{name}.weight", q8_0(rows, width), kinds.Q8_0
            yield f"{stem}.{name}.bias", plain(rows), None
        yield f"{stem}.attn_sinks.weight", plain(shape["heads"]), None
        yield f"{stem}.post_attention_norm.weight", plain(hidden, around=1.0), None
        # As in our random checkpoint, whose biases make some experts likelier than others. With equally likely experts
        # a step of several sequences would read more weights than ours.
        router = rng.standard_normal((experts, hidden), dtype=np.float32) * np.float32(hidden**-0.5)
        yield f"{stem}.ffn_gate_inp.weight", router, None
        yield f"{stem}.ffn_gate_inp.bias", rng.standard_normal(experts, dtype=np.float32), None
        for name, rows, width in (("gate", inner, hidden), ("up", inner, hidden), ("down", hidden, inner)):
            yield f"{stem}.ffn_{name}_exps.weight", mxfp4(rows, width), kinds.MXFP4
            yield f"{stem}.ffn_{name}_exps.bias", plain(experts, rows), None
    yield "output_norm.weight", plain(hidden, around=1.0), None
    yield "output.weight", q8_0(shape["vocab"], hidden), kinds.Q8_0


class Llama:
    """A loaded model."""

    def __init__(self, path: Path) -> None:
        import llama_cpp

        self.api: Any = llama_cpp
        llama_cpp.llama_backend_init()
        self._quiet = llama_cpp.llama_log_callback(lambda _level, _text, _data: None)
        llama_cpp.llama_log_set(self._quiet, ctypes.c_void_p(0))
        params = llama_cpp.llama_model_default_params()
        # It repacks what it reads. With mapped files, or through the page cache, the model would be in memory twice.
        params.load_mode = llama_cpp.LLAMA_LOAD_MODE_DIRECT_IO
        self.model = llama_cpp.llama_model_load_from_file(str(path).encode(), params)
        if not self.model:
            raise RuntimeError(f"llama.cpp cannot load {path}")


class Context:
    """A context of a model for some sequences.

    Flash attention is a choice, because prompts gain by it and decoded tokens lose: on a Xeon with AMX 95 instead of 89
    and, at depth 1,536, 19 instead of 25 tokens a second (4 layers of the 20b shape).
    """

    def __init__(
        self, llama: Llama, *, threads: int, sequences: int, context_tokens: int, vocab: int, flash_attention: bool
    ) -> None:  # fmt: skip
        self.api = llama.api
        self.vocab = vocab
        self.rng = np.random.default_rng(7)
        params = self.api.llama_context_default_params()
        params.n_ctx, params.n_seq_max = context_tokens * sequences, sequences
        params.n_batch = params.n_ubatch = _CHUNK_TOKENS
        params.n_threads = params.n_threads_batch = threads
        params.swa_full = False  # as its server does: windowed layers then compute 128 positions, not all
        params.flash_attn_type = int(flash_attention)
        self.context = self.api.llama_init_from_model(llama.model, params)
        if not self.context:
            raise RuntimeError("llama.cpp cannot make a context of this size")
        self.batch = self.api.llama_batch_init(_CHUNK_TOKENS, 0, 1)

    def run(self, entries: list[tuple[int, int]]) -> float:
        """Seconds that one batch of random tokens takes. Entries are (sequence, position); the last wants logits."""
        self.batch.n_tokens = len(entries)
        for at, (sequence, position) in enumerate(entries):
            self.batch.token[at] = int(self.rng.integers(0, self.vocab))
            self.batch.pos[at] = position
            self.batch.n_seq_id[at] = 1
            self.batch.seq_id[at][0] = sequence
            # A prompt wants the logits of its last token, a step those of every sequence.
            self.batch.logits[at] = at + 1 == len(entries) or entries[at + 1][0] != sequence
        started = time.perf_counter()
        if self.api.llama_decode(self.context, self.batch) != 0:
            raise RuntimeError("llama.cpp could not compute a batch")
        self.api.llama_get_logits(self.context)
        return time.perf_counter() - started

    def prefill(self, sequence: int, length: int) -> float:
        """Seconds that a random prompt takes in an empty context."""
        self.api.llama_memory_seq_rm(self.api.llama_get_memory(self.context), sequence, -1, -1)
        return sum(
            self.run([(sequence, position) for position in range(start, min(length, start + _CHUNK_TOKENS))])
            for start in range(0, length, _CHUNK_TOKENS)
        )
