"""Two engines take turns, each pair of windows has its ratio, and runs can be added to each other."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from bench.engine import step_bytes
from bench.pairs import Pair, Subject, add_pair, read_pairs, row, table, weights_gb
from bench.random_model import SHAPES
from bench.turns import in_turns, main

DECODE = Subject("20b", "llama.cpp", "amx", "decode")


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


def test_the_engines_take_turns_and_memory_is_measured_around_each_pair() -> None:
    said: list[str] = []
    ours, peer, memory = Told("a", [10, 30, 8], said), Told("b", [5, 10, 8], said), [40.0, 30.0, 20.0, 50.0]

    def gb_s() -> float:
        said.append("memory")
        return memory.pop(0)

    pairs = list(in_turns(ours, peer, ["decode 1 32"], 3, together=True, gb_s=gb_s))
    assert said == ["memory", "a", "b", "memory", "b", "a", "memory", "a", "b", "memory"]
    assert pairs == [("decode 1 32", pair) for pair in (Pair(10, 5, 40), Pair(30, 10, 30), Pair(8, 8, 50))]


def test_an_engine_gives_its_memory_back_before_the_other_loads_and_not_before_its_own_next_turn() -> None:
    said: list[str] = []
    ours, peer = Told("a", [1, 2, 3, 4], said), Told("b", [5, 6, 7, 8], said)
    pairs = list(in_turns(ours, peer, ["decode 1 32", "prefill 512"], 2, together=False, gb_s=lambda: 1.0))
    assert said == ["b rests", "a", "a", "a rests", "b", "b", "a rests", "b", "b", "b rests", "a", "a"]
    assert [pair for line, pair in pairs if line == "prefill 512"] == [Pair(2, 6, 1), Pair(4, 8, 1)]


def test_a_row_has_medians_the_range_of_the_ratios_and_what_was_read_of_what_memory_allows() -> None:
    pairs = [Pair(10, 5, 40), Pair(30, 10, 60), Pair(8, 8, 20)]
    assert row("decode", pairs, 2.0).split() == [
        "decode", "10.00", "8.00", "2.00", "1.00", "..", "3.00", "80%", "33%", "3",
    ]  # fmt: skip
    assert row("prefill 512", pairs, None).split()[-4:] == ["1.00", "..", "3.00", "3"]


def test_a_step_of_several_sequences_reads_less_for_each_token() -> None:
    single, four = weights_gb(DECODE), weights_gb(Subject("20b", "llama.cpp", "amx", "decode x4"))
    assert single is not None
    assert four is not None
    assert single == pytest.approx(step_bytes(SHAPES["20b"], "int8", "cpu", 1) / 1e9)
    assert single / 4 < four < single
    assert weights_gb(Subject("20b", "llama.cpp", "amx", "prefill 512")) is None


def test_pairs_of_several_runs_are_one_row_each_peer_and_path_has_its_own(tmp_path: Path) -> None:
    kept = tmp_path / "pairs"
    assert read_pairs(kept) == []
    other = Subject("20b", "ik", "avx2", "decode")
    for subject, pair in ((DECODE, Pair(2, 1, 30)), (other, Pair(3, 1, 31)), (DECODE, Pair(6, 1, 32))):
        add_pair(kept, subject, pair)
    first, _, decode, second, _, decode_of_other, memory = table(read_pairs(kept))
    assert first == "20b against llama.cpp, ours on the path amx"
    assert decode.split()[:6] == ["decode", "4.00", "1.00", "4.00", "2.00", ".."]
    assert second == "20b against ik, ours on the path avx2"
    assert decode_of_other.split()[1] == "3.00"
    assert memory.startswith("memory: 30.0 to 32.0 GB/s")


class Memory:
    """A memory whose speed is told."""

    def __init__(self, threads: int) -> None:
        self.threads = threads

    def gb_s(self) -> float:
        return 20.0


def test_our_engine_is_compared_with_a_binary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.turns.wait_for_quiet", lambda _limit_s: True)
    monkeypatch.setattr("bench.turns.MemoryProbe", Memory)
    (tmp_path / "tiny.gguf").touch()  # this peer does not read it
    peer, kept = tmp_path / "llama-bench", tmp_path / "pairs"
    peer.write_text("#!/bin/sh\n[ $1 = --help ] && echo -d || echo '[{\"avg_ts\": 12.5}]'\n")
    peer.chmod(0o755)
    options = ["--shape", "tiny", "--peer", str(peer), "--peer-name", "a peer", "--figure", "decode", "--rounds", "1"]
    done = CliRunner().invoke(main, [*options, "--path", "portable", "--pairs", str(kept), "--work", str(tmp_path)])
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert "tiny against a peer, ours on the path portable" in lines
    assert [json.loads(line)["pair"]["theirs"] for line in kept.read_text().splitlines()] == [12.5]


def test_a_comparison_needs_a_peer() -> None:
    done = CliRunner().invoke(main, ["--shape", "tiny"])
    assert done.exit_code == 2
    assert "name a peer" in done.stderr
