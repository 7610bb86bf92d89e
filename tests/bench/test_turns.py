"""Two engines are asked in turns, and a peer that fails is named with its own words."""

from __future__ import annotations

from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from bench.random_model import SHAPES, VERSION, prepare
from bench.turns import Binary, Worker, in_turns, main, row


class Told:
    """An engine whose speed is told."""

    def __init__(self, name: str, speeds: list[float], said: list[str]) -> None:
        self.name, self.speeds, self.said = name, speeds, said

    def takes(self, line: str) -> bool:
        return True

    def tok_s(self, line: str) -> float:
        self.said.append(self.name)
        return self.speeds.pop(0)

    def rest(self) -> None:
        self.said.append(f"{self.name} rests")


def test_the_engines_take_turns_and_each_pair_has_its_ratio() -> None:
    said: list[str] = []
    pairs = in_turns(Told("a", [10, 30, 8], said), Told("b", [5, 10, 8], said), "decode 1 32", 3, together=True)
    assert said == ["a", "b", "b", "a", "a", "b"]
    assert pairs == [(10, 5), (30, 10), (8, 8)]
    assert row("decode", pairs).split() == ["decode", "10.00", "8.00", "2.00", "1.00", "..", "3.00"]


def test_an_engine_gives_its_memory_back_before_the_other_loads() -> None:
    said: list[str] = []
    in_turns(Told("a", [1, 1], said), Told("b", [1, 1], said), "decode 1 32", 2, together=False)
    assert said == ["a", "a rests", "b", "b rests", "b", "b rests", "a", "a rests"]


def peer(tmp_path: Path, script: str) -> Binary:
    path = tmp_path / "peer"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return Binary(path, tmp_path / "model.gguf", ("-rtr", "1"))


def test_a_binary_is_asked_as_llama_bench_is(tmp_path: Path) -> None:
    binary = peer(tmp_path, f'echo "$@" >>{tmp_path}/asked; echo \'[{{"avg_ts": 12.5, "n_gen": 24}}]\'')
    assert [binary.tok_s(line) for line in ("decode 1 4096", "prefill 512")] == [12.5, 12.5]
    first, second = (tmp_path / "asked").read_text().splitlines()
    assert first.endswith("-r 1 -o json -p 0 -n 24 -d 4096 -rtr 1")
    assert second.endswith("-r 1 -o json -p 512 -n 0 -rtr 1")
    assert [binary.takes(line) for line in ("decode 1 32", "decode 4 32", "prefill 512")] == [True, False, True]


@pytest.mark.parametrize("script", ["echo no such model >&2; exit 1", "echo no such model", "echo '[]' no such model"])
def test_a_peer_that_fails_is_named_with_its_words(tmp_path: Path, script: str) -> None:
    with pytest.raises(click.ClickException, match=f"{tmp_path}/peer: .*no such model"):
        peer(tmp_path, script).tok_s("decode 1 32")


def test_our_engine_is_measured_in_a_process_that_can_be_loaded_again(tmp_path: Path) -> None:
    graph = prepare(tmp_path, "tiny", "cpu", "int8")
    worker = Worker(["ours", str(graph), "--packed", str(tmp_path / "site/packed" / VERSION), "--shape", "tiny"])
    try:
        for line in ("decode 2 8", "prefill 16"):
            assert worker.tok_s(line) > 0
            worker.rest()
    finally:
        worker.rest()


def test_an_engine_that_cannot_be_loaded_ends_the_comparison(tmp_path: Path) -> None:
    worker = Worker(["ours", str(tmp_path / "none"), "--shape", "tiny"])
    with pytest.raises(click.ClickException, match="the engine ours ended"):
        worker.tok_s("decode 1 32")
    worker.rest()


def test_a_comparison_needs_a_peer() -> None:
    assert "tiny" in SHAPES
    done = CliRunner().invoke(main, ["--shape", "tiny"])
    assert done.exit_code == 2
    assert "name a peer" in done.stderr
