"""Peers are asked in their own words, a window that waits for the disk does not count, and a failure is named."""

from __future__ import annotations

import os
from pathlib import Path

import click
import pytest

from bench.contender import STEPS, measure, read_unpacked, warm
from bench.peers import Binary, Worker, leave_memory
from bench.random_model import SHAPES, VERSION, prepare


def peer(tmp_path: Path, script: str, options: str = "-d") -> Binary:
    path = tmp_path / "peer"
    path.write_text(f"#!/bin/sh\n[ \"$1\" = --help ] && echo ' {options} <n> depth' && exit\n{script}\n")
    path.chmod(0o755)
    return Binary(path, tmp_path / "model.gguf", ("-rtr", "1"))


@pytest.mark.parametrize(
    ("depth", "asked"), [("-d", f"-p 0 -n {STEPS} -d 4096"), ("-gp", f"-p 0 -n 0 -gp 4096,{STEPS}")]
)
def test_a_binary_is_asked_as_its_help_says(tmp_path: Path, depth: str, asked: str) -> None:
    binary = peer(tmp_path, f'echo "$@" >>{tmp_path}/asked; echo \'[{{"avg_ts": 12.5}}]\'', depth)
    assert [binary.tok_s(line) for line in ("decode 1 4096", "prefill 512")] == [12.5, 12.5]
    first, second = (tmp_path / "asked").read_text().splitlines()
    assert first.endswith(f"-r 1 -o json {asked} -rtr 1")
    assert second.endswith("-r 1 -o json -p 512 -n 0 -rtr 1")


def test_a_binary_decodes_one_sequence_at_a_time(tmp_path: Path) -> None:
    binary = peer(tmp_path, "exit 1")
    assert [binary.takes(line) for line in ("decode 1 32", "decode 4 32", "prefill 512")] == [True, False, True]


@pytest.mark.parametrize("script", ["echo no such model >&2; exit 1", "echo no such model", "echo '[]' no such model"])
def test_a_peer_that_fails_is_named_with_its_words(tmp_path: Path, script: str) -> None:
    with pytest.raises(click.ClickException, match=f"{tmp_path}/peer: .*no such model"):
        peer(tmp_path, script).tok_s("decode 1 32")


class Stepping:
    """An engine whose steps take 1, 2, .. seconds."""

    def __init__(self) -> None:
        self.prompts: list[int] = []
        self.filled: list[tuple[int, int]] = []
        self.depths: list[int] = []

    def prefill_s(self, length: int) -> float:
        self.prompts.append(length)
        return 4.0

    def fill(self, sequence: int, length: int) -> None:
        self.filled.append((sequence, length))

    def step_s(self, sequences: int, depth: int) -> float:
        self.depths.append(depth)
        return float(len(self.depths))


def test_every_step_after_the_prompt_counts() -> None:
    engine, pages = Stepping(), [7, 10]
    tok_s, read = measure(engine, "decode 2 32", lambda: pages.pop(0))
    assert tok_s == pytest.approx(2 * STEPS / sum(range(1, STEPS + 1)))
    assert (read, engine.filled, engine.depths) == (3, [(0, 32), (1, 32)], list(range(32, 32 + STEPS)))
    pages = [1, 1]
    assert measure(engine, "prefill 512", lambda: pages.pop(0)) == (128.0, 0)


def test_the_warm_prompt_comes_before_any_window() -> None:
    engine = Stepping()
    warm(engine)
    assert len(engine.prompts) == len(engine.filled) == len(engine.depths) == 1


@pytest.mark.parametrize(("waits", "counts"), [(1, 2.0), (2, 3.0)])
def test_a_window_that_waited_for_the_disk_is_measured_again(
    monkeypatch: pytest.MonkeyPatch, waits: int, counts: float
) -> None:
    said = [f"{number + 1}.0 {1000 if number < waits else 0}" for number in range(3)]
    monkeypatch.setattr(Worker, "_ask", lambda *_: said.pop(0))
    assert Worker(["ours"], Path("none")).tok_s("decode 1 32") == counts


def test_an_engine_that_always_waits_for_the_disk_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Worker, "_ask", lambda *_: "9.0 1000")
    with pytest.raises(click.ClickException, match="ours waits for the disk: it needs more memory"):
        Worker(["ours"], Path("none")).tok_s("decode 1 32")


def test_a_binary_that_always_waits_for_the_disk_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.peers._PAGES_OF_RUN", -1)
    with pytest.raises(click.ClickException, match=f"{tmp_path}/peer waits for the disk"):
        peer(tmp_path, "echo '[{\"avg_ts\": 12.5}]'").tok_s("prefill 512")


def test_our_engine_is_measured_in_a_process_that_can_be_loaded_again(tmp_path: Path) -> None:
    graph, shape = prepare(tmp_path, "tiny", "cpu", "int8"), SHAPES["tiny"]
    assert read_unpacked(graph.parent) >= 2 * shape["vocab"] * shape["hidden"]
    assert read_unpacked(graph.parent) < sum(path.stat().st_size for path in graph.parent.glob("*.bin")) / 1.5
    packed = str(tmp_path / "site/packed" / VERSION)
    worker = Worker(["ours", str(graph), "--packed", packed, "--shape", "tiny", "--path", "portable"], Path(packed))
    try:
        for line in ("decode 2 8", "prefill 16"):
            assert worker.tok_s(line) > 0
            worker.rest()
    finally:
        worker.rest()


def test_files_leave_memory_before_another_model_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dropped: list[tuple[str, tuple[int, ...]]] = []
    monkeypatch.setattr(
        "os.posix_fadvise", lambda fd, *said: dropped.append((os.readlink(f"/proc/self/fd/{fd}"), said))
    )
    everything = (0, 0, os.POSIX_FADV_DONTNEED)
    for path in (tmp_path / "model.gguf", tmp_path / "packed" / "packed.bin"):
        path.parent.mkdir(exist_ok=True)
        path.touch()
    peer(tmp_path, "").rest()
    leave_memory(tmp_path / "packed")
    assert dropped == [(f"{tmp_path}/model.gguf", everything), (f"{tmp_path}/packed/packed.bin", everything)]


def test_an_engine_that_cannot_be_loaded_ends_the_comparison(tmp_path: Path) -> None:
    worker = Worker(["ours", str(tmp_path / "none"), "--shape", "tiny"], tmp_path / "none")
    with pytest.raises(click.ClickException, match="the engine ours ended"):
        worker.tok_s("decode 1 32")
    worker.rest()
