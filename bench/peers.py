"""Engines that can be measured window by window: bench/contender.py in a process, and binaries like llama-bench.

A window in which an engine waited for the disk says nothing of its speed. Such a window is measured again; by then the
pages are in memory. An engine that still waits does not fit into memory, and that is an error.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Protocol

import click

from appliance.engine.host import physical_cores
from bench.contender import STEPS

_TRIES = 3
_PAGES = 16  # read in a window; each takes some 0.1 ms, a window seconds
_PAGES_OF_RUN = 4096  # of a whole run that also loads; a model has millions
# The C library then asks the kernel for huge pages for large blocks, as our engine does. ik_llama.cpp gains by them.
HUGE_PAGES = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}


class Contender(Protocol):
    """An engine that can be measured."""

    def takes(self, line: str) -> bool:
        """Whether it can measure what a line of bench/contender.py asks for."""

    def tok_s(self, line: str) -> float:
        """Tokens a second, of one window."""

    def rest(self) -> None:
        """Give the model's memory back until the next turn."""


@dataclass
class Worker:
    """bench/contender.py in a process, started when it is needed. ``weights``: a file, or a folder of files."""

    arguments: list[str]
    weights: Path
    _process: subprocess.Popen[str] | None = field(default=None, init=False)

    def takes(self, line: str) -> bool:
        return True

    def tok_s(self, line: str) -> float:
        for _ in range(_TRIES):
            tok_s, pages = self._ask(line).split()
            if int(pages) <= _PAGES:
                return float(tok_s)
        raise click.ClickException(f"the engine {self.arguments[0]} waits for the disk: it needs more memory")

    def rest(self) -> None:
        if self._process is not None:
            with self._process:  # closes its pipes and waits for its end
                self._process.kill()
            self._process = None
            leave_memory(self.weights)

    def _ask(self, line: str) -> str:
        if self._process is None:
            command = [sys.executable, "-m", "bench.contender", *self.arguments]
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ | HUGE_PAGES
            )
            self._read()
        if self._process.stdin is None:
            raise RuntimeError("the engine's process has no input")
        print(line, file=self._process.stdin, flush=True)
        return self._read()

    def _read(self) -> str:
        if self._process is None or self._process.stdout is None:
            raise RuntimeError("the engine's process has no output")
        said = self._process.stdout.readline()
        if not said:
            raise click.ClickException(f"the engine {self.arguments[0]} ended; what it printed stands above")
        return said


@dataclass(frozen=True)
class Binary:
    """A binary with llama-bench's options and JSON. It decodes one sequence at a time, and loads for each window.

    Binaries like llama-batched-bench are not asked: they feed the same token to all sequences, so all choose the same
    experts, and fewer weights are read than by people who write different things.
    """

    path: Path
    gguf: Path
    options: tuple[str, ...]

    def takes(self, line: str) -> bool:
        return not line.startswith("decode") or line.split()[1] == "1"

    def tok_s(self, line: str) -> float:
        command = [str(self.path), "-m", str(self.gguf), "-t", str(physical_cores()), "-r", "1", "-o", "json"]
        command += [*self._asked(line), *self.options]
        for _ in range(_TRIES):
            before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_majflt
            done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | HUGE_PAGES)
            tok_s = self._result(done)
            if resource.getrusage(resource.RUSAGE_CHILDREN).ru_majflt - before <= _PAGES_OF_RUN:
                return tok_s
        raise click.ClickException(f"{self.path} waits for the disk: it needs more memory")

    def rest(self) -> None:
        """It has ended by itself."""
        leave_memory(self.gguf)

    def _asked(self, line: str) -> list[str]:
        kind, *numbers = line.split()
        if kind == "prefill":
            return ["-p", numbers[0], "-n", "0"]
        if "-gp" in self._help:  # ik_llama.cpp
            return ["-p", "0", "-n", "0", "-gp", f"{numbers[1]},{STEPS}"]
        return ["-p", "0", "-n", str(STEPS), "-d", numbers[1]]

    @cached_property
    def _help(self) -> list[str]:
        return subprocess.run([self.path, "--help"], capture_output=True, text=True, check=False).stdout.split()

    def _result(self, done: subprocess.CompletedProcess[str]) -> float:
        try:
            (result,) = json.loads(done.stdout)
            return float(result["avg_ts"])
        except (ValueError, KeyError, TypeError) as exc:
            raise click.ClickException(f"{self.path}: {(done.stderr or done.stdout)[-1000:]}") from exc


def leave_memory(path: Path) -> None:
    """Have the kernel drop a file, or those of a folder, from its page cache: the next model then finds free memory."""
    for one in [path] if path.is_file() else path.glob("*"):
        with one.open("rb") as stream:
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
